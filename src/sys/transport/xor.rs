//! A transport for tests: records whose bytes are changed by a key that moves on with every byte, so that a byte that
//! is lost, repeated or out of place is noticed at once.
//!
//! A record is a kind (one byte), the length of its contents (two bytes), and the contents. Beside data and the goodbye
//! there is a question, which the other side has to answer, as TLS has key updates.

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::TcpStream,
    sync::{Mutex, PoisonError},
};

use bytes::{Buf as _, BytesMut};

use super::Transport;
use crate::sys::sealed::{OpenedRecords, RECORD_BYTES_MAX, Records, SealedSocket};

/// One side of a connection, whose keys differ by direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// The records of one side of a connection.
#[derive(Debug)]
pub(crate) struct Xor {
    sends: Key,
    receives: Key,
    /// Answers to our questions that have come.
    pub(crate) answered: u64,
}

/// The key of a direction, which moves on with every byte.
#[derive(Debug)]
struct Key {
    salt: u64,
    position: u64,
}

/// The kinds of records.
const DATA: u8 = 0x11;
const GOODBYE: u8 = 0x22;
const QUESTION: u8 = 0x33;
const ANSWER: u8 = 0x44;

const HEADER_BYTES: usize = 3;

impl Key {
    fn new(salt: u64) -> Self {
        Key { salt, position: 0 }
    }

    fn at(&self, offset: usize) -> u8 {
        let mixed = (self.position + offset as u64 + self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 56) as u8
    }

    /// Changes bytes, and moves the key on.
    fn apply(&mut self, bytes: &mut [u8]) {
        for (offset, byte) in bytes.iter_mut().enumerate() {
            *byte ^= self.at(offset);
        }
        self.position += bytes.len() as u64;
    }
}

impl Xor {
    pub(crate) fn new(side: Side) -> Self {
        let (server, client) = (Key::new(1 << 20), Key::new(1 << 40));
        let (sends, receives) = if side == Side::Server { (server, client) } else { (client, server) };
        Xor { sends, receives, answered: 0 }
    }

    /// Appends a question, which the other side has to answer.
    pub(crate) fn ask(&mut self, sealed: &mut Vec<u8>) {
        self.record(QUESTION, &[], sealed);
    }

    fn record(&mut self, kind: u8, contents: &[u8], sealed: &mut Vec<u8>) {
        let begin = sealed.len();
        sealed.push(kind);
        sealed.extend((contents.len() as u16).to_be_bytes());
        sealed.extend(contents);
        self.sends.apply(&mut sealed[begin..]);
    }
}

impl Records for Xor {
    fn seal(&mut self, bytes: &[u8], sealed: &mut Vec<u8>) {
        assert!((1..=RECORD_BYTES_MAX).contains(&bytes.len()), "a record of {} bytes", bytes.len());
        self.record(DATA, bytes, sealed);
    }

    fn open(&mut self, received: &mut [u8], opened: &mut BytesMut, answers: &mut Vec<u8>) -> io::Result<OpenedRecords> {
        let mut bytes = 0;
        while let Some(header) = received.get(bytes..bytes + HEADER_BYTES) {
            let [kind, high, low] = [0, 1, 2].map(|at| header[at] ^ self.receives.at(at));
            let length = usize::from(u16::from_be_bytes([high, low]));
            if !matches!(kind, DATA | GOODBYE | QUESTION | ANSWER) || length > RECORD_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "no record begins here"));
            }
            let Some(record) = received.get_mut(bytes..bytes + HEADER_BYTES + length) else { break };
            self.receives.apply(record);
            bytes += record.len();
            match kind {
                DATA => opened.extend_from_slice(&record[HEADER_BYTES..]),
                QUESTION => self.record(ANSWER, &[], answers),
                ANSWER => self.answered += 1,
                _ => return Ok(OpenedRecords { bytes, is_last: true }),
            }
        }
        Ok(OpenedRecords { bytes, is_last: false })
    }

    fn say_goodbye(&mut self, sealed: &mut Vec<u8>) {
        self.record(GOODBYE, &[], sealed);
    }
}

/// Returns a socket with this transport over it.
pub(crate) fn sealed<S>(socket: S, side: Side) -> Transport<S> {
    Transport::Sealed(Box::new(SealedSocket::new(socket, Box::new(Xor::new(side)))))
}

/// The ports at which connections are accepted with this transport.
static PORTS: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Lets the connections to a port of this process have this transport, for as long as the process lives.
pub(crate) fn speak_at(port: u16) {
    PORTS.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
}

/// Returns whether the connections to a port have this transport.
pub(crate) fn is_spoken_at(port: u16) -> bool {
    PORTS.lock().unwrap_or_else(PoisonError::into_inner).contains(&port)
}

/// A client's end of a connection with this transport.
#[derive(Debug)]
pub(crate) struct XorStream {
    pub(crate) stream: TcpStream,
    pub(crate) records: Xor,
    received: BytesMut,
    opened: BytesMut,
    /// Whether the server has said goodbye.
    pub(crate) is_over: bool,
}

impl XorStream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let records = Xor::new(Side::Client);
        XorStream { stream, records, received: BytesMut::new(), opened: BytesMut::new(), is_over: false }
    }

    /// Sends a question.
    pub(crate) fn ask(&mut self) -> io::Result<()> {
        let mut sealed = Vec::new();
        self.records.ask(&mut sealed);
        self.stream.write_all(&sealed)
    }

    /// Says goodbye. The socket's side stays open.
    pub(crate) fn say_goodbye(&mut self) -> io::Result<()> {
        let mut sealed = Vec::new();
        self.records.say_goodbye(&mut sealed);
        self.stream.write_all(&sealed)
    }
}

impl Read for XorStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.opened.is_empty() {
            let mut chunk = [0; 4_096];
            let count = self.stream.read(&mut chunk)?;
            assert!(count == 0 || !self.is_over, "something follows the goodbye");
            if count == 0 {
                return Ok(0);
            }
            self.received.extend_from_slice(&chunk[..count]);
            let mut answers = Vec::new();
            let outcome = self.records.open(&mut self.received, &mut self.opened, &mut answers)?;
            assert!(!outcome.is_last || outcome.bytes == self.received.len(), "something follows the goodbye");
            self.is_over |= outcome.is_last;
            self.received.advance(outcome.bytes);
            self.stream.write_all(&answers)?;
        }
        let count = buffer.len().min(self.opened.len());
        self.opened.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl Write for XorStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(RECORD_BYTES_MAX);
        let mut sealed = Vec::new();
        if count > 0 {
            self.records.seal(&bytes[..count], &mut sealed);
        }
        self.stream.write_all(&sealed)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
