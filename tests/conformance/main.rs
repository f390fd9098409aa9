//! What the protocol says, by those who share no code with it: corpora of bytes, and another WebSocket client; and that
//! both backends say the same.

mod backends;
mod bodies;
mod fuzz_corpus;
mod inputs;
mod peers;
mod random;
#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "these tests use a part of it")]
mod support;
