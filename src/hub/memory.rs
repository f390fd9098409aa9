//! Costs of memory in addition to the bytes in it.

use bytes::Bytes;

use crate::proto::LARGE_FRAME;

/// Bytes that an allocation takes beyond its size: the allocator's header, and rounding up.
pub(super) const ALLOCATION: usize = 16;

/// Bytes that a shared buffer takes in addition to its content: the buffer is an allocation, and its address, length
/// and counter are another.
pub(super) const BUFFER: usize = 2 * ALLOCATION + 3 * size_of::<usize>();

/// The fewest bytes that a large frame keeps alive: the buffer that it was received into.
pub const LARGE_PIECE_PINS: usize = 64 * 1_024;

/// Returns the bytes that a frame keeps alive on its way: a small frame keeps itself alive, a large frame the buffer
/// that it was received into. A buffer that grows with its frame doubles, which may leave nearly half of it unused.
pub(super) fn pinned(frame: &Bytes) -> usize {
    let kept = match frame.len() {
        length if length < LARGE_FRAME => length,
        length if length < LARGE_PIECE_PINS => LARGE_PIECE_PINS,
        length => 2 * length,
    };
    BUFFER + kept
}

const _: () = assert!(LARGE_FRAME <= LARGE_PIECE_PINS, "a large frame that fits into a receive buffer stays in it");
