//! The options in the query of an opening request for `ringhub.v1`.

use std::borrow::Cow;

use super::super::resume::read_resume;
use crate::{
    auth::TOKEN_KEY,
    hub::Resume,
    proto::{Refusal, query_pairs},
};

/// The name of the subprotocol.
pub const PROTOCOL: &str = "ringhub.v1";

/// The path at which a server without routes of its own speaks the subprotocol.
pub const PATTERN: &str = "/ws";

/// Whether the path of an opening request names a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Topic,
    NoTopic,
}

/// The options in the query of an opening request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TalkOptions {
    /// Whether messages of topics come in binary frames.
    pub(super) is_binary: bool,
    /// Whether the client receives its own messages to the topic of the path.
    pub(super) has_echo: bool,
    /// The messages of the history of the topic of the path that the client receives first.
    pub(super) resume: Option<Resume>,
}

impl TalkOptions {
    /// Reads the query of an opening request.
    ///
    /// # Errors
    ///
    /// 400 for a query that is malformed, or has an unknown key or value, or a key twice.
    pub(super) fn read(query: Option<&str>, names: Names) -> Result<TalkOptions, Refusal> {
        let bad = |what: String| Err(Refusal::new(400, what));
        let known = match names {
            Names::Topic => "binary, echo, since, last and access_token are",
            Names::NoTopic => "binary and access_token are",
        };
        let mut options = TalkOptions::default();
        let mut seen: Vec<Cow<'_, str>> = Vec::new();
        let (mut since, mut last) = (None, None);
        for pair in query_pairs(query) {
            let (Some(key), Some(value)) = pair else { return bad("the query is not percent-encoded UTF-8".into()) };
            if seen.contains(&key) {
                return bad(format!("{key:?} is given twice"));
            }
            let option = match &*key {
                "binary" => &mut options.is_binary,
                "echo" if names == Names::Topic => &mut options.has_echo,
                "since" | "last" if names == Names::Topic => {
                    *(if &*key == "since" { &mut since } else { &mut last }) = Some(value);
                    seen.push(key);
                    continue;
                }
                // Read with the credentials.
                TOKEN_KEY => {
                    seen.push(key);
                    continue;
                }
                _ => return bad(format!("{key:?} is not known for {PROTOCOL}; {known}")),
            };
            *option = match &*value {
                "true" => true,
                "false" => false,
                _ => return bad(format!("{key} is {value:?}, not true or false")),
            };
            seen.push(key);
        }
        options.resume = read_resume(since.as_deref(), last.as_deref()).map_err(|error| Refusal::new(400, error))?;
        Ok(options)
    }
}
