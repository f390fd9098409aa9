//! A server of raw topics on fastwebsockets, with a task that reads and a task that writes for each client.
//!
//! The crate writes each frame to its stream at once. So the stream is a `BufWriter`: the task that writes puts all
//! messages that are there into the buffer, and flushes it once.

use bytes::Bytes;
use fastwebsockets::{
    FragmentCollectorRead, Frame, OpCode, Payload, Role, WebSocketError, WebSocketWrite, after_handshake_split,
};
use ringhub_peers::{Subscriber, Topics, Wish, serve};
use std::error::Error;
use tokio::io::BufWriter;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A message of a client.
#[derive(Clone)]
struct Message {
    is_text: bool,
    payload: Bytes,
}

type Writer = WebSocketWrite<BufWriter<OwnedWriteHalf>>;
type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Box<dyn Error>> {
    let topics = Topics::default();
    serve(move |stream, wish| client(stream, wish, topics.clone()))
}

async fn client(stream: TcpStream, wish: Wish, topics: Topics<Message>) -> Result<(), Failure> {
    let (input, output) = stream.into_split();
    let output = BufWriter::with_capacity(WRITE_BUFFER, output);
    let (reader, writer) = after_handshake_split(input, output, Role::Server);
    let mut reader = FragmentCollectorRead::new(reader);
    let (publisher, subscriber) = topics.join(&wish);
    let (answers, answered) = unbounded_channel();
    let writes = tokio::spawn(write(writer, subscriber, answered));
    let mut answer = move |frame: Frame<'static>| std::future::ready(answers.send(frame));
    loop {
        match reader.read_frame(&mut answer).await {
            Ok(frame) if matches!(frame.opcode, OpCode::Text | OpCode::Binary) => {
                let is_text = frame.opcode == OpCode::Text;
                let payload = match frame.payload {
                    Payload::Bytes(payload) => payload.freeze(),
                    payload => Bytes::from(Vec::from(payload)),
                };
                publisher.publish(Message { is_text, payload });
            }
            Ok(frame) if frame.opcode == OpCode::Close => break,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    // Without the sender of answers, the task that writes ends.
    drop(answer);
    writes.await?
}

/// Writes what is published, and the answers to pings and closes, until the task that reads has ended.
async fn write(
    mut writer: Writer,
    mut subscriber: Subscriber<Message>,
    mut answers: UnboundedReceiver<Frame<'static>>,
) -> Result<(), Failure> {
    loop {
        tokio::select! {
            answer = answers.recv() => match answer {
                Some(frame) => writer.write_frame(frame).await?,
                None => return Ok(()),
            },
            published = subscriber.next() => {
                write_message(&mut writer, &published?).await?;
                while let Some(message) = subscriber.next_now()? {
                    write_message(&mut writer, &message).await?;
                }
            }
        }
        writer.flush().await?;
    }
}

async fn write_message(writer: &mut Writer, message: &Message) -> Result<(), WebSocketError> {
    let payload = Payload::Borrowed(&message.payload);
    writer.write_frame(if message.is_text { Frame::text(payload) } else { Frame::binary(payload) }).await
}

const WRITE_BUFFER: usize = 64 << 10;
