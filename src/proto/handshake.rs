//! The opening handshake (RFC 6455 4), both roles.

mod client;
mod server;

pub use client::{ClientHandshake, ResponseError};
pub(crate) use server::token_of_protocols;
pub use server::{HandshakeError, Upgrade};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 4.2.2, step 5.4).
fn accept_for(key: &[u8]) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// RFC 6455 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// RFC 6455 4.1.
const VERSION: &str = "13";

#[cfg(test)]
mod tests;
