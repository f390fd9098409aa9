//! Tests the reader of commands, and the forms of messages.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    command::{Command, Request, parse},
    encode::{GROWTH_AS_BINARY, GROWTH_AS_JSON, lag, message_as_binary, message_as_json},
    error::{ERRORS, ErrorCode},
    options::{Names, TalkOptions},
    talk::{COMMANDS_MAX, REFRESH_INTERVAL, Stage, Talk},
};
use crate::{
    hub::{Encodable, Lag, Overflow, Place, Publication, TopicName},
    proto::{FrameHeader, MessageType, OpCode},
};

/// The error of a message, and its id.
fn error(text: &str) -> (ErrorCode, Option<u64>) {
    let fault = parse(text).expect_err(text);
    (fault.code, fault.id)
}

#[test]
fn envelopes_name_one_command() {
    use ErrorCode::{BadMember, NotJson, NotOneCommand, UnknownCommand};
    for text in ["", "x", "[]", "1", "null", "\"ping\"", "{\"ping\":{}", "{\"ping\":{}} x", "{ping:{}}"] {
        assert_eq!(error(text), (NotJson, None), "{text}");
    }
    for text in ["{}", r#"{"ping":{},"ping":{}}"#, r#"{"id":1,"ping":{}}"#] {
        assert_eq!(error(text), (NotOneCommand, None), "{text}");
    }
    for text in [r#"{"":{}}"#, r#"{"Ping":{}}"#, r#"{"message":{"id":1}}"#] {
        assert_eq!(error(text), (UnknownCommand, None), "{text}");
    }
    for text in [r#"{"ping":null}"#, r#"{"ping":[]}"#, r#"{"ping":1}"#] {
        assert_eq!(error(text), (BadMember, None), "{text}");
    }
    assert!(matches!(parse(" {\"ping\" :\t{ } }\r\n"), Ok(Request { id: None, command: Command::Ping })));
    assert!(matches!(parse(r#"{"p\u0069ng":{"\u0069d":7}}"#), Ok(Request { id: Some(7), command: Command::Ping })));
}

#[test]
fn ids_are_whole_numbers() {
    for (id, number) in [("0", 0), ("1", 1), ("9007199254740991", (1 << 53) - 1)] {
        assert_eq!(parse(&format!("{{\"ping\":{{\"id\":{id}}}}}")).unwrap().id, Some(number));
    }
    for id in ["-1", "-0", "1.0", "1e3", "9007199254740992", "\"1\"", "null", "[1]", "99999999999999999999999"] {
        assert_eq!(error(&format!("{{\"ping\":{{\"id\":{id}}}}}")), (ErrorCode::BadMember, None), "{id}");
    }
    assert_eq!(error(r#"{"ping":{"id":1,"id":1}}"#), (ErrorCode::DuplicateMember, None));
}

/// Of several errors the first by the rules of docs/protocol.md is told: duplicate members, unknown members, missing
/// ones, wrong values.
#[test]
fn members_are_checked_in_order() {
    use ErrorCode::{BadMember, DuplicateMember, MissingMember, UnknownMember};
    for (text, code) in [
        (r#"{"subscribe":{"id":5,"x":1,"topic":1,"topic":2}}"#, DuplicateMember),
        (r#"{"subscribe":{"id":5,"x":1}}"#, UnknownMember),
        (r#"{"subscribe":{"id":5,"x":1,"x":1,"topic":"a"}}"#, UnknownMember),
        (r#"{"subscribe":{"id":5,"data":1,"topic":"a"}}"#, UnknownMember),
        (r#"{"subscribe":{"id":5,"echo":1}}"#, MissingMember),
        (r#"{"subscribe":{"id":5,"topic":"a","echo":1}}"#, BadMember),
        (r#"{"subscribe":{"id":5,"topic":"a","echo":"true"}}"#, BadMember),
        (r#"{"subscribe":{"id":5,"topic":1}}"#, BadMember),
        (r#"{"subscribe":{"id":5,"topic":"\ud800"}}"#, BadMember),
        (r#"{"unsubscribe":{"id":5,"topic":"a","echo":true}}"#, UnknownMember),
        (r#"{"unsubscribe":{"id":5}}"#, MissingMember),
        (r#"{"refresh":{"id":5}}"#, MissingMember),
        (r#"{"refresh":{"id":5,"token":null}}"#, BadMember),
        (r#"{"ping":{"id":5,"data":1}}"#, UnknownMember),
        (r#"{"publish":{"id":5,"data":1}}"#, MissingMember),
        (r#"{"publish":{"id":5,"topic":"a"}}"#, MissingMember),
        (r#"{"publish":{"id":5,"topic":"a","data":1,"base64":""}}"#, BadMember),
        (r#"{"publish":{"id":5,"topic":"a","base64":1}}"#, BadMember),
        (r#"{"publish":{"id":5,"topic":"a","base64":"YQ"}}"#, BadMember),
        (r#"{"publish":{"id":5,"topic":"a","base64":"Y Q="}}"#, BadMember),
        (r#"{"publish":{"id":5,"topic":"a","base64":"_-8="}}"#, BadMember),
        (r#"{"publish":{"id":5,"topic":"a","data":"\udc00"}}"#, BadMember),
        (r#"{"publish":{"id":5,"topic":"a","data":1,"event":""}}"#, BadMember),
        (r#"{"publish":{"id":5,"topic":"a","data":1,"event":"a\nb"}}"#, BadMember),
        (r#"{"publish":{"id":5,"topic":"a","data":1,"key":7}}"#, BadMember),
        (r#"{"publish":{"id":5,"topic":"a","data":1,"recipt":true}}"#, UnknownMember),
    ] {
        assert_eq!(error(text), (code, Some(5)), "{text}");
    }
    let long = format!(r#"{{"publish":{{"id":5,"topic":"a","data":1,"key":"{}"}}}}"#, "k".repeat(256));
    assert_eq!(error(&long), (BadMember, Some(5)));
    let nested = format!(r#"{{"publish":{{"id":5,"topic":"a","data":{}{}}}}}"#, "[".repeat(101), "]".repeat(101));
    assert_eq!(error(&nested), (BadMember, Some(5)));
    // The whole message is read, however deep an unknown member is nested.
    let deep = format!(r#"{{"ping":{{"id":5,"x":{}{}}}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    assert_eq!(error(&deep), (UnknownMember, Some(5)));
}

/// Returns the publication of a command's payload.
fn published(payload: &str) -> Publication {
    let text = format!(r#"{{"publish":{{"topic":"a",{payload}}}}}"#);
    match parse(&text) {
        Ok(Request { command: Command::Publish { publication, .. }, .. }) => publication,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn payloads_have_three_kinds() {
    let check = |payload: &str, kind: MessageType, is_json: bool, bytes: &[u8]| {
        let publication = published(payload);
        let found = (publication.kind(), publication.is_json(), publication.payload());
        assert_eq!(found, (kind, is_json, bytes), "{payload}");
    };
    check(r#""data":"good \"news\" \u00e9""#, MessageType::Text, false, "good \"news\" é".as_bytes());
    check(r#""data":"""#, MessageType::Text, false, b"");
    // JSON stays as it is, to the byte.
    check("\"data\": {\"b\": 1.50,\n \"a\":[ ]} ", MessageType::Text, true, b"{\"b\": 1.50,\n \"a\":[ ]}");
    check(r#""data":null"#, MessageType::Text, true, b"null");
    check(r#""data":12345678901234567890123"#, MessageType::Text, true, b"12345678901234567890123");
    check(r#""base64":"/+8=""#, MessageType::Binary, false, &[0xff, 0xef]);
    check(r#""base64":"""#, MessageType::Binary, false, b"");
    let named = published(r#""data":1,"event":"price","key":"eur""#);
    assert_eq!((named.event_name(), named.key_name(), named.id_name()), (Some("price"), Some("eur"), None));
}

/// Encodes a publication to the topic `a"b`.
fn encoded(publication: &Publication, place: Option<Place>, is_binary: bool) -> (OpCode, Vec<u8>) {
    let topic = &TopicName::new("a\"b").unwrap();
    let encodable = Encodable { topic, publication, place, prepared: None };
    let mut out = BytesMut::new();
    if is_binary {
        message_as_binary(&encodable, &mut out)
    } else {
        message_as_json(&encodable, &mut out)
    }
    let (header, length) = FrameHeader::decode(&out).unwrap().unwrap();
    assert_eq!(header.payload_len as usize, out.len() - length);
    (header.opcode, out[length..].to_vec())
}

const PLACE: Option<Place> = Some(Place { epoch: 7, offset: 3, previous: 1 });

#[test]
fn messages_as_json() {
    let check = |publication: &Publication, place, expected: &str| {
        let (opcode, payload) = encoded(publication, place, false);
        assert_eq!((opcode, std::str::from_utf8(&payload).unwrap()), (OpCode::Text, expected));
    };
    let text = Publication::text("é \"\n\u{1}\u{2028}");
    let start = r#"{"message":{"topic":"a\"b","epoch":"7","offset":3"#;
    check(&text, PLACE, &format!("{start},\"data\":\"é \\\"\\n\\u0001\u{2028}\"}}}}"));
    check(&Publication::json("{ }").unwrap(), PLACE, &format!(r#"{start},"data":{{ }}}}}}"#));
    check(&Publication::text("{ }").event("e\""), PLACE, &format!(r#"{start},"event":"e\"","data":"{{ }}"}}}}"#));
    check(&Publication::binary(&[0xff, 0xef]), PLACE, &format!(r#"{start},"base64":"/+8="}}}}"#));
    check(&Publication::binary(b""), None, r#"{"message":{"topic":"a\"b","base64":""}}"#);
    for length in [0, 100, 126, 70_000] {
        let (_, payload) = encoded(&Publication::text(&"x".repeat(length)), PLACE, false);
        assert_eq!(payload.len(), start.len() + r#","data":""}}"#.len() + length);
    }
}

#[test]
fn messages_as_binary_frames() {
    let header = |kind: u8, event: u16, place: [u64; 2]| {
        let [epoch, offset] = place.map(u64::to_be_bytes);
        [&[1, kind, 0, 3][..], &event.to_be_bytes(), &[0, 0], &epoch, &offset, b"a\"b"].concat()
    };
    let check = |publication: &Publication, place, expected: Vec<u8>| {
        assert_eq!(encoded(publication, place, true), (OpCode::Binary, expected));
    };
    check(&Publication::text("hi"), PLACE, [&header(0, 0, [7, 3])[..], b"hi"].concat());
    check(&Publication::json("{ }").unwrap().event("e"), PLACE, [&header(1, 1, [7, 3])[..], b"e{ }"].concat());
    check(&Publication::binary(&[0xff]), None, [&header(2, 0, [0, 0])[..], &[0xff]].concat());
    let long = Publication::text("").event(&"é".repeat(40_000));
    assert!(encoded(&long, PLACE, true).1.len() < 300);
}

#[test]
fn lags_are_told_in_json() {
    let check = |place: [u64; 3], expected: &str| {
        let [epoch, from, to] = place;
        let topic = TopicName::new("a\"b").unwrap();
        let mut out = BytesMut::new();
        lag(&Lag { topic, epoch, from, to, count: 4, policy: Overflow::DropOldest }, &mut out);
        let (header, length) = FrameHeader::decode(&out).unwrap().unwrap();
        assert_eq!((header.opcode, header.payload_len as usize), (OpCode::Text, out.len() - length));
        assert_eq!(std::str::from_utf8(&out[length..]).unwrap(), expected);
    };
    let end = r#""count":4,"policy":"drop_oldest"}}"#;
    check([7, 3, 9], &format!(r#"{{"lagged":{{"topic":"a\"b","epoch":"7","from":3,"to":9,{end}"#));
    check([0, 0, 0], &format!(r#"{{"lagged":{{"topic":"a\"b",{end}"#));
}

#[test]
fn queries() {
    let read = |query, names| {
        let read = TalkOptions::read(Some(query), names).map_err(|refusal| refusal.status);
        read.map(|options| (options.is_binary, options.has_echo))
    };
    for (query, options) in [("", (false, false)), ("binary=true", (true, false)), ("access_token=x", (false, false))] {
        assert_eq!(read(query, Names::NoTopic), Ok(options));
        assert_eq!(read(query, Names::Topic), Ok(options));
    }
    assert_eq!(read("binary=false&echo=true", Names::Topic), Ok((false, true)));
    for query in ["echo=true", "binary=1", "binary", "binary=true&binary=true", "x=1", "binary=%", "mode=sub"] {
        assert_eq!(read(query, Names::NoTopic), Err(400), "{query}");
    }
}

#[test]
fn commands_under_way_are_bounded() {
    let mut talk = Talk::default();
    let request = |id| Request { id, command: Command::Ping };
    assert_eq!(talk.begin(&request(Some(1))), Ok(()));
    assert_eq!(talk.begin(&request(Some(1))).unwrap_err().code, ErrorCode::DuplicateId);
    talk.end(Some(1));
    assert_eq!(talk.begin(&request(Some(1))), Ok(()));
    (1..COMMANDS_MAX).for_each(|_| assert_eq!(talk.begin(&request(None)), Ok(())));
    assert_eq!(talk.begin(&request(Some(2))).unwrap_err().code, ErrorCode::TooManyCommands);
    talk.end(None);
    assert_eq!(talk.begin(&request(Some(2))), Ok(()));
}

/// Whoever had many topics and commands once keeps no memory of them.
#[test]
fn the_memory_of_many_is_not_kept_for_few() {
    let mut talk = Talk::default();
    let topic = |number: usize| TopicName::new(&number.to_string()).unwrap();
    for number in 0..1_024 {
        talk.topics.insert(topic(number), Stage::Live);
    }
    (0..COMMANDS_MAX as u64).for_each(|id| talk.begin(&Request { id: Some(id), command: Command::Ping }).unwrap());
    assert!((1..1_024).all(|number| talk.remove(&topic(number)) == Some(Stage::Live)));
    (0..COMMANDS_MAX as u64).for_each(|id| talk.end(Some(id)));
    let [topics, ids] = talk.capacities();
    assert!(topics <= 64 && ids <= 64, "{topics} {ids}");
    assert_eq!(talk.topics.len(), 1);
}

#[test]
fn refreshes_have_an_interval() {
    let (mut talk, begin) = (Talk::default(), Instant::now());
    assert!(talk.may_refresh(begin) && !talk.may_refresh(begin + REFRESH_INTERVAL / 2));
    assert!(talk.may_refresh(begin + REFRESH_INTERVAL) && !talk.may_refresh(begin + REFRESH_INTERVAL));
}

/// The limits of a server count with the largest form of a message.
#[test]
fn no_form_grows_beyond_its_growth() {
    let topic = TopicName::new(&"\"".repeat(255)).unwrap();
    let place = Some(Place { epoch: u64::MAX, offset: u64::MAX, ..PLACE.unwrap() });
    for size in [0, 1, 125, 126, 70_000] {
        let publications = [
            Publication::text(&"\u{1}".repeat(size)),
            Publication::text(&"\"".repeat(size)),
            Publication::binary(&vec![255; size]),
        ];
        for publication in publications {
            let publication = publication.event(&"\u{1}".repeat(400));
            let encodable = Encodable { topic: &topic, publication: &publication, place, prepared: None };
            let (mut as_json, mut as_binary) = (BytesMut::new(), BytesMut::new());
            message_as_json(&encodable, &mut as_json);
            message_as_binary(&encodable, &mut as_binary);
            assert!(as_json.len() as u64 <= GROWTH_AS_JSON.largest(size as u64), "{size}: {}", as_json.len());
            assert!(as_binary.len() as u64 <= GROWTH_AS_BINARY.largest(size as u64), "{size}: {}", as_binary.len());
        }
    }
}

/// docs/protocol.md has the table of errors.
#[test]
fn errors_are_documented() {
    let page = include_str!("../../../docs/protocol.md");
    for error in ERRORS {
        let temporary = if error.is_temporary() { "yes" } else { "no" };
        let row = format!("| {} | `{}` | {} | {temporary} |", error.number(), error.name(), error.meaning());
        assert!(page.contains(&row), "docs/protocol.md lacks: {row}");
    }
    let rows = page.lines().filter(|line| line.ends_with("| yes |") || line.ends_with("| no |"));
    assert_eq!(rows.count(), ERRORS.len());
    assert!(ERRORS.windows(2).all(|pair| pair[0].number() < pair[1].number()));
}
