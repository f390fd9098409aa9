//! Checks the protocol by means that share no code with the product: corpora of bytes, and another WebSocket client.

mod bodies;
mod fuzz_corpus;
mod inputs;
mod peers;
mod random;
#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "these tests use a part of it")]
mod support;
