//! One open connection, from the end of its opening handshake to the end of its socket.
//!
//! Two halves run side by side on one task. The reading half hands out messages and finds the end; the writing half
//! sends what waits. Each owns a `fastwebsockets::WebSocket` over its half of the socket, so that neither's future is
//! ever dropped in the middle of a frame. Pongs and answers to a close are not left to fastwebsockets, which would
//! write them from within a read: the reading half asks the writing half for them.
//!
//! ```text
//!            close request ───────────────┐
//!                                         v
//! handles ── Link's queue ────────> writing half ──> socket
//!                                         ^
//!           pongs, pings, close: Urgent ──┘
//!                                         |
//! events <────────────────────────  reading half <── Inspect <── socket
//! ```
//!
//! The first thing that ends the connection (a wish to close, a close frame, a violation, silence, a failed write)
//! starts one deadline for all the rest: both close frames, and the server's end of the socket, which comes before ours
//! (RFC 6455 7.1.1).

use std::{io, pin::pin, sync::Arc};

use bytes::{Bytes, BytesMut};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocket, WebSocketError};
use tokio::{
    io::{
        AsyncRead, AsyncReadExt, AsyncWriteExt, BufWriter, Empty, Join, ReadHalf, Sink, WriteHalf, empty, join, sink,
    },
    sync::mpsc,
    task::coop::consume_budget,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    event::{Cause, Closed, Event},
    inspect::{Inspect, Pulse},
    life::{Life, Requester},
    link::{Outgoing, Urgent, What},
    open::{Connected, Stream},
    shared::Shared,
    stats::Operation,
};
use crate::proto::{CloseCode, CloseFrame, LARGE_FRAME, ProtocolError};

/// Runs it to its end.
pub(super) async fn run(
    shared: &Arc<Shared>,
    life: &Life,
    connected: Connected,
    queue: mpsc::Receiver<Outgoing>,
) -> Closed {
    let (read, write) = tokio::io::split(connected.stream);
    let (pulse, urgent) = (Arc::new(Pulse::new()), Urgent::default());
    let reader = Reader::new(shared, life, &urgent, io::Cursor::new(connected.received).chain(read), pulse);
    let writer = Writer::new(shared, life, &urgent, write, queue);
    let (mut reading, mut writing) = (pin!(reader.run()), pin!(writer.run()));
    let (mut heard, mut said) = (None, None);
    let mut deadline = None;
    loop {
        // In no fixed order: a server that never stops sending uses up all the time that the runtime gives to a task,
        // so the writing half must sometimes come first.
        tokio::select! {
            (end, socket) = &mut reading, if heard.is_none() => {
                end.answer(&urgent);
                heard = Some((end, socket));
            }
            (end, socket) = &mut writing, if said.is_none() => said = Some((end, socket)),
            () = life.close_requested(), if deadline.is_none() => {}
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => break,
        }
        match (&heard, &said) {
            (Some(_), Some(_)) | (Some((Heard::EndOfStream | Heard::Failed(_), _)), _) => break,
            _ => {}
        }
        deadline.get_or_insert_with(|| Instant::now() + shared.config.close_timeout);
    }
    let deadline = deadline.unwrap_or_else(Instant::now);
    let (heard, input) = heard.unzip();
    let (said, output) = said.unzip();
    let is_told = matches!(said, Some(Said::Answer | Said::Request(_)));
    if let (Some(input), Some(output), true) = (input, output, is_told && !matches!(heard, Some(Heard::Nothing))) {
        end_socket(input, output, deadline).await;
    }
    closed(heard, said, life)
}

/// The server ends the socket, then we do (RFC 6455 7.1.1), but not later than `deadline`. Whatever still comes has no
/// meaning.
async fn end_socket(mut input: impl AsyncRead + Unpin, mut output: WriteHalf<Stream>, deadline: Instant) {
    let mut rest = [0; 1024];
    let end = async {
        while let Ok(1..) = input.read(&mut rest).await {}
        output.shutdown().await
    };
    // A peer that does not care for the end, or is gone already, needs no more.
    drop(timeout_at(deadline, end).await);
}

fn closed(heard: Option<Heard>, said: Option<Said>, life: &Life) -> Closed {
    let is_told = matches!(said, Some(Said::Answer | Said::Request(_)));
    let request = life.close_request().map(|request| request.requester.cause());
    let (code, reason, clean) = match &heard {
        Some(Heard::Close { code, reason }) => (code.unwrap_or(CloseCode::NO_STATUS), reason.clone(), is_told),
        _ => (CloseCode::ABNORMAL, String::new(), false),
    };
    let cause = match (heard, said) {
        (Some(Heard::Close { .. }), Some(Said::Request(requester))) => requester.cause(),
        (Some(Heard::Close { .. }), _) => Cause::Server,
        (Some(Heard::Violation(error)), _) => Cause::Protocol(error),
        (Some(Heard::Nothing), _) => Cause::Idle,
        (_, Some(Said::Failed(error))) | (Some(Heard::Failed(error)), _) => Cause::Io(error),
        (Some(Heard::EndOfStream), _) => Cause::EndOfStream,
        (None, _) => request.map_or(Cause::EndOfStream, |_| Cause::CloseTimeout),
    };
    Closed { code, reason, clean, cause }
}

/// How the reading half ended.
enum Heard {
    /// A close frame.
    Close {
        code: Option<CloseCode>,
        reason: String,
    },
    /// What RFC 6455 or a limit forbids.
    Violation(ProtocolError),
    /// Silence.
    Nothing,
    /// The end of the socket without a close frame.
    EndOfStream,
    Failed(io::Error),
}

impl Heard {
    /// Has the server told: its own code comes back (RFC 6455 5.5.1), or what it did wrong (RFC 6455 7.1.7).
    fn answer(&self, urgent: &Urgent) {
        let violation;
        let frame = match self {
            Self::Close { code, .. } => CloseFrame { code: *code, reason: "" },
            Self::Violation(error) => {
                violation = error.to_string();
                CloseFrame { code: Some(error.close_code()), reason: &violation }
            }
            Self::Nothing => CloseFrame { code: Some(CloseCode::GOING_AWAY), reason: "nothing came for too long" },
            Self::EndOfStream | Self::Failed(_) => return,
        };
        let mut payload = Vec::new();
        frame.encode(&mut payload);
        urgent.push(OpCode::Close, BytesMut::from(&payload[..]));
    }
}

impl From<WebSocketError> for Heard {
    fn from(error: WebSocketError) -> Self {
        let error = match error {
            WebSocketError::UnexpectedEOF => return Self::EndOfStream,
            WebSocketError::IoError(error) => error,
            other => io::Error::other(other),
        };
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(&violation) => Self::Violation(violation),
            // Of TLS, without its own goodbye.
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::EndOfStream,
            None => Self::Failed(error),
        }
    }
}

/// How the writing half ended.
enum Said {
    /// A close frame, because the reading half asked for it.
    Answer,
    /// A close frame, because this was asked for.
    Request(Requester),
    Failed(io::Error),
}

type Input = tokio::io::Chain<io::Cursor<Bytes>, ReadHalf<Stream>>;

struct Reader<'a> {
    shared: &'a Arc<Shared>,
    life: &'a Life,
    urgent: &'a Urgent,
    pulse: Arc<Pulse>,
    /// When the keep-alive last pinged.
    pinged: Option<Instant>,
    /// The fragments of a message whose last has not come (RFC 6455 5.4).
    message: Option<(OpCode, BytesMut)>,
    /// A client's, though nothing is written through it.
    socket: WebSocket<Join<Inspect<Input>, Sink>>,
}

impl<'a> Reader<'a> {
    fn new(shared: &'a Arc<Shared>, life: &'a Life, urgent: &'a Urgent, input: Input, pulse: Arc<Pulse>) -> Self {
        let limits = shared.config.limits.message;
        let input = Inspect::new(input, limits, pulse.clone());
        let mut socket = WebSocket::after_handshake(join(input, sink()), Role::Client);
        socket.set_auto_close(false);
        socket.set_auto_pong(false);
        // Everything is below the limit that `Inspect` has checked; control frames are not subject to it.
        socket.set_max_message_size((limits.frame_bytes_max as usize).saturating_add(CONTROL_FRAMES_BELOW));
        Self { shared, life, urgent, pulse, pinged: None, message: None, socket }
    }

    async fn run(mut self) -> (Heard, Input) {
        let heard = loop {
            // A buffer full of small frames must not keep the thread to itself.
            consume_budget().await;
            match self.frame().await {
                Ok(frame) => {
                    if let Some(heard) = self.handle(frame).await {
                        break heard;
                    }
                }
                Err(heard) => break heard,
            }
        };
        (heard, self.socket.into_inner().into_inner().0.into_inner())
    }

    /// The next frame. Meanwhile the keep-alive watches.
    async fn frame(&mut self) -> Result<Frame<'static>, Heard> {
        let config = &self.shared.config;
        // Until now the client was busy, or its caller: that was not the server's silence.
        self.pulse.beat();
        let mut reading = pin!(self.socket.read_frame());
        loop {
            let last = self.pulse.last();
            let ping_at = config.ping_interval.map(|interval| last.max(self.pinged.unwrap_or(last)) + interval);
            let dead_at = config.idle_timeout.map(|timeout| last + timeout);
            let next = ping_at.into_iter().chain(dead_at).min();
            tokio::select! {
                biased;
                frame = &mut reading => return frame.map_err(Heard::from),
                () = sleep_until(next.unwrap_or(last)), if next.is_some() => {}
            }
            let now = Instant::now();
            if self.pulse.last() > last {
                continue;
            }
            if dead_at.is_some_and(|at| at <= now) {
                return Err(Heard::Nothing);
            }
            if ping_at.is_some_and(|at| at <= now) {
                self.pinged = Some(now);
                self.urgent.push(OpCode::Ping, BytesMut::from(KEEP_ALIVE));
            }
        }
    }

    async fn handle(&mut self, frame: Frame<'static>) -> Option<Heard> {
        let counters = &self.shared.counters;
        let (fin, opcode, payload) = (frame.fin, frame.opcode, into_bytes(frame.payload));
        match opcode {
            OpCode::Text | OpCode::Binary | OpCode::Continuation => {
                let (opcode, payload) = self.assemble(fin, opcode, payload)?;
                counters.messages_received.add(1);
                counters.bytes_received.add(payload.len() as u64);
                match message(opcode, payload) {
                    Ok(event) => self.shared.deliver(self.life, event).await,
                    Err(violation) => return Some(Heard::Violation(violation)),
                }
            }
            OpCode::Ping => {
                counters.pings_received.add(1);
                if self.shared.config.auto_pong {
                    self.urgent.push(OpCode::Pong, payload.clone());
                }
                self.shared.deliver(self.life, Event::Ping(small(&payload))).await;
            }
            OpCode::Pong => {
                counters.pongs_received.add(1);
                if payload[..] != *KEEP_ALIVE {
                    self.shared.deliver(self.life, Event::Pong(small(&payload))).await;
                }
            }
            OpCode::Close => {
                return Some(match CloseFrame::parse(&payload) {
                    Ok(CloseFrame { code, reason }) => Heard::Close { code, reason: reason.into() },
                    Err(violation) => Heard::Violation(violation),
                });
            }
        }
        None
    }

    /// The whole message, if this frame ends one. `Inspect` has seen that the fragments are in order and within limits.
    fn assemble(&mut self, fin: bool, opcode: OpCode, payload: BytesMut) -> Option<(OpCode, BytesMut)> {
        match &mut self.message {
            None if fin => Some((opcode, payload)),
            None => {
                self.message = Some((opcode, payload));
                None
            }
            Some((_, begun)) => {
                begun.extend_from_slice(&payload);
                self.message.take_if(|_| fin)
            }
        }
    }
}

struct Writer<'a> {
    shared: &'a Arc<Shared>,
    life: &'a Life,
    urgent: &'a Urgent,
    queue: mpsc::Receiver<Outgoing>,
    /// A client's, though nothing is read through it. What waits at once leaves in few writes.
    socket: WebSocket<Join<Empty, BufWriter<WriteHalf<Stream>>>>,
}

impl<'a> Writer<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        life: &'a Life,
        urgent: &'a Urgent,
        output: WriteHalf<Stream>,
        queue: mpsc::Receiver<Outgoing>,
    ) -> Self {
        let socket = WebSocket::after_handshake(join(empty(), BufWriter::new(output)), Role::Client);
        Self { shared, life, urgent, queue, socket }
    }

    async fn run(mut self) -> (Said, WriteHalf<Stream>) {
        let said = self.write().await.unwrap_or_else(Said::Failed);
        (said, self.socket.into_inner().into_inner().1.into_inner())
    }

    /// Writes until a close frame is written.
    async fn write(&mut self) -> io::Result<Said> {
        let mut is_closing = false;
        loop {
            while let Some((opcode, payload)) = self.urgent.pop() {
                if opcode == OpCode::Close {
                    return self.answer(payload).await;
                }
                self.frame(opcode, payload).await?;
            }
            if !is_closing && self.life.close_request().is_some() {
                // Takes nothing more; what was taken before still comes out.
                self.queue.close();
                is_closing = true;
            }
            let outgoing = match self.queue.try_recv() {
                Ok(outgoing) => outgoing,
                Err(_) => {
                    self.flush().await?;
                    tokio::select! {
                        biased;
                        () = self.urgent.arrived() => continue,
                        () = self.life.close_requested(), if !is_closing => continue,
                        outgoing = self.queue.recv() => match outgoing {
                            Some(outgoing) => outgoing,
                            None => return self.close().await,
                        },
                    }
                }
            };
            self.outgoing(outgoing).await?;
        }
    }

    async fn outgoing(&mut self, outgoing: Outgoing) -> io::Result<()> {
        match outgoing.what {
            What::Frame(opcode, payload) => {
                self.frame(opcode, payload).await?;
                self.shared.measure(Operation::Send, outgoing.since);
            }
            What::Flush(done) => {
                self.flush().await?;
                // Who asked may have gone.
                done.send(()).ok();
            }
        }
        Ok(())
    }

    /// RFC 6455 5.5.1: what was accepted before the server closed, or broke the protocol, still goes before the answer.
    async fn answer(&mut self, close: BytesMut) -> io::Result<Said> {
        self.queue.close();
        while let Ok(outgoing) = self.queue.try_recv() {
            self.outgoing(outgoing).await?;
        }
        self.frame(OpCode::Close, close).await?;
        self.flush().await?;
        Ok(Said::Answer)
    }

    async fn close(&mut self) -> io::Result<Said> {
        // The queue ends by the wish alone, since the life of the connection holds its other end.
        let Some(request) = self.life.close_request() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let mut payload = Vec::new();
        CloseFrame { code: Some(request.code), reason: &request.reason }.encode(&mut payload);
        self.frame(OpCode::Close, BytesMut::from(&payload[..])).await?;
        self.flush().await?;
        Ok(Said::Request(request.requester))
    }

    async fn frame(&mut self, opcode: OpCode, payload: BytesMut) -> io::Result<()> {
        let bytes = payload.len() as u64;
        let frame = Frame::new(true, opcode, None, Payload::Bytes(payload));
        self.socket.write_frame(frame).await.map_err(write_error)?;
        let counters = &self.shared.counters;
        match opcode {
            OpCode::Ping => counters.pings_sent.add(1),
            OpCode::Pong => counters.pongs_sent.add(1),
            OpCode::Close | OpCode::Continuation => {}
            OpCode::Text | OpCode::Binary => {
                counters.messages_sent.add(1);
                counters.bytes_sent.add(bytes);
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().await.map_err(write_error)
    }
}

/// A message as its receiver wants it. A small one is copied, so that it does not keep the buffer alive into which much
/// else was received.
fn message(opcode: OpCode, payload: BytesMut) -> Result<Event, ProtocolError> {
    if opcode == OpCode::Text {
        // Known to be UTF-8 since it came, but only a look at it makes it a `String` without `unsafe`.
        let text = simdutf8::basic::from_utf8(&payload).map_err(|_| ProtocolError::InvalidUtf8)?;
        return Ok(Event::Text(text.into()));
    }
    Ok(Event::Binary(if payload.len() < LARGE_FRAME { small(&payload) } else { payload.freeze() }))
}

fn small(payload: &[u8]) -> Bytes {
    Bytes::copy_from_slice(payload)
}

fn into_bytes(payload: Payload<'_>) -> BytesMut {
    match payload {
        Payload::Bytes(bytes) => bytes,
        other => BytesMut::from(&other[..]),
    }
}

fn write_error(error: WebSocketError) -> io::Error {
    match error {
        WebSocketError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

/// What the keep-alive's pings carry, so that their pongs are told from others.
const KEEP_ALIVE: &[u8] = b"ringhub keep-alive";

/// fastwebsockets wants every frame, control frames too, below its limit.
const CONTROL_FRAMES_BELOW: usize = 126;
