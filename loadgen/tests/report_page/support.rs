//! The client of the DevTools protocol: messages of text over a WebSocket.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use tungstenite::Message;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};

/// The longest wait for the browser.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A connection to the browser.
pub(crate) struct Client {
    socket: WebSocket<TcpStream>,
}

/// What the browser sends.
pub(crate) enum Received {
    /// A message.
    Text(String),
    /// The end of the connection, or anything else.
    Other,
}

impl Client {
    /// Opens a connection with the key of RFC 6455's example.
    pub(crate) fn connect(address: SocketAddr, target: &str) -> Client {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        write!(
            stream,
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        // A screenshot is one message.
        let config = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
        Client { socket: WebSocket::from_raw_socket(stream, Role::Client, Some(config)) }
    }

    /// Sends a message.
    pub(crate) fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// Returns the next message.
    pub(crate) fn receive(&mut self) -> Received {
        match self.socket.read() {
            Ok(Message::Text(text)) => Received::Text(text.as_str().to_owned()),
            _ => Received::Other,
        }
    }
}
