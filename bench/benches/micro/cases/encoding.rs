//! A message that becomes a frame, once for all its subscribers, in shared memory.

use super::{Case, OURS, REFERENCE, add, plain};
use bytes::Bytes;
use fastwebsockets::{Frame, Payload};
use ringhub::PreparedMessage;
use tungstenite::protocol::frame::coding::{Data, OpCode};

pub(super) fn cases() -> Vec<Case> {
    [(128, "128 B"), (4_096, "4 KiB")].into_iter().map(|(size, name)| case(size, name)).collect()
}

fn case(size: usize, name: &str) -> Case {
    Case::new(format!("encoding, {name}"), MESSAGES, "messages")
        .side(OURS, body(size, |payload| PreparedMessage::binary(payload).into_frame()))
        .side(REFERENCE, body(size, reference))
        .side("fastwebsockets", body(size, fast))
        .side("tungstenite", body(size, tungstenite))
}

fn body(size: usize, encode: fn(&[u8]) -> Bytes) -> impl FnMut() -> u64 {
    let payload = vec![7; size];
    move || {
        let mut digest = 0;
        for _ in 0..MESSAGES {
            add(&mut digest, &encode(&payload));
        }
        digest
    }
}

fn reference(payload: &[u8]) -> Bytes {
    let mut header = [0; 14];
    let header_len =
        plain::Header { is_last: true, opcode: 2, mask: None, payload_len: payload.len() }.encode(&mut header);
    let mut frame = Vec::with_capacity(header_len + payload.len());
    frame.extend_from_slice(&header[..header_len]);
    frame.extend_from_slice(payload);
    frame.into()
}

fn fast(payload: &[u8]) -> Bytes {
    let mut frame = Vec::new();
    let length = Frame::binary(Payload::Borrowed(payload)).write(&mut frame).len();
    frame.truncate(length);
    frame.into()
}

fn tungstenite(payload: &[u8]) -> Bytes {
    let message = Bytes::copy_from_slice(payload);
    let message = tungstenite::protocol::frame::Frame::message(message, OpCode::Data(Data::Binary), true);
    let mut frame = Vec::with_capacity(message.len());
    message.format(&mut frame).expect("a vector takes everything");
    frame.into()
}

const MESSAGES: usize = 256;
