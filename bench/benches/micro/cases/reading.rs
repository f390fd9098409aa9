//! The read path as a whole: header, unmasking, UTF-8, and the assembly of fragments.
//!
//! Every reader copies the same masked frames of a client from an endless stream in memory, at most 64 KiB in a read,
//! into its buffer, and yields whole messages. What differs: ours has one buffer of 64 KiB, unmasks in place and lends
//! the payload. fastwebsockets has a buffer of 8 KiB that grows with a frame, which cannot be changed, is polled by a
//! waker that does nothing, and yields each payload as a buffer of its own. tungstenite's buffer is set to 64 KiB, and
//! each of its messages owns its payload.

use super::{Case, KEY, OURS, REFERENCE, SIZES, TOTAL_BYTES, add, ascii, mixed, plain};
use bytes::BytesMut;
use fastwebsockets::FragmentCollector;
use ringhub::proto::{Event, Fin, Input, MessageLimits, MessageType, OpCode, Role, Tick, WebSocket, encode_masked};
use std::future::Future;
use std::io::{self, Read, Write};
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::WebSocketConfig;

pub(super) fn cases() -> Vec<Case> {
    let whole = SIZES.iter().map(|&(size, name)| case(format!("read path, {name}"), &ascii(size), 1));
    let scripts = [case("read path, 1 KiB of many scripts".into(), &mixed(1_024), 1)];
    let pieces = SIZES.iter().map(|&(size, name)| case(format!("read path, {name} in 4 fragments"), &ascii(size), 4));
    whole.chain(scripts).chain(pieces).collect()
}

fn case(name: String, text: &str, fragments: usize) -> Case {
    let messages = TOTAL_BYTES / text.len();
    let stream = Endless::new(text, fragments, messages);
    Case::new(name, messages * text.len(), "bytes")
        .side(OURS, body(Ours::new(stream.clone()), messages))
        .side(REFERENCE, body(Reference::new(stream.clone()), messages))
        .side("fastwebsockets", body(fast(stream.clone()), messages))
        .side("tungstenite", body(tungstenite(stream), messages))
}

/// Returns a body that reads so many messages.
fn body(mut reader: impl ReadMessages, messages: usize) -> impl FnMut() -> u64 {
    move || {
        let mut digest = 0;
        reader.read(messages, |is_text, payload| {
            digest += u64::from(is_text);
            add(&mut digest, payload);
        });
        digest
    }
}

/// Checks that all readers read the same messages, to the byte.
pub(super) fn check() {
    for (text, fragments) in [(ascii(70), 1), (mixed(1_024), 1), (mixed(1_021), 4), (ascii(70_000), 4)] {
        let stream = Endless::new(&text, fragments, 5);
        let expected = vec![(true, text.into_bytes()); 7];
        assert_eq!(messages(Ours::new(stream.clone())), expected);
        assert_eq!(messages(Reference::new(stream.clone())), expected);
        assert_eq!(messages(fast(stream.clone())), expected);
        assert_eq!(messages(tungstenite(stream)), expected);
    }
}

/// Reads more messages than the stream has, so that the stream begins again.
fn messages(mut reader: impl ReadMessages) -> Vec<(bool, Vec<u8>)> {
    let mut messages = Vec::new();
    reader.read(7, |is_text, payload| messages.push((is_text, payload.to_vec())));
    messages
}

/// A reader of messages from its stream.
trait ReadMessages {
    /// Reads so many messages, and passes each to `see`: whether it is text, and its payload.
    fn read(&mut self, messages: usize, see: impl FnMut(bool, &[u8]));
}

struct Ours {
    stream: Endless,
    websocket: WebSocket,
    buffer: BytesMut,
    replies: Vec<u8>,
}

impl Ours {
    fn new(stream: Endless) -> Ours {
        let buffer = BytesMut::with_capacity(READ_MAX);
        Ours { stream, websocket: WebSocket::new(Role::Server, Tick(0)), buffer, replies: Vec::new() }
    }
}

impl ReadMessages for Ours {
    fn read(&mut self, messages: usize, mut see: impl FnMut(bool, &[u8])) {
        let mut missing = messages;
        loop {
            let mut input = Input::new(mem::take(&mut self.buffer));
            while missing > 0 {
                let event = self.websocket.receive(Tick(1), &mut input, &MessageLimits::DEFAULT, &mut self.replies);
                match event.expect("a client's frames") {
                    Some(Event::Message(message)) => {
                        see(message.message_type() == MessageType::Text, message.payload());
                        missing -= 1;
                    }
                    Some(other) => panic!("{other:?}"),
                    None => break,
                }
            }
            self.buffer = input.into_rest();
            if missing == 0 {
                return;
            }
            // As in the hub, a long rest of a frame stays where it is, and is received to its end. A short rest moves
            // to the front of the buffer.
            let room = match self.buffer.len() {
                rest @ ..STAYS_IN_PLACE => READ_MAX - rest,
                _ => self.websocket.missing(&self.buffer),
            };
            self.buffer.reserve(room);
            self.stream.receive(room).for_each(|piece| self.buffer.extend_from_slice(piece));
        }
    }
}

struct Reference {
    stream: Endless,
    reader: plain::Reader,
    buffer: Vec<u8>,
    at: usize,
}

impl Reference {
    fn new(stream: Endless) -> Reference {
        Reference { stream, reader: plain::Reader::default(), buffer: Vec::new(), at: 0 }
    }
}

impl ReadMessages for Reference {
    fn read(&mut self, messages: usize, mut see: impl FnMut(bool, &[u8])) {
        let mut missing = messages;
        while missing > 0 {
            let taken = self.reader.read(&self.buffer[self.at..], |is_text, payload| {
                see(is_text, payload);
                missing -= 1;
            });
            self.at += taken;
            if taken == 0 {
                self.buffer.drain(..mem::take(&mut self.at));
                self.stream.receive(READ_MAX).for_each(|piece| self.buffer.extend_from_slice(piece));
            }
        }
    }
}

fn fast(stream: Endless) -> FragmentCollector<Endless> {
    FragmentCollector::new(fastwebsockets::WebSocket::after_handshake(stream, fastwebsockets::Role::Server))
}

impl ReadMessages for FragmentCollector<Endless> {
    fn read(&mut self, messages: usize, mut see: impl FnMut(bool, &[u8])) {
        ready(async {
            for _ in 0..messages {
                let frame = self.read_frame().await.expect("a client's frames");
                see(frame.opcode == fastwebsockets::OpCode::Text, &frame.payload);
            }
        });
    }
}

fn tungstenite(stream: Endless) -> tungstenite::WebSocket<Endless> {
    let config = WebSocketConfig::default().read_buffer_size(READ_MAX);
    tungstenite::WebSocket::from_raw_socket(stream, tungstenite::protocol::Role::Server, Some(config))
}

impl ReadMessages for tungstenite::WebSocket<Endless> {
    fn read(&mut self, messages: usize, mut see: impl FnMut(bool, &[u8])) {
        for _ in 0..messages {
            match tungstenite::WebSocket::read(self).expect("a client's frames") {
                tungstenite::Message::Text(text) => see(true, text.as_bytes()),
                tungstenite::Message::Binary(payload) => see(false, &payload),
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Runs a future that never waits.
fn ready(future: impl Future<Output = ()>) {
    let polled = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_ready(), "an endless stream is always ready");
}

/// A stream of some messages, again and again. What is written to it is dropped.
#[derive(Clone)]
struct Endless {
    bytes: Vec<u8>,
    at: usize,
}

impl Endless {
    fn new(text: &str, fragments: usize, messages: usize) -> Endless {
        let mut bytes = Vec::new();
        let cut = text.len().div_ceil(fragments);
        for _ in 0..messages {
            for (i, piece) in text.as_bytes().chunks(cut).enumerate() {
                let opcode = if i == 0 { OpCode::Text } else { OpCode::Continuation };
                encode_masked(opcode, Fin::from(i + 1 == fragments), piece, KEY, &mut bytes);
            }
        }
        Endless { bytes, at: 0 }
    }

    /// Returns the next bytes, at most `room`, in pieces to be copied one by one: some processors are much slower at a
    /// long copy if both memories have nearly the same position in their pages, which is chance.
    fn receive(&mut self, room: usize) -> impl Iterator<Item = &[u8]> {
        let end = self.bytes.len().min(self.at + room.min(READ_MAX));
        let begin = mem::replace(&mut self.at, if end == self.bytes.len() { 0 } else { end });
        self.bytes[begin..end].chunks(PIECE)
    }
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        for piece in self.receive(buffer.len()) {
            buffer[length..length + piece.len()].copy_from_slice(piece);
            length += piece.len();
        }
        Ok(length)
    }
}

impl Write for Endless {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Endless {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.receive(buffer.remaining()).for_each(|piece| buffer.put_slice(piece));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The most bytes of one read.
const READ_MAX: usize = 64 * 1_024;

/// The bytes that a read copies at once.
const PIECE: usize = 1_024;

/// The length from which on the hub does not move the rest of a frame.
const STAYS_IN_PLACE: usize = 4 * 1_024;
