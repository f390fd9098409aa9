//! The sandbox of a server that serves: a seccomp filter for all threads of the process. It refuses every system call
//! that only the start of a server needs, and every one that a server never makes.
//!
//! The filter follows from the table of all calls ([`SYSTEM_CALLS`]). It refuses the calls of `AT_START`, and allows
//! the calls of `conditions` with certain arguments alone. A refused call fails with EPERM, which its caller handles
//! like any other error of the kernel; the end of the process would be an outage.
//!
//! A filter sees numbers, and not the memory that an argument points to. The flags of `clone3` are in memory, so this
//! call fails with ENOSYS, after which the C library starts its threads by `clone`. The flags of `openat2` are in
//! memory too. A server needs this call for the files of folders, so a server with folders may make it.

use std::{fmt, io, panic, thread};

use seccompiler::{BpfProgram, TargetArch, apply_filter, apply_filter_all_threads, compile_from_json};
use serde_json::{Value, json};

use super::system_calls::{BEFORE_THE_SERVER, BESIDE_THE_SERVER, SYSTEM_CALLS};

/// The filter of a server that serves, compiled for this machine.
#[derive(Debug)]
pub struct SandboxFilter {
    /// The filters in the order in which they are installed.
    programs: Vec<BpfProgram>,
}

/// A need of some servers, beyond the calls that every server makes while it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The server reads the files of folders.
    Files,
    /// The server sends requests to other servers, whose names it may have to resolve.
    Outbound,
    /// The server tells a service manager how it is, over a socket of the machine.
    ServiceManager,
}

/// What becomes of a call that the filter does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedCall {
    /// The call fails with EPERM.
    Eperm,
    /// The call ends the process by SIGSYS, so that a test notices it.
    Trap,
}

impl SandboxFilter {
    /// Compiles the filter for the calling process.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Architecture`] where the numbers of the system calls are not known.
    pub fn new(needs: &[Need], refusal: RefusedCall) -> Result<SandboxFilter, SandboxError> {
        let architecture = std::env::consts::ARCH;
        let target = architecture.try_into().map_err(|_| SandboxError::Architecture(architecture))?;
        let unseen = filter(json!("allow"), json!({ "errno": libc::ENOSYS }), &[json!({ "syscall": "clone3" })]);
        let refused = match refusal {
            RefusedCall::Eperm => json!({ "errno": libc::EPERM }),
            RefusedCall::Trap => json!("trap"),
        };
        let allowed = filter(refused, json!("allow"), &rules(target, needs));
        let programs = [unseen, allowed].map(|filter| {
            let mut compiled =
                compile_from_json(filter.to_string().as_bytes(), target).map_err(SandboxError::Filter)?;
            Ok(compiled.remove(FILTER).expect("the one filter that was given"))
        });
        Ok(SandboxFilter { programs: programs.into_iter().collect::<Result<_, _>>()? })
    }

    /// Installs the filter in all threads of the process, and in those that they start. Nothing takes it away again.
    ///
    /// # Errors
    ///
    /// [`SandboxError`] if the kernel, the container or a filter of another thread does not let it.
    pub fn install(&self) -> Result<(), SandboxError> {
        self.programs.iter().try_for_each(|program| apply_filter_all_threads(program).map_err(SandboxError::Filter))
    }

    /// Checks whether the filter can be installed here: a thread of its own gets it, and ends. All other threads stay
    /// as they are.
    ///
    /// # Errors
    ///
    /// [`SandboxError`] if the kernel or the container does not let it.
    pub fn try_out(&self) -> Result<(), SandboxError> {
        let install = || self.programs.iter().try_for_each(|program| apply_filter(program));
        let outcome = thread::scope(|scope| scope.spawn(install).join());
        outcome.unwrap_or_else(|panicked| panic::resume_unwind(panicked)).map_err(SandboxError::Filter)
    }
}

/// Returns a filter for the compiler: one action for the calls that match a rule, one for all others.
fn filter(mismatch: Value, matching: Value, rules: &[Value]) -> Value {
    json!({ FILTER: { "mismatch_action": mismatch, "match_action": matching, "filter": rules } })
}

/// Returns the rules for the calls that are allowed.
fn rules(target: TargetArch, needs: &[Need]) -> Vec<Value> {
    let has_x86_64 = matches!(target, TargetArch::x86_64);
    let names = SYSTEM_CALLS.iter().flat_map(|group| {
        let of_x86_64 = if has_x86_64 { group.of_x86_64 } else { &[] };
        group.names.iter().chain(of_x86_64)
    });
    let is_early = |name: &str| at_start().any(|early| early == name);
    let resolves = |name: &str| needs.contains(&Need::Outbound) && OF_THE_RESOLVER.contains(&name);
    names.filter(|name| !is_early(name) || resolves(name)).flat_map(|name| rules_of(name, needs)).collect()
}

/// Returns the rules for a call: none, one without a condition, or one for each set of arguments with which the call is
/// allowed.
fn rules_of(name: &str, needs: &[Need]) -> Vec<Value> {
    match conditions(name, needs) {
        Condition::Always => vec![json!({ "syscall": name })],
        Condition::Never => Vec::new(),
        Condition::Arguments(sets) => sets.iter().map(|args| json!({ "syscall": name, "args": args })).collect(),
    }
}

/// The condition under which a call is allowed.
enum Condition {
    Always,
    Never,
    /// All arguments of one of these sets fit.
    Arguments(Vec<Vec<Value>>),
}

/// Returns the condition under which a serving server makes a call of the table.
fn conditions(name: &str, needs: &[Need]) -> Condition {
    let is_needed = |need| needs.contains(&need);
    let one = |argument| Condition::Arguments(vec![vec![argument]]);
    let any_of = |arguments: Vec<Value>| Condition::Arguments(arguments.into_iter().map(|one| vec![one]).collect());
    match name {
        "open" => one(masked(1, WRITES, 0)),
        "openat" => one(masked(2, WRITES, 0)),
        "openat2" if !is_needed(Need::Files) => Condition::Never,
        // The type of a socket has flags in its higher bits.
        "socket" => sockets(needs),
        "connect" if is_needed(Need::ServiceManager) || is_needed(Need::Outbound) => Condition::Always,
        "connect" => Condition::Never,
        "mmap" | "mprotect" => one(masked(2, libc::PROT_EXEC, 0)),
        "clone" => one(masked(0, libc::CLONE_THREAD | NAMESPACES, libc::CLONE_THREAD)),
        "prctl" => any_of([libc::PR_SET_NAME, PR_GET_AUXV].map(|of| is(0, of)).into()),
        "ioctl" => any_of([libc::FIONREAD, libc::TIOCOUTQ, libc::FIONBIO, libc::TCGETS].map(|of| is(1, of)).into()),
        "tgkill" => one(is(0, std::process::id())),
        "prlimit64" => Condition::Arguments(vec![vec![
            is(0, 0),
            json!(
                { "index": 2, "type": "qword", "op": "eq", "val": 0 }
            ),
        ]]),
        _ => Condition::Always,
    }
}

/// Returns the condition under which a serving server makes sockets. The resolver of the C library also tries sockets
/// of the machine (for a cache of names) and of the kernel (for the list of addresses), and does without them.
fn sockets(needs: &[Need]) -> Condition {
    // The type of a socket has flags in its higher bits.
    let socket = |family, kind| vec![is(0, family), masked(1, 0xf, kind)];
    let mut allowed = Vec::new();
    if needs.contains(&Need::ServiceManager) {
        allowed.push(socket(libc::AF_UNIX, libc::SOCK_DGRAM));
    }
    if needs.contains(&Need::Outbound) {
        for family in [libc::AF_INET, libc::AF_INET6] {
            allowed.extend([socket(family, libc::SOCK_STREAM), socket(family, libc::SOCK_DGRAM)]);
        }
    }
    if allowed.is_empty() { Condition::Never } else { Condition::Arguments(allowed) }
}

/// Returns the condition that the lower half of an argument has this value.
fn is(index: u8, value: impl Into<i128>) -> Value {
    json!({ "index": index, "type": "dword", "op": "eq", "val": value.into() as u32 })
}

/// Returns the condition that an argument has this value, of the bits in the mask.
fn masked(index: u8, mask: i32, value: i32) -> Value {
    json!({ "index": index, "type": "dword", "op": { "masked_eq": mask as u32 }, "val": value as u32 })
}

/// A sandbox that cannot be set up.
#[derive(Debug)]
pub enum SandboxError {
    /// The numbers of this architecture's system calls are not known.
    Architecture(&'static str),
    /// The filter cannot be compiled or installed.
    Filter(seccompiler::Error),
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sandbox cannot be set up: ")?;
        match self {
            SandboxError::Architecture(name) => write!(f, "it is not made for {name}")?,
            SandboxError::Filter(seccompiler::Error::Prctl(error)) => {
                write!(f, "prctl(PR_SET_NO_NEW_PRIVS) fails ({error})")?;
            }
            SandboxError::Filter(seccompiler::Error::Seccomp(error)) => {
                write!(f, "seccomp(SECCOMP_SET_MODE_FILTER) fails ({error}){}", seccomp_hint(error))?;
            }
            SandboxError::Filter(seccompiler::Error::ThreadSync(thread)) => {
                write!(f, "the thread {thread} has a seccomp filter that the other threads do not have")?;
            }
            SandboxError::Filter(error) => write!(f, "{error}")?,
        }
        f.write_str(". Without `sandbox` the server starts without it.")
    }
}

/// Returns the likely cause of a refusal, as the rest of a sentence.
fn seccomp_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ": the container's seccomp profile does not allow the call",
        Some(libc::ENOSYS | libc::EINVAL) => {
            ": the kernel has no filters (CONFIG_SECCOMP_FILTER), or the container hides them"
        }
        _ => "",
    }
}

impl std::error::Error for SandboxError {}

/// The calls of the table that a server makes at its start alone. Those of [`BEFORE_THE_SERVER`] and
/// [`BESIDE_THE_SERVER`] are refused as well.
const AT_START: &[&str] = &[
    "io_uring_setup",
    "io_uring_register",
    "bind",
    "listen",
    "recvmmsg",
    "sendmmsg",
    "socketpair",
    "epoll_create1",
    "eventfd2",
    "dup",
    "getdents64",
    "pipe2",
    "set_tid_address",
    "sched_setaffinity",
    "arch_prctl",
    "seccomp",
];

/// Those of [`AT_START`] that the C library makes to resolve a name: glibc sends both questions at once, and musl binds
/// its socket. Without `listen`, a bound socket takes no connections.
const OF_THE_RESOLVER: &[&str] = &["bind", "sendmmsg", "recvmmsg"];

/// Returns the calls of the table that a serving server does not make.
fn at_start() -> impl Iterator<Item = &'static str> {
    let before = BEFORE_THE_SERVER.names.iter().chain(BEFORE_THE_SERVER.of_x86_64);
    AT_START.iter().chain(before).chain(BESIDE_THE_SERVER.names).copied()
}

/// The flags of a file that is opened for more than reading.
const WRITES: i32 = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;

/// The flags of a new task that does not share the name spaces of its parent.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// The operation of `prctl` that copies the auxiliary vector of the process (Linux 6.4), in which the first request for
/// the metrics finds the kernel's unit of time.
const PR_GET_AUXV: i32 = 0x4155_5856;

/// The name of the filter for the compiler.
const FILTER: &str = "server";

#[cfg(test)]
mod tests;
