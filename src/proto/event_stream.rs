//! Server-Sent Events (WHATWG HTML 9.2): the request for an event stream, the head of the answer, and the blocks of the
//! stream.
//!
//! An event stream is the body of a response. To a client of HTTP/1.1 it is chunked (RFC 9112 7.1), to a client of
//! HTTP/1.0 it goes on until the connection is closed. Each block is one chunk, so that a stream may end between any
//! two blocks.

use bytes::{Buf as _, BufMut as _, BytesMut};

use super::{Refusal, RequestHead, http::push_header};

/// The media type of event streams.
pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// How the end of an event stream is told from the end of its connection (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// The body is chunked, and its last chunk is empty.
    #[default]
    Chunked,
    /// The body ends with the connection, since HTTP/1.0 has no chunks.
    CloseDelimited,
}

impl Framing {
    /// Returns whether a request asks for an event stream: a GET that accepts the media type by name, and no opening
    /// request of a WebSocket.
    pub(crate) fn is_asked_for(head: &RequestHead) -> bool {
        head.method() == "GET" && head.headers().accepts(EVENT_STREAM)
            // A server may ignore the upgrade to another protocol (RFC 9110 7.8), such as h2c.
            && !head.headers().list_contains("upgrade", "websocket")
    }

    /// Returns the framing of the event stream that answers a request.
    ///
    /// # Errors
    ///
    /// 400 for a request with a body or without the `Host` that its version demands, and 505 for another version.
    pub(crate) fn of_answer_to(head: &RequestHead) -> Result<Framing, Refusal> {
        head.check_host().map_err(|error| error.refusal())?;
        if head.has_body() {
            return Err(Refusal::new(400, "a request for an event stream has no body"));
        }
        Ok(if head.minor_version() == 0 { Framing::CloseDelimited } else { Framing::Chunked })
    }

    /// Returns the head of the response, and the first block: a comment, since some clients and proxies hold the head
    /// back until a byte of the body has come.
    ///
    /// # Panics
    ///
    /// If the name of a header is not a token. Control characters in values become spaces.
    pub(crate) fn response(self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut out = b"HTTP/1.1 200 OK\r\n".to_vec();
        let lines = [("Connection", "close"), ("Content-Type", EVENT_STREAM)].into_iter().chain(STREAM_HEADERS);
        let coding = (self == Framing::Chunked).then_some(("Transfer-Encoding", "chunked"));
        for (name, value) in lines.chain(coding).chain(headers.iter().copied()) {
            push_header(&mut out, name, value);
        }
        out.extend_from_slice(b"\r\n");
        self.put_comment(&mut out);
        out
    }

    /// Lets `put` append lines to an empty buffer, and makes a block of them.
    pub(crate) fn in_block(self, out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
        self.in_chunk(out, |out| {
            put(out);
            out.put_u8(b'\n');
        });
    }

    /// Lets `put` append bytes to an empty buffer, and makes a chunk of them.
    pub(crate) fn in_chunk(self, out: &mut BytesMut, put: impl FnOnce(&mut BytesMut)) {
        debug_assert!(out.is_empty(), "a chunk begins the buffer");
        if self == Framing::CloseDelimited {
            return put(out);
        }
        out.put_bytes(0, CHUNK_SIZE_BYTES_MAX);
        put(out);
        // The size is written from its last digit on, in front of the bytes.
        let (mut size, mut begin) = (out.len() - CHUNK_SIZE_BYTES_MAX, CHUNK_SIZE_BYTES_MAX - 2);
        out[begin..CHUNK_SIZE_BYTES_MAX].copy_from_slice(b"\r\n");
        while size > 0 || begin == CHUNK_SIZE_BYTES_MAX - 2 {
            begin -= 1;
            out[begin] = b"0123456789abcdef"[size % 16];
            size /= 16;
        }
        out.advance(begin);
        out.put_slice(b"\r\n");
    }

    /// Appends a comment without a block of its own: some clients report an event at each empty line.
    pub(crate) fn put_comment(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Framing::Chunked => b"2\r\n:\n\r\n",
            Framing::CloseDelimited => b":\n",
        });
    }

    /// Appends the end of the stream.
    pub(crate) fn put_end(self, out: &mut Vec<u8>) {
        if self == Framing::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }

    /// Returns the last block of a stream, and the end of the stream. It has the code and the reason for which the
    /// server ends the stream, and the time after which the client should connect again if that is given.
    pub(crate) fn goodbye(self, code: u16, reason: &str, retry_ms: Option<u32>) -> Vec<u8> {
        let mut out = BytesMut::new();
        self.in_block(&mut out, |out| {
            put_field("event", "close", out);
            if let Some(retry_ms) = retry_ms {
                put_field("retry", &retry_ms.to_string(), out);
            }
            let reason = serde_json::to_string(reason).unwrap_or_default();
            put_data(format!("{{\"code\":{code},\"reason\":{reason}}}").as_bytes(), out);
        });
        let mut out = out.to_vec();
        self.put_end(&mut out);
        out
    }
}

/// Appends a line with a value. Control characters in the value become spaces, so that no value adds a line.
pub(crate) fn put_field(name: &str, value: &str, out: &mut BytesMut) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.extend(value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    out.put_u8(b'\n');
}

/// Appends a payload of UTF-8: a line of data for each of its lines. CR LF, LF and a CR alone end a line, and the
/// client gets each of them as LF.
pub(crate) fn put_data(mut payload: &[u8], out: &mut BytesMut) {
    loop {
        let end = payload.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let line = &payload[..end.unwrap_or(payload.len())];
        // The client drops one space, and a line may begin with one. An empty line needs none.
        out.put_slice(if line.is_empty() { b"data:" } else { b"data: " });
        out.put_slice(line);
        out.put_u8(b'\n');
        let Some(end) = end else { return };
        let ending = if payload[end..].starts_with(b"\r\n") { 2 } else { 1 };
        payload = &payload[end + ending..];
    }
}

/// The header lines of a response with an event stream beside its type: no cache and no proxy holds events back.
pub(crate) const STREAM_HEADERS: [(&str, &str); 3] =
    [("Cache-Control", "no-cache, no-store, no-transform"), ("X-Accel-Buffering", "no"), ("Vary", "Accept")];

/// The longest size of a chunk: ten digits, CR and LF. A message of 1 GiB becomes up to 6 GiB.
const CHUNK_SIZE_BYTES_MAX: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> RequestHead {
        RequestHead::decode(text.as_bytes()).unwrap().expect("whole").0
    }

    #[test]
    fn a_stream_is_asked_for_by_name() {
        let asks = |line: &str| Framing::is_asked_for(&head(&format!("{line}\r\n\r\n")));
        assert!(asks("GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream"));
        assert!(asks("GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nUpgrade: h2c"));
        assert!(asks("GET / HTTP/1.0\r\nAccept: text/html, Text/Event-Stream; q=0.5"));
        assert!(!asks("HEAD / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream"));
        assert!(!asks("GET / HTTP/1.1\r\nHost: x\r\nAccept: */*"));
        assert!(!asks("GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream;q=0"));
        assert!(!asks("GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nUpgrade: websocket"));
    }

    #[test]
    fn the_version_decides_about_the_framing() {
        let of =
            |line: &str| Framing::of_answer_to(&head(&format!("{line}\r\n\r\n"))).map_err(|refusal| refusal.status);
        assert_eq!(of("GET / HTTP/1.1\r\nHost: x"), Ok(Framing::Chunked));
        assert_eq!(of("GET / HTTP/1.0"), Ok(Framing::CloseDelimited));
        assert_eq!(of("GET / HTTP/1.1"), Err(400));
        assert_eq!(of("GET / HTTP/1.2\r\nHost: x"), Err(505));
        assert_eq!(of("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1"), Err(400));
    }

    #[test]
    fn a_response_begins_with_a_comment() {
        let whole = |framing: Framing| String::from_utf8(framing.response(&[("X-A", "b\r\nc")])).unwrap();
        assert_eq!(
            whole(Framing::Chunked),
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\
             Cache-Control: no-cache, no-store, no-transform\r\nX-Accel-Buffering: no\r\nVary: Accept\r\n\
             Transfer-Encoding: chunked\r\nX-A: b  c\r\n\r\n2\r\n:\n\r\n"
        );
        let plain = whole(Framing::CloseDelimited);
        assert!(plain.ends_with("X-A: b  c\r\n\r\n:\n") && !plain.contains("Transfer-Encoding"), "{plain}");
    }

    #[test]
    fn lines_of_a_payload_are_lines_of_data() {
        let of = |payload: &str| {
            let mut out = BytesMut::new();
            put_data(payload.as_bytes(), &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(of(""), "data:\n");
        assert_eq!(of(" a"), "data:  a\n");
        assert_eq!(of("a\nb\rc\r\nd"), "data: a\ndata: b\ndata: c\ndata: d\n");
        assert_eq!(of("\r\n"), "data:\ndata:\n");
        assert_eq!(of("\n\r"), "data:\ndata:\ndata:\n");
        assert_eq!(of("a\0id: 7"), "data: a\0id: 7\n");
    }

    #[test]
    fn a_block_is_one_chunk() {
        let of = |framing: Framing, lines: usize| {
            let mut out = BytesMut::new();
            framing.in_block(&mut out, |out| out.put_bytes(b'x', lines));
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(of(Framing::Chunked, 0), "1\r\n\n\r\n");
        assert_eq!(of(Framing::Chunked, 14), format!("f\r\n{}\n\r\n", "x".repeat(14)));
        assert_eq!(of(Framing::Chunked, 15), format!("10\r\n{}\n\r\n", "x".repeat(15)));
        assert_eq!(of(Framing::Chunked, 0xabcde), format!("abcdf\r\n{}\n\r\n", "x".repeat(0xabcde)));
        assert_eq!(of(Framing::CloseDelimited, 2), "xx\n");
    }

    #[test]
    fn a_goodbye_ends_the_stream() {
        let of = |framing: Framing, retry_ms| String::from_utf8(framing.goodbye(1012, "a \"b\"", retry_ms)).unwrap();
        let block = "event: close\ndata: {\"code\":1012,\"reason\":\"a \\\"b\\\"\"}\n\n";
        assert_eq!(of(Framing::CloseDelimited, None), block);
        assert_eq!(of(Framing::Chunked, None), format!("{:x}\r\n{block}\r\n0\r\n\r\n", block.len()));
        assert!(of(Framing::Chunked, Some(750)).contains("event: close\nretry: 750\ndata: "));
    }

    #[test]
    fn no_value_adds_a_line() {
        let mut out = BytesMut::new();
        put_field("event", "a\nid: 7\r\0b", &mut out);
        assert_eq!(out, "event: a id: 7  b\n");
    }
}
