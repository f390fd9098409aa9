//! One request, one response, and the end of the connection.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use ringhub::proto::ResponseHead;

use super::dial;

/// A response that was complete: its body has exactly the announced length, and nothing but the end came after it.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: ResponseHead,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.status()
    }

    /// The value of the header line of that name, of which there is one.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.headers().get_all(name);
        let value = values.next().map(|value| str::from_utf8(value).unwrap());
        assert!(values.next().is_none(), "{name} is there twice: {self:?}");
        value
    }

    /// What the body of a refusal says.
    pub(crate) fn error(&self) -> String {
        assert_eq!(self.header("content-type"), Some("application/json"), "{self:?}");
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{self:?}"));
        body["error"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_string()
    }
}

/// Sends the request on a new connection and takes the response.
pub(crate) fn exchange(address: SocketAddr, request: &str) -> Response {
    let mut stream = dial(address);
    stream.write_all(request.as_bytes()).unwrap();
    read_response(&mut stream, &[], !request.starts_with("HEAD "))
}

/// Reads a response up to the end of the connection; `begin` is what was read of it before.
pub(crate) fn read_response(stream: &mut TcpStream, begin: &[u8], has_body: bool) -> Response {
    let mut bytes = begin.to_vec();
    stream.read_to_end(&mut bytes).expect("the connection ends in an orderly way");
    let (head, length) = ResponseHead::decode(&bytes)
        .ok()
        .flatten()
        .unwrap_or_else(|| panic!("no response: {:?}", String::from_utf8_lossy(&bytes)));
    let body = String::from_utf8(bytes.split_off(length)).expect("bodies here are text");
    let response = Response { head, body };
    assert!(response.head.headers().list_contains("connection", "close"), "{response:?}");
    let announced: usize = response.header("content-length").expect("it has a length").parse().unwrap();
    if has_body {
        assert_eq!(response.body.len(), announced, "{response:?}");
    } else {
        assert_eq!(response.body, "", "{response:?}");
    }
    response
}

/// An acceptable opening request for the target, without the sub-protocols and extensions nobody here asks for.
pub(crate) fn upgrade_request(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: hub.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}
