use super::*;
use crate::proto::{RequestHead, ResponseHead};

/// The request of RFC 6455 1.3, as lines to change.
const REQUEST: [&str; 8] = [
    "GET /chat HTTP/1.1",
    "Host: server.example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Origin: http://example.com",
    "Sec-WebSocket-Protocol: chat, superchat",
    "Sec-WebSocket-Version: 13",
];

fn upgrade(lines: &[&str]) -> Result<Upgrade, HandshakeError> {
    let head = format!("{}\r\n\r\n", lines.join("\r\n"));
    Upgrade::from_request(&RequestHead::decode(head.as_bytes()).unwrap().unwrap().0)
}

/// Checks the request with one line in place of another; an empty line leaves the line out.
fn changed(line: &str, new: &str) -> Result<Upgrade, HandshakeError> {
    assert!(REQUEST.contains(&line));
    let lines: Vec<_> = REQUEST.iter().map(|&other| if other == line { new } else { other }).collect();
    upgrade(&lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>())
}

fn check_refused(line: &str, new: &str, error: HandshakeError, status: u16) {
    assert_eq!(changed(line, new), Err(error), "{new:?}");
    assert_eq!(error.refusal().status, status);
}

/// RFC 6455 1.3, 4.2.2: the example.
#[test]
fn the_example() {
    let upgrade = upgrade(&REQUEST).unwrap();
    assert_eq!(
        (upgrade.protocols(), upgrade.origin()),
        (&["chat".into(), "superchat".into()][..], Some("http://example.com"))
    );
    let response = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    assert_eq!(upgrade.response(None, &[]), format!("{response}\r\n"));
    let headers = [("X-Session", "1\r\nX-Injected: 2")];
    let expected = format!("{response}Sec-WebSocket-Protocol: chat\r\nX-Session: 1  X-Injected: 2\r\n\r\n");
    assert_eq!(upgrade.response(Some("chat"), &headers), expected);
}

#[test]
#[should_panic(expected = "was not offered")]
fn a_protocol_that_was_not_offered() {
    upgrade(&REQUEST).unwrap().response(Some("other"), &[]);
}

/// RFC 6455 4.2.1, 1: "An HTTP/1.1 or higher GET request".
#[test]
fn method_and_version() {
    check_refused(REQUEST[0], "GET /chat HTTP/1.0", HandshakeError::Version, 505);
    for method in ["POST", "HEAD", "get", "CONNECT"] {
        check_refused(REQUEST[0], &format!("{method} /chat HTTP/1.1"), HandshakeError::Method, 405);
    }
    assert_eq!(HandshakeError::Method.refusal().headers, [("Allow".into(), "GET".into())]);
    assert!(changed(REQUEST[0], "GET http://server.example.com/chat HTTP/1.2").is_ok());
}

/// RFC 6455 4.2.1, 2; RFC 9112 3.2 on a malformed one.
#[test]
fn host() {
    for line in ["Host: [::1]:6455", "Host: 127.0.0.1", "Host: a_b.example"] {
        assert!(changed(REQUEST[1], line).is_ok(), "{line}");
    }
    for line in ["Host: a b", "Host: http://a", "Host: user@a", "Host: \u{e9}"] {
        check_refused(REQUEST[1], line, HandshakeError::Host, 400);
    }
    check_refused(REQUEST[1], "", HandshakeError::Host, 400);
    check_refused(REQUEST[1], "Host:", HandshakeError::Host, 400);
}

/// RFC 6455 4.2.1, 3 and 4: lists, over any lines, in any case.
#[test]
fn upgrade_and_connection() {
    for line in
        ["upgrade: WebSocket", "Upgrade: h2c, websocket", "Upgrade: h2c\r\nUpgrade: websocket", "Upgrade: ,websocket,"]
    {
        assert!(changed(REQUEST[2], line).is_ok(), "{line}");
    }
    for line in ["", "Upgrade:", "Upgrade: web socket", "Upgrade: websockets", "Upgrade: websocket/13"] {
        check_refused(REQUEST[2], line, HandshakeError::Upgrade, 426);
    }
    for line in ["connection: keep-alive, upgrade", "Connection: keep-alive\r\nConnection: UPGRADE"] {
        assert!(changed(REQUEST[3], line).is_ok(), "{line}");
    }
    for line in ["", "Connection: keep-alive", "Connection: upgraded"] {
        check_refused(REQUEST[3], line, HandshakeError::Connection, 426);
    }
    let response = HandshakeError::Upgrade.refusal().encode();
    let (head, _) = ResponseHead::decode(&response).unwrap().unwrap();
    assert_eq!(head.headers().get("upgrade"), Some(&b"websocket"[..]));
    assert!(
        head.headers().list_contains("connection", "upgrade") && head.headers().list_contains("connection", "close")
    );
}

/// RFC 6455 4.2.1, 5: "when decoded, is 16 bytes in length".
#[test]
fn key() {
    let name = "Sec-WebSocket-Key";
    for line in [
        "".into(),
        format!("{name}:"),
        format!("{name}: dGhlIHNhbXBsZSBub25jZQ"),
        format!("{name}: dGhlIHNhbXBsZSBub25jZQ=X"),
        format!("{name}: c2hvcnQ="),
        format!("{name}: dGhlIHNhbXBsZSBub25jZS4="),
        format!("{name}: dGhlIHNhbXBsZSBub25jZS4u"),
        format!("{name}: dGhlIHNhbXBsZSBub2-jZQ=="),
        format!("{name}: dGhlIHNhbXBsZSBub25jZQ==\r\n{name}: dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        check_refused(REQUEST[4], &line, HandshakeError::Key, 400);
    }
    assert!(changed(REQUEST[4], "sec-websocket-key:AAAAAAAAAAAAAAAAAAAAAA==").is_ok());
}

/// RFC 6455 4.2.1, 6 and 4.4: version negotiation.
#[test]
fn websocket_version() {
    let name = "Sec-WebSocket-Version";
    for line in ["", "{}:", "{}: 8", "{}: 013", "{}: 13, 8", "{}: 13\r\n{}: 13"] {
        check_refused(REQUEST[7], &line.replace("{}", name), HandshakeError::WebSocketVersion, 426);
    }
    assert!(HandshakeError::WebSocketVersion.refusal().headers.contains(&(name.into(), "13".into())));
}

/// RFC 6455 4.1, 10: subprotocols are tokens, each named once.
#[test]
fn protocols() {
    let name = "Sec-WebSocket-Protocol";
    for line in ["{}: a, a", "{}: a\r\n{}: b, a", "{}: a b", "{}: a/b", "{}: \u{e9}"] {
        check_refused(REQUEST[6], &line.replace("{}", name), HandshakeError::Protocol, 400);
    }
    assert_eq!(changed(REQUEST[6], &format!("{name}: a,A\r\n{name}: v1.b, ")).unwrap().protocols(), ["a", "A", "v1.b"]);
    assert_eq!(changed(REQUEST[6], "").unwrap().protocols(), [""; 0]);
}

/// `new WebSocket(url, ["access_token", token])`: the token is no subprotocol, and the answer never has it.
#[test]
fn a_token_among_the_protocols() {
    let name = "Sec-WebSocket-Protocol";
    let check = |list: &str, protocols: &[&str], token: Option<&str>, chosen: Option<&str>, answer: Option<&str>| {
        let line = format!("{name}: {list}");
        let request = REQUEST.join("\r\n").replace(REQUEST[6], &line) + "\r\n\r\n";
        let (head, _) = RequestHead::decode(request.as_bytes()).unwrap().unwrap();
        assert_eq!(token_of_protocols(head.headers()), token.map(str::as_bytes), "{list}");
        let upgrade = Upgrade::from_request(&head).unwrap();
        assert_eq!(upgrade.protocols(), protocols, "{list}");
        let response = upgrade.response(chosen, &[]);
        let response = std::str::from_utf8(&response).unwrap();
        let found = response.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        assert_eq!(found, answer, "{list}");
    };
    check("access_token, e.y-J_x", &[], Some("e.y-J_x"), None, Some("access_token"));
    check("v1, access_token, t, v2", &["v1", "v2"], Some("t"), None, Some("access_token"));
    check("v1, access_token, t, v2", &["v1", "v2"], Some("t"), Some("v2"), Some("v2"));
    // A token may be equal to another name.
    check("v1, access_token, v1", &["v1"], Some("v1"), None, Some("access_token"));
    // Without a token after it, the name is a subprotocol like any other.
    check("v1, access_token", &["v1", "access_token"], None, None, None);
    check("Access_token, t", &["Access_token", "t"], None, None, None);
    for line in ["access_token, a, access_token, b", "access_token, a b", "access_token, a/b", "access_token, a, b, b"]
    {
        check_refused(REQUEST[6], &format!("{name}: {line}"), HandshakeError::Protocol, 400);
    }
}

/// RFC 6454 7.3: one origin at most; other clients than browsers send none.
#[test]
fn origin() {
    assert_eq!(changed(REQUEST[5], "").unwrap().origin(), None);
    check_refused(REQUEST[5], "Origin: a\r\nOrigin: a", HandshakeError::Origin, 400);
    assert_eq!(changed(REQUEST[5], "Origin: null").unwrap().origin(), Some("null"));
}

/// A body would be taken for frames.
#[test]
fn body() {
    check_refused(REQUEST[5], "Content-Length: 1", HandshakeError::Body, 400);
    check_refused(REQUEST[5], "Transfer-Encoding: chunked", HandshakeError::Body, 400);
    assert!(changed(REQUEST[5], "Content-Length: 0").is_ok());
}

/// A server accepts the request of a client, and the client accepts the response.
#[test]
fn a_client_and_a_server() {
    let mut client = ClientHandshake::new([9; 16]);
    let request = client.request("hub:6455", "/t/a?b=c", &["v2", "v1"], &[("Authorization", "Bearer x")]);
    let (head, head_len) = RequestHead::decode(&request).unwrap().unwrap();
    assert_eq!((head_len, head.path(), head.headers().get("host")), (request.len(), "/t/a", Some(&b"hub:6455"[..])));
    assert_eq!(head.headers().get("authorization"), Some(&b"Bearer x"[..]));
    let upgrade = Upgrade::from_request(&head).unwrap();
    for protocol in [None, Some("v1")] {
        let response = upgrade.response(protocol, &[]);
        let (head, _) = ResponseHead::decode(&response).unwrap().unwrap();
        assert_eq!(client.check(&head), Ok(protocol.map(String::from)));
    }
}

/// RFC 6455 4.1: responses that a client must not accept.
#[test]
fn responses_that_open_nothing() {
    let mut client = ClientHandshake::new(*b"the sample nonce");
    client.request("server.example.com", "/chat", &["chat"], &[]);
    let check = |status: &str, lines: &str, expected| {
        let response = format!("HTTP/1.1 {status}\r\n{lines}\r\n\r\n");
        assert_eq!(client.check(&ResponseHead::decode(response.as_bytes()).unwrap().unwrap().0), expected, "{lines}");
    };
    let good =
        "Upgrade: WebSocket\r\nConnection: keep-alive, upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    check("101 Switching Protocols", good, Ok(None));
    check("101", &format!("{good}\r\nSec-WebSocket-Protocol: chat"), Ok(Some("chat".into())));
    check("200 OK", good, Err(ResponseError::Status(200)));
    check("401 Unauthorized", "", Err(ResponseError::Status(401)));
    check("101", &good.replace("WebSocket\r", "h2c\r"), Err(ResponseError::Upgrade));
    check("101", &good.replace("keep-alive, upgrade", "close"), Err(ResponseError::Connection));
    check("101", &good.replace("s3p", "S3p"), Err(ResponseError::Accept));
    check("101", &format!("{good}\r\nSec-WebSocket-Protocol: other"), Err(ResponseError::Protocol));
    check("101", &format!("{good}\r\nSec-WebSocket-Protocol: chat, chat"), Err(ResponseError::Protocol));
    check("101", &format!("{good}\r\nSec-WebSocket-Extensions: permessage-deflate"), Err(ResponseError::Extension));
}
