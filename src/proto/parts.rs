//! The parts of the read path, one by one, for the benchmarks.

pub use super::masking::apply as mask;
pub use super::utf8::utf8_prefix;
