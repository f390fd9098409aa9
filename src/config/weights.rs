//! What things take in memory: one table for the sum of `check-config` and for the memory budget of a running server.
//!
//! `check-config` multiplies each weight by a limit; a running server multiplies it by the number of things that are
//! there. They differ in three points: the sum counts each connection as an [`OPENING`], the budget counts an open one
//! as an [`OPEN_CONNECTION`]; the budget counts input by its length instead of [`WAITING_INPUT`]; and only the sum has
//! [`EXCHANGE`] and [`QUESTION`].

use crate::{auth::Revocation, hub::LARGE_PIECE_PINS, outbound::OutboundLimits, proto::HEAD_BYTES_MAX};

/// One connection whose opening request is being read or judged: its task, and a head in a buffer that doubles.
pub(crate) const OPENING: u64 = 2 * HEAD_BYTES_MAX as u64 + 4 * 1_024;

/// One open connection without its input, its output, and its profile: its slot and its places. The profile is weighed
/// by itself, and the request in it is less than the rest of [`OPENING`].
pub(crate) const OPEN_CONNECTION: u64 = 512;

/// Input that is not parsed, of one connection that the shard does not receive from: at most what one receive has
/// taken. The budget weighs such input by its length.
pub(crate) const WAITING_INPUT: u64 = LARGE_PIECE_PINS as u64;

/// One command of a client without an answer: its id, and the call that answers it when its message has a place.
pub(crate) const COMMAND: u64 = 256;

/// One HTTP connection: its task, and the buffers in front of hyper and within.
pub(crate) const HTTP_CONNECTION: u64 = 112 * 1_024;

/// One topic: its name, twice, its place in the order, and its place in the table.
pub(crate) const TOPIC: u64 = 1_024;

/// One subscription beyond the first of its connection: its place among those of the connection and of the topic, and
/// what a handler keeps of it.
pub(crate) const SUBSCRIPTION: u64 = 128;

/// One subscription of a topic that keeps presence: its places on its shard and at the home of the topic, without the
/// id and the info of the member.
pub(crate) const ATTENDANCE: u64 = 512;

/// One revocation: its name, and its place in the table.
pub(crate) const REVOCATION: u64 = Revocation::NAME_BYTES_MAX as u64 + 256;

/// One request to another server under way: the buffers of HTTP and of TLS, and the body of the answer.
pub(crate) const EXCHANGE: u64 = 4 * OutboundLimits::HEAD_BYTES_MAX as u64 + (256 << 10);

/// One request to another server that waits: the body of a question, at most 32 KiB (`QUESTION_BYTES_MAX`).
pub(crate) const QUESTION: u64 = 4 * HEAD_BYTES_MAX as u64;

/// The program, its threads and their allocators, and the lines that wait to be logged or printed.
pub(crate) const SERVER: u64 = 8 << 20;

/// One shard without connections: rings, wheel, stack.
pub(crate) const SHARD: u64 = 1 << 20;
