//! Opens every connection, subscribers before publishers.

use crate::error::Error;
use crate::generator::Generator;
use crate::progress::Progress;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

impl Generator<'_> {
    /// Opens all connections, and returns when the last handshake is done.
    ///
    /// # Errors
    /// An error is returned if a connection is refused, if no handshake ends for [`PROGRESS_DEADLINE_NS`], or if the
    /// user ends the run.
    pub(crate) fn open_all(&mut self, progress: &mut dyn Progress) -> Result<(), Error> {
        let plan = self.plan;
        let total = plan.subscribers + plan.publishers;
        raise_descriptor_limit(total)?;
        let begin_ns = self.now_ns();
        let mut last_opened = (0, begin_ns);
        let mut shown_ns = begin_ns;
        while self.opened < total {
            let now_ns = self.now_ns();
            let allowed = match plan.connect_rate {
                0 => total,
                rate => (u128::from(now_ns - begin_ns) * u128::from(rate) / 1_000_000_000) as usize + 1,
            };
            while self.connections.len() < total.min(allowed) && self.connections.len() - self.opened < OPENING_MAX {
                if self.connections.len() >= plan.subscribers && self.opened < plan.subscribers {
                    break;
                }
                let socket = self.socket(self.connections.len())?;
                self.adopt(socket)?;
            }
            self.poll(Duration::from_millis(1))?;
            if now_ns - shown_ns >= SHOWN_EVERY_NS {
                shown_ns = now_ns;
                progress.connecting(self.opened, total);
            }
            if progress.is_interrupted() {
                return Err(Error::Interrupted { opened: self.opened, connections: total });
            }
            if last_opened.0 != self.opened {
                last_opened = (self.opened, now_ns);
            } else if now_ns - last_opened.1 > PROGRESS_DEADLINE_NS {
                let why = format!("{} of {total} connections opened, then no more", self.opened);
                return Err(Error::Connect(why));
            }
        }
        progress.connecting(self.opened, total);
        Ok(())
    }

    /// Returns a socket that is connecting to the server.
    fn socket(&self, index: usize) -> Result<OwnedFd, Error> {
        let target = self.plan.target;
        let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))
            .map_err(Error::system("open a socket"))?;
        socket.set_tcp_nodelay(true).map_err(Error::system("set TCP_NODELAY"))?;
        let sources = &self.plan.source_addresses;
        if !sources.is_empty() {
            let source = SockAddr::from(SocketAddr::from((sources[index % sources.len()], 0)));
            socket.bind(&source).map_err(Error::system("bind a source address"))?;
        }
        match socket.connect(&target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(Error::Connect(format!("cannot connect to {target}: {error}"))),
        }
        Ok(socket.into())
    }
}

fn raise_descriptor_limit(sockets: usize) -> Result<(), Error> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let needed = (sockets + SPARE_DESCRIPTORS) as u64;
    if maximum.is_some_and(|maximum| maximum < needed) {
        return Err(Error::Options(format!(
            "{sockets} connections need {needed} descriptors, the hard limit (ulimit -Hn) is {}",
            maximum.unwrap_or_default()
        )));
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .map_err(Error::system("raise the descriptor limit"))
}

/// Handshakes under way at once, below any usual listen backlog.
const OPENING_MAX: usize = 100;

/// Descriptors for the standard streams, epoll, and files of `/proc` while they are read.
const SPARE_DESCRIPTORS: usize = 16;

/// The time between two looks of the user at the number of open connections.
const SHOWN_EVERY_NS: u64 = 100_000_000;

const PROGRESS_DEADLINE_NS: u64 = 10_000_000_000;
