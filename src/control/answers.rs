//! Builds answers, and completes their header lines.

use std::borrow::Cow;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::{
    Request, Response, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use super::shared::Shared;
use crate::{
    endpoints::ClientFile,
    handler::{self, ServiceBody},
    proto::{Refusal, RefusalCause},
    refusal_log::counter_of,
    surface::{client, page},
};

/// The answer to a request.
pub(super) type Answer = Response<Body>;

/// Bytes that are complete, or the bytes of a file or of a service, which come while they are sent.
pub(super) type Body = Either<Full<Bytes>, ServiceBody>;

/// Returns the answer that holds the page.
pub(super) fn the_page() -> Answer {
    let mut answer = response(StatusCode::OK, "text/html; charset=utf-8", page::PAGE);
    let headers = page::HEADERS.iter().map(|&(name, value)| (name, HeaderValue::from_static(value)));
    answer.headers_mut().extend(headers.map(|(name, value)| (HeaderName::from_static(name), value)));
    answer
}

/// Returns the answer that holds a file of the client in JavaScript, or 304 if the request's `If-None-Match` names it.
pub(super) fn client_file<B>(request: &Request<B>, file: ClientFile) -> Answer {
    let (text, media_type, tag) = match file {
        ClientFile::Module => (client::MODULE, client::MODULE_TYPE, &*client::MODULE_TAG),
        ClientFile::Types => (client::TYPES, client::TYPES_TYPE, &*client::TYPES_TAG),
    };
    // RFC 9110 13.1.2: a list of validators, or `*`. The comparison is weak.
    let names = |value: &HeaderValue| {
        let mut names = value.to_str().unwrap_or_default().split(',').map(str::trim);
        names.any(|name| name == "*" || name.strip_prefix("W/").unwrap_or(name) == tag)
    };
    let is_known = request.headers().get_all(header::IF_NONE_MATCH).iter().any(names);
    let mut answer = response(StatusCode::OK, media_type, if is_known { "" } else { text });
    if is_known {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer.headers_mut().remove(header::CONTENT_TYPE);
    }
    append(answer.headers_mut(), client::HEADERS);
    append(answer.headers_mut(), &[("etag", tag)]);
    answer
}

/// Counts a refusal, and returns it as an answer. Unless the refusal has its own `Cache-Control`, no cache keeps the
/// answer: another client need not be refused.
pub(super) fn refuse(shared: &Shared, refusal: &Refusal) -> Answer {
    shared.note_cause(shared.cause(refusal), refusal.status);
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = response(status, JSON, refusal.body());
    let headers = answer.headers_mut();
    append(headers, &refusal.headers);
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if headers.contains_key(header::UPGRADE) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    answer
}

/// Counts the refusal of an event stream, and returns it as an answer.
pub(super) fn refuse_stream(shared: &Shared, refusal: Refusal) -> Answer {
    shared.note_cause(shared.cause(&refusal), refusal.status);
    let handler::Response { status, headers, body } = handler::Response::from(refusal).for_stream();
    let mut answer = Answer::new(Either::Left(Full::new(body)));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    append(answer.headers_mut(), &headers);
    answer.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

/// Returns the answer of a surface's endpoint. An answer with a status from 400 on is counted as a refusal.
pub(super) fn of_surface(shared: &Shared, response: handler::Response) -> Answer {
    let handler::Response { status, headers, body } = response;
    let mut answer = Answer::new(Either::Left(Full::new(body)));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let [(Cow::Borrowed("Content-Type"), Cow::Borrowed(JSON))] = headers[..] {
        // The answer to most messages.
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    } else {
        append(answer.headers_mut(), &headers);
    }
    if status >= 400 {
        shared.note_cause(counter_of(status, RefusalCause::OfStatus, shared.is_leaving()), status);
        answer.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    }
    answer
}

/// Returns an answer with a body.
pub(super) fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(body.into())));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// Answers a preflight: a browser asks whether a page of another origin may use these methods with a token or a
/// password (WHATWG Fetch, CORS). The preflight itself has neither, so the answer does not depend on credentials. The
/// caller adds the header lines that depend on the page's origin.
///
/// Pages may send `Authorization`, `Content-Type` and the header lines of `page_headers`.
pub(super) fn preflight(methods: &str, page_headers: &[&str]) -> Answer {
    let mut answer = Response::new(Either::Left(Full::default()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    let allowed = [&["authorization", "content-type"], page_headers].concat().join(", ");
    append(headers, &[("access-control-allow-methods", methods.into()), ("access-control-allow-headers", allowed)]);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    answer
}

/// Appends header lines. Control characters in values become spaces, as in the answers of shards.
pub(super) fn append(headers: &mut HeaderMap, lines: &[(impl AsRef<str>, impl AsRef<str>)]) {
    for (name, value) in lines {
        let value = value.as_ref();
        let value = if value.bytes().any(|octet| octet.is_ascii_control()) {
            HeaderValue::from_str(&value.replace(|character: char| character.is_ascii_control(), " "))
        } else {
            HeaderValue::from_str(value)
        };
        let name = match name.as_ref() {
            "Content-Type" => Ok(header::CONTENT_TYPE),
            name => name.parse::<HeaderName>(),
        };
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
}

pub(super) const JSON: &str = "application/json";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
