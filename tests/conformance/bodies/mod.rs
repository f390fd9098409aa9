//! Bodies of fuzz targets that compare ringhub with other libraries, with a model, or with itself. Each body takes any
//! bytes, and panics at a broken invariant. `src/proto/fuzz.rs` has bodies that need only the product.
//!
//! The crate in `fuzz/` compiles this folder too.

pub(crate) mod frames;
pub(crate) mod hub;
pub(crate) mod requests;
pub(crate) mod settings;
