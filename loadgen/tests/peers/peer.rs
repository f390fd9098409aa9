//! Servers that speak the protocol of a preset as far as the generator uses it, and make one mistake if they are told
//! to.

use serde_json::{Value, json};
use std::io::{Read, Result, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The protocol of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// Every message goes to all other connections on the same path.
    Raw,
    /// Every message goes back.
    Echo,
    Nchan,
    Nats,
    Socketio,
    Pusher,
    Centrifuge,
}

/// The mistake of a peer, with message [`AT`] to the first subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Lose,
    Repeat,
    Swap,
    Corrupt,
    Invent,
    /// Sends no message any more.
    Stall,
    /// Ends the subscriber's connection.
    CloseEarly,
    /// Ends the publisher's connection after this message.
    ClosePublisher,
    /// Ends all connections after this message, as a server that dies.
    Die,
    /// Is busy for this time before it sends a message, on the first CPU.
    Busy(Duration),
    /// Refuses every opening with a reason in the body.
    Refuse,
    /// Hangs up on connections from this number on, five times.
    HangUpFrom(usize),
    /// Hangs up on every connection from this number on.
    HangUpSince(usize),
    /// Ends the connection after each answer to a request that publishes.
    OneRequest,
    /// Does not answer a request that publishes, from message [`AT`] on.
    AnswerNoMore,
    /// Cuts the last byte of a message off.
    Truncate,
    /// Sends empty pongs to the first subscriber without end.
    Flood,
    /// Does nothing for a while.
    Pause(Duration),
    /// Refuses a message that publishes.
    RefusePublish,
}

pub(crate) const AT: usize = 5;

/// A running peer. Its threads end with the process.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The subscribers with their topics.
    subscribers: Vec<(String, TcpStream)>,
    messages: usize,
    held: Vec<u8>,
    heads: Vec<String>,
    sources: Vec<SocketAddr>,
    sizes: Vec<usize>,
    pongs: usize,
    connections: usize,
}

enum Action {
    Reply(Vec<u8>),
    Subscribe(String),
    Publish(String, Vec<u8>),
    Pong,
}

impl Peer {
    pub(crate) fn start(speech: Speech, fault: Fault) -> Peer {
        Peer::start_at("127.0.0.1:0", speech, fault)
    }

    pub(crate) fn start_at(address: &str, speech: Speech, fault: Fault) -> Peer {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.unwrap(), Arc::clone(&shared));
                thread::spawn(move || drop(converse(stream, speech, fault, &shared)));
            }
        });
        Peer { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Returns the heads of all requests.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.state.lock().unwrap().heads.clone()
    }

    pub(crate) fn sources(&self) -> Vec<SocketAddr> {
        self.state.lock().unwrap().sources.clone()
    }

    pub(crate) fn sizes(&self) -> Vec<usize> {
        self.state.lock().unwrap().sizes.clone()
    }

    pub(crate) fn pongs(&self) -> usize {
        self.state.lock().unwrap().pongs
    }
}

fn converse(mut stream: TcpStream, speech: Speech, fault: Fault, shared: &Mutex<State>) -> Result<()> {
    stream.set_nodelay(true)?;
    let source = stream.peer_addr()?;
    let number = {
        let mut state = shared.lock().unwrap();
        state.connections += 1;
        state.sources.push(source);
        state.connections
    };
    if matches!(fault, Fault::HangUpFrom(first) if (first..first + 5).contains(&number)) {
        return Ok(());
    }
    if matches!(fault, Fault::HangUpSince(first) if number >= first) {
        return Ok(());
    }
    loop {
        let head = read_head(&mut stream)?;
        shared.lock().unwrap().heads.push(head.clone());
        if !head.starts_with("POST ") {
            return websocket(stream, &head, speech, fault, shared);
        }
        let length = header(&head, "content-length").and_then(|value| value.parse().ok()).unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let path = head.split(' ').nth(1).unwrap();
        let (topic, payload) = if speech == Speech::Pusher {
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert!(path.starts_with("/apps/7/events?auth_key=abc&") && path.contains("&auth_signature="), "{path}");
            (body["channels"][0].as_str().unwrap().to_owned(), body["data"].as_str().unwrap().as_bytes().to_vec())
        } else {
            (path.rsplit(['=', '/']).next().unwrap().to_owned(), body)
        };
        if fault == Fault::RefusePublish && shared.lock().unwrap().messages == AT {
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 10\r\n\r\nno rights\n")?;
            continue;
        }
        if fault == Fault::AnswerNoMore && shared.lock().unwrap().messages == AT {
            // Until the generator leaves.
            return stream.read_exact(&mut [0]);
        }
        publish(shared, speech, fault, &topic, &payload, source)?;
        if fault == Fault::OneRequest {
            return stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")?;
    }
}

fn websocket(mut stream: TcpStream, head: &str, speech: Speech, fault: Fault, shared: &Mutex<State>) -> Result<()> {
    if fault == Fault::Refuse {
        return stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 17\r\n\r\nno token,\r\n sorry");
    }
    let source = stream.peer_addr()?;
    let path = head.split(' ').nth(1).unwrap().to_owned();
    let mut state = shared.lock().unwrap();
    stream.write_all(ACCEPTED)?;
    for message in greeting(speech) {
        stream.write_all(&frame(speech, &message))?;
    }
    let (place, mode) = path.split_once("?mode=").unwrap_or((&path, "both"));
    let path_topic = place.rsplit(['=', '/']).next().unwrap().to_owned();
    if matches!(speech, Speech::Raw | Speech::Nchan) && mode != "pub" {
        state.subscribers.push((path_topic.clone(), stream.try_clone()?));
    }
    drop(state);
    loop {
        let payload = read_message(&mut stream)?;
        let actions = match speech {
            Speech::Raw | Speech::Nchan => vec![Action::Publish(path_topic.clone(), payload)],
            Speech::Echo => vec![Action::Reply(payload)],
            Speech::Nats => nats(&payload),
            Speech::Socketio => socketio(&payload),
            Speech::Pusher => pusher(&payload),
            Speech::Centrifuge => centrifuge(&payload),
        };
        for action in actions {
            match action {
                Action::Reply(text) => {
                    let mut state = shared.lock().unwrap();
                    state.messages += usize::from(speech == Speech::Echo);
                    if !(speech == Speech::Echo && fault == Fault::Lose && state.messages == AT) {
                        stream.write_all(&frame(speech, &text))?;
                    }
                }
                Action::Subscribe(topic) => shared.lock().unwrap().subscribers.push((topic, stream.try_clone()?)),
                Action::Pong => shared.lock().unwrap().pongs += 1,
                Action::Publish(topic, payload) => {
                    publish(shared, speech, fault, &topic, &payload, source)?;
                    if fault == Fault::ClosePublisher && shared.lock().unwrap().messages > AT {
                        // The socket still takes what nobody will read.
                        thread::sleep(Duration::from_millis(200));
                        return stream.shutdown(Shutdown::Both);
                    }
                    if fault == Fault::Die && shared.lock().unwrap().messages > AT {
                        for (_, subscriber) in &shared.lock().unwrap().subscribers {
                            subscriber.shutdown(Shutdown::Both)?;
                        }
                        return stream.shutdown(Shutdown::Both);
                    }
                }
            }
        }
    }
}

/// Sends a message to the subscribers of a topic, except to the one that published it.
fn publish(
    shared: &Mutex<State>,
    speech: Speech,
    fault: Fault,
    topic: &str,
    payload: &[u8],
    source: SocketAddr,
) -> Result<()> {
    let mut state = shared.lock().unwrap();
    let at = state.messages;
    state.messages += 1;
    state.sizes.push(payload.len());
    if let (Fault::Pause(time), AT) = (fault, at) {
        thread::sleep(time);
    }
    if let Fault::Busy(time) = fault {
        let first = core_affinity::get_core_ids().unwrap()[0];
        assert!(core_affinity::set_for_current(first));
        let end = Instant::now() + time;
        while Instant::now() < end {}
    }
    let subscribers = std::mem::take(&mut state.subscribers);
    for (index, (own, subscriber)) in subscribers.iter().enumerate() {
        if own != topic || subscriber.peer_addr().is_ok_and(|address| address == source) {
            continue;
        }
        let whole = frame(speech, &delivery(speech, topic, payload));
        let foreign = frame(speech, &delivery(speech, topic, b"hello"));
        let (mut changed, last) = (payload.to_vec(), payload.len() - 1);
        changed[last] = b'#';
        let bytes = match (fault, at) {
            _ if index != 0 => whole,
            (Fault::Lose, AT) => Vec::new(),
            (Fault::Repeat, AT) => whole.repeat(2),
            (Fault::Swap, AT) => {
                state.held = whole;
                Vec::new()
            }
            (Fault::Corrupt, AT) => frame(speech, &delivery(speech, topic, &changed)),
            (Fault::Truncate, AT) => frame(speech, &delivery(speech, topic, &payload[..last])),
            (Fault::Flood, 0) => {
                let mut flooded = subscriber.try_clone()?;
                thread::spawn(move || while flooded.write_all(&b"\x8a\x00".repeat(1 << 16)).is_ok() {});
                whole
            }
            (Fault::Flood, _) => Vec::new(),
            (Fault::Invent, AT) => [foreign, whole].concat(),
            (Fault::Stall, AT..) => Vec::new(),
            (Fault::CloseEarly, AT..) => {
                subscriber.shutdown(Shutdown::Both).unwrap_or_default();
                continue;
            }
            _ => [whole, std::mem::take(&mut state.held)].concat(),
        };
        let mut subscriber = subscriber;
        // A subscriber may have left.
        subscriber.write_all(&bytes).unwrap_or_default();
        if let Some(ping) = ping(speech).filter(|_| at == AT) {
            subscriber.write_all(&frame(speech, &ping)).unwrap_or_default();
        }
    }
    state.subscribers = subscribers;
    Ok(())
}

fn greeting(speech: Speech) -> Vec<Vec<u8>> {
    match speech {
        Speech::Nats => vec![b"INFO {\"server_id\":\"x\",\"max_payload\":1048576}\r\n".to_vec()],
        Speech::Socketio => vec![br#"0{"sid":"a","upgrades":[],"pingInterval":25000}"#.to_vec()],
        Speech::Pusher => {
            let data = json!({"socket_id": "1.2", "activity_timeout": 120}).to_string();
            vec![json!({"event": "pusher:connection_established", "data": data}).to_string().into_bytes()]
        }
        _ => Vec::new(),
    }
}

fn ping(speech: Speech) -> Option<Vec<u8>> {
    match speech {
        Speech::Nats => Some(b"PING\r\n".to_vec()),
        Speech::Socketio => Some(b"2".to_vec()),
        Speech::Pusher => Some(br#"{"event":"pusher:ping","data":"{}"}"#.to_vec()),
        Speech::Centrifuge => Some(b"{}\n".to_vec()),
        Speech::Raw | Speech::Echo | Speech::Nchan => None,
    }
}

/// Returns a delivery as the real server sends it.
fn delivery(speech: Speech, topic: &str, payload: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(payload);
    match speech {
        Speech::Raw | Speech::Echo | Speech::Nchan => payload.to_vec(),
        Speech::Nats => [format!("MSG {topic} 1 {}\r\n", payload.len()).as_bytes(), payload, b"\r\n"].concat(),
        Speech::Socketio => format!("42{}", json!(["message", text])).into_bytes(),
        Speech::Pusher => json!({"event": "message", "channel": topic, "data": text}).to_string().into_bytes(),
        Speech::Centrifuge => {
            json!({"push": {"channel": topic, "pub": {"data": text, "offset": 5}}}).to_string().into_bytes()
        }
    }
}

fn nats(stream: &[u8]) -> Vec<Action> {
    let (mut actions, mut rest) = (Vec::new(), stream);
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let line = String::from_utf8(rest[..end].to_vec()).unwrap();
        rest = &rest[end + 2..];
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["CONNECT", options] => drop(serde_json::from_str::<Value>(options).unwrap()),
            ["PING"] => actions.push(Action::Reply(b"PONG\r\n".to_vec())),
            ["PONG"] => actions.push(Action::Pong),
            ["SUB", topic, id] => {
                assert!(id.parse::<u64>().is_ok());
                actions.push(Action::Subscribe(topic.to_owned()));
            }
            ["PUB", topic, size] => {
                let size: usize = size.parse().unwrap();
                actions.push(Action::Publish(topic.to_owned(), rest[..size].to_vec()));
                assert_eq!(&rest[size..size + 2], b"\r\n");
                rest = &rest[size + 2..];
            }
            _ => panic!("{line}"),
        }
    }
    assert!(rest.is_empty());
    actions
}

fn socketio(text: &[u8]) -> Vec<Action> {
    let text = std::str::from_utf8(text).unwrap();
    match text {
        "40" => return vec![Action::Reply(br#"40{"sid":"b"}"#.to_vec())],
        "3" => return vec![Action::Pong],
        _ => {}
    }
    let array = &text[text.find('[').unwrap()..];
    let event: Vec<String> = serde_json::from_str(array).unwrap();
    match (&text[..text.len() - array.len()], event.iter().map(String::as_str).collect::<Vec<_>>()[..].as_ref()) {
        ("420", ["subscribe", topic]) => {
            vec![Action::Subscribe((*topic).to_owned()), Action::Reply(b"430[]".to_vec())]
        }
        ("42", ["publish", topic, payload]) => {
            vec![Action::Publish((*topic).to_owned(), payload.as_bytes().to_vec())]
        }
        _ => panic!("{text}"),
    }
}

fn pusher(text: &[u8]) -> Vec<Action> {
    let message: Value = serde_json::from_slice(text).unwrap();
    match message["event"].as_str().unwrap() {
        "pusher:subscribe" => {
            let channel = message["data"]["channel"].as_str().unwrap();
            let reply = json!({"event": "pusher_internal:subscription_succeeded", "channel": channel, "data": "{}"});
            vec![Action::Subscribe(channel.to_owned()), Action::Reply(reply.to_string().into_bytes())]
        }
        "pusher:pong" => vec![Action::Pong],
        other => panic!("{other}"),
    }
}

fn centrifuge(text: &[u8]) -> Vec<Action> {
    let lines = std::str::from_utf8(text).unwrap().lines();
    lines.flat_map(|line| centrifuge_command(&serde_json::from_str(line).unwrap())).collect()
}

fn centrifuge_command(command: &Value) -> Vec<Action> {
    let id = &command["id"];
    // A real server writes the id first, which `json!` does not.
    let reply = |name: &str| Action::Reply(format!("{{\"id\":{id},\"{name}\":{{}}}}\n").into_bytes());
    let channel = |name: &str| command[name]["channel"].as_str().unwrap().to_owned();
    if command == &json!({}) {
        return vec![Action::Pong];
    }
    assert!(id.as_u64().is_some_and(|id| (1..=u64::from(u32::MAX)).contains(&id)), "{command}");
    if command.get("connect").is_some() {
        vec![reply("connect")]
    } else if command.get("subscribe").is_some() {
        vec![Action::Subscribe(channel("subscribe")), reply("subscribe")]
    } else {
        let payload = command["publish"]["data"].as_str().unwrap().as_bytes().to_vec();
        vec![Action::Publish(channel("publish"), payload), reply("publish")]
    }
}

pub(crate) const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

pub(crate) fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

pub(crate) fn read_head(stream: &mut impl Read) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head).unwrap())
}

fn frame(speech: Speech, payload: &[u8]) -> Vec<u8> {
    let first = if speech == Speech::Nats { 0x82 } else { 0x81 };
    let length = match payload.len() {
        length @ 0..=125 => vec![length as u8],
        length @ 126..=65_535 => [&[126], &(length as u16).to_be_bytes()[..]].concat(),
        length => [&[127], &(length as u64).to_be_bytes()[..]].concat(),
    };
    [&[first], &length[..], payload].concat()
}

/// Reads a masked text or binary message; an error at its close frame.
pub(crate) fn read_message(stream: &mut impl Read) -> Result<Vec<u8>> {
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    assert!(head[1] & 0x80 != 0, "a client masks");
    let extended = match head[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut digits = [0; 8];
    stream.read_exact(&mut digits[8 - extended..])?;
    let length = if extended == 0 { u64::from(head[1] & 0x7f) } else { u64::from_be_bytes(digits) };
    let mut key = [0; 4];
    stream.read_exact(&mut key)?;
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload)?;
    payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    if head[0] & 0x0f == 8 { Err(std::io::ErrorKind::ConnectionAborted.into()) } else { Ok(payload) }
}
