//! Opens connections.

use crate::connection::State;
use crate::crew::Order;
use crate::error::Error;
use crate::generator::Generator;
use crate::options::{Activity, Plan};
use crate::progress::Progress;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

impl Generator<'_> {
    /// Opens the connections with which a run begins: the subscribers of all threads, then the publishers.
    ///
    /// # Errors
    /// An error is returned if a connection is refused, if none opens for [`OPENING_SILENCE_MAX_NS`], or if the user
    /// ends the run.
    pub(crate) fn open_all(&mut self, subscribers: usize, progress: &mut dyn Progress) -> Result<(), Error> {
        let publishers = self.own_publishers();
        let total = subscribers + publishers;
        let mut shown_ns = self.now_ns();
        let mut watch = |generator: &mut Generator<'_>| {
            let open = generator.opened + generator.crew.connections().0;
            let now_ns = generator.now_ns();
            if now_ns - shown_ns >= SHOWN_EVERY_NS {
                shown_ns = now_ns;
                progress.connecting(open, total);
            }
            if let Some(failure) = generator.crew.failure() {
                return Err(failure);
            }
            match progress.is_interrupted() {
                true => Err(Error::Interrupted { opened: open, connections: total }),
                false => Ok(()),
            }
        };
        self.crew.give(Order::Open { subscribers });
        self.open_to(self.share.size(subscribers), &mut watch)?;
        self.await_followers(&mut watch)?;
        self.open_to(self.share.size(subscribers) + publishers, &mut watch)?;
        progress.connecting(self.opened + self.crew.connections().0, total);
        Ok(())
    }

    /// Opens more subscribers of all threads while publishers publish. Returns the reason if a subscriber was refused;
    /// some of the others are then open.
    ///
    /// # Errors
    /// The errors of [`Self::open_all`], but for a refused connection.
    pub(crate) fn open_more(
        &mut self,
        subscribers: usize,
        progress: &mut dyn Progress,
    ) -> Result<Option<String>, Error> {
        let total = self.share.size(subscribers) + self.own_publishers();
        self.refused.get_or_insert_default();
        self.crew.give(Order::Open { subscribers });
        let mut watch = |generator: &mut Generator<'_>| match progress.is_interrupted() {
            true => Err(Error::Interrupted { opened: generator.opened, connections: total }),
            false => Ok(()),
        };
        let own = self.open_to(total, &mut watch)?;
        self.await_followers(&mut watch)?;
        Ok(own.or_else(|| self.crew.refusal()))
    }

    /// Opens connections of this thread until it has `total`, and calls `watch` meanwhile. Returns the reason if one is
    /// refused and this does not end the run.
    ///
    /// # Errors
    /// The errors of [`Self::open_all`], and those of `watch`.
    pub(crate) fn open_to(
        &mut self,
        total: usize,
        watch: &mut dyn FnMut(&mut Generator<'_>) -> Result<(), Error>,
    ) -> Result<Option<String>, Error> {
        let begin_ns = self.now_ns();
        let already = self.connections.len();
        let mut last_opened = (self.opened, begin_ns);
        while self.opened < total {
            let now_ns = self.now_ns();
            let allowed = already + self.allowed(now_ns - begin_ns);
            while self.connections.len() < total.min(allowed) && self.connections.len() - self.opened < OPENING_MAX {
                match self.socket(self.connections.len()) {
                    Ok(socket) => self.adopt(socket)?,
                    Err(error) if self.refused.is_some() => return Ok(Some(error.to_string())),
                    Err(error) => return Err(error),
                }
            }
            self.poll(Duration::from_millis(1))?;
            watch(self)?;
            if let Some((index, why)) = self.refused.as_mut().and_then(Vec::pop) {
                return Ok(Some(format!("connection {index}: {why}")));
            }
            if last_opened.0 != self.opened {
                last_opened = (self.opened, now_ns);
            } else if now_ns - last_opened.1 > OPENING_SILENCE_MAX_NS {
                return match self.refused {
                    Some(_) => Ok(Some(self.stuck(total))),
                    None => Err(Error::Connect(self.stuck(total))),
                };
            }
        }
        Ok(None)
    }

    /// Returns how many connections the rate of the plan allows this thread within a time.
    pub(crate) fn allowed(&self, elapsed_ns: u64) -> usize {
        match self.plan.connect_rate {
            0 => usize::MAX >> 1,
            rate => (u128::from(elapsed_ns) * u128::from(rate) / (1_000_000_000 * self.share.of as u128)) as usize + 1,
        }
    }

    /// Returns a text about the open connections, what the others wait for, and what the server has sent.
    fn stuck(&self, total: usize) -> String {
        let waits = self.connections.iter().rev().find_map(|connection| match &connection.state {
            _ if connection.socket.is_none() => None,
            State::Connecting => Some("TCP is not connected".to_owned()),
            State::Opening(answer) if answer.is_empty() => {
                Some("TCP is connected, and the opening request has no answer".to_owned())
            }
            State::Opening(answer) => Some(format!("the answer is not whole: {}", crate::http::shown(answer))),
            State::Reading(reading) => Some(format!("a message is awaited: {}", reading.awaited()?)),
            State::Dropping { .. } | State::Posting(_) => None,
        });
        let waits = waits.map_or_else(String::new, |waits| format!("; {waits}"));
        let said = match &self.judge.strays[..] {
            [] => String::new(),
            [first, last] if first != last => format!("; the server's first message: {first}; its last one: {last}"),
            [first, ..] => format!("; the server's message: {first}"),
        };
        let seconds = OPENING_SILENCE_MAX_NS / 1_000_000_000;
        format!("{} of {total} connections are open, and none opened for {seconds} s{waits}{said}", self.opened)
    }

    /// Returns a socket that is connecting to the server.
    pub(crate) fn socket(&self, index: usize) -> Result<OwnedFd, Error> {
        let target = self.endpoint(self.role(index)).address;
        let sources = &self.plan.source_addresses;
        if sources.is_empty() || !target.ip().is_loopback() || !target.is_ipv4() {
            return connecting(target, None)?.map_err(|error| unconnected(target, &error));
        }
        let source = sources[self.share.global(index) % sources.len()];
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..self.ports.count() {
            match connecting(target, Some((source, self.ports.take()).into()))? {
                Ok(socket) => return Ok(socket),
                Err(error) if is_taken(&error) => last = error,
                Err(error) => return Err(unconnected(target, &error)),
            }
        }
        Err(unconnected(target, &last))
    }
}

/// Returns a socket that is connecting from a source address, or the error of `bind` or `connect`.
fn connecting(target: SocketAddr, source: Option<SocketAddr>) -> Result<io::Result<OwnedFd>, Error> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))
        .map_err(Error::system("open a socket"))?;
    socket.set_tcp_nodelay(true).map_err(Error::system("set TCP_NODELAY"))?;
    if let Some(source) = source {
        // The port of a connection that has ended may be used again.
        socket.set_reuse_address(true).map_err(Error::system("set SO_REUSEADDR"))?;
        if let Err(error) = socket.bind(&source.into()) {
            return Ok(Err(error));
        }
    }
    Ok(match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    })
}

/// Returns whether a port cannot be used, because a socket has it.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn unconnected(target: SocketAddr, error: &io::Error) -> Error {
    let why = error.to_string();
    Error::Connect(format!("cannot connect to {target}: {why}{}", crate::ending::hint(&why)))
}

/// Raises the limit of descriptors for all connections of a run.
///
/// # Errors
/// An error is returned if the hard limit is too low, before any connection is opened.
pub(crate) fn raise_descriptor_limit(plan: &Plan) -> Result<(), Error> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let sockets = plan.subscribers + if matches!(plan.activity, Activity::Echo(_)) { 0 } else { plan.publishers };
    let needed = (sockets + plan.threads + SPARE_DESCRIPTORS) as u64;
    if maximum.is_some_and(|maximum| maximum < needed) {
        return Err(Error::Options(format!(
            "{sockets} connections need {needed} descriptors, and the hard limit (ulimit -Hn) is {}: raise the limit \
             (LimitNOFILE= of systemd, --ulimit nofile= of docker), or lower the number of connections",
            maximum.unwrap_or_default()
        )));
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(Error::system("raise the descriptor limit"))
}

/// The largest number of handshakes in progress at the same time, below any usual listen backlog.
const OPENING_MAX: usize = 100;

/// Descriptors for the standard streams, and files of `/proc` while they are read.
const SPARE_DESCRIPTORS: usize = 16;

/// The time between two updates of the progress line.
const SHOWN_EVERY_NS: u64 = 100_000_000;

/// The longest time without a new open connection.
const OPENING_SILENCE_MAX_NS: u64 = 10_000_000_000;
