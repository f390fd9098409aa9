//! Requests and responses of HTTP over a blocking stream.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use ringhub::proto::ResponseHead;

use super::dial;

/// A complete response: its body has exactly the announced length.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: ResponseHead,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.status()
    }

    /// Returns the value of the header line of that name; fails if there are two.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.headers().get_all(name);
        let value = values.next().map(|value| str::from_utf8(value).unwrap());
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        value
    }

    /// Returns the reason in the body of a refusal.
    pub(crate) fn error(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        assert!(self.body.ends_with("}\n"), "{self:?}");
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"));
        body["error"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_string()
    }
}

/// Sends the request on a new connection and returns the response.
pub(crate) fn exchange(address: SocketAddr, request: &str) -> Response {
    let mut stream = dial(address);
    stream.write_all(request.as_bytes()).unwrap();
    read_response(&mut stream, &[], !request.starts_with("HEAD "))
}

/// Reads a response, and the end of the connection if the response announces one. `begin` is the part of the response
/// that has been read before. Nothing may follow the response.
pub(crate) fn read_response(stream: &mut TcpStream, begin: &[u8], has_body: bool) -> Response {
    let (response, rest) = take_response(stream, begin.to_vec(), has_body);
    assert!(rest.is_empty(), "{response:?} is followed by {:?}", String::from_utf8_lossy(&rest));
    if response.head.headers().list_contains("connection", "close") {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("the connection ends in an orderly way");
        assert!(rest.is_empty(), "{response:?} is followed by {:?}", String::from_utf8_lossy(&rest));
    }
    response
}

/// Reads one response of several, and returns the bytes that have come after it. `bytes` is the part of the response
/// that has been read before.
pub(crate) fn take_response(stream: &mut TcpStream, mut bytes: Vec<u8>, has_body: bool) -> (Response, Vec<u8>) {
    loop {
        let decoded = ResponseHead::decode(&bytes).unwrap_or_else(|error| panic!("{error}: {}", lossy(&bytes)));
        if let Some((head, length)) = decoded {
            let announced = head.headers().get("content-length").map(|value| str::from_utf8(value).unwrap());
            // These have no body, and no length of one (RFC 9110 15.3.5, 15.4.5).
            let may_have_body = !matches!(head.status(), 204 | 304);
            let announced = announced.or(Some("0").filter(|_| !may_have_body)).expect("the response has a length");
            let body: usize = if has_body && may_have_body { announced.parse().unwrap() } else { 0 };
            if bytes.len() >= length + body {
                let rest = bytes.split_off(length + body);
                let body = String::from_utf8(bytes.split_off(length)).expect("bodies here are text");
                return (Response { head, body }, rest);
            }
        }
        let mut chunk = [0; 16 * 1_024];
        match stream.read(&mut chunk).unwrap_or_else(|error| panic!("{error} after {}", lossy(&bytes))) {
            0 => panic!("no response, or not all of it: {}", lossy(&bytes)),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
}

fn lossy(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}

/// Returns an acceptable opening request for the target, without subprotocols and extensions.
pub(crate) fn upgrade_request(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: hub.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// Returns a request that publishes the body.
pub(crate) fn post(target: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

/// Returns a request without a body.
pub(crate) fn request(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Sends the request and returns the response, on a connection that stays open.
#[track_caller]
pub(crate) fn ask(stream: &mut TcpStream, request: &str) -> Response {
    stream.write_all(request.as_bytes()).unwrap();
    let (response, rest) = take_response(stream, Vec::new(), !request.starts_with("HEAD "));
    assert!(rest.is_empty(), "{response:?}");
    response
}

/// Returns the topic, epoch and offset in the answer to a request that publishes.
#[track_caller]
pub(crate) fn published(response: &Response) -> (String, u64, u64) {
    assert_eq!((response.status(), response.header("content-type")), (202, Some("application/json")), "{response:?}");
    assert!(response.body.ends_with("}\n"), "{response:?}");
    let answer: serde_json::Value = serde_json::from_str(&response.body).unwrap();
    let number = |key: &str| answer[key].as_u64().unwrap_or_else(|| panic!("{response:?}"));
    (answer["topic"].as_str().unwrap().into(), number("epoch"), number("offset"))
}
