//! The system calls that a server makes, for profiles that forbid all others.

/// System calls with one purpose.
#[derive(Debug, Clone, Copy)]
pub struct SystemCalls {
    /// The reason for which the server, or the program that starts it, makes these calls.
    pub purpose: &'static str,
    /// The names of calls that every architecture has.
    pub names: &'static [&'static str],
    /// The names of further calls that x86-64 has and aarch64 does not have.
    pub of_x86_64: &'static [&'static str],
}

/// The calls of io_uring, which the default profiles of containers forbid.
pub const IO_URING: SystemCalls =
    group("io_uring: the rings of each shard", &["io_uring_setup", "io_uring_enter", "io_uring_register"], &[]);

/// The calls of the programs that start a server.
pub(crate) const BEFORE_THE_SERVER: SystemCalls = group(
    "the container's runtime and the loader, between the filter's start and the server's",
    &[
        "capget",
        "capset",
        "chdir",
        "close_range",
        "execve",
        "faccessat",
        "faccessat2",
        "fchdir",
        "fchown",
        "fstatfs",
        "getppid",
        "setgid",
        "setgroups",
        "setresgid",
        "setresuid",
        "setuid",
        "umask",
    ],
    &["access", "lstat", "stat"],
);

/// The calls of `ringhub reload` and `ringhub drain`, which act on a server in the same container.
pub(crate) const BESIDE_THE_SERVER: SystemCalls =
    group("ringhub reload, ringhub drain: the process of the server", &["pidfd_open", "pidfd_send_signal"], &[]);

/// All system calls that a server makes, with the C library and the container runtimes that start it.
///
/// `tests/server` runs a server under this list on x86-64. The calls of container runtimes are those that the runtimes'
/// authors name; a runtime makes few of them if it may install the filter last (`no-new-privileges`).
pub const SYSTEM_CALLS: &[SystemCalls] = &[
    IO_URING,
    group(
        "sockets: listeners, connections, control's wake-ups, names that are resolved",
        &[
            "accept4",
            "bind",
            "connect",
            "getpeername",
            "getsockname",
            "getsockopt",
            "listen",
            "recvfrom",
            "recvmmsg",
            "recvmsg",
            "sendmmsg",
            "sendmsg",
            "sendto",
            "setsockopt",
            "shutdown",
            "socket",
            "socketpair",
        ],
        &[],
    ),
    group(
        "readiness: the runtimes' epoll, and waits for a single socket",
        &["epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2", "ppoll"],
        &["epoll_wait", "poll"],
    ),
    group(
        "descriptors and files: settings, documents, standard streams, what the kernel says in /proc and /sys",
        &[
            "close",
            "dup",
            "fcntl",
            "fstat",
            "getcwd",
            "getdents64",
            "ioctl",
            "lseek",
            "newfstatat",
            "openat",
            "openat2",
            "pipe2",
            "pread64",
            "read",
            "readlinkat",
            "readv",
            "statx",
            "write",
            "writev",
        ],
        &["open", "readlink"],
    ),
    group("memory", &["brk", "madvise", "mmap", "mprotect", "mremap", "munmap"], &[]),
    group(
        "threads: their start, their CPUs, their locks, their end",
        &[
            "clone",
            "clone3",
            "exit",
            "exit_group",
            "futex",
            "gettid",
            "membarrier",
            "prctl",
            "rseq",
            "sched_getaffinity",
            "sched_setaffinity",
            "sched_yield",
            "set_robust_list",
            "set_tid_address",
        ],
        &["arch_prctl"],
    ),
    group(
        "signals, and the call with which the kernel goes on after one",
        &["getpid", "restart_syscall", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "tgkill"],
        &[],
    ),
    group(
        "clocks and sleeps, where the kernel offers the clock by a call only",
        &["clock_getres", "clock_gettime", "clock_nanosleep", "gettimeofday", "nanosleep"],
        &["time"],
    ),
    group(
        "the process: its limits, its users, random numbers, the kernel's release",
        &["getegid", "geteuid", "getgid", "getrandom", "getrlimit", "getuid", "prlimit64", "sysinfo", "uname"],
        &[],
    ),
    group("the sandbox (`sandbox = \"on\"`): its filter", &["seccomp"], &[]),
    BESIDE_THE_SERVER,
    BEFORE_THE_SERVER,
];

const fn group(
    purpose: &'static str,
    names: &'static [&'static str],
    of_x86_64: &'static [&'static str],
) -> SystemCalls {
    SystemCalls { purpose, names, of_x86_64 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_call_stands_once_and_each_group_is_sorted() {
        let all: Vec<&str> = SYSTEM_CALLS.iter().flat_map(|group| [group.names, group.of_x86_64].concat()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
        for SystemCalls { purpose, names, of_x86_64 } in &SYSTEM_CALLS[1..] {
            assert!(names.is_sorted() && of_x86_64.is_sorted(), "{purpose}");
        }
    }

    /// Calls by which a process would act on others or on the machine have no place in the list.
    #[test]
    fn no_call_reaches_beyond_the_process() {
        let dangerous = [
            "bpf",
            "init_module",
            "keyctl",
            "kill",
            "mount",
            "open_by_handle_at",
            "perf_event_open",
            "process_vm_writev",
            "ptrace",
            "reboot",
            "setns",
            "swapon",
            "unlinkat",
            "unshare",
            "userfaultfd",
        ];
        for group in SYSTEM_CALLS {
            assert!(!group.names.iter().chain(group.of_x86_64).any(|name| dangerous.contains(name)), "{group:?}");
        }
    }
}
