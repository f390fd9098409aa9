//! The client in JavaScript, which speaks `ringhub.v1`: the files of `/client.js` and `/client.d.ts`.
//!
//! `client.js` is the source. The server has `client.min.js`, its short form, which `tests/repository` writes.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

/// The module.
pub const MODULE: &str = include_str!("client.min.js");

/// The types of the module for TypeScript.
pub const TYPES: &str = include_str!("client.d.ts");

/// The media types of the files (RFC 9239).
pub const MODULE_TYPE: &str = "text/javascript; charset=utf-8";
pub const TYPES_TYPE: &str = "text/plain; charset=utf-8";

/// The headers of the files. Pages of all origins may load them, since they hold no data.
pub const HEADERS: &[(&str, &str)] = &[
    ("access-control-allow-origin", "*"),
    ("cache-control", "public, max-age=300"),
    ("cross-origin-resource-policy", "cross-origin"),
    ("x-content-type-options", "nosniff"),
];

/// The validators of the files (RFC 9110 8.8.3).
pub static MODULE_TAG: LazyLock<String> = LazyLock::new(|| tag(MODULE));
pub static TYPES_TAG: LazyLock<String> = LazyLock::new(|| tag(TYPES));

fn tag(file: &str) -> String {
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(&Sha256::digest(file)[..12]))
}
