//! The hub of one shard: connections, topics, and the output that each subscriber is owed. Plain data: no socket, no
//! clock, no `unsafe`.
//!
//! The files are listed from the lowest floor to the highest. A file imports only files that stand before it:
//!
//! - values: `atomic`, `memory`, `connection_id`, `topic_id`, `topic_name`, `format`, `not_json`, `owner`,
//!   `publication`, `receipt`, `publish_error`, `history_rules`, `history_page`, `presence_rules`, `presence`,
//!   `encoding`, `chunk`, `subscribe_options`, `listing`, `command`, `barrier`, `end_role`;
//! - lanes: `entry`, `lane`, `link`, `signal`, `mesh_limits`, `mesh`, `feeds`, `external`;
//! - tables: `ids`, `receipts`, `history`, `histories`, `tag`, `topic_rules`, `attendance`, `roster`, `piece`,
//!   `run`, `walk`, `label`, `awaited`, `backlog`, `overflow`, `audience`, `topics`, `due`, `subscriptions`,
//!   `connections`, `rosters`, `cursors`, `joined`;
//! - the hub itself: `hub`, then `fanout`, `interest`, `keeping`, `attending`, `order`, `announcing`, `membership`,
//!   `resuming`, `mail`.

#![forbid(unsafe_code)]

mod announcing;
mod atomic;
mod attendance;
mod attending;
mod audience;
mod awaited;
mod backlog;
mod barrier;
mod chunk;
mod command;
mod connection_id;
mod connections;
mod cursors;
mod cut;
mod due;
mod encoding;
mod end_role;
mod entry;
mod external;
mod fanout;
mod feeds;
mod format;
mod histories;
mod history;
mod history_page;
mod history_rules;
#[expect(clippy::module_inception, reason = "the file is named after its struct")]
mod hub;
mod ids;
mod interest;
mod joined;
mod keeping;
mod key_pointer;
mod label;
mod lag;
mod lane;
mod link;
mod listing;
mod mail;
mod membership;
mod memory;
mod mesh;
mod mesh_limits;
mod not_a_key;
mod not_json;
mod order;
mod overflow;
mod owner;
mod paced;
mod piece;
mod presence;
mod presence_rules;
mod publication;
mod publish_error;
mod receipt;
mod receipts;
mod resuming;
mod roster;
mod rosters;
mod run;
#[cfg(test)]
pub(crate) mod seeds;
mod shed;
mod signal;
#[cfg(test)]
mod simulator;
mod slow;
mod subscribe_options;
mod subscriptions;
mod tag;
#[cfg(test)]
pub(crate) mod testing;
mod top;
mod topic_id;
mod topic_name;
mod topic_pattern;
mod topic_rules;
mod topics;
mod waiting;
mod walk;

pub use audience::AudienceId;
pub use backlog::Backlog;
pub use chunk::{Chunk, ReadOn};
pub use command::{Command, Commanded, Refused, Reply, Sent, SubscribeOutcome};
pub use connection_id::{ConnectionId, ConnectionIdError};
pub use connections::{Attachment, Connections, HubConnection, Publishing};
pub use encoding::{DearFormats, Encodable, Encode, Encodings, Growth, NewEncoding, Prepare};
pub use end_role::{EndRole, EngineTopics};
pub use entry::{Counted, Delivery, Interest, Placed, PresenceNews, Request, Unplaced};
pub use external::{Arrival, ExternalEnd, Order};
pub use fanout::{SPARE_RUN_BYTES_MAX, Walked};
pub use format::Format;
pub use history_page::{HistoryFrom, HistoryPage, HistoryQuery, KeptMessage};
pub use history_rules::{HISTORY_PART_BYTES, HistoryRules};
pub use hub::{Homes, HubLimits, ShardHub};
pub use ids::{IdCounts, IdLimits};
pub use joined::{HistoryPart, Joined};
pub use key_pointer::{KeyPointer, KeyPointerError};
pub use label::{Label, messages_by_topic};
pub use lag::{EncodeLag, Lag, OwedLag};
pub use listing::{
    ConnectionFilter, ConnectionPage, ConnectionSummary, LOOKS_MAX, PagePart, ROWS_MAX, TOPICS_PER_STEP, TopicCursor,
    TopicPage, TopicPart, TopicSummary, Who,
};
pub use membership::Subscribed;
pub use memory::LARGE_PIECE_PINS;
pub(crate) use memory::pinned;
pub use mesh::{MeshEnd, Wake};
pub use mesh_limits::MeshLimits;
pub use not_a_key::NotAKey;
pub use not_json::NotJson;
pub use overflow::{Decision, OutputLimits, OwedOutput};
pub use owner::Owner;
pub use piece::{Owed, Piece, bounded};
pub use presence::{Member, MemberInfo, MemberKey, Presence, PresenceChange};
pub use presence_rules::PresenceRules;
pub use publication::{NotAMessage, OrderEnd, Place, Posted, Publication, Scope};
pub use publish_error::{PublishError, PublishOutcome};
pub use receipt::{NoReceipt, Published, Receipt, Ticket};
pub use receipts::{RECEIPT_BYTES, RECEIPTS_MAX, ReceiptCounts};
pub use resuming::Room;
pub use rosters::PresenceCounts;
pub use run::{FrozenRun, Run, Share};
pub use shed::{Dropped, Shed, Shedding};
pub use slow::{Overflow, SlowRules};
pub use subscribe_options::{Resume, SubscribeOptions};
pub use tag::{PieceTags, Tag, TaggedMessage, Tags};
pub use top::{BusiestTopics, BusyTopic, HALF_LIFE_MS, LargeBacklog, TOP_MAX, Top, TopicWork};
pub use topic_id::TopicId;
pub(crate) use topic_name::home;
pub use topic_name::{TopicName, TopicNameError};
pub use topic_pattern::{TopicPattern, TopicPatternError};
pub use topic_rules::{KernelRules, Permission, RulesOfTopics, TopicRule, TopicRules, TopicTable};
