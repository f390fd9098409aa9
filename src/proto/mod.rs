//! RFC 6455, sans-io: bytes and time come in; events, replies and deadlines go out.
//!
//! Nothing here opens a socket or reads a clock. A server reads a head with [`RequestHead`] and checks it with
//! [`Upgrade`]. From then on it has one [`WebSocket`] for each connection, and passes it the received bytes as an
//! [`Input`]. A client does the same with [`ClientHandshake`] and [`ResponseHead`].
//!
//! ```
//! use ringhub::proto::{Event, Input, MessageLimits, Role, Tick, WebSocket};
//!
//! let mut websocket = WebSocket::new(Role::Server, Tick(0));
//! // RFC 6455 5.7: a single-frame masked text message, "Hello".
//! let received = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
//! let (mut input, mut replies) = (Input::new(received[..].into()), Vec::new());
//! match websocket.receive(Tick(1), &mut input, &MessageLimits::default(), &mut replies)? {
//!     Some(Event::Message(message)) => assert_eq!(message.prepare().frame()[..], *b"\x81\x05Hello"),
//!     _ => unreachable!(),
//! }
//! assert!(input.rest().is_empty() && replies.is_empty());
//! # Ok::<(), ringhub::proto::ProtocolError>(())
//! ```

#![forbid(unsafe_code)]

mod assembly;
mod close;
mod close_code;
mod error;
mod event;
mod event_stream;
mod frame;
#[doc(hidden)]
pub mod fuzz;
mod handshake;
mod http;
mod input;
mod keep_alive;
mod limits;
mod masking;
mod message;
#[doc(hidden)]
pub mod parts;
mod prepared;
mod proxy_header;
#[cfg(test)]
mod testing;
mod utf8;
mod websocket;

pub use close::{CLOSE_REASON_MAX, CloseFrame, CloseFrameError, truncate_reason};
pub use close_code::CloseCode;
pub use error::ProtocolError;
pub use event::{Event, Verdict};
pub(crate) use event_stream::{EVENT_STREAM, Framing, STREAM_HEADERS, put_data, put_field};
pub use frame::{CONTROL_PAYLOAD_MAX, Fin, FrameHeader, MessageType, OpCode, encode_frame, encode_masked};
pub(crate) use handshake::token_of_protocols;
pub use handshake::{ClientHandshake, HandshakeError, ResponseError, Upgrade};
pub use http::{
    BodyScan, HEAD_BYTES_MAX, HEADERS_MAX, HeadScan, Headers, HttpError, PathError, Refusal, RequestHead, RequestPath,
    ResponseHead,
};
pub(crate) use http::{
    RefusalCause, encode_response, forwarded_for, is_token, percent_decode, query_pairs, x_forwarded_for,
};
pub use input::Input;
pub use keep_alive::{KeepAlive, Millis, Tick, Timeout};
pub use limits::{Deliver, MessageLimits};
pub use message::{Fragment, LARGE_FRAME, Message};
pub use prepared::{PrepareError, PreparedMessage};
pub(crate) use proxy_header::{ProxyHeader, ProxyHeaderError};
pub use websocket::{Role, State, WebSocket};
