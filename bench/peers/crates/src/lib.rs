//! What the servers on crates share: the listener, the opening handshake, and topics by tokio's broadcast channel.
//!
//! A server speaks the paths and queries of the hub's raw topics: `GET /t/{topic}` subscribes, and what a client sends
//! is published unchanged. A client with `mode=pub` does not receive, and one with `echo=true` gets its own messages.
//! Nothing is logged, and no pings are sent.

use std::collections::HashMap;
use std::error::Error;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::broadcast::{self, Receiver, Sender};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// What a client asks for in its opening request.
#[derive(Debug, PartialEq, Eq)]
pub struct Wish {
    pub topic: String,
    pub receives: bool,
    pub has_echo: bool,
}

/// Listens at the address in the first argument, and runs `client` for each client after its opening handshake, all on
/// this thread. Returns if the listener fails.
///
/// # Errors
/// A wrong argument, or the error of the listener.
pub fn serve<F, R>(client: F) -> Result<(), Box<dyn Error>>
where
    F: Fn(TcpStream, Wish) -> R + Clone + Send + 'static,
    R: Future<Output = Result<(), Box<dyn Error + Send + Sync>>> + Send,
{
    let address = std::env::args().nth(1).ok_or("the address to listen on is missing")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = TcpListener::bind(&address).await?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            let client = client.clone();
            tokio::spawn(async move {
                // Whoever only checks whether the port is open, sends no handshake.
                let Ok(wish) = shake_hands(&mut stream).await else { return };
                if let Err(error) = client(stream, wish).await {
                    eprintln!("a connection has ended: {error}");
                }
            });
        }
    })
}

async fn shake_hands(stream: &mut TcpStream) -> io::Result<Wish> {
    stream.set_nodelay(true)?;
    let mut head = Vec::with_capacity(1_024);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > HEAD_MAX || stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    match wish(&head) {
        Ok((wish, key)) => {
            let accept = derive_accept_key(key.as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await?;
            Ok(wish)
        }
        Err(why) => {
            let answer =
                format!("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{why}", why.len());
            stream.write_all(answer.as_bytes()).await?;
            Err(io::Error::other(why))
        }
    }
}

/// Returns what an opening request asks for, and its key.
fn wish(head: &[u8]) -> Result<(Wish, String), &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let is_whole = request.parse(head).is_ok_and(|status| status.is_complete());
    let target = request.path.filter(|_| is_whole).ok_or("this is no request")?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let topic = path.strip_prefix("/t/").ok_or("the paths are /t/{topic}")?.to_owned();
    let has = |pair: &str| query.split('&').any(|other| other == pair);
    let wish = Wish { topic, receives: !has("mode=pub"), has_echo: has("echo=true") };
    let key = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-key"));
    let key = key.and_then(|header| std::str::from_utf8(header.value).ok()).ok_or("the key is missing")?;
    Ok((wish, key.to_owned()))
}

/// The channels of the topics. A topic stays until the server ends.
pub struct Topics<M> {
    channels: Arc<Mutex<HashMap<String, Sender<Published<M>>>>>,
}

/// A message and the number of the client that has sent it.
#[derive(Clone)]
struct Published<M> {
    sender: u64,
    message: M,
}

/// A client's way into the channel of its topic.
pub struct Publisher<M> {
    channel: Sender<Published<M>>,
    number: u64,
}

/// A client's way out of the channel of its topic.
pub struct Subscriber<M> {
    /// `None` if the client does not receive.
    receiver: Option<Receiver<Published<M>>>,
    /// The number of the client whose messages are left out.
    excluded: Option<u64>,
}

impl<M> Clone for Topics<M> {
    fn clone(&self) -> Self {
        Topics { channels: Arc::clone(&self.channels) }
    }
}

impl<M: Clone> Default for Topics<M> {
    fn default() -> Self {
        Topics { channels: Arc::default() }
    }
}

impl<M: Clone> Topics<M> {
    /// Joins the topic of the wish.
    pub fn join(&self, wish: &Wish) -> (Publisher<M>, Subscriber<M>) {
        static CLIENTS: AtomicU64 = AtomicU64::new(0);
        let number = CLIENTS.fetch_add(1, Ordering::Relaxed);
        let mut channels = self.channels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let channel = channels.entry(wish.topic.clone()).or_insert_with(|| broadcast::channel(CHANNEL_MAX).0).clone();
        let receiver = wish.receives.then(|| channel.subscribe());
        let excluded = (!wish.has_echo).then_some(number);
        (Publisher { channel, number }, Subscriber { receiver, excluded })
    }
}

impl<M: Clone> Publisher<M> {
    pub fn publish(&self, message: M) {
        // An error means that the topic has no subscriber.
        drop(self.channel.send(Published { sender: self.number, message }));
    }
}

impl<M: Clone> Subscriber<M> {
    /// Waits for the next message. Does not return if the client does not receive.
    ///
    /// # Errors
    /// The client was too slow, and has lost messages.
    pub async fn next(&mut self) -> Result<M, &'static str> {
        let Some(receiver) = &mut self.receiver else { return std::future::pending().await };
        loop {
            let Published { sender, message } = receiver.recv().await.map_err(|_| TOO_SLOW)?;
            if Some(sender) != self.excluded {
                return Ok(message);
            }
        }
    }

    /// Returns the next message, if it is there already.
    ///
    /// # Errors
    /// The client was too slow, and has lost messages.
    pub fn next_now(&mut self) -> Result<Option<M>, &'static str> {
        let Some(receiver) = &mut self.receiver else { return Ok(None) };
        loop {
            match receiver.try_recv() {
                Ok(Published { sender, message }) if Some(sender) != self.excluded => return Ok(Some(message)),
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => return Err(TOO_SLOW),
            }
        }
    }
}

const TOO_SLOW: &str = "a subscriber was too slow";
const HEAD_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// The messages of a topic that a subscriber may be behind.
const CHANNEL_MAX: usize = 4_096;
