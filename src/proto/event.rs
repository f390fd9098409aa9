//! Events of a connection, and the verdict of a hook about a frame.

use super::{
    close::CloseFrame,
    close_code::CloseCode,
    message::{Fragment, Message},
};

/// A message, a fragment or a control frame that the peer has sent.
#[derive(Debug)]
pub enum Event<'a> {
    /// A whole message (RFC 6455 5.6).
    Message(Message<'a>),
    /// A single data frame, where [`Deliver::Fragments`](super::Deliver::Fragments) asks for it (RFC 6455 5.4).
    Fragment(Fragment<'a>),
    /// A ping, already answered (RFC 6455 5.5.2).
    Ping(&'a [u8]),
    /// A pong, whether we asked for it or not (RFC 6455 5.5.3).
    Pong(&'a [u8]),
    /// A close frame with the peer's code and reason, already answered unless it is itself the answer (RFC 6455 5.5.1).
    /// This is the last event. It comes only in a closing handshake that is whole, so
    /// [`WebSocket::closed_cleanly`](super::WebSocket::closed_cleanly) is true from here on; a connection that ends
    /// without this event ends uncleanly.
    Close(CloseFrame<'a>),
}

/// The decision of a hook of [`WebSocket::receive_with`](super::WebSocket::receive_with) about a frame.
///
/// ```
/// use ringhub::proto::{CloseCode, Input, MessageLimits, OpCode, ProtocolError, Role, Tick, Verdict, WebSocket};
///
/// let mut websocket = WebSocket::new(Role::Server, Tick(0));
/// let received = b"\x89\x80\x37\xfa\x21\x3d\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
/// let (mut input, mut replies) = (Input::new(received[..].into()), Vec::new());
/// let event = websocket.receive_with(Tick(1), &mut input, &MessageLimits::DEFAULT, &mut replies, |header, _| {
///     match header.opcode {
///         OpCode::Ping => Verdict::Drop,
///         _ => Verdict::Fail(CloseCode::UNSUPPORTED),
///     }
/// });
/// assert_eq!(event.unwrap_err(), ProtocolError::Refused(CloseCode::UNSUPPORTED));
/// assert_eq!(replies[..4], *b"\x88\x17\x03\xeb"); // and no pong
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Handle the frame as usual.
    Pass,
    /// Ignore the frame: a ping is not answered, a close frame does not close, and a message in one frame is not
    /// delivered.
    ///
    /// Of a fragment only the payload is dropped. The first fragment still begins its message and gives it its type,
    /// the last fragment still ends the message, and each fragment counts towards `fragments_max`. The message consists
    /// of the fragments that were not dropped; the bytes of a text message must be UTF-8 together. If fragments are
    /// delivered one by one, the first of the remaining fragments is marked as first, and an empty fragment replaces a
    /// dropped last fragment. A message of which every frame was dropped is not delivered.
    Drop,
    /// Fail the connection with this code (RFC 6455 7.1.7): [`ProtocolError::Refused`](super::ProtocolError::Refused).
    /// [`CloseCode::NO_STATUS`] sends an empty close frame.
    Fail(CloseCode),
}
