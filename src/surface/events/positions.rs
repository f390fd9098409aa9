//! The position of a client in several topics, as the id of an event.

use std::fmt;

use bytes::{BufMut as _, BytesMut};

use crate::hub::{OrderEnd, TopicName};

/// The position of a client in its topics.
///
/// As text it is a hash of the topics' names, a semicolon, and for each topic its epoch and its offset, in base 36:
/// `1x0qk2a;4t7.1,9k2.2s`. A client only keeps the id of the last event, so each id has the positions of all topics.
/// The hash tells whether an id is of the same topics. None of the characters makes a browser ask before it sends the
/// id to another origin.
#[derive(Debug)]
pub(crate) struct Positions {
    hash: Box<str>,
    /// The topics in the order of their names. The position in a topic is `None` until it is known.
    topics: Box<[(TopicName, Option<OrderEnd>)]>,
}

impl Positions {
    /// Returns the position of a client that has no message of these topics, which are in the order of their names.
    pub(crate) fn new(topics: &[TopicName]) -> Positions {
        assert!(topics.is_sorted(), "the order of the topics does not depend on the request");
        let topics = topics.iter().map(|topic| (topic.clone(), None)).collect::<Box<[_]>>();
        let mut hash = BytesMut::new();
        put_base_36(hash_of(topics.iter().map(|(topic, _)| topic.as_str())), &mut hash);
        Positions { hash: String::from_utf8_lossy(&hash).into(), topics }
    }

    /// Notes that the client has the messages of a topic up to this end.
    pub(crate) fn note(&mut self, topic: &TopicName, end: OrderEnd) {
        if let Ok(at) = self.topics.binary_search_by(|(name, _)| name.cmp(topic)) {
            self.topics[at].1 = Some(end);
        }
    }

    /// Appends the text of the position.
    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.put_slice(self.hash.as_bytes());
        let mut separator = b';';
        for (_, end) in &self.topics {
            out.put_u8(separator);
            separator = b',';
            // No order has the epoch 0.
            let OrderEnd { epoch, offset } = end.unwrap_or(OrderEnd { epoch: 0, offset: 0 });
            put_base_36(epoch, out);
            out.put_u8(b'.');
            put_base_36(offset, out);
        }
    }

    /// Reads the positions in these topics from the text of a position in all of them; `None` if it is no such text, or
    /// is of other topics.
    pub(super) fn read(text: &str, topics: &[TopicName]) -> Option<Vec<OrderEnd>> {
        let (hash, list) = text.split_once(';')?;
        if number(hash)? != hash_of(topics.iter().map(TopicName::as_str)) {
            return None;
        }
        let read = |position: &str| {
            let (epoch, offset) = position.split_once('.')?;
            Some(OrderEnd { epoch: number(epoch)?, offset: number(offset)? })
        };
        let ends = list.split(',').map(read).collect::<Option<Vec<OrderEnd>>>()?;
        (ends.len() == topics.len()).then_some(ends)
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = BytesMut::new();
        self.put(&mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

/// Returns a number for a list of names, by FNV-1a with 32 bits. It need not resist an attacker, who could only make an
/// id of its own client unknown.
fn hash_of<'a>(names: impl Iterator<Item = &'a str>) -> u64 {
    let bytes = names.flat_map(|name| name.bytes().chain([0]));
    let hash = bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u64::from(hash)
}

fn put_base_36(mut number: u64, out: &mut BytesMut) {
    let mut digits = [0; 13];
    let mut begin = digits.len();
    while begin == digits.len() || number > 0 {
        begin -= 1;
        digits[begin] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        number /= 36;
    }
    out.put_slice(&digits[begin..]);
}

/// Reads a number in base 36, without a sign.
fn number(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    u64::from_str_radix(text, 36).ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[&str]) -> Vec<TopicName> {
        names.iter().map(|name| TopicName::new(name).unwrap()).collect()
    }

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let names = topics(&["a", "b/c", "d"]);
        let mut positions = Positions::new(&names);
        let none = OrderEnd { epoch: 0, offset: 0 };
        assert_eq!(Positions::read(&positions.to_string(), &names), Some(vec![none; 3]));
        let (first, last) = (OrderEnd { epoch: 35, offset: 36 }, OrderEnd { epoch: u64::MAX, offset: 1 << 40 });
        positions.note(&names[0], first);
        positions.note(&names[2], last);
        positions.note(&topics(&["other"])[0], last);
        let written = positions.to_string();
        assert_eq!(written.split_once(';').unwrap().1, "z.10,0.0,3w5e11264sgsf.e13wu1og");
        assert_eq!(Positions::read(&written, &names), Some(vec![first, none, last]));
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b',' | b';');
        assert!(written.bytes().all(is_safe), "{written}");
    }

    #[test]
    fn a_position_of_other_topics_is_unknown() {
        let names = topics(&["a", "b"]);
        let written = Positions::new(&names).to_string();
        for other in [&["a"][..], &["a", "c"], &["ab"], &["a", "b", "c"]] {
            assert_eq!(Positions::read(&written, &topics(other)), None, "{other:?}");
        }
        let hash = written.split_once(';').unwrap().0;
        for list in ["", "1.1", "1.1,", "1.1,2", "1.1,2.2,3.3", "1.1,+2.2", "1.1,2.-2", "1.1,2.zzzzzzzzzzzzzz"] {
            assert_eq!(Positions::read(&format!("{hash};{list}"), &names), None, "{list}");
        }
        assert_eq!(Positions::read("17.42", &names), None);
        assert!(Positions::read(&format!("{hash};1.1,2.2"), &names).is_some());
    }
}
