//! A visitor opens one hostile connection after the other.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    Crowd, Kind, Outcome,
    received::ReceivedBytes,
    visit::{End, Step, Visit},
};

/// One member of a crowd.
pub(super) struct Visitor {
    number: usize,
    kind: Kind,
    /// How many visits the visitor has begun.
    visits: u64,
    under_way: Option<UnderWay>,
    /// The time of the next visit.
    next: Instant,
}

/// A visit under way.
struct UnderWay {
    visit: Visit,
    number: u64,
    socket: TcpStream,
    step: usize,
    /// The bytes that the current step has sent or received.
    progress: usize,
    /// The visit does nothing before this time.
    pause: Instant,
    /// The time of the last progress.
    moved: Instant,
    is_ready: bool,
    received: ReceivedBytes,
    sent_bytes: u64,
    taken_bytes: u64,
}

/// The state of a visit after an attempt to go on.
enum Now {
    /// The next step begins.
    Next,
    /// The socket has to become ready.
    Wait,
    /// The visit is over: all its steps are done.
    Over,
}

impl Visitor {
    pub(super) fn new(crowd: &Crowd, number: usize) -> Visitor {
        // The first visits begin one after the other.
        let next = Instant::now() + Duration::from_millis(number as u64 * 5);
        Visitor { number, kind: crowd.visitors[number], visits: 0, under_way: None, next }
    }

    /// Goes on with the visit while its socket is ready, or begins the next visit.
    pub(super) fn go_on(&mut self, now: Instant, crowd: &Crowd, outcome: &mut Outcome) {
        if self.under_way.is_none() && now >= self.next {
            self.begin(now, crowd, outcome);
        }
        let Some(under_way) = &mut self.under_way else { return };
        if now < under_way.pause {
            return;
        }
        let is_done = match under_way.work(now) {
            Ok(Now::Over) => true,
            Ok(_) if now - under_way.moved < under_way.visit.patience => return,
            // The server reads no more, or does not answer.
            Ok(_) => false,
            // The server has ended the connection.
            Err(_) => under_way.step > 0 || under_way.taken_bytes > 0,
        };
        self.end(is_done, outcome);
        self.next = now + REST;
    }

    fn begin(&mut self, now: Instant, crowd: &Crowd, outcome: &mut Outcome) {
        let number = self.visits;
        let visit = crowd.visit(self.number, number);
        let address = Ipv4Addr::new(127, 0, 1, 1 + (self.number % usize::from(crowd.addresses)) as u8);
        let Ok(socket) = connect(crowd.server, address, visit.receive_buffer) else {
            // The kernel has no free port or no memory at the moment.
            self.next = now + REST;
            return;
        };
        self.visits += 1;
        outcome.visits.entry((self.kind, visit.name)).or_default().begun += 1;
        self.under_way = Some(UnderWay {
            visit,
            number,
            socket,
            step: 0,
            progress: 0,
            pause: now,
            moved: now,
            is_ready: true,
            received: ReceivedBytes::default(),
            sent_bytes: 0,
            taken_bytes: 0,
        });
    }

    /// Ends the visit under way with the end of its plan.
    pub(super) fn leave(mut self, outcome: &mut Outcome) {
        self.end(false, outcome);
    }

    fn end(&mut self, is_done: bool, outcome: &mut Outcome) {
        let Some(over) = self.under_way.take() else { return };
        let accepted = over.received.accepted();
        let tally = outcome.visits.entry((self.kind, over.visit.name)).or_default();
        tally.done += u64::from(is_done);
        tally.accepted += accepted as u64;
        tally.sent_bytes += over.sent_bytes;
        tally.taken_bytes += over.taken_bytes;
        let place = || {
            let (name, plan) = (over.visit.name, over.visit.described());
            format!("visitor {}, visit {}, {name:?}:\n{plan}", self.number, over.number)
        };
        if accepted > over.visit.accepted_max {
            let most = over.visit.accepted_max;
            outcome.violations.push(format!("{accepted} answers accept, at most {most} may: {}", place()));
        }
        if over.received.has_secret() {
            outcome.violations.push(format!("something private was received: {}", place()));
        }
        let socket = Socket::from(over.socket);
        if over.visit.end == End::Reset {
            drop(socket.set_linger(Some(Duration::ZERO)));
        }
    }

    /// Returns the time at which the visitor acts without waiting for its socket.
    pub(super) fn wake(&self) -> Option<Instant> {
        Some(self.under_way.as_ref().map_or(self.next, |under_way| match under_way.interest() {
            Some(_) => under_way.moved + under_way.visit.patience,
            None => under_way.pause,
        }))
    }

    /// Returns the socket and the readiness that the visitor waits for.
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        let under_way = self.under_way.as_ref()?;
        Some(PollFd::new(&under_way.socket, under_way.interest()?))
    }

    pub(super) fn set_ready(&mut self) {
        if let Some(under_way) = &mut self.under_way {
            under_way.is_ready = true;
        }
    }
}

impl UnderWay {
    fn interest(&self) -> Option<PollFlags> {
        if self.is_ready || self.pause > Instant::now() {
            return None;
        }
        match self.visit.steps.get(self.step)? {
            Step::Send { takes: true, .. } | Step::Flood { takes: true, .. } => Some(PollFlags::IN | PollFlags::OUT),
            Step::Send { .. } | Step::Flood { .. } => Some(PollFlags::OUT),
            Step::AwaitOpening | Step::Take { .. } => Some(PollFlags::IN),
            Step::Hold(_) | Step::Finish => None,
        }
    }

    /// Does the possible steps, at most [`STEPS_MAX`]. An error means that the connection is over.
    fn work(&mut self, now: Instant) -> io::Result<Now> {
        for _ in 0..STEPS_MAX {
            match self.work_on_step(now)? {
                Now::Next => {
                    (self.step, self.progress, self.moved) = (self.step + 1, 0, now);
                    if self.step == self.visit.steps.len() {
                        return Ok(Now::Over);
                    }
                }
                wait_or_over => return Ok(wait_or_over),
            }
            if self.pause > now {
                return Ok(Now::Wait);
            }
        }
        Ok(Now::Wait)
    }

    fn work_on_step(&mut self, now: Instant) -> io::Result<Now> {
        match &self.visit.steps[self.step] {
            Step::Send { bytes, piece, pause, takes } => {
                let (begin, end) = (self.progress, bytes.len().min(self.progress.saturating_add(*piece)));
                let (pause, takes, length) = (*pause, *takes, bytes.len());
                let sent = send_some(&self.socket, &bytes[begin..end])?;
                self.has_sent(sent, now);
                if takes {
                    self.take(64 * 1_024)?;
                }
                self.pause = if sent > 0 { now + pause } else { now };
                self.is_ready = sent > 0 || begin == end;
                Ok(if self.progress == length { Now::Next } else { Now::Wait })
            }
            Step::Flood { unit, total, takes } => {
                let (takes, total) = (*takes, *total);
                let sent = send_some(&self.socket, &unit[self.progress % unit.len()..])?;
                self.has_sent(sent, now);
                if takes {
                    self.take(64 * 1_024)?;
                }
                self.is_ready = sent > 0;
                Ok(if self.progress >= total { Now::Next } else { Now::Wait })
            }
            Step::AwaitOpening => {
                self.is_ready = self.take(1_024)? > 0;
                match (self.received.has_head(), self.received.is_open()) {
                    (true, true) => Ok(Now::Next),
                    (true, false) => Ok(Now::Over),
                    (false, _) => Ok(Now::Wait),
                }
            }
            Step::Take { total, piece, pause } => {
                let (total, pause, most) = (*total, *pause, (*piece).min(*total - self.progress));
                let taken = self.take(most)?;
                self.progress += taken;
                self.is_ready = taken > 0;
                if taken > 0 {
                    (self.moved, self.pause) = (now, now + pause);
                }
                Ok(if self.progress >= total { Now::Next } else { Now::Wait })
            }
            Step::Hold(time) => {
                // The first call sets the pause; the call after the pause ends the step.
                if self.progress == 0 {
                    (self.progress, self.pause) = (1, now + *time);
                    return Ok(Now::Wait);
                }
                Ok(Now::Next)
            }
            Step::Finish => {
                self.socket.shutdown(std::net::Shutdown::Write)?;
                Ok(Now::Next)
            }
        }
    }

    fn has_sent(&mut self, count: usize, now: Instant) {
        self.progress += count;
        self.sent_bytes += count as u64;
        if count > 0 {
            self.moved = now;
        }
    }

    /// Receives at most `most` bytes. The end of the server's side is an error.
    fn take(&mut self, most: usize) -> io::Result<usize> {
        let mut chunk = [0; 64 * 1_024];
        let most = most.min(chunk.len());
        match recv(&self.socket, &mut chunk[..most], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Err(ErrorKind::UnexpectedEof.into()),
            Ok((_, count)) => {
                self.received.add(&chunk[..count]);
                self.taken_bytes += count as u64;
                Ok(count)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// Sends as many bytes as the socket takes now, and returns their number.
fn send_some(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(count) => Ok(count),
        // The socket may not be connected yet.
        Err(Errno::AGAIN | Errno::INTR | Errno::NOTCONN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Returns a socket that is connecting to the server.
fn connect(server: SocketAddr, own: Ipv4Addr, receive_buffer: Option<usize>) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(&SocketAddr::new(IpAddr::V4(own), 0).into())?;
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// The time between two visits.
const REST: Duration = Duration::from_millis(10);

/// The most steps in one call, so that no visitor delays the others.
const STEPS_MAX: usize = 16;
