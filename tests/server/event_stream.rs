//! A client of event streams over a blocking stream, which checks the framing of each byte.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use ringhub::proto::ResponseHead;

use crate::support::dial;

/// A stream whose head has come.
#[derive(Debug)]
pub(crate) struct EventStream {
    stream: TcpStream,
    pub(crate) head: ResponseHead,
    is_chunked: bool,
    /// The bytes that have come and are not decoded.
    received: Vec<u8>,
    /// The text of the stream that is not read as events.
    text: String,
    has_ended: bool,
}

/// An event, as a browser dispatches it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServerEvent {
    /// The type; empty for `message`.
    pub(crate) event: String,
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<u64>,
    pub(crate) data: String,
}

impl ServerEvent {
    /// Returns the data as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Returns a request for a stream. `lines` are further header lines, each with its end.
pub(crate) fn stream_request(target: &str, lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n{lines}\r\n")
}

impl EventStream {
    /// Asks for a stream on a new connection. Its first event is read and returned too.
    #[track_caller]
    pub(crate) fn open(address: SocketAddr, target: &str) -> (EventStream, ServerEvent) {
        let mut stream = EventStream::ask(dial(address), &stream_request(target, ""));
        assert_eq!(stream.head.status(), 200, "{stream:?}");
        let first = stream.event();
        (stream, first)
    }

    /// Sends a request, and reads the head of the response and the comment that follows it.
    #[track_caller]
    pub(crate) fn ask(mut stream: TcpStream, request: &str) -> EventStream {
        stream.write_all(request.as_bytes()).unwrap();
        let mut received = Vec::new();
        let (head, length) = loop {
            if let Some(head) = ResponseHead::decode(&received).unwrap() {
                break head;
            }
            assert!(read_more(&mut stream, &mut received), "the response has a head: {received:?}");
        };
        received.drain(..length);
        let is_chunked = head.headers().list_contains("transfer-encoding", "chunked");
        let mut stream = EventStream { stream, head, is_chunked, received, text: String::new(), has_ended: false };
        if stream.header("content-length").is_none() {
            while stream.text.len() < 2 {
                assert!(stream.receive(), "{stream:?}");
            }
            assert!(stream.text.starts_with(":\n"), "{stream:?}");
            stream.text.drain(..2);
        }
        stream
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| str::from_utf8(value).unwrap())
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Returns the next event, and passes comments.
    #[track_caller]
    pub(crate) fn event(&mut self) -> ServerEvent {
        self.next().unwrap_or_else(|| panic!("the stream goes on: {self:?}"))
    }

    /// Returns the next event; `None` at the end of the stream.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<ServerEvent> {
        loop {
            while self.text.starts_with(":\n") {
                self.text.drain(..2);
            }
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                return Some(read_block(&block));
            }
            if !self.receive() {
                assert!(self.text.is_empty(), "the stream ends within a block: {self:?}");
                return None;
            }
        }
    }

    /// Returns the next byte that is not decoded yet; `None` at the end of the connection.
    #[track_caller]
    pub(crate) fn next_byte(&mut self) -> Option<u8> {
        if self.received.is_empty() && !read_more(&mut self.stream, &mut self.received) {
            return None;
        }
        Some(self.received.remove(0))
    }

    /// Reads the last event, and then the end of the stream.
    #[track_caller]
    pub(crate) fn close_event(&mut self) -> ServerEvent {
        let event = self.event();
        assert_eq!(event.event, "close", "{event:?}");
        assert_eq!(self.next(), None);
        event
    }

    /// Decodes more of the stream. Returns whether there was more.
    #[track_caller]
    fn receive(&mut self) -> bool {
        loop {
            if self.is_chunked && self.take_chunk() {
                return !self.has_ended;
            }
            if !self.is_chunked && !self.received.is_empty() {
                let text =
                    String::from_utf8(std::mem::take(&mut self.received)).expect("a test's characters are whole");
                self.text += &text;
                return true;
            }
            if !read_more(&mut self.stream, &mut self.received) {
                assert!(!self.is_chunked || self.has_ended, "the last chunk is missing: {self:?}");
                return false;
            }
        }
    }

    /// Takes a whole chunk out of the received bytes. Returns whether there was one.
    #[track_caller]
    fn take_chunk(&mut self) -> bool {
        let Some(line) = self.received.windows(2).position(|pair| pair == b"\r\n") else { return false };
        let size = str::from_utf8(&self.received[..line]).unwrap();
        assert!(size.len() <= 8 && !(size.starts_with('0') && size.len() > 1), "the size of a chunk: {size:?}");
        let size = usize::from_str_radix(size, 16).unwrap();
        let end = line + 2 + size;
        if self.received.len() < end + 2 {
            return false;
        }
        assert_eq!(&self.received[end..end + 2], b"\r\n");
        self.text += str::from_utf8(&self.received[line + 2..end]).expect("each chunk is text");
        assert!(size == 0 || self.text.ends_with('\n'), "each chunk is whole lines: {self:?}");
        self.received.drain(..end + 2);
        if size == 0 {
            self.has_ended = true;
            assert!(!read_more(&mut self.stream, &mut self.received), "nothing follows the stream: {self:?}");
        }
        true
    }
}

/// Reads a block as WHATWG HTML 9.2.6 says, and fails where the server may write nothing such.
#[track_caller]
fn read_block(block: &str) -> ServerEvent {
    let (mut event, mut data) = (ServerEvent::default(), Vec::new());
    for line in block.trim_end_matches('\n').split('\n') {
        let (field, value) = line.split_once(':').unwrap_or_else(|| panic!("no field: {line:?} of {block:?}"));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.event = value.into(),
            "id" => event.id = Some(value.into()),
            "retry" => event.retry = Some(value.parse().unwrap()),
            "data" => data.push(value),
            _ => panic!("an unknown field: {block:?}"),
        }
    }
    assert!(!data.is_empty(), "every block of the server has data: {block:?}");
    event.data = data.join("\n");
    event
}

/// Reads more bytes. Returns whether there were any before the end of the connection.
#[track_caller]
fn read_more(stream: &mut TcpStream, received: &mut Vec<u8>) -> bool {
    let mut bytes = [0; 16 * 1_024];
    match stream.read(&mut bytes) {
        Ok(0) => false,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
        read => {
            received.extend_from_slice(&bytes[..read.unwrap_or_else(|error| panic!("{error} after {received:?}"))]);
            true
        }
    }
}
