//! Bodies of fuzz targets that compare the product with other libraries, or with a model. Each body takes any bytes,
//! and panics at a broken invariant. `src/proto/fuzz.rs` has bodies that need only the product.
//!
//! The crate in `fuzz/` compiles this folder too.

pub(crate) mod frames;
pub(crate) mod hub;
pub(crate) mod requests;
pub(crate) mod settings;
