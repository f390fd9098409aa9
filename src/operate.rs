//! `ringhub reload` and `ringhub drain`: act on a server that runs on this machine, or in this container.

use std::{
    collections::HashMap,
    env,
    ffi::{OsStr, OsString},
    fmt, fs, io,
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::MetadataExt as _,
        },
    },
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ringhub::{
    config::{Flags, Given, Settings, Time, parse_address},
    server,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal},
};

use crate::{
    health::reachable,
    listening,
    outcome::{MetricsReader, Outcome},
    owner::Owner,
};

/// What the definition of the program's command line tells about the arguments of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommandLine {
    /// Returns the flags of a server with these arguments; `None` if no server has them.
    pub(crate) flags: fn(Vec<OsString>) -> Option<Flags>,
    /// Returns whether a word is a command that does not serve.
    pub(crate) is_other_command: fn(&OsStr) -> bool,
}

/// The server to act on.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// The process of the server [default: a server of this program file: process 1 if that is one, as in a container,
    /// or else the only one that this user can see; for root, besides process 1, not that of an ordinary user].
    #[arg(long, value_name = "PID")]
    pid: Option<i32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Reload {
    #[command(flatten)]
    target: Target,
    /// An address at which the server answers /metrics, which tell the outcome [default: metrics_listen, or the first
    /// address of listen].
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Longest time for the reload.
    #[arg(long, value_name = "TIME", default_value = "10s")]
    timeout: Time,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Drain {
    #[command(flatten)]
    target: Target,
    /// Longest time until the server has ended; 0 waits forever.
    #[arg(long, value_name = "TIME", default_value = "0")]
    timeout: Time,
}

/// The sentence about an act that has failed.
#[derive(Debug)]
struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

fn fail<T>(what: String) -> Result<T, Box<dyn std::error::Error>> {
    Err(Failed(what).into())
}

/// Tells a server to read its settings again, and waits for the outcome. The settings are checked first, as the
/// server's own command line, variables and file have them; if they are wrong, the server is not told.
///
/// # Errors
///
/// If there is no such server, the settings are wrong, the server refuses them, or the outcome cannot be read.
pub(crate) fn reload(arguments: Reload, line: CommandLine) -> Result<String, Box<dyn std::error::Error>> {
    let Reload { target, address, timeout } = arguments;
    let deadline = Instant::now() + timeout.0;
    let process = Process::find(&target, line)?;
    let given = process.read_settings(line)?;
    server::check_topics(&given.config(process.descriptor_limit())?)?;
    let addresses = match address {
        Some(address) => vec![parse_address(&address).map_err(|what| Failed(format!("--address: {what}")))?],
        None => addresses_of_metrics(&given, listening::addresses_of(process.pid))?,
    };
    let addresses = addresses.into_iter().map(reachable).collect();
    let metrics = MetricsReader { addresses, token: token_of(&given) };
    // Before the reload the server may know none of the new tokens. Any later reading is then the outcome.
    let before = metrics.read(deadline).ok();
    let told_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    process.signal(Signal::HUP)?;
    let outcome = process.wait_for_outcome(&metrics, before, told_at, deadline)?;
    match (outcome.is_applied, outcome.pending) {
        (false, _) => fail(format!("the server {process} has refused the reload; the reason is in its log")),
        (true, 0) => Ok(format!("the server {process} has reloaded its settings")),
        (true, pending) => {
            let things = if pending == 1 { "setting needs" } else { "settings need" };
            Ok(format!("the server {process} has reloaded its settings; {pending} {things} a restart, see its log"))
        }
    }
}

/// Tells a server to leave, and waits until its process has ended.
///
/// # Errors
///
/// If there is no such server, or it has not ended in time.
pub(crate) fn drain(arguments: Drain, line: CommandLine) -> Result<String, Box<dyn std::error::Error>> {
    let Drain { target, timeout } = arguments;
    let process = Process::find(&target, line)?;
    process.signal(Signal::TERM)?;
    let limit = (!timeout.0.is_zero()).then_some(timeout.0);
    if process.has_ended_within(limit)? {
        return Ok(format!("the server {process} has ended"));
    }
    fail(format!("the server {process} has not ended within {timeout}"))
}

/// The process of a server. The descriptor still names this process when its number is used again.
struct Process {
    pid: i32,
    descriptor: OwnedFd,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid.fmt(f)
    }
}

impl Process {
    fn find(target: &Target, line: CommandLine) -> Result<Process, Box<dyn std::error::Error>> {
        if let Some(pid) = target.pid {
            return match Process::open(pid)? {
                process if process.is_server(line) => Ok(process),
                _ => fail(format!("the process {pid} is no server of ringhub")),
            };
        }
        if let Some(process) = Process::find_unnamed(1, line) {
            return Ok(process);
        }
        let processes = fs::read_dir("/proc").map_err(|error| Failed(format!("/proc cannot be read: {error}")))?;
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
        let mut servers: Vec<Process> = pids.filter_map(|pid| Process::find_unnamed(pid, line)).collect();
        servers.sort_unstable_by_key(|process| process.pid);
        if servers.len() > 1 {
            let pids: Vec<String> = servers.iter().map(|server| with_addresses(server.pid)).collect();
            return fail(format!("several servers run here: choose one by --pid {}", pids.join(", --pid ")));
        }
        let none = "no server of ringhub runs here, or none that this user can see; root names the server of an \
                    ordinary user, or of another program file, by --pid";
        servers.pop().map_or_else(|| fail(none.into()), Ok)
    }

    /// Returns a process that nobody has named, if it is a server that this user may take for the server that is meant:
    /// it runs the program of this process, and for root it is process 1 or does not belong to an ordinary user.
    fn find_unnamed(pid: i32, line: CommandLine) -> Option<Process> {
        // The look at the name comes first, since there may be many processes.
        if !has_name(pid) {
            return None;
        }
        let process = Process::open(pid).ok()?;
        let runs_this = is_this_program(Path::new("/proc").join(pid.to_string()).join("exe").as_path());
        let owner = Owner::of(pid).ok()?;
        let may_be_meant = !geteuid().is_root() || owner.may_be_meant_by_root(pid);
        (runs_this && may_be_meant && process.is_server(line)).then_some(process)
    }

    /// Returns whether the process runs `ringhub` as a server, and not one of its other commands. All that was read of
    /// `/proc` before this call was of the same process.
    fn is_server(&self, line: CommandLine) -> bool {
        let is_one = has_name(self.pid) && arguments_of(self.pid).is_ok_and(|arguments| serves(&arguments, line));
        // While the process lives, its number means no other one.
        is_one && self.has_ended_within(Some(Duration::ZERO)).is_ok_and(|has_ended| !has_ended)
    }

    fn open(pid: i32) -> Result<Process, Box<dyn std::error::Error>> {
        let Some(number) = Some(pid).filter(|&pid| pid > 0).and_then(Pid::from_raw) else {
            return fail(format!("{pid} is no number of a process"));
        };
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(descriptor) => Ok(Process { pid, descriptor }),
            Err(error) => fail(format!("the process {pid} cannot be found: {error}")),
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), Box<dyn std::error::Error>> {
        let sent = pidfd_send_signal(&self.descriptor, signal);
        sent.or_else(|error| fail(format!("the server {self} cannot be told: {error}")))
    }

    /// Waits until the process has ended, or the limit is over. Returns whether the process has ended.
    fn has_ended_within(&self, limit: Option<Duration>) -> io::Result<bool> {
        let until = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
            // The descriptor of a process is readable once the process has ended.
            match poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], left.as_ref()) {
                Ok(count) => return Ok(count > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads the settings from the sources that the server has: its command line, its variables, and its file. From
    /// then on this thread has the rights of the server's user: the files are those that the server itself can read,
    /// and no other user's server is sent what only root can read. The working folder of this process is that of the
    /// server.
    fn read_settings(&self, line: CommandLine) -> Result<Given, Box<dyn std::error::Error>> {
        let of = |what: &str| Path::new("/proc").join(self.to_string()).join(what);
        let cannot = |what: &str, error: io::Error| {
            Failed(format!("the {what} of the server {self} cannot be read, which its own user can: {error}"))
        };
        let variables = fs::read(of("environ")).map_err(|error| cannot("variables", error))?;
        let arguments = arguments_of(self.pid).map_err(|error| cannot("command line", error))?;
        // Relative paths in flags and variables belong to the server's folder.
        env::set_current_dir(of("cwd")).map_err(|error| cannot("folder", error))?;
        let owner = Owner::of(self.pid).map_err(|error| cannot("user", error))?;
        owner.assume().map_err(|error| Failed(format!("the user of the server {self} cannot be taken: {error}")))?;
        if self.has_ended_within(Some(Duration::ZERO))? {
            return fail(format!("the server {self} has ended"));
        }
        let Some(flags) = (line.flags)(arguments) else {
            return fail(format!("the command line of the server {self} is of another version"));
        };
        Ok(Given::read(&flags, variables_in(&variables)))
    }

    /// Returns the server's limit of open descriptors.
    fn descriptor_limit(&self) -> u64 {
        let limits = fs::read_to_string(format!("/proc/{self}/limits")).unwrap_or_default();
        descriptor_limit_in(&limits).unwrap_or(u64::MAX)
    }

    /// Waits until the server's counters show the outcome of the reload, which the server was told of at this time. The
    /// server may answer with numbers that it has taken up to a second before.
    fn wait_for_outcome(
        &self,
        metrics: &MetricsReader,
        before: Option<Outcome>,
        told_at: f64,
        deadline: Instant,
    ) -> Result<Outcome, Box<dyn std::error::Error>> {
        loop {
            let now = metrics.read(deadline);
            if let Ok(now) = &now
                && now.taken_at >= told_at
                && before.is_none_or(|before| before.reloads != now.reloads)
            {
                return Ok(*now);
            }
            if self.has_ended_within(Some(LOOK))? {
                return fail(format!("the server {self} has ended"));
            }
            if Instant::now() >= deadline {
                return fail(match now {
                    Ok(_) => format!("the server {self} has not reloaded its settings in time"),
                    Err(error) => format!(
                        "the server {self} was told to reload its settings, but {}, which tell the outcome, cannot be \
                         read: {error}; its log tells it too",
                        metrics.url()
                    ),
                });
            }
        }
    }
}

/// Returns the number of a server's process, and the addresses at which it listens.
fn with_addresses(pid: i32) -> String {
    let addresses: Vec<String> = listening::addresses_of(pid).iter().map(ToString::to_string).collect();
    if addresses.is_empty() { pid.to_string() } else { format!("{pid} ({})", addresses.join(" and ")) }
}

/// Returns whether a process has the name of the program.
fn has_name(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_ascii_end() == b"ringhub")
}

/// Returns whether the link to the program file of a process leads to that of this process: to the same file, or, after
/// an update has replaced the file, to the same path.
fn is_this_program(link: &Path) -> bool {
    let own = Path::new("/proc/self/exe");
    let file = |link: &Path| fs::metadata(link).map(|file| (file.dev(), file.ino()));
    let is_same_file = file(link).is_ok_and(|theirs| file(own).is_ok_and(|own| own == theirs));
    is_same_file || path_of(link).is_some_and(|theirs| path_of(own).is_some_and(|own| own == theirs))
}

/// Returns the path that a link to a program file had when its process began.
fn path_of(link: &Path) -> Option<Vec<u8>> {
    let path = fs::read_link(link).ok()?.into_os_string().into_vec();
    Some(path.strip_suffix(b" (deleted)").map(<[u8]>::to_vec).unwrap_or(path))
}

/// Returns whether a command line is that of a server.
fn serves(arguments: &[OsString], line: CommandLine) -> bool {
    // The list of a process that has ended, and that its parent has not waited for, is empty.
    !arguments.is_empty() && !arguments.get(1).is_some_and(|first| (line.is_other_command)(first))
}

fn arguments_of(pid: i32) -> io::Result<Vec<OsString>> {
    Ok(words_of(&fs::read(format!("/proc/{pid}/cmdline"))?).map(|word| OsString::from_vec(word.to_vec())).collect())
}

/// Returns the variables in a list of pairs, each with a NUL after it.
fn variables_in(list: &[u8]) -> HashMap<OsString, OsString> {
    let pairs = words_of(list).filter_map(|pair| {
        let at = pair.iter().position(|&byte| byte == b'=')?;
        Some((OsStr::from_bytes(&pair[..at]).into(), OsStr::from_bytes(&pair[at + 1..]).into()))
    });
    pairs.collect()
}

/// Returns the words of a list, each with a NUL after it.
fn words_of(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.strip_suffix(b"\0")
        .filter(|words| !words.is_empty())
        .into_iter()
        .flat_map(|words| words.split(|&byte| byte == 0))
}

/// Returns the soft limit in a line such as "Max open files   1024   4096   files".
fn descriptor_limit_in(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the addresses at which a server with these settings may answer `/metrics`. The server listens at `here`. If
/// the address of the settings is not among these, it counts from a restart on, and the metrics are at another one.
fn addresses_of_metrics(given: &Given, here: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error>> {
    let address = address_of_metrics(given)?;
    Ok(if here.is_empty() || here.contains(&reachable(address)) { vec![address] } else { here })
}

/// Returns the address at which a server with these settings answers `/metrics`.
fn address_of_metrics(given: &Given) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let Settings { listen, metrics_listen, .. } = &given.settings;
    match (metrics_listen, listen.first()) {
        (Some(address), _) => Ok(*address),
        (None, Some(first)) => Ok(first.resolve().map_err(|what| Failed(format!("listen: {what}")))?[0]),
        (None, None) => fail("listen: at least one address is needed".into()),
    }
}

fn token_of(given: &Given) -> Option<String> {
    given.settings.metrics_tokens.as_ref().and_then(|tokens| tokens.0.first().cloned())
}

/// The time between two looks at the server.
const LOOK: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_command_line() {
        let check = |words: &[&str], expected: bool| {
            let arguments: Vec<OsString> = words.iter().map(Into::into).collect();
            let line = CommandLine {
                flags: |_| None,
                is_other_command: |word| ["health", "reload", "drain"].map(OsStr::new).contains(&word),
            };
            assert_eq!(serves(&arguments, line), expected, "{words:?}");
        };
        check(&["/usr/bin/ringhub"], true);
        check(&["ringhub", "serve", "--shards", "1"], true);
        check(&["ringhub", "--listen", "127.0.0.1:0"], true);
        check(&["ringhub", "health"], false);
        check(&["ringhub", "reload", "--pid", "1"], false);
        check(&["ringhub", "drain"], false);
        check(&[], false);
    }

    #[test]
    fn what_proc_says_is_read() {
        let variables = variables_in(b"A=1\0RINGHUB_LOG=a=b\0EMPTY=\0odd\0");
        assert_eq!(variables.len(), 3);
        assert_eq!(variables[OsStr::new("RINGHUB_LOG")], "a=b");
        assert_eq!(variables_in(b"").len(), 0);
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 4096  files\n";
        assert_eq!(descriptor_limit_in(limits), Some(1_024));
        assert_eq!(descriptor_limit_in("Max open files  unlimited  unlimited  files\n"), None);
    }

    /// Another program is not taken for a server, whatever its name is.
    #[test]
    fn the_program_of_a_server_is_this_one() {
        assert!(is_this_program(Path::new("/proc/self/exe")));
        assert!(!is_this_program(Path::new("/bin/sh")) && !is_this_program(Path::new("/proc/0/exe")));
        let folder = env::temp_dir().join(format!("ringhub-program-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let link = |to: OsString| {
            let link = folder.join("exe");
            _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(to, &link).unwrap();
            link
        };
        let own = env::current_exe().unwrap().into_os_string();
        let replaced = OsString::from_vec([own.as_bytes(), b" (deleted)"].concat());
        assert!(is_this_program(&link(own)) && is_this_program(&link(replaced)));
        assert!(!is_this_program(&link("/bin/sh".into())));
        fs::remove_dir_all(&folder).unwrap();
    }
}
