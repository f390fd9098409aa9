//! The fuzz targets that compare ringhub with other libraries, with a model, or with itself. Tests share their bodies.

#[path = "../../tests/conformance/bodies/mod.rs"]
#[allow(dead_code, reason = "only the tests read all of the tables of differences")]
mod bodies;

/// See `bodies::frames`.
pub fn frames(bytes: &[u8]) {
    bodies::frames::frames(bytes);
}

/// See `bodies::hub`.
pub fn hub(bytes: &[u8]) {
    bodies::hub::hub(bytes);
}

/// See `bodies::requests`.
pub fn requests(bytes: &[u8]) {
    bodies::requests::requests(bytes);
}

/// See `bodies::settings`.
pub fn settings(bytes: &[u8]) {
    bodies::settings::settings(bytes);
}
