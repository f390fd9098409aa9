//! Requests of HTTP/1.1, as bytes.

/// Returns an acceptable opening request.
pub(crate) fn upgrade(target: &str) -> Vec<u8> {
    upgrade_with(target, "")
}

/// Returns an opening request with further header lines, each with its end.
pub(crate) fn upgrade_with(target: &str, lines: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: hub.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
    .into_bytes()
}

/// Returns a request that publishes a body.
pub(crate) fn post(target: &str, body: &[u8]) -> Vec<u8> {
    post_with(target, "", body)
}

/// Returns a request that publishes a body, with further header lines, each with its end.
pub(crate) fn post_with(target: &str, lines: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n{lines}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Returns a request that publishes a body in chunks.
pub(crate) fn post_in_chunks(target: &str, body: &[u8], chunk: usize) -> Vec<u8> {
    let mut out = format!("POST {target} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for part in body.chunks(chunk.max(1)) {
        out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Returns a request without a body.
pub(crate) fn bare(method: &str, target: &str, lines: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
}
