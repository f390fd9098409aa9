//! What memory costs beyond the bytes that it holds: the allocator's overhead, and the buffer that a frame keeps alive.

use bytes::Bytes;

use crate::proto::LARGE_FRAME;

/// Bytes that an allocation takes beyond its size: the allocator's header, and rounding up.
pub(super) const ALLOCATION: usize = 16;

/// Bytes that a shared buffer takes in addition to its content: the overhead of the buffer's allocation, and a second
/// allocation for its address, length and counter.
pub(super) const BUFFER: usize = 2 * ALLOCATION + 3 * size_of::<usize>();

/// The fewest bytes that a large frame keeps alive: the size of the buffer that it was received into.
pub const LARGE_PIECE_PINS: usize = 64 * 1_024;

/// Returns the bytes that a frame keeps alive on its way: a small frame keeps only itself alive, and a large frame
/// keeps the buffer alive that it was received into. A buffer that grows with its frame doubles, so nearly half of the
/// buffer may be unused.
pub(crate) fn pinned(frame: &Bytes) -> usize {
    let kept = match frame.len() {
        length if length < LARGE_FRAME => length,
        length if length < LARGE_PIECE_PINS => LARGE_PIECE_PINS,
        length => 2 * length,
    };
    BUFFER + kept
}

const _: () = assert!(LARGE_FRAME <= LARGE_PIECE_PINS, "a large frame that fits into a receive buffer stays in it");
