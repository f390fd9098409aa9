//! A server of raw topics on tokio-tungstenite, with a task for each client.
//!
//! The task writes all messages that are there with `feed`, which gathers them in tungstenite's write buffer, and then
//! flushes once. The read buffers have the sizes that tungstenite's documentation suggests for many connections and for
//! a high read load.

use futures_util::{SinkExt, StreamExt};
use ringhub_peers::{Topics, Wish, serve};
use std::error::Error;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let topics = Topics::default();
    serve(move |stream, wish| client(stream, wish, topics.clone()))
}

async fn client(stream: TcpStream, wish: Wish, topics: Topics<Message>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let read_buffer_size = if wish.receives { 4 << 10 } else { 128 << 10 };
    let config = WebSocketConfig::default().read_buffer_size(read_buffer_size).max_frame_size(Some(64 << 20));
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    let (publisher, mut subscriber) = topics.join(&wish);
    loop {
        tokio::select! {
            arrived = socket.next() => match arrived {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => publisher.publish(message),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(()),
            },
            published = subscriber.next() => {
                socket.feed(published?).await?;
                while let Some(message) = subscriber.next_now()? {
                    socket.feed(message).await?;
                }
                socket.flush().await?;
            }
        }
    }
}
