//! What memory costs beside the bytes in it.

use bytes::Bytes;

use crate::proto::LARGE_FRAME;

/// What an allocation takes beyond its size: the allocator's header, and rounding up.
pub(super) const ALLOCATION: usize = 16;

/// What a shared buffer takes beside its bytes: it is an allocation, and its address, length and counter are another.
pub(super) const BUFFER: usize = 2 * ALLOCATION + 3 * size_of::<usize>();

/// A large frame keeps at least so much memory alive: the buffer it was received into.
pub const LARGE_PIECE_PINS: usize = 64 * 1_024;

/// The memory that a frame keeps in use on its way: a small one itself, a large one the buffer that it was received
/// into.
pub(super) fn pinned(frame: &Bytes) -> usize {
    let length = frame.len();
    BUFFER + if length < LARGE_FRAME { length } else { length.max(LARGE_PIECE_PINS) }
}
