//! Bodies of fuzz targets that compare the product with the libraries of others, or with a model. Each takes any bytes
//! and panics on a broken invariant. Those of `src/proto/fuzz.rs` need nothing beside the product.
//!
//! The crate in `fuzz/` compiles this folder too.

pub(crate) mod frames;
pub(crate) mod hub;
pub(crate) mod requests;
pub(crate) mod settings;
