//! What clients speak.

#![forbid(unsafe_code)]

pub mod echo;
pub mod page;
pub mod raw;
