//! The reason for which a server cannot be built.

use std::fmt;

use super::topic_table::TopicConflict;
use crate::{
    error::{ConfigErrors, Origin, StartError},
    handler::{Pattern, PatternError},
    hub::TopicPattern,
};

/// The reason for which a server cannot be built.
///
/// ```
/// use ringhub::server::{BuildError, Server};
/// let error = Server::builder().shards(0).build().unwrap_err();
/// assert!(matches!(error, BuildError::Config(_)));
/// assert_eq!(error.to_string(), "shards: 0 is not between 1 and 256");
/// ```
#[derive(Debug)]
pub enum BuildError {
    /// Settings that are wrong.
    Config(ConfigErrors),
    /// A malformed pattern.
    Pattern(PatternError),
    /// Two routes are for the same paths, or a route and a folder are for all paths below a path.
    Clash(Pattern, Pattern),
    /// A route is for a path that the server itself uses: the path of the page, or a path that
    /// [`Builder::without_operations`](super::Builder::without_operations) frees.
    Own(Pattern),
    /// Two HTTP endpoints at the same paths have this method, or one has OPTIONS, which the server itself answers.
    Method(Pattern, &'static str),
    /// A path for files that is malformed, has parameters, or has two folders.
    Mount(String),
    /// All wrong rules of a route, each with its key.
    Options(Pattern, String),
    /// Two rules of topics have this pattern, at these places.
    TopicRules(TopicPattern, Origin, Origin),
    /// The rule of topics at that place asks a source of permissions, and the server has none: neither the setting
    /// `callback_url` nor [`Builder::permission_source`](super::Builder::permission_source) names one.
    NoPermissionSource(TopicPattern, Origin),
    /// The rule of topics at that place has columns that cannot hold together, for this reason.
    TopicColumns(TopicPattern, Origin, String),
    /// An address cannot be listened on, a listener cannot be used, or the kernel lacks an operation.
    Start(StartError),
}

impl From<TopicConflict> for BuildError {
    fn from(conflict: TopicConflict) -> Self {
        match conflict {
            TopicConflict::Clash(pattern, first, second) => BuildError::TopicRules(pattern, first, second),
            TopicConflict::NoSource(pattern, origin) => BuildError::NoPermissionSource(pattern, origin),
            TopicConflict::Columns(pattern, origin, what) => BuildError::TopicColumns(pattern, origin, what),
        }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Config(error) => error.fmt(f),
            BuildError::Pattern(error) => error.fmt(f),
            BuildError::Clash(first, second) => {
                write!(f, "the routes {:?} and {:?} are for the same paths", first.as_str(), second.as_str())
            }
            BuildError::Own(pattern) => {
                write!(f, "the route {:?} is for a path of the server's own", pattern.as_str())
            }
            BuildError::Method(pattern, method) => {
                write!(f, "the route {:?} has more than one answer to {method}", pattern.as_str())
            }
            BuildError::Mount(path) => write!(f, "{path:?} is no path for files, or two folders are at this path"),
            BuildError::Options(pattern, what) => write!(f, "the route {:?}: {what}", pattern.as_str()),
            BuildError::TopicRules(pattern, first, second) => {
                write!(f, "{second}: the topics {:?} have a rule already, at {first}", pattern.to_string())
            }
            BuildError::NoPermissionSource(pattern, origin) => write!(
                f,
                "{origin}: topics: the rule of the topics {:?} asks the application (callback), which cannot be asked: \
                 callback_url does not say where it is",
                pattern.to_string()
            ),
            BuildError::TopicColumns(pattern, origin, what) => {
                write!(f, "{origin}: topics: the rule of the topics {:?}: {what}", pattern.to_string())
            }
            BuildError::Start(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BuildError::Config(error) => Some(error),
            BuildError::Pattern(error) => Some(error),
            BuildError::Start(error) => Some(error),
            BuildError::Clash(..)
            | BuildError::Own(_)
            | BuildError::Method(..)
            | BuildError::Mount(_)
            | BuildError::TopicRules(..)
            | BuildError::NoPermissionSource(..)
            | BuildError::TopicColumns(..)
            | BuildError::Options(..) => None,
        }
    }
}
