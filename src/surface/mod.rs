//! What clients speak.

#![forbid(unsafe_code)]

pub mod page;
pub mod raw;
