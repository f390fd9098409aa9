//! What clients speak.

#![forbid(unsafe_code)]

pub mod access;
pub mod echo;
pub mod page;
pub mod raw;
