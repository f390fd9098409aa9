//! Pages of connections and of topics, for those who look at a server from outside.

use core::{net::SocketAddr, time::Duration};
use std::{fmt, sync::Arc};

use super::{connection_id::ConnectionId, topic_name::TopicName};

/// The people or programs behind connections, by what their opening requests have shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// Everybody whose [`Identity`](crate::Identity) has this name.
    Identity(Arc<str>),
    /// Everybody who has shown the token with this id (`jti`).
    Token(Arc<str>),
}

impl Who {
    /// Returns everybody whose identity has this name.
    #[must_use]
    pub fn identity(name: &str) -> Who {
        Who::Identity(name.into())
    }

    /// Returns everybody who has shown the token with this id.
    #[must_use]
    pub fn token(id: &str) -> Who {
        Who::Token(id.into())
    }

    /// Returns the name of the identity, or the id of the token.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match self {
            Who::Identity(name) | Who::Token(name) => name,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Identity(name) => write!(f, "the identity {name:?}"),
            Who::Token(id) => write!(f, "the token {id:?}"),
        }
    }
}

/// The connections that a page is to have; by default all open ones.
///
/// ```
/// use ringhub::{ConnectionFilter, TopicName};
/// let ann_in_lobby = ConnectionFilter::default().identity("ann").topic(TopicName::new("lobby")?);
/// # Ok::<(), ringhub::TopicNameError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionFilter {
    pub(crate) identity: Option<Arc<str>>,
    pub(crate) topic: Option<TopicName>,
}

impl ConnectionFilter {
    /// Keeps the connections whose identity has this name.
    #[must_use]
    pub fn identity(self, name: &str) -> Self {
        ConnectionFilter { identity: Some(name.into()), ..self }
    }

    /// Keeps the subscribers of this topic.
    #[must_use]
    pub fn topic(self, topic: TopicName) -> Self {
        ConnectionFilter { topic: Some(topic), ..self }
    }
}

/// An open connection, as it was when its shard was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionSummary {
    /// The id, by which the connection is closed or sent to.
    pub id: ConnectionId,
    /// The name of its identity.
    pub identity: Option<Arc<str>>,
    /// The client's address.
    pub address: Option<SocketAddr>,
    /// The pattern of its route.
    pub route: Arc<str>,
    /// The path of its opening request, unless the route forgets requests.
    pub path: Option<Box<str>>,
    /// The subprotocol that was chosen.
    pub protocol: Option<Box<str>>,
    /// Topics of its subscriptions, at most [`ConnectionSummary::TOPICS_MAX`].
    pub topics: Box<[TopicName]>,
    /// The number of all topics of its subscriptions.
    pub topic_count: usize,
    /// The time since its opening request was accepted.
    pub age: Duration,
    /// The memory of the output that its socket has not taken.
    pub owed_bytes: usize,
}

impl ConnectionSummary {
    /// The most topics that a summary names.
    pub const TOPICS_MAX: usize = 16;

    /// Returns the memory of the summary outside of the page that it stands in, without memory that it shares.
    pub(crate) fn kept(&self) -> usize {
        let length = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let identity = self.identity.as_ref().map_or(0, |name| name.len());
        identity + length(&self.path) + length(&self.protocol) + size_of_val(&*self.topics)
    }

    /// Returns the bytes of all texts of the summary.
    pub(crate) fn text_bytes(&self) -> usize {
        self.kept() + self.route.len() + self.topics.iter().map(|topic| topic.as_str().len()).sum::<usize>()
    }
}

/// A page of connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionPage {
    /// The connections, by shard and slot. There may be fewer than were asked for, although more follow.
    pub connections: Vec<ConnectionSummary>,
    /// The place in the order of connections after which the next page begins; `None` if none follows. The place has
    /// the form of an id, and need not be that of a connection.
    pub next: Option<ConnectionId>,
}

/// The part of a page that one shard has found in one step.
#[derive(Debug, Clone, Default)]
pub struct PagePart {
    /// The connections, by slot.
    pub connections: Vec<ConnectionSummary>,
    /// The slot with which the next step begins; `None` if no connection of the shard follows.
    pub next: Option<u32>,
}

/// A page of topics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicPage {
    /// The topics, in no order that has a meaning. There may be fewer than were asked for, although more follow.
    pub topics: Vec<TopicSummary>,
    /// The place after which the next page begins; `None` if none follows.
    pub next: Option<TopicCursor>,
}

/// A topic that connections use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicSummary {
    /// The name.
    pub topic: TopicName,
    /// The number of subscriptions of all shards; 0 if connections only publish to the topic.
    pub subscribers: u64,
}

/// A place in the order of topics, between two pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicCursor {
    pub(crate) shard: u16,
    pub(crate) index: u32,
}

impl TopicCursor {
    /// Reads the text of a place: two numbers with a point between them.
    pub(crate) fn parse(text: &str) -> Option<TopicCursor> {
        let (shard, index) = text.split_once('.')?;
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        (is_number(shard) && is_number(index))
            .then(|| Some(TopicCursor { shard: shard.parse().ok()?, index: index.parse().ok()? }))?
    }
}

impl fmt::Display for TopicCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.shard, self.index)
    }
}

/// The topics that a shard has found in one step.
#[derive(Debug, Clone, Default)]
pub struct TopicPart {
    /// The topics whose home is the shard and that connections of any shard use.
    pub topics: Vec<TopicName>,
    /// The index with which the next step begins; `None` if no topic of the shard follows.
    pub next: Option<u32>,
}

/// The most slots, or topics, that a shard looks at in one step.
pub const LOOKS_MAX: u32 = 1_024;

/// The most connections of one step, of which each is summed up or closed.
pub const ROWS_MAX: usize = 64;

/// The most topics of one step.
pub const TOPICS_PER_STEP: usize = 256;
