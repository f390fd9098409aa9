//! Heads of HTTP/1.1 requests and responses (RFC 9112), the ends of bodies, and refusals.

mod body;
mod error;
mod forwarded;
mod head;
mod headers;
mod path;
mod query;
mod refusal;
mod scan;
mod syntax;

pub use body::BodyScan;
pub use error::{HEAD_BYTES_MAX, HEADERS_MAX, HttpError};
pub(crate) use forwarded::{forwarded_for, x_forwarded_for};
pub use head::{RequestHead, ResponseHead};
pub use headers::Headers;
pub use path::{PathError, RequestPath};
pub use refusal::Refusal;
pub(crate) use refusal::RefusalCause;
pub(crate) use refusal::encode_response;
pub use scan::HeadScan;

pub(crate) use query::query_pairs;
pub(super) use syntax::push_header;
pub(crate) use syntax::{is_token, percent_decode};

#[cfg(test)]
mod tests;
