//! The receivers of the peers, tungstenite and fastwebsockets.

use std::{
    io::{self, Write},
    pin::pin,
    task::{Context, Poll, Waker},
};

use fastwebsockets::{FragmentCollector, Frame, OpCode, WebSocketError};
use ringhub::proto::fuzz::Seen;
use tungstenite::{
    Error, Message,
    protocol::{Role, WebSocketConfig},
};

use super::{End, LIMITS, Reading};

/// The receiver of a peer.
pub(crate) type Read = fn(&[u8]) -> Reading;

/// The peers by their names.
pub(crate) const PEERS: [(&str, Read); 2] = [(TUNGSTENITE, tungstenite), (FASTWEBSOCKETS, fastwebsockets)];

pub(crate) const TUNGSTENITE: &str = "tungstenite";
pub(crate) const FASTWEBSOCKETS: &str = "fastwebsockets";

fn tungstenite(stream: &[u8]) -> Reading {
    let config = WebSocketConfig::default()
        .max_frame_size(Some(LIMITS.frame_bytes_max as usize))
        .max_message_size(Some(LIMITS.message_bytes_max as usize));
    let mut websocket = tungstenite::WebSocket::from_raw_socket(Memory(stream), Role::Server, Some(config));
    let mut events = Vec::new();
    let end = loop {
        match websocket.read() {
            Ok(Message::Text(text)) => events.push(Seen::Text(text.as_str().into())),
            Ok(Message::Binary(payload)) => events.push(Seen::Binary(payload.into())),
            Ok(Message::Ping(payload)) => events.push(Seen::Ping(payload.into())),
            Ok(Message::Pong(payload)) => events.push(Seen::Pong(payload.into())),
            Ok(Message::Close(close)) => {
                let code = close.as_ref().map(|close| close.code.into());
                events.push(Seen::Close(code, close.map_or(String::new(), |close| close.reason.as_str().into())));
                break End::Closed;
            }
            Ok(Message::Frame(frame)) => panic!("no reader returns {frame:?}"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break End::Open,
            Err(Error::Utf8(_)) => break End::Utf8,
            Err(Error::Capacity(_)) => break End::TooBig,
            Err(Error::Protocol(_)) => break End::Protocol,
            Err(error) => panic!("{error}"),
        }
    };
    Reading { events, end }
}

/// A socket with these bytes as input, which accepts all output.
struct Memory<'a>(&'a [u8]);

impl io::Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { io::Read::read(&mut self.0, buffer) }
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn fastwebsockets(stream: &[u8]) -> Reading {
    let socket = tokio::io::join(stream, tokio::io::sink());
    let mut websocket = fastwebsockets::WebSocket::after_handshake(socket, fastwebsockets::Role::Server);
    websocket.set_auto_pong(false);
    // fastwebsockets refuses a frame whose size is equal to its limit.
    websocket.set_max_message_size(LIMITS.frame_bytes_max as usize + 1);
    let mut websocket = FragmentCollector::new(websocket);
    let mut events = Vec::new();
    let end = loop {
        // The socket is memory, so nothing is pending.
        let Poll::Ready(read) = pin!(websocket.read_frame()).poll(&mut Context::from_waker(Waker::noop())) else {
            panic!("memory is always ready");
        };
        match read {
            Ok(frame) => events.push(seen(frame)),
            Err(WebSocketError::UnexpectedEOF) => break End::Open,
            Err(WebSocketError::InvalidUTF8) => break End::Utf8,
            Err(WebSocketError::FrameTooLarge) => break End::TooBig,
            Err(
                WebSocketError::ReservedBitsNotZero
                | WebSocketError::InvalidValue
                | WebSocketError::ControlFrameFragmented
                | WebSocketError::PingFrameTooLarge
                | WebSocketError::InvalidFragment
                | WebSocketError::InvalidContinuationFrame
                | WebSocketError::InvalidCloseFrame
                | WebSocketError::InvalidCloseCode,
            ) => break End::Protocol,
            Err(error) => panic!("{error}"),
        }
        if let Some(Seen::Close(..)) = events.last() {
            break End::Closed;
        }
    };
    Reading { events, end }
}

fn seen(frame: Frame<'_>) -> Seen {
    let payload = frame.payload.to_vec();
    match frame.opcode {
        OpCode::Text => Seen::Text(String::from_utf8(payload).expect("the collector checks text")),
        OpCode::Binary => Seen::Binary(payload),
        OpCode::Ping => Seen::Ping(payload),
        OpCode::Pong => Seen::Pong(payload),
        OpCode::Close => match payload.split_first_chunk() {
            Some((code, reason)) => {
                let reason = String::from_utf8(reason.to_vec()).expect("the collector checks reasons");
                Seen::Close(Some(u16::from_be_bytes(*code)), reason)
            }
            None => Seen::Close(None, String::new()),
        },
        OpCode::Continuation => panic!("the collector returns whole messages"),
    }
}
