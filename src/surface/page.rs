//! The page at `/`: watch a topic and publish to it from a browser.

use bytes::Bytes;

use crate::proto::RequestHead;

/// The answer to `GET /` or `HEAD /`; `None` for every other request.
#[must_use]
pub fn answer(head: &RequestHead) -> Option<Bytes> {
    if head.path() != "/" || !matches!(head.method(), "GET" | "HEAD") || head.headers().get("upgrade").is_some() {
        return None;
    }
    let mut response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-cache\r\nContent-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; \
         style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'\r\n\
         X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        PAGE.len()
    );
    if head.method() == "GET" {
        response.push_str(PAGE);
    }
    Some(response.into())
}

const PAGE: &str = include_str!("page.html");
