//! What clients speak.

#![forbid(unsafe_code)]

pub mod access;
pub mod page;
pub mod raw;
