//! A client's end of a connection, for tests: the protocol that it speaks, in both directions.

use bytes::BytesMut;

use super::{
    Session,
    length_prefixed::{LengthPrefixed, decode_goodbye, encode_goodbye, encode_message},
};
use crate::proto::{
    CloseCode, Event, Fin, FrameHeader, Input, MessageLimits, MessageType, OpCode, Role, State, Tick, WebSocket,
    encode_masked,
};

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    WebSocket,
    LengthPrefixed,
}

/// A client's end of a connection.
#[derive(Debug)]
pub(crate) enum ClientEnd {
    WebSocket(WebSocket),
    LengthPrefixed {
        /// The server has not said goodbye.
        is_open: bool,
    },
}

/// A part of the server's output that has arrived whole.
#[derive(Debug)]
pub(crate) enum Heard {
    Message(MessageType, Vec<u8>),
    Pong(Vec<u8>),
    Goodbye(CloseCode, String),
}

impl Protocol {
    /// Returns the server's end of a new connection.
    pub(crate) fn session(self) -> Session {
        match self {
            Protocol::WebSocket => Session::web_socket(),
            Protocol::LengthPrefixed => LengthPrefixed::session(),
        }
    }

    /// Reads the beginning of a part of the server's output. Returns how many bytes follow, and whether the part is the
    /// goodbye; `None` if the beginning is not whole.
    pub(crate) fn begins_part(self, beginning: &[u8]) -> Option<(u64, bool)> {
        if self == Protocol::LengthPrefixed && beginning[0] == 0xff {
            let (length, &[bytes]) = beginning.split_first_chunk::<4>()? else { return None };
            assert_eq!(length, &[0xff; 4], "a goodbye, which no frame is");
            return Some((u64::from(bytes), true));
        }
        let (header, _) = FrameHeader::decode(beginning).expect("a frame")?;
        let is_usual = self == Protocol::WebSocket || matches!(header.opcode, OpCode::Text | OpCode::Binary);
        assert!(is_usual, "{:?} on a connection that has messages alone", header.opcode);
        Some((header.payload_len, header.opcode == OpCode::Close))
    }
}

impl ClientEnd {
    pub(crate) fn new(protocol: Protocol, masking_seed: [u8; 16]) -> Self {
        match protocol {
            Protocol::WebSocket => ClientEnd::WebSocket(WebSocket::new(Role::Client { masking_seed }, Tick(0))),
            Protocol::LengthPrefixed => ClientEnd::LengthPrefixed { is_open: true },
        }
    }

    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            ClientEnd::WebSocket(_) => Protocol::WebSocket,
            ClientEnd::LengthPrefixed { .. } => Protocol::LengthPrefixed,
        }
    }

    /// Returns whether the server has not said goodbye.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            ClientEnd::WebSocket(websocket) => websocket.state() == State::Open,
            ClientEnd::LengthPrefixed { is_open } => *is_open,
        }
    }

    /// Appends a frame, or a whole message if the protocol has no frames. Returns whether the protocol has such a frame
    /// and may send it.
    pub(crate) fn send(&mut self, opcode: OpCode, fin: Fin, payload: &[u8], out: &mut Vec<u8>) -> bool {
        match self {
            ClientEnd::WebSocket(websocket) => websocket.send(opcode, fin, payload, out),
            ClientEnd::LengthPrefixed { is_open } => {
                let message_type = match opcode {
                    OpCode::Text => MessageType::Text,
                    OpCode::Binary => MessageType::Binary,
                    _ => return false,
                };
                assert!(fin.is_set(), "a message has no fragments");
                if *is_open {
                    encode_message(message_type, payload, out);
                }
                *is_open
            }
        }
    }

    /// Appends the client's goodbye, without `proto`: a closing client of `proto` would drop the messages before the
    /// server's goodbye, which the simulator checks.
    pub(crate) fn say_goodbye(&self, out: &mut Vec<u8>) {
        match self {
            ClientEnd::WebSocket(_) => encode_masked(OpCode::Close, Fin::Set, b"\x03\xe8done", [1, 2, 3, 4], out),
            ClientEnd::LengthPrefixed { .. } => encode_goodbye(CloseCode::NORMAL, "done", out),
        }
    }

    /// Returns bytes that break the protocol.
    pub(crate) fn breach(&self) -> &'static [u8] {
        match self {
            ClientEnd::WebSocket(_) => &[0x83, 0x80, 0, 0, 0, 0],
            ClientEnd::LengthPrefixed { .. } => &[0, 0, 0, 0, 9],
        }
    }

    /// Reads the server's output, and appends the protocol's replies. Returns the parts that have arrived whole, and
    /// the bytes after them.
    pub(crate) fn hear(&mut self, now: Tick, output: BytesMut, replies: &mut Vec<u8>) -> (Vec<Heard>, BytesMut) {
        match self {
            ClientEnd::WebSocket(websocket) => hear_frames(websocket, now, output, replies),
            ClientEnd::LengthPrefixed { is_open } => hear_messages(is_open, output),
        }
    }
}

fn hear_frames(
    websocket: &mut WebSocket,
    now: Tick,
    output: BytesMut,
    replies: &mut Vec<u8>,
) -> (Vec<Heard>, BytesMut) {
    let (mut heard, mut input) = (Vec::new(), Input::new(output));
    let limits = MessageLimits::default();
    while let Some(event) = websocket.receive(now, &mut input, &limits, replies).expect("the server keeps to RFC 6455")
    {
        match event {
            Event::Message(message) => heard.push(Heard::Message(message.message_type(), message.payload().to_vec())),
            Event::Fragment(_) => unreachable!("whole messages were asked for"),
            Event::Ping(_) => {}
            Event::Pong(payload) => heard.push(Heard::Pong(payload.to_vec())),
            Event::Close(frame) => {
                heard.push(Heard::Goodbye(frame.code.unwrap_or(CloseCode::NO_STATUS), frame.reason.to_owned()));
            }
        }
    }
    (heard, input.into_rest())
}

fn hear_messages(is_open: &mut bool, mut output: BytesMut) -> (Vec<Heard>, BytesMut) {
    let mut heard = Vec::new();
    loop {
        if let Some((length, frame)) = decode_goodbye(&output) {
            assert!(*is_open, "a goodbye is said once");
            *is_open = false;
            heard.push(Heard::Goodbye(frame.code.unwrap_or(CloseCode::NO_STATUS), frame.reason.to_owned()));
            drop(output.split_to(length));
        }
        if output.is_empty() || output[0] == 0xff {
            return (heard, output);
        }
        let Some((header, length)) = FrameHeader::decode(&output).expect("a frame") else { return (heard, output) };
        let end = length + header.payload_len as usize;
        if output.len() < end {
            return (heard, output);
        }
        let message_type = match header.opcode {
            OpCode::Text => MessageType::Text,
            OpCode::Binary => MessageType::Binary,
            other => panic!("{other:?} on a connection that has messages alone"),
        };
        heard.push(Heard::Message(message_type, output.split_to(end)[length..].to_vec()));
    }
}
