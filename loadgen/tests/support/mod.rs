//! A broadcast server for tests, which may keep messages to itself.

use std::io::{self, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

/// The messages that the server sends to all subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    All,
    AllButTheFirst,
    Nothing,
}

/// Starts a server, and returns its address, and a receiver of an entry for each published message.
pub(crate) fn broadcaster(echo: Echo) -> (String, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = mpsc::channel();
    let topic = Arc::new(Mutex::new(Topic { subscribers: Vec::new(), messages: 0, echo }));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (topic, sender) = (Arc::clone(&topic), sender.clone());
            // The generator may reset its connections at its end, which is no failure.
            thread::spawn(move || drop(converse(stream.unwrap(), &topic, &sender)));
        }
    });
    (address, receiver)
}

struct Topic {
    subscribers: Vec<TcpStream>,
    messages: usize,
    echo: Echo,
}

fn converse(mut stream: TcpStream, topic: &Mutex<Topic>, published: &Sender<()>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(bytes::<1>(&mut reader)?);
    }
    let mut topic_now = topic.lock().unwrap();
    stream.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    )?;
    if !head.windows(8).any(|window| window == b"mode=pub") {
        topic_now.subscribers.push(stream);
    }
    drop(topic_now);
    loop {
        let [first, second] = bytes(&mut reader)?;
        let mut length = u64::from(second & 0x7f);
        let mut header = vec![first, second & 0x7f];
        if length == 126 {
            let extended = bytes::<2>(&mut reader)?;
            header.extend(extended);
            length = u64::from(u16::from_be_bytes(extended));
        }
        let key = bytes::<4>(&mut reader)?;
        let mut payload = vec![0; length as usize];
        reader.read_exact(&mut payload)?;
        payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        let mut topic = topic.lock().unwrap();
        let is_sent = match topic.echo {
            Echo::All => true,
            Echo::AllButTheFirst => topic.messages > 0,
            Echo::Nothing => false,
        };
        topic.messages += 1;
        let frame = [header, payload].concat();
        for subscriber in topic.subscribers.iter_mut().filter(|_| is_sent) {
            // A subscriber may be gone at the end of a run.
            drop(subscriber.write_all(&frame));
        }
        // A test may have no interest in the messages.
        _ = published.send(());
    }
}

fn bytes<const COUNT: usize>(reader: &mut impl Read) -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}
