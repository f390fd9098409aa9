//! The header codec: a client's header is decoded, and the header of the server's frame with the same payload is
//! encoded.

use super::{Case, KEY, OURS, REFERENCE, add, plain};
use ringhub::proto::{Fin, FrameHeader, OpCode};
use std::io::Cursor;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("header codec", HEADERS, "headers")
            .side(OURS, body(ours))
            .side(REFERENCE, body(reference))
            .side("tungstenite", body(tungstenite)),
    ]
}

/// Returns a body that passes each header of a client to `recode`, with a buffer for the server's header.
fn body(recode: fn(&[u8], &mut [u8; FrameHeader::LEN_MAX]) -> usize) -> impl FnMut() -> u64 {
    let headers: Vec<_> = (0..HEADERS).map(|i| client_header(LENGTHS[i % LENGTHS.len()], i % 3 == 0)).collect();
    let mut out = [0; FrameHeader::LEN_MAX];
    move || {
        let mut digest = 0;
        for header in &headers {
            let length = recode(header, &mut out);
            add(&mut digest, &out[..length]);
        }
        digest
    }
}

fn client_header(payload_len: usize, is_text: bool) -> Vec<u8> {
    let opcode = if is_text { OpCode::Text } else { OpCode::Binary };
    let header = FrameHeader { mask: Some(KEY), ..FrameHeader::new(opcode, Fin::Set, payload_len) };
    let mut out = [0; FrameHeader::LEN_MAX];
    let length = header.encode(&mut out);
    out[..length].to_vec()
}

fn ours(bytes: &[u8], out: &mut [u8; FrameHeader::LEN_MAX]) -> usize {
    let Ok(Some((header, _))) = FrameHeader::decode(bytes) else { panic!("{bytes:?}") };
    FrameHeader { mask: None, ..header }.encode(out)
}

fn reference(bytes: &[u8], out: &mut [u8; FrameHeader::LEN_MAX]) -> usize {
    let Some((header, _)) = plain::Header::decode(bytes) else { panic!("{bytes:?}") };
    plain::Header { mask: None, ..header }.encode(out)
}

fn tungstenite(bytes: &[u8], out: &mut [u8; FrameHeader::LEN_MAX]) -> usize {
    use tungstenite::protocol::frame::FrameHeader;
    let Ok(Some((mut header, length))) = FrameHeader::parse(&mut Cursor::new(bytes)) else { panic!("{bytes:?}") };
    header.mask = None;
    header.format(length, &mut &mut out[..]).expect("there is room for the longest header");
    header.len(length)
}

const HEADERS: usize = 1_024;

/// Payloads with short, middle and long headers.
const LENGTHS: [usize; 7] = [5, 64, 125, 126, 1_024, 65_535, 65_536];
