//! `ringhub health`: checks whether a server is alive, for a container's health check, which then needs no other tool.

use std::{
    ffi::OsString,
    fmt,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use ringhub::config::{Flags, Given, LogFormat, Settings, parse_address};

/// The server to ask.
#[derive(Debug, clap::Args)]
pub(crate) struct Health {
    /// The server's address [default: the first address of listen, by variables and the file]. An unspecified address,
    /// such as 0.0.0.0, means the loopback.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// The server's file of settings [default: the one that RINGHUB_CONFIG names].
    #[arg(long, value_name = "FILE", conflicts_with = "address")]
    config: Option<PathBuf>,
    /// The form of a failure: text, or JSON like the server's logs [default: log_format, by variables and the file].
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    log_format: Option<String>,
}

/// The reason for a failed check, and the form in which it is printed.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Box<dyn std::error::Error>,
    pub(crate) format: LogFormat,
}

/// The sentence about a malformed address.
#[derive(Debug)]
struct NoAddress(String);

/// A server that has an address and does not count as alive.
#[derive(Debug)]
struct Sick {
    address: SocketAddr,
    symptom: Symptom,
}

#[derive(Debug)]
enum Symptom {
    /// No server listens, or the connection broke.
    Unreachable(io::Error),
    /// The server did not answer within [`TIMEOUT`].
    Silent,
    /// The server answered with this status instead of 200.
    Status(String),
    /// The server speaks another protocol.
    NotHttp(String),
}

/// Requests `/healthz`, from the server's first address if no other is given.
///
/// # Errors
///
/// If the settings cannot be read, the address is malformed, or the server does not answer 200 within [`TIMEOUT`].
pub(crate) fn check(health: Health, variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(), Failure> {
    let deadline = Instant::now() + TIMEOUT;
    let Health { address, config, log_format } = health;
    let mut flags = Flags::default();
    if let Some(file) = config {
        flags.read_file(file, "--config");
    }
    let variables: Vec<(OsString, OsString)> = variables.into_iter().collect();
    let format = match log_format.as_deref() {
        Some("json") => LogFormat::Json,
        Some(_) => LogFormat::Text,
        None => Given::read_one("log_format", &flags, variables.iter().cloned()).settings.log_format,
    };
    check_at(address, &flags, variables, deadline).map_err(|error| Failure { error, format })
}

fn check_at(
    address: Option<String>,
    flags: &Flags,
    variables: Vec<(OsString, OsString)>,
    deadline: Instant,
) -> Result<(), Box<dyn std::error::Error>> {
    let address = match address {
        Some(address) => parse_address(&address).map_err(NoAddress)?,
        None => first_listened(flags, variables, deadline)?,
    };
    let address = reachable(address);
    Ok(request_health(address, deadline).map_err(|symptom| Sick { address, symptom })?)
}

/// Returns the server's first address, by its own settings. The other settings, and the folders that the server serves,
/// may have changed since its start.
fn first_listened(
    flags: &Flags,
    variables: Vec<(OsString, OsString)>,
    deadline: Instant,
) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    let given = Given::read_one("listen", flags, variables);
    given.check_sources()?;
    // A given list has at least one address.
    let first = given.settings.listen.first().cloned().unwrap_or_else(|| Settings::default().listen.remove(0));
    // The server listens on all addresses of a name, so also on the first.
    let resolved = by(deadline, move || first.resolve());
    let resolved = resolved.unwrap_or_else(|| Err(format!("the name has not been resolved within {TIMEOUT:?}")));
    Ok(resolved.map_err(|what| format!("listen: {what}"))?[0])
}

/// Returns the outcome of work that may wait, or `None` at the deadline. The work then goes on without a reader, until
/// the process ends.
fn by<T: Send + 'static>(deadline: Instant, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || done.send(work()));
    outcome.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
}

/// Returns the address by which a process of the same machine reaches a server that listens there.
pub(crate) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

fn request_health(address: SocketAddr, deadline: Instant) -> Result<(), Symptom> {
    let mut stream = TcpStream::connect_timeout(&address, remaining(deadline)?)?;
    stream.set_write_timeout(Some(remaining(deadline)?))?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let line = status_line(&mut stream, deadline)?;
    let mut words = line.split(' ');
    match (words.next(), words.next()) {
        (Some("HTTP/1.1" | "HTTP/1.0"), Some("200")) => Ok(()),
        (Some("HTTP/1.1" | "HTTP/1.0"), Some(status)) => Err(Symptom::Status(status.into())),
        _ => Err(Symptom::NotHttp(line)),
    }
}

/// Reads the first line of the answer, or the part of it that arrives.
fn status_line(stream: &mut TcpStream, deadline: Instant) -> Result<String, Symptom> {
    let mut line = [0; LINE_BYTES_MAX];
    let mut length = 0;
    while length < line.len() && !line[..length].contains(&b'\n') {
        // The deadline is that of the whole answer, so an answer that trickles in cannot hold the check.
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(&mut line[length..])? {
            0 => break,
            more => length += more,
        }
    }
    let end = line[..length].iter().position(|byte| b"\r\n".contains(byte)).unwrap_or(length);
    Ok(String::from_utf8_lossy(&line[..end]).into_owned())
}

/// Returns the time until the deadline. It is never zero, which a socket does not accept as a timeout.
fn remaining(deadline: Instant) -> Result<Duration, Symptom> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(Symptom::Silent) } else { Ok(left) }
}

impl From<io::Error> for Symptom {
    fn from(error: io::Error) -> Symptom {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Symptom::Silent,
            _ => Symptom::Unreachable(error),
        }
    }
}

impl Failure {
    /// Logs the failure, with the address and the status as separate fields where there are any.
    pub(crate) fn log(&self) {
        match self.error.downcast_ref() {
            Some(sick @ Sick { address, symptom }) => {
                let status = if let Symptom::Status(status) = symptom { Some(&**status) } else { None };
                tracing::error!(%address, status, "{sick}");
            }
            None => self.error.to_string().lines().for_each(|line| tracing::error!("{line}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--address: {}", self.0)
    }
}

impl std::error::Error for NoAddress {}

impl fmt::Display for Sick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sick { address, symptom } = self;
        match symptom {
            Symptom::Unreachable(error) => write!(f, "{address} cannot be asked: {error}"),
            Symptom::Silent => write!(f, "{address} has not answered within {TIMEOUT:?}"),
            Symptom::Status(status) => write!(f, "{address} answered {status} to GET /healthz"),
            Symptom::NotHttp(line) => write!(f, "{address} does not answer in HTTP: {line:?}"),
        }
    }
}

impl std::error::Error for Sick {}

/// The longest time for the whole check: a server that is alive needs a millisecond.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The most bytes of a status line: more than any valid one has.
const LINE_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_waited_for_until_the_deadline() {
        let far = Instant::now() + Duration::from_secs(60);
        assert_eq!(by(far, || 7), Some(7));
        let (let_go, is_let_go) = mpsc::channel::<()>();
        let outcome = by(Instant::now() + Duration::from_millis(1), move || is_let_go.recv());
        assert_eq!(outcome, None);
        drop(let_go);
    }

    #[test]
    fn all_addresses_mean_the_loopback() {
        let check = |listens: &str, asked: &str| {
            assert_eq!(reachable(listens.parse().unwrap()), asked.parse().unwrap(), "{listens}");
        };
        check("0.0.0.0:6455", "127.0.0.1:6455");
        check("[::]:80", "[::1]:80");
        check("127.0.0.1:6455", "127.0.0.1:6455");
        check("192.0.2.7:1", "192.0.2.7:1");
        check("[2001:db8::1]:1", "[2001:db8::1]:1");
    }
}
