//! Compares the server's frame decoder with those of tungstenite and fastwebsockets.

mod differences;
mod peers;
mod raw;

use std::collections::BTreeSet;

use ringhub::proto::{
    MessageLimits, ProtocolError, Role, State,
    fuzz::{Script, Seen},
};

pub(crate) use differences::DIFFERENCES;
use peers::{PEERS, Read};

/// Checks that all three receivers read the same events from a stream. If one refuses the stream, all refuse it after
/// the same event, with the same class of error. [`DIFFERENCES`] has the exceptions. If the first byte is odd, the rest
/// is a recipe for frames, see [`raw::bake`].
///
/// Returns the names of the differences that the stream shows.
pub(crate) fn frames(bytes: &[u8]) -> BTreeSet<&'static str> {
    let [choice, rest @ ..] = bytes else { return BTreeSet::new() };
    let stream = if choice % 2 == 0 { rest.to_vec() } else { raw::bake(rest) };
    let (ours, error) = ours(&stream);
    let cases =
        PEERS.map(|(peer, read)| Case { peer, read, stream: &stream, ours: &ours, error, theirs: read(&stream) });
    cases.iter().filter_map(Case::difference).collect()
}

/// The reading of a stream of frames by one receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Messages and control frames, up to a close frame.
    pub(crate) events: Vec<Seen>,
    /// The state after the last event.
    pub(crate) end: End,
}

/// The state of a receiver after its last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// More bytes may come.
    Open,
    /// A close frame has come.
    Closed,
    /// The stream is refused with 1002.
    Protocol,
    /// The stream is refused with 1007.
    Utf8,
    /// The stream is refused with 1009.
    TooBig,
}

impl End {
    fn is_error(self) -> bool {
        !matches!(self, End::Open | End::Closed)
    }
}

/// One stream, and its readings by the product and by a peer.
pub(crate) struct Case<'a> {
    peer: &'static str,
    read: Read,
    stream: &'a [u8],
    ours: &'a Reading,
    error: Option<ProtocolError>,
    theirs: Reading,
}

impl Case<'_> {
    /// Returns the name of the row that allows the difference between the two readings, if they differ.
    fn difference(&self) -> Option<&'static str> {
        let Case { peer, stream, ours, error, theirs, .. } = self;
        if *ours == theirs {
            return None;
        }
        let row = DIFFERENCES.iter().find(|row| row.peers.contains(peer) && (row.holds)(self));
        assert!(row.is_some(), "{stream:02x?}\nours: {ours:?} {error:?}\n{peer}: {theirs:?}");
        row.map(|row| row.name)
    }

    /// Returns whether the peer accepts the frame that the product has refused. The rest of the stream does not matter.
    fn goes_on(&self) -> bool {
        self.ours.end.is_error() && self.theirs.events.starts_with(&self.ours.events)
    }

    /// Returns whether both refuse the stream after the same event, the peer with this class of error.
    fn is_refused_with(&self, class: End) -> bool {
        self.ours.end.is_error() && self.theirs.events == self.ours.events && self.theirs.end == class
    }

    /// Returns whether the peer also refuses the frame that the product has refused, but only at the frame's end.
    fn is_refused_later(&self) -> bool {
        let (ours, theirs) = (self.ours, &self.theirs);
        if !ours.end.is_error() || theirs.end != End::Open || theirs.events != ours.events {
            return false;
        }
        let whole = raw::completed(self.stream);
        let then = (self.read)(&whole);
        let last_length = raw::frames(&whole).last().map_or(0, |frame| frame.payload_len);
        let is_too_big = then.end == End::TooBig && last_length > LIMITS.frame_bytes_max.into();
        then.events == ours.events && (then.end == ours.end || is_too_big)
    }

    /// Returns the payload length of the frame for which the product refuses the stream.
    fn refused_length(&self) -> u64 {
        let frames = raw::frames(self.stream);
        let refused = frames.iter().find(|frame| ours(&self.stream[..frame.end(self.stream)]).1.is_some());
        refused.map_or(0, |frame| frame.payload_len)
    }
}

fn ours(stream: &[u8]) -> (Reading, Option<ProtocolError>) {
    let history = Script { role: Role::Server, limits: LIMITS, close_at: None, hook: None }.run(stream, usize::MAX);
    let end = match history.error.map(|error| error.close_code().0) {
        None if history.state == State::Open => End::Open,
        None => End::Closed,
        Some(1002) => End::Protocol,
        Some(1007) => End::Utf8,
        Some(1009) => End::TooBig,
        Some(code) => panic!("no error of the protocol has the code {code}"),
    };
    (Reading { events: history.events, end }, history.error)
}

/// The limits are so low that short streams reach them. Peers have no limit of fragments.
const LIMITS: MessageLimits = MessageLimits {
    frame_bytes_max: 1_000,
    message_bytes_max: 1_500,
    fragments_max: u32::MAX,
    ..MessageLimits::DEFAULT
};
