//! What becomes of a report: what is printed, and where.

mod options;

pub use options::OutputOptions;
