//! The commands of clients: reads one from a text message, or finds the first error in it.
//!
//! The envelope and the members of a command are read by `serde_json`, which borrows the values from the message. The
//! rules of docs/protocol.md decide which of several errors is told.

use std::{borrow::Cow, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{super::resume::read_resume, error::ErrorCode};
use crate::{
    hub::{NotJson, Publication, Resume},
    proto::truncate_reason,
};

/// A command, with the client's number for it.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) id: Option<u64>,
    pub(crate) command: Command<'a>,
}

/// A command of a client.
#[derive(Debug)]
pub(crate) enum Command<'a> {
    Subscribe { topic: Cow<'a, str>, has_echo: bool, has_presence: bool, resume: Option<Resume> },
    Unsubscribe { topic: Cow<'a, str> },
    Publish { topic: Cow<'a, str>, publication: Publication },
    Presence { topic: Cow<'a, str> },
    Refresh { token: Token<'a> },
    Ping,
}

/// A token, which is never shown.
pub(crate) struct Token<'a>(pub(crate) Cow<'a, str>);

impl fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// An error of a command, for its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The id of the command, if it is known.
    pub(crate) id: Option<u64>,
    pub(crate) code: ErrorCode,
    /// The reason, in words.
    pub(crate) reason: String,
}

impl Fault {
    fn new(code: ErrorCode, reason: impl Into<String>) -> Fault {
        Fault { id: None, code, reason: reason.into() }
    }
}

/// Reads a command.
///
/// # Errors
///
/// The first error by the rules of docs/protocol.md.
pub(crate) fn parse(text: &str) -> Result<Request<'_>, Fault> {
    let Members(envelope) = serde_json::from_str(text)
        .map_err(|error| Fault::new(ErrorCode::NotJson, format!("the message is not one JSON object: {error}")))?;
    let [(name, value)] = &envelope[..] else {
        let reason = format!("the object has {} members; its only one names the command", envelope.len());
        return Err(Fault::new(ErrorCode::NotOneCommand, reason));
    };
    let Some((name, known)) = COMMANDS.iter().find(|(command, _)| command == name) else {
        let names = COMMANDS.map(|(name, _)| name).join(", ");
        let reason = format!("{:?} is no command; there are {names}", truncate_reason(name));
        return Err(Fault::new(ErrorCode::UnknownCommand, reason));
    };
    let members = serde_json::from_str(value.get())
        .map_err(|_| Fault::new(ErrorCode::BadMember, format!("the value of {name:?} is not an object")))?;
    let id = id_of(&members)?;
    let command = check(&members, name, known).and_then(|()| read(name, id, &members));
    command.map(|command| Request { id, command }).map_err(|fault| Fault { id, ..fault })
}

/// The commands, and the members of each beside the id.
const COMMANDS: [(&str, &[&str]); 6] = [
    ("subscribe", &["topic", "echo", "presence", "since", "last"]),
    ("unsubscribe", &["topic"]),
    ("publish", &["topic", "data", "base64", "event", "key", "idempotency_key", "receipt"]),
    ("presence", &["topic"]),
    ("refresh", &["token"]),
    ("ping", &[]),
];

/// Returns the id of a command, if it has one.
fn id_of(members: &Members<'_>) -> Result<Option<u64>, Fault> {
    let mut ids = members.of(ID);
    let (first, second) = (ids.next(), ids.next());
    if second.is_some() {
        return Err(Fault::new(ErrorCode::DuplicateMember, "\"id\" is there twice"));
    }
    let Some(id) = first else { return Ok(None) };
    match id.get().parse() {
        Ok(number) if number <= ID_MAX => Ok(Some(number)),
        _ => Err(Fault::new(ErrorCode::BadMember, format!("\"id\" is no whole number from 0 to {ID_MAX}"))),
    }
}

/// Reads a message of a batch: an object with the members of `publish`, in which `id` is the idempotency key.
///
/// # Errors
///
/// The first error, in words.
pub(crate) fn read_item(text: &str) -> Result<(Cow<'_, str>, Publication), String> {
    let members: Members<'_> = serde_json::from_str(text).map_err(|_| "a message is an object".to_owned())?;
    let read = check(&members, "publish", ITEM_MEMBERS).and_then(|()| message(ID, &members));
    read.map_err(|fault| fault.reason)
}

/// The members of a message of a batch, beside the id.
const ITEM_MEMBERS: &[&str] = &["topic", "data", "base64", "event", "key", "receipt"];

/// Checks that no member is there twice, and that each is known.
fn check(members: &Members<'_>, name: &str, known: &[&str]) -> Result<(), Fault> {
    let Members(all) = members;
    for (at, (member, _)) in all.iter().enumerate() {
        // The known names are few: a member is compared with the earlier ones only if it is known.
        if !known.contains(&&**member) && member != ID {
            continue;
        }
        if all[..at].iter().any(|(earlier, _)| earlier == member) {
            return Err(Fault::new(ErrorCode::DuplicateMember, format!("{member:?} is there twice")));
        }
    }
    match all.iter().find(|(member, _)| !known.contains(&&**member) && member != ID) {
        Some((member, _)) => {
            let names = [&[ID], known].concat().join(", ");
            let reason = format!("{name:?} has no member {:?}; there are {names}", truncate_reason(member));
            Err(Fault::new(ErrorCode::UnknownMember, reason))
        }
        None => Ok(()),
    }
}

/// Reads a command whose members are known, each at most once.
fn read<'a>(name: &str, id: Option<u64>, members: &Members<'a>) -> Result<Command<'a>, Fault> {
    Ok(match name {
        "subscribe" => {
            let topic = members.needed(name, "topic")?;
            let (has_echo, has_presence) = (flag("echo", members)?, flag("presence", members)?);
            let since = members.of("since").next().map(|since| text("since", since)).transpose()?;
            let last = members.of("last").next().map(RawValue::get);
            let resume = read_resume(since.as_deref(), last);
            let resume = resume.map_err(|reason| Fault::new(ErrorCode::BadMember, reason))?;
            Command::Subscribe { topic: text("topic", topic)?, has_echo, has_presence, resume }
        }
        "unsubscribe" => Command::Unsubscribe { topic: text("topic", members.needed(name, "topic")?)? },
        "publish" => publish(id, members)?,
        "presence" => Command::Presence { topic: text("topic", members.needed(name, "topic")?)? },
        "refresh" => Command::Refresh { token: Token(text("token", members.needed(name, "token")?)?) },
        _ => Command::Ping,
    })
}

/// Returns the value of a member that is true or false; false without the member.
fn flag(member: &str, members: &Members<'_>) -> Result<bool, Fault> {
    match members.of(member).next().map(RawValue::get) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Fault::new(ErrorCode::BadMember, format!("{member:?} is neither true nor false"))),
    }
}

fn publish<'a>(id: Option<u64>, members: &Members<'a>) -> Result<Command<'a>, Fault> {
    let (topic, publication) = message("idempotency_key", members)?;
    if id.is_none() && flag("receipt", members)? {
        let reason = "\"receipt\" needs an \"id\", since the receipt is in the answer";
        return Err(Fault::new(ErrorCode::BadMember, reason));
    }
    Ok(Command::Publish { topic, publication })
}

/// Reads a message. The member of the name `key_member` is its idempotency key.
fn message<'a>(key_member: &str, members: &Members<'a>) -> Result<(Cow<'a, str>, Publication), Fault> {
    let topic = members.needed("publish", "topic")?;
    let payload = match (members.of("data").next(), members.of("base64").next()) {
        (Some(data), None) => Ok(data),
        (None, Some(base64)) => Err(base64),
        (None, None) => {
            return Err(Fault::new(ErrorCode::MissingMember, "\"publish\" needs \"data\" or \"base64\""));
        }
        (Some(_), Some(_)) => {
            return Err(Fault::new(ErrorCode::BadMember, "\"data\" and \"base64\" exclude each other"));
        }
    };
    let topic = text("topic", topic)?;
    let mut publication = match payload {
        Ok(data) if data.get().starts_with('"') => Publication::text(&text("data", data)?),
        Ok(data) => {
            let json = Publication::json(data.get());
            json.map_err(|error: NotJson| Fault::new(ErrorCode::BadMember, format!("\"data\": {error}")))?
        }
        Err(base64) => {
            let bytes = STANDARD.decode(text("base64", base64)?.as_bytes());
            let bytes = bytes.map_err(|error| {
                Fault::new(ErrorCode::BadMember, format!("\"base64\" is not base64 (RFC 4648 4): {error}"))
            })?;
            Publication::binary(&bytes)
        }
    };
    if let Some(event) = members.of("event").next() {
        publication = publication.event(&short_text("event", event)?);
    }
    if let Some(key) = members.of("key").next() {
        let keyed = publication.key(&short_text("key", key)?);
        publication = keyed.map_err(|error| Fault::new(ErrorCode::BadMember, format!("\"key\": {error}")))?;
    }
    if let Some(key) = members.of(key_member).next() {
        publication = publication.id(&short_text(key_member, key)?);
    }
    if flag("receipt", members)? {
        publication = publication.ask_receipt();
    }
    Ok((topic, publication))
}

/// Returns the value of a member that is a string.
fn text<'a>(member: &str, value: &'a RawValue) -> Result<Cow<'a, str>, Fault> {
    let text = serde_json::from_str(value.get());
    text.map(|Text(text)| text).map_err(|_| {
        let reason = format!("{member:?} is no string, or has a surrogate without its pair");
        Fault::new(ErrorCode::BadMember, reason)
    })
}

/// Returns the value of a member that is a short string.
fn short_text<'a>(member: &str, value: &'a RawValue) -> Result<Cow<'a, str>, Fault> {
    let text = text(member, value)?;
    if !(1..=SHORT_BYTES_MAX).contains(&text.len()) || text.chars().any(char::is_control) {
        let reason = format!("{member:?} is not 1 to {SHORT_BYTES_MAX} bytes of UTF-8 without control characters");
        return Err(Fault::new(ErrorCode::BadMember, reason));
    }
    Ok(text)
}

/// A string of JSON, borrowed if it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members of an object, in order, those that are there twice included.
#[derive(Debug)]
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Returns the values of a member.
    fn of(&self, name: &str) -> impl Iterator<Item = &'a RawValue> {
        self.0.iter().filter(move |(member, _)| member == name).map(|(_, value)| *value)
    }

    /// Returns the value of a member that a command needs.
    fn needed(&self, command: &str, name: &str) -> Result<&'a RawValue, Fault> {
        let value = self.of(name).next();
        value.ok_or_else(|| Fault::new(ErrorCode::MissingMember, format!("{command:?} needs {name:?}")))
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ReadMembers)
    }
}

struct ReadMembers;

impl<'de> Visitor<'de> for ReadMembers {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(Text(name)) = map.next_key()? {
            members.push((name, map.next_value()?));
        }
        Ok(Members(members))
    }
}

/// The member that every command may have.
const ID: &str = "id";

/// The largest id: the largest whole number that JavaScript counts with.
pub(crate) const ID_MAX: u64 = (1 << 53) - 1;

/// Bytes of the longest name of an event, of the longest key, and of the longest idempotency key.
pub(crate) const SHORT_BYTES_MAX: usize = 255;
