//! Helpers of the tests in this folder.

use super::Piece;
use crate::proto::FrameHeader;

/// The texts of the messages in these pieces.
pub(super) fn texts(pieces: &[Piece]) -> Vec<String> {
    let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
    let mut rest = bytes.as_slice();
    let mut texts = Vec::new();
    while let Some((header, length)) = FrameHeader::decode(rest).unwrap() {
        let end = length + header.payload_len as usize;
        texts.push(String::from_utf8(rest[length..end].to_vec()).unwrap());
        rest = &rest[end..];
    }
    texts
}
