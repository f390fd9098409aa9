//! The server's own handlers, and its page.

#![forbid(unsafe_code)]

pub mod echo;
pub mod page;
pub mod raw;
