//! A server of raw topics on sockudo-ws and its `PubSub`, with a task and a channel for each client, as in the crate's
//! example `pubsub_echo`.
//!
//! The example splits the stream, and each send on a split stream is a write of its own. This server keeps the stream
//! whole, and writes all messages that are there with `feed` and then `flush`, as the documentation of
//! `Config::write_coalescing` says. Pings and timeouts are off. The crate's allocator, mimalloc, is on.

use futures_util::{SinkExt, StreamExt};
use ringhub_peers::{Wish, serve};
use sockudo_ws::pubsub::PubSub;
use sockudo_ws::{Config, Message, WebSocketStream};
use std::error::Error;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::mpsc::unbounded_channel;

fn main() -> Result<(), Box<dyn Error>> {
    let topics = Arc::new(PubSub::new());
    serve(move |stream, wish| client(stream, wish, Arc::clone(&topics)))
}

async fn client(stream: TcpStream, wish: Wish, topics: Arc<PubSub>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let config = Config::builder().auto_ping(false).idle_timeout(0).max_frame_size(64 << 20).build();
    let mut socket = WebSocketStream::server(stream, config);
    let (channel, mut published) = unbounded_channel();
    let number = topics.create_subscriber(channel);
    if wish.receives {
        topics.subscribe(number, &wish.topic);
    }
    let done = loop {
        tokio::select! {
            arrived = socket.next() => match arrived {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if wish.has_echo {
                        topics.publish(&wish.topic, message);
                    } else {
                        topics.publish_excluding(number, &wish.topic, message);
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => break Ok(()),
                Some(Ok(_)) => {}
            },
            Some(message) = published.recv() => {
                let mut sent = socket.feed(message).await;
                while let (Ok(()), Ok(message)) = (&sent, published.try_recv()) {
                    sent = socket.feed(message).await;
                }
                if let Err(error) = sent.and(socket.flush().await) {
                    break Err(error.into());
                }
            }
        }
    };
    topics.remove_subscriber(number);
    done
}
