//! Texts with placeholders: a [`Text`] is sent, and a [`Pattern`] recognises what arrives.
//!
//! A placeholder is a name in braces. Other braces are literal, so JSON needs no escapes:
//!
//! ```text
//! {topic}       the name of a topic
//! {payload}     the stamped payload
//! {size}        the number of the payload's bytes
//! {id}          a number of ten digits that no other message of the connection has; in a path always 1000000000
//! {connection}  the index of the connection
//! {any}         in patterns only: any bytes, also none
//! ```

use crate::error::Error;

/// A text to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Topic,
    Payload,
    Size,
    Id,
    Connection,
    Any,
}

/// What the placeholders of a text stand for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values<'a> {
    pub(crate) topic: &'a str,
    pub(crate) size: usize,
    pub(crate) connection: usize,
    pub(crate) id: u32,
}

/// A text with its placeholders filled in. The payload is made of zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filled {
    pub(crate) bytes: Vec<u8>,
    pub(crate) payload_at: Option<usize>,
    pub(crate) id_at: Option<usize>,
}

impl Text {
    /// Reads a text. `\r` and `\n` stand for the control characters.
    pub(crate) fn parse(text: &str) -> Text {
        Text(pieces(&unescaped(text)))
    }

    /// Returns whether `{topic}` stands in the text.
    pub(crate) fn has_topic(&self) -> bool {
        self.0.contains(&Piece::Topic)
    }

    /// Checks that `{payload}` stands in the text exactly once, and `{any}` not at all.
    pub(crate) fn for_publishing(self, flag: &str) -> Result<Text, Error> {
        match self.0.iter().filter(|piece| **piece == Piece::Payload).count() {
            1 => self.for_sending(flag),
            count => Err(Error::Options(format!("{flag}: {{payload}} must stand in it once, not {count} times"))),
        }
    }

    /// Checks that `{any}` does not stand in the text.
    pub(crate) fn for_sending(self, flag: &str) -> Result<Text, Error> {
        if self.0.contains(&Piece::Any) {
            return Err(Error::Options(format!("{flag}: {{any}} is for patterns of what arrives, and this is sent")));
        }
        Ok(self)
    }

    /// Checks that the text is the path of a request for this topic: it has no space and no control character.
    pub(crate) fn for_path(self, flag: &str, topic: &str) -> Result<Text, Error> {
        let literals = self.0.iter().map(|piece| match piece {
            Piece::Literal(text) => text.as_str(),
            Piece::Topic => topic,
            _ => "",
        });
        if literals.flat_map(str::bytes).any(|byte| byte <= b' ' || byte == 0x7f) {
            let why = "a path has no spaces and no control characters; write %20 for a space";
            return Err(Error::Options(format!("{flag}: {why}")));
        }
        self.for_sending(flag)
    }

    /// Fills in the placeholders.
    pub(crate) fn fill(&self, values: &Values<'_>) -> Filled {
        let mut filled = Filled::default();
        for piece in &self.0 {
            let at = filled.bytes.len();
            match piece {
                Piece::Literal(text) => filled.bytes.extend_from_slice(text.as_bytes()),
                Piece::Topic => filled.bytes.extend_from_slice(values.topic.as_bytes()),
                Piece::Size => filled.bytes.extend_from_slice(values.size.to_string().as_bytes()),
                Piece::Connection => filled.bytes.extend_from_slice(values.connection.to_string().as_bytes()),
                Piece::Payload => {
                    filled.payload_at = Some(at);
                    filled.bytes.resize(at + values.size, 0);
                }
                Piece::Id => {
                    filled.id_at = Some(at);
                    filled.bytes.extend_from_slice(id_digits(values.id).as_bytes());
                }
                Piece::Any => unreachable!("texts to send are checked when the flags are read"),
            }
        }
        filled
    }

    /// Fills in the placeholders of a text that has no payload.
    pub(crate) fn fill_text(&self, values: &Values<'_>) -> String {
        String::from_utf8_lossy(&self.fill(values).bytes).into_owned()
    }
}

/// Returns the words in braces that are no placeholders. Braces around anything but a word, as in JSON, are none.
pub(crate) fn names_in_braces(text: &str) -> impl Iterator<Item = String> {
    let words = text.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0));
    let is_word = |word: &&str| {
        word.starts_with(|letter: char| letter.is_ascii_alphabetic())
            && word.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-')
    };
    let is_known = |word: &&str| ["topic", "payload", "size", "id", "connection", "any"].contains(word);
    words.filter(is_word).filter(move |word| !is_known(word)).map(str::to_owned)
}

/// Returns the ten digits of an id, which are a number without leading zeros.
pub(crate) fn id_digits(id: u32) -> String {
    (FIRST_ID + u64::from(id)).to_string()
}

/// A pattern of what arrives. A pattern fits only a whole unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    Any,
    Payload,
}

impl std::fmt::Display for Pattern {
    /// Writes the pattern for people, with `{any}` for each placeholder but the payload.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Literal(text) => out.write_str(&crate::http::shown(text)),
            Part::Any => out.write_str("{any}"),
            Part::Payload => out.write_str("{payload}"),
        })
    }
}

impl Pattern {
    /// Reads a pattern. `{topic}` stands for `topic`, or for any bytes if there is none; so does every other
    /// placeholder but `{payload}`.
    ///
    /// # Errors
    /// An error is returned if the bytes between two placeholders could not be told apart.
    pub(crate) fn parse(text: &str, topic: Option<&str>) -> Result<Pattern, Error> {
        let mut parts: Vec<Part> = Vec::new();
        let wrong = |why: &str| Err(Error::Options(format!("the pattern `{text}`: {why}")));
        for piece in pieces(&unescaped(text)) {
            let part = match (piece, topic) {
                (Piece::Literal(text), _) => Part::Literal(text.into_bytes()),
                (Piece::Topic, Some(topic)) => Part::Literal(topic.as_bytes().to_vec()),
                (Piece::Payload, _) => Part::Payload,
                _ => Part::Any,
            };
            match (parts.last_mut(), part) {
                (Some(Part::Literal(before)), Part::Literal(after)) => before.extend(after),
                (Some(Part::Any | Part::Payload), Part::Any | Part::Payload) => {
                    return wrong("{any} and {payload} need a text between them");
                }
                (_, part) => parts.push(part),
            }
        }
        if parts.iter().filter(|part| **part == Part::Payload).count() > 1 {
            return wrong("{payload} stands in it more than once");
        }
        Ok(Pattern(parts))
    }

    /// Reads the pattern of a flag, in which `{topic}` stands for any bytes.
    ///
    /// # Errors
    /// The errors of [`Self::parse`], with the name of the flag.
    pub(crate) fn of_flag(flag: &str, text: &str) -> Result<Pattern, Error> {
        Pattern::parse(text, None).map_err(|error| Error::Options(format!("{flag}: {error}")))
    }

    /// Returns whether the pattern has a place for the payload.
    pub(crate) fn has_payload(&self) -> bool {
        self.0.contains(&Part::Payload)
    }

    /// Returns the payload within a unit that the pattern fits; an empty one if the pattern has none. Returns `None`
    /// if the pattern does not fit.
    pub(crate) fn find<'u>(&self, unit: &'u [u8]) -> Option<&'u [u8]> {
        let mut at = 0;
        let mut gap: Option<&Part> = None;
        let mut payload = 0..0;
        for (index, part) in self.0.iter().enumerate() {
            let Part::Literal(literal) = part else {
                gap = Some(part);
                continue;
            };
            let start = match gap.take() {
                None => unit[at..].starts_with(literal).then_some(at)?,
                Some(gap) => {
                    let is_last = index + 1 == self.0.len();
                    let length = if is_last {
                        unit[at..].ends_with(literal).then(|| unit.len() - at - literal.len())?
                    } else {
                        position(&unit[at..], literal)?
                    };
                    if *gap == Part::Payload {
                        payload = at..at + length;
                    }
                    at + length
                }
            };
            at = start + literal.len();
        }
        match gap {
            None if at != unit.len() => return None,
            Some(Part::Payload) => payload = at..unit.len(),
            _ => {}
        }
        Some(&unit[payload])
    }
}

/// Returns the place of the first `needle` in `bytes`.
pub(crate) fn position(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let (&first, rest) = needle.split_first()?;
    let mut at = 0;
    loop {
        at += bytes[at..].iter().position(|&byte| byte == first)?;
        if bytes[at + 1..].starts_with(rest) {
            return Some(at);
        }
        at += 1;
    }
}

fn unescaped(text: &str) -> String {
    text.replace("\\r", "\r").replace("\\n", "\n")
}

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    'text: while let Some(first) = rest.chars().next() {
        for (name, piece) in PLACEHOLDERS {
            if let Some(after) = rest.strip_prefix(name) {
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                }
                pieces.push(piece.clone());
                rest = after;
                continue 'text;
            }
        }
        literal.push(first);
        rest = &rest[first.len_utf8()..];
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    pieces
}

const PLACEHOLDERS: &[(&str, Piece)] = &[
    ("{topic}", Piece::Topic),
    ("{payload}", Piece::Payload),
    ("{size}", Piece::Size),
    ("{id}", Piece::Id),
    ("{connection}", Piece::Connection),
    ("{any}", Piece::Any),
];

/// The first id. All ids have the same number of digits, so that a message's length does not depend on its id.
const FIRST_ID: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: Values<'static> = Values { topic: "a/b", size: 3, connection: 7, id: 5 };

    #[test]
    fn placeholders_are_filled_and_other_braces_stay() {
        let filled = Text::parse(r#"{"id":{id},"to":"{topic}","n":{connection},"data":"{payload}"}\r\n"#).fill(&VALUES);
        let text = "{\"id\":1000000005,\"to\":\"a/b\",\"n\":7,\"data\":\"\0\0\0\"}\r\n";
        assert_eq!(filled.bytes, text.as_bytes());
        assert_eq!((filled.payload_at, filled.id_at), (text.find('\0'), Some(6)));
        assert_eq!(Text::parse("PUB {topic} {size}").fill_text(&VALUES), "PUB a/b 3");
    }

    #[test]
    fn texts_for_publishing_have_one_payload() {
        for wrong in ["", "{payload}{payload}", "{any}{payload}"] {
            assert!(Text::parse(wrong).for_publishing("--publish").is_err(), "{wrong}");
        }
        assert!(Text::parse("x{payload}").for_publishing("--publish").is_ok());
    }

    #[test]
    fn patterns_find_the_payload() {
        let check = |pattern: &str, unit: &str, found: Option<&str>| {
            let pattern = Pattern::parse(pattern, None).unwrap();
            assert_eq!(pattern.find(unit.as_bytes()), found.map(str::as_bytes), "{pattern:?} {unit}");
        };
        check("{payload}", "abc", Some("abc"));
        check("x", "x", Some(""));
        check("x", "xy", None);
        check("x{any}", "xy", Some(""));
        check("{any}y", "xyzy", Some(""));
        check("{any}y", "xyz", None);
        check(r#"42["m","{payload}"]"#, r#"42["m","abc"]"#, Some("abc"));
        check(r#"42["m","{payload}"]"#, r#"42["m","abc"#, None);
        check(r#"{any}"data":"{payload}"{any}"#, r#"{"a":1,"data":"abc","offset":5}"#, Some("abc"));
        check(r#"{any}"data":"{payload}"{any}"#, r#"{"a":1,"other":"abc"}"#, None);
        check("a{any}a", "a", None);
    }

    #[test]
    fn a_topic_is_literal_if_it_is_known() {
        let ack = Pattern::parse("ok {topic}", Some("t1")).unwrap();
        assert!(ack.find(b"ok t1").is_some() && ack.find(b"ok t2").is_none());
        assert!(Pattern::parse("ok {topic}", None).unwrap().find(b"ok t2").is_some());
    }

    #[test]
    fn patterns_that_cannot_be_told_apart_are_refused() {
        assert!(Pattern::parse("{any}{payload}", None).is_err());
        assert!(Pattern::parse("{payload},{payload}", None).is_err());
    }
}
