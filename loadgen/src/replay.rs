//! Recorded messages: a file with a JSON object on each line.

use crate::error::Error;
use crate::frame::PAYLOAD_MAX;
use crate::payload::STAMP_LENGTH;
use crate::topics::Topics;
use serde::Deserialize;
use std::fs;
use std::path::Path;

/// A message of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// The time since the first message.
    pub(crate) at_ns: u64,
    pub(crate) size: usize,
    /// `None` if the topics take turns.
    topic: Option<usize>,
}

impl Recorded {
    /// Returns the stream of a message that has a topic.
    pub(crate) fn stream(&self, topics: &Topics, place: u64) -> Option<usize> {
        let topic = self.topic?;
        let streams = (topics.streams() - topic).div_ceil(topics.count()) as u64;
        Some(topic + (place % streams) as usize * topics.count())
    }
}

#[derive(Deserialize)]
struct Line {
    at_ms: f64,
    size: usize,
    topic: Option<usize>,
}

/// Reads a file for a run with this number of topics. `speed` shortens the times.
///
/// # Errors
/// The error names the line.
pub(crate) fn recorded(file: &Path, speed: f64, topics: usize) -> Result<Vec<Recorded>, Error> {
    let text =
        fs::read_to_string(file).map_err(|error| Error::Options(format!("cannot read {}: {error}", file.display())))?;
    parse(&text, speed, topics).map_err(|why| Error::Options(format!("{}: {why}", file.display())))
}

fn parse(text: &str, speed: f64, topics: usize) -> Result<Vec<Recorded>, String> {
    let mut messages: Vec<Recorded> = Vec::new();
    let mut first_ms = None;
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |why: &str| format!("line {}: {why}", number + 1);
        let Line { at_ms, size, topic } = serde_json::from_str(line).map_err(|error| wrong(&reason(&error)))?;
        if !at_ms.is_finite() {
            return Err(wrong("at_ms is no number"));
        }
        let since_ms = at_ms - *first_ms.get_or_insert(at_ms);
        let at_ns = (since_ms * 1e6 / speed) as u64;
        if since_ms < 0.0 || messages.last().is_some_and(|last| last.at_ns > at_ns) {
            return Err(wrong("at_ms is before the line above"));
        }
        if !(STAMP_LENGTH..=PAYLOAD_MAX).contains(&size) {
            return Err(wrong(&format!("size is {STAMP_LENGTH} to {PAYLOAD_MAX} bytes")));
        }
        if let Some(topic) = topic.filter(|&topic| topic >= topics) {
            let needed = topic.saturating_add(1);
            return Err(wrong(&format!("topic {topic} needs --topics {needed} or more (topics count from 0)")));
        }
        messages.push(Recorded { at_ns, size, topic });
    }
    if messages.is_empty() { Err("the file has no messages".to_owned()) } else { Ok(messages) }
}

/// Returns what is wrong with a line, and in which column. The parser's own text would name another line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let why = text.rsplit_once(" at line ").map_or(&*text, |(why, _)| why);
    format!("{why}, in column {}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::Spread;

    #[test]
    fn times_count_from_the_first_message() {
        let text = "{\"at_ms\":1000.5,\"size\":40}\n\n{\"at_ms\":1003.5,\"size\":64,\"topic\":1}\n";
        let messages = parse(text, 2.0, 2).unwrap();
        assert_eq!(messages[0], Recorded { at_ns: 0, size: 40, topic: None });
        assert_eq!(messages[1], Recorded { at_ns: 1_500_000, size: 64, topic: Some(1) });
        let topics = Topics::new("t", [2, 1, 5], [Spread::Uniform; 2]);
        let streams: Vec<_> = (0..3).map(|place| messages[1].stream(&topics, place)).collect();
        assert_eq!((streams, messages[0].stream(&topics, 0)), (vec![Some(1), Some(3), Some(1)], None));
    }

    /// The log of a program may have more in its lines.
    #[test]
    fn other_fields_are_left_out() {
        let messages = parse("{\"at_ms\":0,\"size\":40,\"user\":\"x\"}", 1.0, 1).unwrap();
        assert_eq!(messages, [Recorded { at_ns: 0, size: 40, topic: None }]);
    }

    #[test]
    fn wrong_lines_are_named() {
        for (text, why) in [
            ("", "no messages"),
            ("{\"at_ms\":0,\"size\":40}\nx", "line 2: "),
            ("{\"at_ms\":0,\"size\":31}", "line 1: size"),
            ("{\"at_ms\":5,\"size\":40}\n{\"at_ms\":4,\"size\":40}", "line 2: at_ms"),
            ("{\"at_ms\":0,\"size\":40,\"topic\":1}", "line 1: topic"),
            ("\n{\"at_ms\":0}", "line 2: missing field `size`, in column 11"),
        ] {
            assert!(parse(text, 1.0, 1).is_err_and(|found| found.contains(why)), "{text}");
        }
    }
}
