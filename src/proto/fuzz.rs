//! The bodies of the fuzz targets: each takes any bytes and panics on a broken invariant. Tests run them too.

use super::{
    CloseCode, CloseFrame, Deliver, Event, Fin, Fragment, FrameHeader, HandshakeError, HeadScan, Input, MessageLimits,
    MessageType, OpCode, PreparedMessage, ProtocolError, ProxyHeader, RequestHead, ResponseHead, Role, State, Tick,
    Upgrade, Verdict, WebSocket, encode_frame, encode_masked, forwarded_for, masking, x_forwarded_for,
};
use bytes::BytesMut;

/// Checks that a header which can be decoded is encoded to the same bytes, and that each of its prefixes asks for more.
/// A prefix of a refused header asks for more, or is refused for the same reason.
pub fn frame_header(bytes: &[u8]) {
    let whole = FrameHeader::decode(bytes);
    for len in 0..bytes.len().min(FrameHeader::LEN_MAX) {
        match FrameHeader::decode(&bytes[..len]) {
            Ok(None) => {}
            early => assert_eq!(early, whole, "after {len} bytes"),
        }
    }
    if let Ok(Some((header, header_len))) = whole {
        let mut encoded = [0; FrameHeader::LEN_MAX];
        assert_eq!(header.encode(&mut encoded), header_len);
        assert_eq!(header.encoded_len(), header_len);
        assert_eq!(encoded[..header_len], bytes[..header_len]);
    }
}

/// Checks that any split of the input gives the same events, replies and frames for a hook. Fragments delivered one by
/// one must make the messages that are delivered whole, and a hook that lets everything pass must change nothing. The
/// first two bytes choose the role, the form of the other bytes (frames, or a recipe for frames), and where the input
/// is split. They also choose whether the connection is closed on the way, whether text is checked, how messages are
/// delivered, and whether there is a hook.
pub fn receive(bytes: &[u8]) {
    let [choice, seed, rest @ ..] = bytes else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client { masking_seed: [*seed; 16] } };
    let stream = if choice & 2 == 0 { rest.to_vec() } else { bake(role, rest) };
    let close_at = (choice & 4 != 0).then(|| usize::from(*seed) * stream.len() / 256);
    let checks_utf8 = choice & 8 == 0;
    let deliver = if choice & 16 == 0 { Deliver::Messages } else { Deliver::Fragments };
    let hook = (choice & 32 != 0).then_some(judge as Hook);
    let script = Script { role, limits: MessageLimits { checks_utf8, deliver, ..TIGHT_LIMITS }, close_at, hook };
    let whole = script.run(&stream, usize::MAX);
    assert_eq!(script.run(&stream, 1), whole);
    assert_eq!(script.run(&stream, 2 + usize::from(*seed)), whole);
    assert_eq!(script.run_at_random(&stream, *seed), whole);

    let other = match deliver {
        Deliver::Messages => Deliver::Fragments,
        Deliver::Fragments => Deliver::Messages,
    };
    let delivered_otherwise = Script { limits: MessageLimits { deliver: other, ..script.limits }, ..script };
    assert_eq!(delivered_otherwise.run(&stream, usize::MAX).assembled(), whole.clone().assembled());

    // A hook is shown whole frames, so bad text is refused later.
    if hook.is_none() && whole.error != Some(ProtocolError::InvalidUtf8) {
        let passed = Script { hook: Some(|_, _| Verdict::Pass), ..script }.run(&stream, usize::MAX);
        assert_eq!(History { frames: Vec::new(), ..passed }, whole);
    }
}

/// Lets most frames pass.
fn judge(_: &FrameHeader, payload: &[u8]) -> Verdict {
    match payload.len() % 16 {
        2 | 7 => Verdict::Drop,
        13 => Verdict::Fail(CloseCode(4013)),
        _ => Verdict::Pass,
    }
}

/// Checks that a header of the PROXY protocol is read the same however it trickles in, and that it ends within the
/// bytes. Checks too that the same bytes as a client's own part of `X-Forwarded-For` or `Forwarded` change nothing of
/// the elements that a proxy appends.
pub fn client_address(bytes: &[u8]) {
    let whole = ProxyHeader::decode(bytes);
    let first = (0..=bytes.len()).map(|length| ProxyHeader::decode(&bytes[..length])).find(|part| *part != Ok(None));
    assert_eq!(first.unwrap_or(Ok(None)), whole);
    if let Ok(Some((header, length))) = whole {
        assert!((15..=4_096).contains(&length) && length <= bytes.len());
        assert_eq!(ProxyHeader::decode(&bytes[..length]), whole);
        assert!(header.source().is_none_or(|source| source.ip() == source.ip().to_canonical()));
    }
    let is_field = |octet: &&u8| (b' '..).contains(*octet) && **octet != 0x7f;
    let own: Vec<u8> = bytes.iter().filter(is_field).take(1_000).copied().collect();
    let appended = "[2001:db8::1]:7".parse().ok();
    for (name, element) in
        [("X-Forwarded-For", "[2001:db8::1]:7"), ("Forwarded", "for=\"[2001:db8::1]:7\";host=\"a,b\"")]
    {
        let head =
            [b"GET / HTTP/1.1\r\nHost: a\r\n", name.as_bytes(), b": ", &own, b", ", element.as_bytes(), b"\r\n\r\n"];
        let head = RequestHead::decode(&head.concat()).expect("a head").expect("a whole one").0;
        let nodes: Vec<_> = match name {
            "Forwarded" => forwarded_for(head.headers()).collect(),
            _ => x_forwarded_for(head.headers()).collect(),
        };
        assert_eq!(nodes[0], appended, "{name}: {own:?}");
        assert!(nodes.len() <= 32);
    }
}

/// Checks that a head is read the same however it trickles in, and that every head is answered: with a refusal, which
/// is a whole response, or with a 101.
pub fn handshake(bytes: &[u8]) {
    let whole = RequestHead::decode(bytes);
    let mut scan = HeadScan::default();
    let trickled = (0..=bytes.len()).map(|len| RequestHead::decode_with(&mut scan, &bytes[..len]));
    assert_eq!(trickled.into_iter().find(|result| !matches!(result, Ok(None))).unwrap_or(Ok(None)), whole);
    let upgrade = match whole {
        Ok(None) => return,
        Ok(Some((head, head_len))) => {
            assert!(head_len <= bytes.len() && head.path().len() <= head.target().len());
            Upgrade::from_request(&head)
        }
        Err(error) => Err(HandshakeError::Http(error)),
    };
    let (response, status) = match &upgrade {
        Ok(upgrade) => (upgrade.response(upgrade.protocols().first().map(String::as_str), &[]), 101),
        Err(error) => (error.refusal().encode(), error.refusal().status),
    };
    let Ok(Some((head, head_len))) = ResponseHead::decode(&response) else { panic!("{response:?} is no response") };
    assert_eq!(head.status(), status);
    let body_len = head.headers().get("content-length").map_or("0".into(), String::from_utf8_lossy);
    assert_eq!(body_len.parse(), Ok(response.len() - head_len));
}

/// The effects of the peer's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The events that were received.
    pub events: Vec<Seen>,
    /// The frames that the hook was shown: opcode, FIN and payload.
    pub frames: Vec<(OpCode, bool, Vec<u8>)>,
    /// The bytes of the answers.
    pub replies: Vec<u8>,
    /// The error that failed the connection.
    pub error: Option<ProtocolError>,
    /// The state at the end.
    pub state: State,
}

/// An event, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
    /// A text message that is not UTF-8, where UTF-8 is not checked.
    Unchecked(Vec<u8>),
    /// A fragment: its message's type, whether it is first, whether it is last, and its payload.
    Fragment(MessageType, bool, bool, Vec<u8>),
    /// A ping.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// A close frame.
    Close(Option<u16>, String),
}

/// One connection, and the calls that are made for it.
#[derive(Clone, Copy)]
pub struct Script {
    /// The role of the connection.
    pub role: Role,
    /// The limits of its messages.
    pub limits: MessageLimits,
    /// The number of received bytes after which the connection is closed.
    pub close_at: Option<usize>,
    /// The hook to receive with.
    pub hook: Option<Hook>,
}

/// A hook without state.
pub type Hook = fn(&FrameHeader, &[u8]) -> Verdict;

impl Script {
    /// Lets `stream` arrive in pieces of up to `piece_bytes`.
    pub fn run(&self, stream: &[u8], piece_bytes: usize) -> History {
        self.run_in_pieces(stream, || piece_bytes)
    }

    /// Lets `stream` arrive in pieces of any length, many of them short.
    pub fn run_at_random(&self, stream: &[u8], seed: u8) -> History {
        let mut random = u32::from(seed) + 1;
        self.run_in_pieces(stream, || {
            random = random.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            1 + ((random >> 8) as usize >> (random >> 28)) % stream.len().max(1)
        })
    }

    fn run_in_pieces(&self, stream: &[u8], mut piece_bytes: impl FnMut() -> usize) -> History {
        let mut websocket = WebSocket::new(self.role, Tick(0));
        let state = State::Open;
        let mut history = History { events: Vec::new(), frames: Vec::new(), replies: Vec::new(), error: None, state };
        let mut kept = BytesMut::new();
        let (before, after) = stream.split_at(self.close_at.unwrap_or(stream.len()));
        for (mut rest, closes) in [(before, self.close_at.is_some()), (after, false)] {
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(piece_bytes().min(rest.len()));
                self.receive(&mut websocket, piece, &mut kept, &mut history);
                rest = later;
            }
            if closes {
                websocket.close(Tick(0), CloseCode::GOING_AWAY, "", &mut history.replies);
            }
        }
        history.state = websocket.state();
        let was_closed = matches!(history.events.last(), Some(Seen::Close(..)));
        assert_eq!(websocket.closed_cleanly(), was_closed);
        assert_eq!(websocket.sent_close_code(), self.check_replies(&history));
        history
    }

    fn receive(&self, websocket: &mut WebSocket, piece: &[u8], kept: &mut BytesMut, history: &mut History) {
        let missing = websocket.missing(kept);
        kept.extend_from_slice(piece);
        let (mut input, seen) = (Input::new(std::mem::take(kept)), history.events.len());
        loop {
            let (limits, replies) = (&self.limits, &mut history.replies);
            let event = match self.hook {
                None => websocket.receive(Tick(1), &mut input, limits, replies),
                Some(hook) => websocket.receive_with(Tick(1), &mut input, limits, replies, |header, payload| {
                    history.frames.push((header.opcode, header.fin.is_set(), payload.into()));
                    hook(header, payload)
                }),
            };
            match event {
                Ok(Some(event)) => history.events.push(Seen::new(event, &self.limits)),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(history.error.replace(error), None, "a connection fails once");
                    assert_eq!(websocket.state(), State::Closed);
                }
            }
        }
        *kept = input.into_rest();
        assert!(kept.is_empty() || websocket.state() != State::Closed, "a closed connection keeps nothing");
        assert_eq!(kept.is_empty(), websocket.missing(kept) == 0, "what is kept lacks something");
        let most = if websocket.state() == State::Open { self.limits.message_bytes_max as usize } else { 0 };
        assert!(websocket.message_length() <= most);
        assert!(seen == history.events.len() || piece.len() >= missing, "no event before all of it was there");
    }

    /// Checks that the replies are whole frames, masked in the client's role only, and that nothing follows a close
    /// frame. Returns the code of the close frame.
    fn check_replies(&self, history: &History) -> CloseCode {
        let mut code = CloseCode::ABNORMAL;
        let mut rest = &history.replies[..];
        while !rest.is_empty() {
            let Ok(Some((header, header_len))) = FrameHeader::decode(rest) else { panic!("{rest:x?} is no frame") };
            assert_eq!((header.mask.is_some(), header.fin, header.rsv), (self.role != Role::Server, Fin::Set, 0));
            let (payload, after) = rest[header_len..].split_at(header.payload_len as usize);
            rest = after;
            if header.opcode == OpCode::Close {
                assert!(rest.is_empty(), "a close frame is the last");
                let mut payload = payload.to_vec();
                masking::apply(&mut payload, header.mask.unwrap_or_default(), 0);
                code = CloseFrame::parse(&payload).expect("a close frame").code.unwrap_or(CloseCode::NO_STATUS);
            }
        }
        code
    }
}

impl History {
    /// Returns the events with whole messages in place of fragments, wherever the last fragment has come.
    fn assembled(self) -> Self {
        let (mut events, mut message) = (Vec::new(), None);
        for event in self.events {
            let Seen::Fragment(message_type, is_first, is_last, part) = event else {
                events.push(event);
                continue;
            };
            assert_eq!(is_first, message.is_none());
            let (begun_as, mut payload) = message.take().unwrap_or((message_type, Vec::new()));
            assert_eq!(message_type, begun_as);
            payload.extend(part);
            if is_last {
                events.push(Seen::message(message_type, payload));
            } else {
                message = Some((message_type, payload));
            }
        }
        Self { events, ..self }
    }
}

impl Seen {
    fn new(event: Event<'_>, limits: &MessageLimits) -> Self {
        match event {
            Event::Message(message) => {
                let (message_type, payload) = (message.message_type(), message.payload().to_vec());
                assert!(payload.len() <= limits.message_bytes_max as usize);
                check_prepared(&message.prepare(), message_type.opcode(), Fin::Set, &payload);
                let seen = Self::message(message_type, payload);
                assert!(!limits.checks_utf8 || !matches!(seen, Self::Unchecked(_)), "text is UTF-8");
                seen
            }
            Event::Fragment(fragment) => Self::fragment(fragment, limits),
            Event::Ping(payload) => Self::Ping(payload.into()),
            Event::Pong(payload) => Self::Pong(payload.into()),
            Event::Close(close) => Self::Close(close.code.map(|code| code.0), close.reason.into()),
        }
    }

    fn message(message_type: MessageType, payload: Vec<u8>) -> Self {
        match message_type {
            MessageType::Text => match String::from_utf8(payload) {
                Ok(text) => Self::Text(text),
                Err(error) => Self::Unchecked(error.into_bytes()),
            },
            MessageType::Binary => Self::Binary(payload),
        }
    }

    fn fragment(fragment: Fragment<'_>, limits: &MessageLimits) -> Self {
        let (message_type, payload) = (fragment.message_type(), fragment.payload().to_vec());
        let (is_first, is_last, length) = (fragment.is_first(), fragment.is_last(), fragment.message_length());
        assert!(length <= limits.message_bytes_max as usize && length >= payload.len());
        assert!(!is_first || length == payload.len());
        let opcode = if is_first { message_type.opcode() } else { OpCode::Continuation };
        check_prepared(&fragment.prepare(), opcode, is_last.into(), &payload);
        Self::Fragment(message_type, is_first, is_last, payload)
    }
}

fn check_prepared(prepared: &PreparedMessage, opcode: OpCode, fin: Fin, payload: &[u8]) {
    let header = FrameHeader::new(opcode, fin, payload.len());
    assert_eq!(FrameHeader::decode(prepared.frame()), Ok(Some((header, header.encoded_len()))));
    assert_eq!(prepared.frame()[header.encoded_len()..], *payload);
    assert_eq!(prepared.payload(), payload);
}

/// Makes frames from a recipe: for each frame a first byte, a length and so much payload. Random bytes alone rarely
/// make frames.
fn bake(role: Role, mut recipe: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    while let [first, length, rest @ ..] = recipe {
        let (payload, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        let payload = payload.repeat(1 + usize::from(first >> 4 & 0x7));
        let opcode = OpCode::from_bits(*first).unwrap_or(OpCode::Continuation);
        match role {
            Role::Server => {
                encode_masked(opcode, (first & 0x80 != 0).into(), &payload, [*first, 2, 3, *length], &mut stream)
            }
            Role::Client { .. } => encode_frame(opcode, (first & 0x80 != 0).into(), &payload, &mut stream),
        }
        recipe = rest;
    }
    stream
}

/// Small limits, so that few bytes reach them.
const TIGHT_LIMITS: MessageLimits =
    MessageLimits { frame_bytes_max: 1000, message_bytes_max: 1500, fragments_max: 5, ..MessageLimits::DEFAULT };

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn frame_headers(bytes: [u8; 16], len in 0usize..=16) {
            frame_header(&bytes[..len]);
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            receive(&bytes);
        }

        /// Mostly legal frames of mostly legal text.
        #[test]
        fn frames(
            choice in 0u8..64,
            seed: u8,
            frames in prop::collection::vec((prop::sample::select(&FIRST_OCTETS[..]), ".{0,20}"), 0..12),
        ) {
            let frame = |(first, text): &(u8, String)| [&[*first, text.len() as u8], text.as_bytes()].concat();
            let recipe = frames.iter().flat_map(frame);
            receive(&[choice | 2, seed].into_iter().chain(recipe).collect::<Vec<u8>>());
        }

        /// Lines with good and bad values, in any order.
        #[test]
        fn heads(
            first in prop::sample::select(&FIRST_LINES[..]),
            lines in prop::collection::vec(prop::sample::select(&LINES[..]), 0..12),
            cut: prop::sample::Index,
        ) {
            let head = format!("{first}{}\r\n", lines.concat());
            handshake(head.as_bytes());
            handshake(&head.as_bytes()[..cut.index(head.len())]);
        }

        #[test]
        fn any_heads(
            line in "(GET|HEAD|\\PC*) [ -~]{0,10} HTTP/1\\.[0-9]",
            lines in "(\r\n[!-~]{0,10}: ?\\PC{0,10}){0,4}(\r\n){0,2}",
        ) {
            handshake((line + &lines).as_bytes());
        }
    }

    /// The request of RFC 6455 1.3 with any one byte changed, left out or doubled.
    #[test]
    fn heads_nearly_right() {
        let head = format!("GET /chat HTTP/1.1\r\n{}\r\n", LINES[..6].concat()).into_bytes();
        for at in 0..head.len() {
            for middle in [&[][..], &[head[at]; 2], b"\0", b" ", b"\r", b"\n", b",", b"a", b"\xFF"] {
                handshake(&[&head[..at], middle, &head[at + 1..]].concat());
            }
        }
    }

    /// Whole, large, fragmented, continued and control frames.
    const FIRST_OCTETS: [u8; 11] = [0x81, 0x82, 0xF1, 0xF2, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x88];

    const FIRST_LINES: [&str; 6] = [
        "GET /chat HTTP/1.1\r\n",
        "\r\nGET http://server/chat?a=b HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n",
        "GET / HTTP/2.0\r\n",
        "GET  / HTTP/1.1\r\n",
    ];

    const LINES: [&str; 16] = [
        "Host: server.example.com\r\n",
        "Upgrade: websocket\r\n",
        "Connection: Upgrade\r\n",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Protocol: chat, superchat\r\n",
        "Origin: http://example.com\r\n",
        "Sec-WebSocket-Version: 8\r\n",
        "Sec-WebSocket-Key: short\r\n",
        "Content-Length: 0\r\n",
        "Content-Length: +1\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Connection: close\r\n",
        " folded\r\n",
        "Bare: line\n",
        "Sec-WebSocket-Protocol: a b\r\n",
    ];
}
