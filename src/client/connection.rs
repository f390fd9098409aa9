//! One open connection, from the end of its opening handshake to the end of its socket.
//!
//! Two halves run concurrently in one task. The reading half delivers messages and detects the end; the writing half
//! writes the frames of both queues. Each half owns a `fastwebsockets::WebSocket` over its half of the socket, so that
//! the work of one half never drops the future of the other half in the middle of a frame. fastwebsockets would write
//! pongs and close frames from within a read; here the reading half queues such frames for the writing half.
//!
//! ```text
//!       CloseRequest ─────────────────┐
//!                                     v
//! handles ─── SendQueue ──────> writing half ──> socket
//!                                     ^
//!            pongs, pings, close: ControlQueue
//!                                     |
//! events <───────────────────── reading half <── Inspect <── socket
//! ```
//!
//! The first cause of the end (a close request, a close frame, a violation, an idle timeout, a failed write) starts one
//! deadline for the rest. The deadline bounds what is still missing of three things: the client's close frame, the
//! server's close frame, and the server's end of the socket. The client ends its own side only after the server's end
//! (RFC 6455 7.1.1). After an idle timeout the client sends its close frame, and waits neither for the server's close
//! frame nor for its end.

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
    control_queue::ControlQueue,
    event::{Cause, ClientEvent, ConnectionEnd},
    inspect::{Inspect, Pulse},
    lifecycle::{Lifecycle, Requester},
    open::{Connected, Stream},
    send_queue::{Outgoing, Queued},
    shared::Shared,
    stats::Operation,
};
use crate::proto::{CloseCode, CloseFrame, LARGE_FRAME, ProtocolError};

/// Runs a connection to its end.
pub(super) async fn run(
    shared: &Arc<Shared>,
    lifecycle: &Lifecycle,
    connected: Connected,
    queue: mpsc::Receiver<Queued>,
) -> ConnectionEnd {
    let (read, write) = tokio::io::split(connected.stream);
    let (pulse, control) = (Arc::new(Pulse::new()), ControlQueue::default());
    let reader = Reader::new(shared, lifecycle, &control, io::Cursor::new(connected.received).chain(read), pulse);
    let writer = Writer::new(shared, lifecycle, &control, write, queue);
    let (mut reading, mut writing) = (pin!(reader.run()), pin!(writer.run()));
    let (mut read_end, mut write_end) = (None, None);
    let mut deadline = None;
    loop {
        // The order is random. A server that never stops sending uses up the task's whole budget, so the writing half
        // must sometimes be polled first.
        tokio::select! {
            (end, socket) = &mut reading, if read_end.is_none() => {
                end.push_close(&control);
                read_end = Some((end, socket));
            }
            (end, socket) = &mut writing, if write_end.is_none() => write_end = Some((end, socket)),
            () = lifecycle.close_requested(), if deadline.is_none() => {}
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => break,
        }
        match (&read_end, &write_end) {
            (Some(_), Some(_)) | (Some((ReadEnd::EndOfStream | ReadEnd::Failed(_), _)), _) => break,
            _ => {}
        }
        deadline.get_or_insert_with(|| Instant::now() + shared.config.close_timeout);
    }
    let deadline = deadline.unwrap_or_else(Instant::now);
    let (read_end, input) = read_end.unzip();
    let (write_end, output) = write_end.unzip();
    let is_told = matches!(write_end, Some(WriteEnd::Answer | WriteEnd::Request(_)));
    if let (Some(input), Some(output), true) = (input, output, is_told && !matches!(read_end, Some(ReadEnd::Idle))) {
        end_socket(input, output, deadline).await;
    }
    closed(read_end, write_end, lifecycle)
}

/// Waits until the server ends the socket, discarding its bytes, and then ends the client's side (RFC 6455 7.1.1). The
/// wait ends at `deadline`.
async fn end_socket(mut input: impl AsyncRead + Unpin, mut output: WriteHalf<Stream>, deadline: Instant) {
    let mut rest = [0; 1024];
    let end = async {
        while let Ok(1..) = input.read(&mut rest).await {}
        output.shutdown().await
    };
    // A failure or the deadline needs no further step: the socket is dropped next.
    drop(timeout_at(deadline, end).await);
}

fn closed(read_end: Option<ReadEnd>, write_end: Option<WriteEnd>, lifecycle: &Lifecycle) -> ConnectionEnd {
    let is_told = matches!(write_end, Some(WriteEnd::Answer | WriteEnd::Request(_)));
    let request = lifecycle.close_request().map(|request| request.requester.cause());
    let (code, reason, is_clean) = match &read_end {
        Some(ReadEnd::Close { code, reason }) => (code.unwrap_or(CloseCode::NO_STATUS), reason.clone(), is_told),
        _ => (CloseCode::ABNORMAL, String::new(), false),
    };
    let cause = match (read_end, write_end) {
        (Some(ReadEnd::Close { .. }), Some(WriteEnd::Request(requester))) => requester.cause(),
        (Some(ReadEnd::Close { .. }), _) => Cause::Server,
        (Some(ReadEnd::Violation(error)), _) => Cause::Protocol(error),
        (Some(ReadEnd::Idle), _) => Cause::Idle,
        (_, Some(WriteEnd::Failed(error))) | (Some(ReadEnd::Failed(error)), _) => Cause::Io(error),
        (Some(ReadEnd::EndOfStream), _) => Cause::EndOfStream,
        (None, _) => request.map_or(Cause::EndOfStream, |_| Cause::CloseTimeout),
    };
    ConnectionEnd { code, reason, is_clean, cause }
}

/// The end of the reading half.
enum ReadEnd {
    /// The server's close frame.
    Close {
        code: Option<CloseCode>,
        reason: String,
    },
    /// A frame that breaks RFC 6455 or exceeds a limit.
    Violation(ProtocolError),
    /// No byte within `idle_timeout`.
    Idle,
    /// The end of the socket without a close frame.
    EndOfStream,
    Failed(io::Error),
}

impl ReadEnd {
    /// Queues the close frame that this end calls for. Its code is the one in the server's close frame (RFC 6455
    /// 5.5.1), that of the server's violation (RFC 6455 7.1.7), or 1001 after an idle timeout. A socket that has ended
    /// gets none.
    fn push_close(&self, control: &ControlQueue) {
        let violation;
        let frame = match self {
            Self::Close { code, .. } => CloseFrame { code: *code, reason: "" },
            Self::Violation(error) => {
                violation = error.to_string();
                CloseFrame { code: Some(error.close_code()), reason: &violation }
            }
            Self::Idle => CloseFrame { code: Some(CloseCode::GOING_AWAY), reason: "idle timeout" },
            Self::EndOfStream | Self::Failed(_) => return,
        };
        let mut payload = Vec::new();
        frame.encode(&mut payload);
        control.push(OpCode::Close, BytesMut::from(&payload[..]));
    }
}

impl From<WebSocketError> for ReadEnd {
    fn from(error: WebSocketError) -> Self {
        let error = match error {
            WebSocketError::UnexpectedEOF => return Self::EndOfStream,
            WebSocketError::IoError(error) => error,
            other => io::Error::other(other),
        };
        match error.get_ref().and_then(|error| error.downcast_ref()) {
            Some(&violation) => Self::Violation(violation),
            // A TLS connection that ended without `close_notify`.
            None if error.kind() == io::ErrorKind::UnexpectedEof => Self::EndOfStream,
            None => Self::Failed(error),
        }
    }
}

/// The end of the writing half.
enum WriteEnd {
    /// The writing half wrote the close frame that the reading half queued.
    Answer,
    /// The writing half wrote the close frame of a close request.
    Request(Requester),
    Failed(io::Error),
}

type Input = tokio::io::Chain<io::Cursor<Bytes>, ReadHalf<Stream>>;

struct Reader<'a> {
    shared: &'a Arc<Shared>,
    lifecycle: &'a Lifecycle,
    control: &'a ControlQueue,
    pulse: Arc<Pulse>,
    /// The time of the keep-alive's last ping.
    pinged: Option<Instant>,
    /// The fragments of a message whose last fragment has not come (RFC 6455 5.4).
    message: Option<(OpCode, BytesMut)>,
    /// A client's WebSocket that writes nothing.
    socket: WebSocket<Join<Inspect<Input>, Sink>>,
}

impl<'a> Reader<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        lifecycle: &'a Lifecycle,
        control: &'a ControlQueue,
        input: Input,
        pulse: Arc<Pulse>,
    ) -> Self {
        let limits = shared.config.limits.message;
        let input = Inspect::new(input, limits, pulse.clone());
        let mut socket = WebSocket::after_handshake(join(input, sink()), Role::Client);
        socket.set_auto_close(false);
        socket.set_auto_pong(false);
        // `Inspect` checks the limit of data frames first. fastwebsockets applies its own to control frames too.
        socket.set_max_message_size((limits.frame_bytes_max as usize).saturating_add(CONTROL_FRAMES_BELOW));
        Self { shared, lifecycle, control, pulse, pinged: None, message: None, socket }
    }

    async fn run(mut self) -> (ReadEnd, Input) {
        let read_end = loop {
            // Many small frames may be buffered, so this lets other tasks of the thread run between two of them.
            consume_budget().await;
            match self.frame().await {
                Ok(frame) => {
                    if let Some(read_end) = self.handle(frame).await {
                        break read_end;
                    }
                }
                Err(read_end) => break read_end,
            }
        };
        (read_end, self.socket.into_inner().into_inner().0.into_inner())
    }

    /// Returns the next frame. The keep-alive runs during the wait: it pings, and ends the connection at
    /// `idle_timeout`.
    async fn frame(&mut self) -> Result<Frame<'static>, ReadEnd> {
        let config = &self.shared.config;
        // The time until now was spent by the client or by its caller, so it does not count as the server's silence.
        self.pulse.beat();
        let mut reading = pin!(self.socket.read_frame());
        loop {
            let last = self.pulse.last();
            let ping_at = config.ping_interval.map(|interval| last.max(self.pinged.unwrap_or(last)) + interval);
            let dead_at = config.idle_timeout.map(|timeout| last + timeout);
            let next = ping_at.into_iter().chain(dead_at).min();
            tokio::select! {
                biased;
                frame = &mut reading => return frame.map_err(ReadEnd::from),
                () = sleep_until(next.unwrap_or(last)), if next.is_some() => {}
            }
            let now = Instant::now();
            if self.pulse.last() > last {
                continue;
            }
            if dead_at.is_some_and(|at| at <= now) {
                return Err(ReadEnd::Idle);
            }
            if ping_at.is_some_and(|at| at <= now) {
                self.pinged = Some(now);
                self.control.push(OpCode::Ping, BytesMut::from(KEEP_ALIVE));
            }
        }
    }

    /// Delivers the event of a frame, if there is one. Returns the end of the reading half if the frame is the last one
    /// to read.
    async fn handle(&mut self, frame: Frame<'static>) -> Option<ReadEnd> {
        let counters = &self.shared.counters;
        let (fin, opcode, payload) = (frame.fin, frame.opcode, into_bytes(frame.payload));
        match opcode {
            OpCode::Text | OpCode::Binary | OpCode::Continuation => {
                let (opcode, payload) = self.assemble(fin, opcode, payload)?;
                counters.messages_received.add(1);
                counters.bytes_received.add(payload.len() as u64);
                match message(opcode, payload) {
                    Ok(event) => self.shared.deliver(self.lifecycle, event).await,
                    Err(violation) => return Some(ReadEnd::Violation(violation)),
                }
            }
            OpCode::Ping => {
                counters.pings_received.add(1);
                if self.shared.config.has_auto_pong {
                    self.control.push(OpCode::Pong, payload.clone());
                }
                self.shared.deliver(self.lifecycle, ClientEvent::Ping(small(&payload))).await;
            }
            OpCode::Pong => {
                counters.pongs_received.add(1);
                if payload[..] != *KEEP_ALIVE {
                    self.shared.deliver(self.lifecycle, ClientEvent::Pong(small(&payload))).await;
                }
            }
            OpCode::Close => {
                return Some(match CloseFrame::parse(&payload) {
                    Ok(CloseFrame { code, reason }) => ReadEnd::Close { code, reason: reason.into() },
                    Err(violation) => ReadEnd::Violation(violation),
                });
            }
        }
        None
    }

    /// Returns the whole message if this frame ends one. `Inspect` has checked the order and the limits of fragments.
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
    lifecycle: &'a Lifecycle,
    control: &'a ControlQueue,
    queue: mpsc::Receiver<Queued>,
    /// A client's WebSocket that reads nothing. Its buffer combines frames that are queued together, so that few writes
    /// carry them.
    socket: WebSocket<Join<Empty, BufWriter<WriteHalf<Stream>>>>,
}

impl<'a> Writer<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        lifecycle: &'a Lifecycle,
        control: &'a ControlQueue,
        output: WriteHalf<Stream>,
        queue: mpsc::Receiver<Queued>,
    ) -> Self {
        let socket = WebSocket::after_handshake(join(empty(), BufWriter::new(output)), Role::Client);
        Self { shared, lifecycle, control, queue, socket }
    }

    async fn run(mut self) -> (WriteEnd, WriteHalf<Stream>) {
        let write_end = self.write().await.unwrap_or_else(WriteEnd::Failed);
        (write_end, self.socket.into_inner().into_inner().1.into_inner())
    }

    /// Writes the frames of both queues until a close frame is written.
    async fn write(&mut self) -> io::Result<WriteEnd> {
        let mut is_closing = false;
        loop {
            while let Some((opcode, payload)) = self.control.pop() {
                if opcode == OpCode::Close {
                    return self.answer(payload).await;
                }
                self.frame(opcode, payload).await?;
            }
            if !is_closing && self.lifecycle.close_request().is_some() {
                // A closed queue accepts no further entries, and still yields those that it has.
                self.queue.close();
                is_closing = true;
            }
            let queued = match self.queue.try_recv() {
                Ok(queued) => queued,
                Err(_) => {
                    self.flush().await?;
                    tokio::select! {
                        biased;
                        () = self.control.arrived() => continue,
                        () = self.lifecycle.close_requested(), if !is_closing => continue,
                        queued = self.queue.recv() => match queued {
                            Some(queued) => queued,
                            None => return self.close().await,
                        },
                    }
                }
            };
            self.write_queued(queued).await?;
        }
    }

    async fn write_queued(&mut self, queued: Queued) -> io::Result<()> {
        match queued.outgoing {
            Outgoing::Frame(opcode, payload) => {
                self.frame(opcode, payload).await?;
                self.shared.measure(Operation::Send, queued.since);
            }
            Outgoing::Flush(done) => {
                self.flush().await?;
                // The caller may have dropped its future.
                done.send(()).ok();
            }
        }
        Ok(())
    }

    /// Writes the close frame that the reading half queued, after the messages that were accepted before
    /// (RFC 6455 5.5.1).
    async fn answer(&mut self, close: BytesMut) -> io::Result<WriteEnd> {
        self.queue.close();
        while let Ok(queued) = self.queue.try_recv() {
            self.write_queued(queued).await?;
        }
        self.frame(OpCode::Close, close).await?;
        self.flush().await?;
        Ok(WriteEnd::Answer)
    }

    /// Writes the close frame of the close request.
    async fn close(&mut self) -> io::Result<WriteEnd> {
        // The lifecycle holds the queue's sending end, so only a close request ends the queue.
        let Some(request) = self.lifecycle.close_request() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let mut payload = Vec::new();
        CloseFrame { code: Some(request.code), reason: &request.reason }.encode(&mut payload);
        self.frame(OpCode::Close, BytesMut::from(&payload[..])).await?;
        self.flush().await?;
        Ok(WriteEnd::Request(request.requester))
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

/// Returns a message as an event. A small payload is copied; otherwise it would keep alive the buffer that it shares
/// with other frames.
fn message(opcode: OpCode, payload: BytesMut) -> Result<ClientEvent, ProtocolError> {
    if opcode == OpCode::Text {
        // `Inspect` has checked the text already; a second check makes it a `String` without `unsafe`.
        let text = simdutf8::basic::from_utf8(&payload).map_err(|_| ProtocolError::InvalidUtf8)?;
        return Ok(ClientEvent::Text(text.into()));
    }
    Ok(ClientEvent::Binary(if payload.len() < LARGE_FRAME { small(&payload) } else { payload.freeze() }))
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

/// The payload of the keep-alive's pings, by which their pongs are recognised.
const KEEP_ALIVE: &[u8] = b"ringhub keep-alive";

/// What is added to the limit of data frames for fastwebsockets, whose one limit also holds for control frames. A
/// payload must be shorter than that limit, and the payload of a control frame has up to 125 bytes.
const CONTROL_FRAMES_BELOW: usize = 126;
