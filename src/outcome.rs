//! The outcome of a server's reload, as its `/metrics` tell it.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Reads the counters of reloads from a server's `/metrics`.
pub(crate) struct MetricsReader {
    /// The addresses at which the server may answer, at least one.
    pub(crate) addresses: Vec<SocketAddr>,
    /// A token for the metrics, if they need one.
    pub(crate) token: Option<String>,
}

/// The counters of a server that tell the outcome of a reload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outcome {
    /// The time at which the server took these numbers, in seconds since 1970.
    pub(crate) taken_at: f64,
    /// The number of reloads, applied or refused.
    pub(crate) reloads: u64,
    pub(crate) is_applied: bool,
    /// The number of settings that need a restart.
    pub(crate) pending: u64,
}

impl MetricsReader {
    pub(crate) fn url(&self) -> String {
        format!("http://{}/metrics", self.addresses[0])
    }

    /// Reads the counters from the first address that has them.
    pub(crate) fn read(&self, deadline: Instant) -> io::Result<Outcome> {
        let mut outcomes = self.addresses.iter().map(|&address| self.read_at(address, deadline));
        let first = outcomes.next().expect("at least one address");
        first.or_else(|error| outcomes.find_map(Result::ok).ok_or(error))
    }

    fn read_at(&self, address: SocketAddr, deadline: Instant) -> io::Result<Outcome> {
        let left = || deadline.saturating_duration_since(Instant::now()).clamp(ANSWER_MIN, ANSWER_MAX);
        let mut stream = TcpStream::connect_timeout(&address, left())?;
        stream.set_read_timeout(Some(left()))?;
        stream.set_write_timeout(Some(left()))?;
        let token = self.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\n{token}Connection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        outcome_in(&String::from_utf8_lossy(&answer)).map_err(io::Error::other)
    }
}

/// Returns the outcome in an answer to a request for `/metrics`.
fn outcome_in(answer: &str) -> Result<Outcome, String> {
    let status = answer.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("the answer is {status:?}"));
    }
    let number = |name: &str| {
        let start = format!("ringhub_{name}{{shard=\"process\"}} ");
        let found = answer.lines().find_map(|line| line.strip_prefix(&start)?.trim().parse::<f64>().ok());
        found.ok_or_else(|| format!("ringhub_{name} is missing"))
    };
    Ok(Outcome {
        taken_at: number("taken_timestamp_seconds")?,
        reloads: (number("config_reloads_total")? + number("config_reloads_refused_total")?) as u64,
        is_applied: number("config_last_reload_success")? == 1.0,
        pending: number("config_restart_pending")? as u64,
    })
}

/// The shortest time that a server has for one step of an answer, though the deadline is near.
const ANSWER_MIN: Duration = Duration::from_millis(50);

/// The longest time for one step of an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_is_read_from_the_metrics() {
        let answer = |status: &str, success: u64| {
            format!(
                "HTTP/1.1 {status}\r\n\r\nringhub_config_reloads_total{{shard=\"process\"}} 3\n\
                 ringhub_config_reloads_refused_total{{shard=\"process\"}} 2\n\
                 ringhub_config_last_reload_success{{shard=\"process\"}} {success}\n\
                 ringhub_config_restart_pending{{shard=\"process\"}} 4\n\
                 ringhub_taken_timestamp_seconds{{shard=\"process\"}} 1700000000.250\n"
            )
        };
        let applied = Outcome { taken_at: 1_700_000_000.25, reloads: 5, is_applied: true, pending: 4 };
        assert_eq!(outcome_in(&answer("200 OK", 1)), Ok(applied));
        assert_eq!(outcome_in(&answer("200 OK", 0)).map(|outcome| outcome.is_applied), Ok(false));
        assert_eq!(
            outcome_in(&answer("401 Unauthorized", 1)),
            Err("the answer is \"HTTP/1.1 401 Unauthorized\"".into())
        );
        let missing = outcome_in("HTTP/1.1 200 OK\r\n\r\n").unwrap_err();
        assert_eq!(missing, "ringhub_taken_timestamp_seconds is missing");
    }
}
