use super::*;

/// Decodes a head whole, and by one byte more at a time: each prefix lacks the end or has the same error.
fn decode(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, HttpError> {
    let whole = RequestHead::decode(bytes);
    let mut scan = HeadScan::default();
    for len in 0..=bytes.len() {
        match RequestHead::decode_with(&mut scan, &bytes[..len]) {
            Ok(None) => {}
            early => {
                assert_eq!(early, whole, "after {len} bytes");
                assert!(whole.as_ref().is_err() || matches!(whole, Ok(Some((_, head_len))) if head_len == len));
                return whole;
            }
        }
    }
    assert_eq!(whole, Ok(None));
    whole
}

fn check_refused(head: &str, error: HttpError, status: u16) {
    assert_eq!(decode(head.as_bytes()), Err(error), "{head:?}");
    assert_eq!((error.status(), error.refusal().status), (status, status));
}

/// RFC 9112 3: method, target, version; and the header lines of RFC 9112 5.
#[test]
fn a_request() {
    let bytes =
        b"GET /where?q=now HTTP/1.1\r\nHost: www.example.org\r\nX-Empty:\r\naccept: \t a, b \t\r\nAccept:c\r\n\r\nbody";
    let (head, head_len) = decode(bytes).unwrap().unwrap();
    assert_eq!((head.method(), head.target(), head.minor_version()), ("GET", "/where?q=now", 1));
    assert_eq!(&bytes[head_len..], b"body");
    let lines: Vec<_> = head.headers().iter().collect();
    let expected: [(&str, &[u8]); 4] =
        [("host", b"www.example.org"), ("x-empty", b""), ("accept", b"a, b"), ("accept", b"c")];
    assert_eq!(lines, expected);
    assert_eq!(head.headers().list("ACCEPT").collect::<Vec<_>>(), [b"a", b"b", b"c"]);
    assert_eq!((head.headers().get("accept"), head.headers().get("none")), (Some(&b"a, b"[..]), None));
}

/// RFC 9112 3.2: the forms of a target.
#[test]
fn targets() {
    for (target, path, query) in [
        ("/", "/", None),
        ("/t/a%20b?", "/t/a%20b", Some("")),
        ("/t/a?b=/c?d", "/t/a", Some("b=/c?d")),
        ("/t/http:/x/y", "/t/http:/x/y", None),
        ("/t/%61?`", "/t/%61", Some("`")),
        ("http://hub:6455/t/a?b", "/t/a", Some("b")),
        ("http://hub", "/", None),
        ("http://hub?b", "/", Some("b")),
        ("*", "*", None),
        ("hub:6455", "hub:6455", None),
    ] {
        let (head, _) = decode(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()).unwrap().unwrap();
        assert_eq!((head.target(), head.path(), head.query()), (target, path, query));
        let segments: Vec<&str> = path.strip_prefix('/').map_or(Vec::new(), |path| path.split('/').collect());
        let decoded: Vec<_> = segments.iter().map(|segment| percent_decode(segment).unwrap()).collect();
        assert_eq!(head.segments().unwrap().segments().collect::<Vec<_>>(), decoded, "{target}");
    }
}

/// RFC 9112 3.2: targets in no form, targets with a character that two readers understand differently, broken paths.
#[test]
fn malformed_targets() {
    for target in [
        "/<",
        "/a>",
        "/`",
        "/a\"b",
        "/?<",
        "/?a=\"",
        "/?>",
        "x/y",
        "?a",
        "http://",
        "http:///a",
        "://a/b",
        "1a://b/c",
        "http://u@a/b",
        "http://a:b/",
        "http://[::1/b",
        "http://a%41/b",
        "http://[]/",
        "[",
        "http://[::1",
        "a:b:c",
        "http://?a",
    ] {
        check_refused(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), HttpError::Target, 400);
    }
    for (target, error) in [
        ("//private/plan.txt", PathError::EmptySegment),
        ("http://a//private/plan.txt", PathError::EmptySegment),
        ("/t/a//b?c", PathError::EmptySegment),
        ("/t/../a", PathError::DotSegment),
        ("http://a/..", PathError::DotSegment),
        ("/t/%", PathError::Encoding),
        ("/%ff", PathError::Encoding),
        ("/t/%00", PathError::ControlCharacter),
    ] {
        let (head, _) = decode(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap().unwrap();
        assert_eq!(head.segments(), Err(error), "{target}");
    }
}

/// RFC 9112 2.2: empty lines before a request are passed over. RFC 9110 5.5: a value may hold bytes above 0x7F.
#[test]
fn tolerated_heads() {
    let (head, head_len) = decode(b"\r\n\r\nGET / HTTP/1.1\r\nX: \xE9\xFF\r\n\r\n").unwrap().unwrap();
    assert_eq!((head.headers().get("x"), head_len), (Some(&b"\xE9\xFF"[..]), 29));
    assert_eq!(decode(b"GET / HTTP/1.0\r\n\r\n").unwrap().unwrap().0.minor_version(), 0);
    assert_eq!(decode(b"GET / HTTP/1.9\r\n\r\n").unwrap().unwrap().0.minor_version(), 9);
    assert_eq!(decode(b"\r\n\r\n\r\n"), Ok(None));
}

/// RFC 9112 3: a request line is three words with one space between them.
#[test]
fn request_lines() {
    for line in [
        "GET /",
        "GET",
        "GET  / HTTP/1.1",
        " GET / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / b HTTP/1.1",
        "G@T / HTTP/1.1",
        "GET / HTTP/1",
        "GET / http/1.1",
        "GET / HTTP/1.x",
        "GET / HTTP/11.1",
        "GET /\u{e9} HTTP/1.1",
        "GET /#a HTTP/1.1",
        "GET\t/ HTTP/1.1",
    ] {
        check_refused(&format!("{line}\r\nHost: a\r\n\r\n"), HttpError::RequestLine, 400);
    }
    check_refused("GET / HTTP/2.0\r\n\r\n", HttpError::Version, 505);
    check_refused("PRI * HTTP/2.0\r\n\r\n", HttpError::Version, 505);
    check_refused("GET / HTTP/0.9\r\n\r\n", HttpError::Version, 505);
}

/// RFC 9112 2.2: lines end with CR LF; the first byte that shows another end is refused.
#[test]
fn line_ends() {
    check_refused("GET / HTTP/1.1\n", HttpError::BareLineFeed, 400);
    check_refused("GET / HTTP/1.1\r\nHost: a\n", HttpError::BareLineFeed, 400);
    check_refused("\n", HttpError::BareLineFeed, 400);
    check_refused("GET / HTTP/1.1\rH", HttpError::BareCarriageReturn, 400);
    check_refused("GET / HTTP/1.1\r\nHost: a\r\r", HttpError::BareCarriageReturn, 400);
    check_refused("GET / HTTP/1.1\r\nHost: a\0", HttpError::ControlCharacter, 400);
    check_refused("\u{16}", HttpError::ControlCharacter, 400); // a TLS client hello
}

/// RFC 9112 5, 5.1, 5.2: header lines.
#[test]
fn header_lines() {
    for line in [" folded", "\tfolded", "Host : a", "Host", ": a", "H st: a", "H\u{e9}st: a", "H(st: a"] {
        check_refused(&format!("GET / HTTP/1.1\r\nX: y\r\n{line}\r\n\r\n"), HttpError::Header, 400);
    }
}

/// RFC 9112 3.2, 6.3: heads about which two readers disagree.
#[test]
fn ambiguous_heads() {
    for (lines, error) in [
        ("Host: a\r\nhost: a", HttpError::DuplicateHost),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", HttpError::LengthAndEncoding),
        ("Transfer-Encoding: identity\r\nContent-Length: 0", HttpError::LengthAndEncoding),
        ("Content-Length: 5\r\nContent-Length: 5", HttpError::ContentLength),
        ("Content-Length: 5, 5", HttpError::ContentLength),
        ("Content-Length: +5", HttpError::ContentLength),
        ("Content-Length: -1", HttpError::ContentLength),
        ("Content-Length: 0x5", HttpError::ContentLength),
        ("Content-Length:", HttpError::ContentLength),
    ] {
        check_refused(&format!("POST / HTTP/1.1\r\n{lines}\r\n\r\n"), error, 400);
    }
}

/// RFC 9110 10.1.1.
#[test]
fn expectations() {
    for line in ["foo", "100-continue, foo", "100-continue=x", "100-continue\r\nExpect: foo"] {
        check_refused(&format!("POST / HTTP/1.1\r\nExpect: {line}\r\n\r\n"), HttpError::Expectation, 417);
        assert!(decode(format!("POST / HTTP/1.0\r\nExpect: {line}\r\n\r\n").as_bytes()).is_ok());
    }
    for line in ["100-continue", "100-Continue", ""] {
        assert!(decode(format!("POST / HTTP/1.1\r\nExpect: {line}\r\n\r\n").as_bytes()).is_ok(), "{line}");
    }
}

/// RFC 9112 6.3: lines that announce a body.
#[test]
fn bodies() {
    for (line, has_body) in [
        ("X: y", false),
        ("Content-Length: 0", false),
        ("Content-Length: 00", false),
        ("Content-Length: 10", true),
        ("Transfer-Encoding: chunked", true),
    ] {
        let (head, _) = decode(format!("POST / HTTP/1.1\r\n{line}\r\n\r\n").as_bytes()).unwrap().unwrap();
        assert_eq!(head.has_body(), has_body, "{line}");
    }
}

/// RFC 6585 5: the limits of a head, at the limit and one beyond it.
#[test]
fn limits() {
    let padded = |len: usize| format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(len - 23));
    assert_eq!(decode(padded(HEAD_BYTES_MAX).as_bytes()).unwrap().unwrap().1, HEAD_BYTES_MAX);
    check_refused(&padded(HEAD_BYTES_MAX + 1), HttpError::HeadTooLong, 431);
    check_refused(&padded(10 * HEAD_BYTES_MAX), HttpError::HeadTooLong, 431);
    let lines = |count| format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert_eq!(decode(lines(HEADERS_MAX).as_bytes()).unwrap().unwrap().0.headers().iter().count(), HEADERS_MAX);
    check_refused(&lines(HEADERS_MAX + 1), HttpError::TooManyHeaders, 431);
}

/// RFC 9112 4: status line and header lines of a response.
#[test]
fn responses() {
    let response = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 2\r\n\r\n{}";
    let (head, head_len) = ResponseHead::decode(response).unwrap().unwrap();
    assert_eq!((head.status(), head.reason(), head.minor_version()), (503, "Service Unavailable", 1));
    assert_eq!((head.headers().get("retry-after"), &response[head_len..]), (Some(&b"5"[..]), &b"{}"[..]));
    assert_eq!(ResponseHead::decode(&response[..head_len - 1]), Ok(None));
    for (head, error) in [
        ("HTTP/1.1 20 OK\r\n\r\n", HttpError::StatusLine),
        ("HTTP/2 200\r\n\r\n", HttpError::Version),
        ("HTTP/1.1 200 OK\nA: b\r\n\r\n", HttpError::BareLineFeed),
        ("HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n", HttpError::Header),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", HttpError::ContentLength),
    ] {
        assert_eq!(ResponseHead::decode(head.as_bytes()), Err(error), "{head:?}");
    }
}

/// RFC 8259 7: the body is JSON for every text of an error, and its length is exact.
#[test]
fn refusals() {
    let refusal = Refusal::new(403, "\"no\" \\ \n\u{1}é").header("X-Why", "because\r\nInjected: yes");
    assert_eq!(refusal.body().strip_suffix('\n'), Some(r#"{"error":"\"no\" \\ \u000a\u0001é"}"#));
    let parsed: serde_json::Value = serde_json::from_str(&refusal.body()).unwrap();
    assert_eq!(parsed["error"], refusal.error);
    let (response, to_head) = (refusal.encode(), refusal.encode_for("HEAD"));
    let (head, head_len) = ResponseHead::decode(&response).unwrap().unwrap();
    assert_eq!((head.status(), head.reason()), (403, "Forbidden"));
    assert_eq!(head.headers().get("content-length"), Some((response.len() - head_len).to_string().as_bytes()));
    assert_eq!(head.headers().get("x-why"), Some(&b"because  Injected: yes"[..]));
    assert_eq!(head.headers().get("injected"), None);
    assert_eq!(to_head, response[..head_len]);
    assert_eq!(head.headers().get_all("cache-control").collect::<Vec<_>>(), [b"no-store"]);
    let response = Refusal::new(404, "no").header("cache-control", "max-age=9").encode();
    let (head, _) = ResponseHead::decode(&response).unwrap().unwrap();
    assert_eq!(head.headers().get_all("cache-control").collect::<Vec<_>>(), [b"max-age=9"]);
}
