//! A line whose bytes travel in records: the client's side of its transport, and the check of the server's side.

use std::collections::VecDeque;

use bytes::{Buf as _, BytesMut};

use super::random::Random;
use crate::sys::{
    Records as _,
    transport::xor::{Side, Xor},
};

/// The client's side of a transport with records.
#[derive(Debug)]
pub(super) struct Sealing {
    /// Seals what the client sends, and opens what it has fetched.
    client: Xor,
    /// Opens the records that the server's socket takes, when the socket takes them.
    witness: Xor,
    /// Records of the client that have not arrived.
    pub(super) on_the_way: VecDeque<u8>,
    has_said_goodbye: bool,
    /// The beginning of a record that the server's socket has taken in part.
    taken: BytesMut,
    /// The beginning of a record that the client has fetched in part.
    fetched: BytesMut,
    /// The number of questions that the client's transport has asked. The server's transport has to answer them.
    asked: u64,
    /// Whether the server has said goodbye.
    pub(super) is_over: bool,
}

impl Sealing {
    pub(super) fn new() -> Self {
        Sealing {
            client: Xor::new(Side::Client),
            witness: Xor::new(Side::Client),
            on_the_way: VecDeque::new(),
            has_said_goodbye: false,
            taken: BytesMut::new(),
            fetched: BytesMut::new(),
            asked: 0,
            is_over: false,
        }
    }

    /// Puts bytes of the client on their way, in records of any length, with questions between the records.
    pub(super) fn seal(&mut self, bytes: &[u8], random: &mut Random) {
        let mut sealed = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            if random.chance(50) {
                self.client.ask(&mut sealed);
                self.asked += 1;
            }
            let most = rest.len().min(random.pick(&[1, 10, 1_000, 16_000]));
            let (contents, after) = rest.split_at(random.within(1..=most));
            self.client.seal(contents, &mut sealed);
            rest = after;
        }
        self.on_the_way.extend(sealed);
    }

    /// Puts the client's goodbye on its way, once.
    pub(super) fn say_goodbye(&mut self) {
        if !std::mem::replace(&mut self.has_said_goodbye, true) {
            let mut sealed = Vec::new();
            self.client.say_goodbye(&mut sealed);
            self.on_the_way.extend(sealed);
        }
    }

    /// Returns the contents of the records that these bytes complete. A socket has taken the bytes now.
    pub(super) fn witness(&mut self, taken: &[u8]) -> BytesMut {
        assert!(!self.is_over || taken.is_empty(), "something follows the goodbye of a transport");
        let (opened, is_last) = open(&mut self.witness, &mut self.taken, taken);
        self.is_over |= is_last;
        opened
    }

    /// Returns the contents of the records that these bytes complete. The client has fetched the bytes now.
    pub(super) fn fetch(&mut self, fetched: &[u8]) -> BytesMut {
        open(&mut self.client, &mut self.fetched, fetched).0
    }

    /// Returns how many questions of the client's transport are not answered.
    pub(super) fn unanswered(&self) -> u64 {
        self.asked - self.client.answered
    }
}

/// Appends `more` to `rest`, and opens the whole records in `rest`. Returns the contents of these records, and whether
/// the last record is a goodbye.
fn open(records: &mut Xor, rest: &mut BytesMut, more: &[u8]) -> (BytesMut, bool) {
    rest.extend_from_slice(more);
    let (mut opened, mut answers) = (BytesMut::new(), Vec::new());
    let outcome = records.open(rest, &mut opened, &mut answers).expect("the server's records are in order");
    assert!(answers.is_empty(), "the server asks nothing");
    rest.advance(outcome.bytes);
    assert!(!outcome.is_last || rest.is_empty(), "something follows the goodbye of a transport");
    (opened, outcome.is_last)
}
