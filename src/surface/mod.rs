//! Surfaces: what clients speak at a route, in one table; and the server's own page, and the client in JavaScript.

#![forbid(unsafe_code)]

pub(crate) mod batch;
pub mod client;
pub mod echo;
pub mod events;
mod history;
pub mod page;
mod presence;
pub mod raw;
mod receipt;
mod resume;
#[expect(clippy::module_inception, reason = "the file is named after its struct")]
mod surface;
mod table;
#[cfg(test)]
mod testing;
pub mod v1;

pub(crate) use events::{Positions, message_to_one};
pub(crate) use surface::{HandlerParts, KeyFault, KeyKind, Surface, SurfaceKey, TopicUse};
pub(crate) use table::{SURFACES, all_forms, encodings, largest_form};
pub(crate) use v1::COMMANDS_MAX;
