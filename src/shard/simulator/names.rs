//! The names of simulated messages, and the payloads that carry them.

use crate::{hub::Publication, proto::MessageType};

/// Names a message by its sender, its topic, its [`Stream`], and its number in that stream; or [`EMPTY`].
pub(super) type Name = u64;

/// The name of all messages without payload. They are always of the first topic, and come only from clients that
/// receive their own messages there.
pub(super) const EMPTY: Name = u64::MAX;

/// The sender of the messages that the control thread publishes.
pub(super) const CONTROL: usize = 0xff_fffe;

/// The way of a message into the hub. The messages that one sender publishes to one topic in one way are numbered from
/// 0 in the order in which the sender publishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// Sent by the client and forwarded, or published by the control thread.
    Forwarded,
    /// Published by a call between two turns.
    Called,
    /// Published by the handler because the client has ordered it.
    Asked,
    /// Published by the handler when a subscription goes live.
    Live,
    /// Published by the handler when the connection has ended.
    Farewell,
}

impl Stream {
    pub(super) const ALL: [Stream; 5] =
        [Stream::Forwarded, Stream::Called, Stream::Asked, Stream::Live, Stream::Farewell];
}

pub(super) fn name(sender: usize, topic: usize, stream: Stream, number: u32) -> Name {
    assert!(number < 1 << 28, "a number has 28 bits");
    (sender as u64) << 40 | (topic as u64) << 32 | (stream as u64) << 28 | u64::from(number)
}

/// Returns the sender of the message of that name.
pub(super) fn sender(name: Name) -> Option<usize> {
    (name != EMPTY).then_some((name >> 40) as usize)
}

/// Returns the topic of the message of that name.
pub(super) fn topic_of(name: Name) -> usize {
    if name == EMPTY { 0 } else { (name >> 32) as usize & 0xff }
}

/// Returns the stream of the message of that name.
pub(super) fn stream_of(name: Name) -> Stream {
    if name == EMPTY { Stream::Forwarded } else { Stream::ALL[(name >> 28) as usize & 0xf] }
}

/// Returns the number of the message of that name in its stream.
pub(super) fn number_of(name: Name) -> u32 {
    name as u32 & 0x0fff_ffff
}

pub(super) fn message_type(name: Name) -> MessageType {
    if name == EMPTY || (name ^ name >> 32) & 1 == 0 { MessageType::Text } else { MessageType::Binary }
}

/// Returns a payload of about `size` bytes that begins with the name. Every third payload has characters of two bytes.
pub(super) fn payload(name: Name, size: usize) -> Vec<u8> {
    let mut payload = format!("{:x}.", name).into_bytes();
    let missing = size.saturating_sub(payload.len());
    let filling = b'a' + (name % 26) as u8;
    if name.is_multiple_of(3) {
        payload.extend("é".as_bytes().iter().cycle().take(missing / 2 * 2));
        payload.extend(std::iter::repeat_n(filling, missing % 2));
    } else {
        payload.extend(std::iter::repeat_n(filling, missing));
    }
    payload
}

/// Returns the message of that name, with about `size` bytes.
pub(super) fn prepare(name: Name, size: usize) -> Publication {
    let payload = payload(name, size);
    match message_type(name) {
        MessageType::Text => Publication::text(std::str::from_utf8(&payload).expect("a payload is UTF-8")),
        MessageType::Binary => Publication::binary(&payload),
    }
}

/// Returns the name of the message whose payload begins with these bytes.
pub(super) fn read_name(payload: &[u8]) -> Name {
    if payload.is_empty() {
        return EMPTY;
    }
    let end = payload.iter().position(|&byte| byte == b'.').expect("a name ends with a point");
    let digits = std::str::from_utf8(&payload[..end]).expect("a name is hexadecimal");
    Name::from_str_radix(digits, 16).expect("a name is hexadecimal")
}
