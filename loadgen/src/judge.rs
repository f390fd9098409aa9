//! Decides whether a message is correct, and records its latency.

use crate::http::shown;
use crate::moment::LatencyBuckets;
use crate::options::{Activity, Plan};
use crate::payload::{self, Form, Stamp};
use crate::protocol::Publishing;
use crate::window::Window;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Decides whether a message is correct, and records its latency.
#[derive(Debug)]
pub(crate) struct Judge {
    pub(crate) run: u16,
    /// The opcode of every delivery; `None` if the server chooses it.
    opcode: Option<u8>,
    /// The form of the stamps in the run's messages.
    pub(crate) form: Form,
    padding: Padding,
    pub(crate) clock: Arc<Clock>,
    pub(crate) writes: Arc<Writes>,
    /// The latency from the due time.
    pub(crate) latency: Histogram<u64>,
    /// The latency from the due time before a stall; `None` if there was no stall.
    pub(crate) before: Option<Histogram<u64>>,
    /// The latency from the write.
    pub(crate) uncorrected: Histogram<u64>,
    /// The latencies since the last moment of the series.
    pub(crate) buckets: LatencyBuckets,
    /// The first few foreign messages.
    pub(crate) foreign_sample: Vec<String>,
    /// The first few messages that changed on the way.
    pub(crate) corrupt_sample: Vec<String>,
    /// The first few messages that were not for the connection that received them.
    pub(crate) misrouted_sample: Vec<String>,
    /// Messages that are correct but for their type, text or binary.
    pub(crate) retyped: u64,
    /// The messages that are missing at subscribers so far, although a later one was seen.
    pub(crate) missing: i64,
    /// Whether the connection that is read has stalled. Its latency is not measured, since its own stop made it late.
    pub(crate) is_late: bool,
    /// The first and the last message that was not awaited, and arrived before its connection was open.
    pub(crate) strays: Vec<String>,
}

/// The padding of the run's messages.
#[derive(Debug)]
enum Padding {
    /// The same for all.
    Same(Vec<u8>),
    /// The start of this text, as long as the size of each message needs.
    Recorded {
        text: Vec<u8>,
        /// The sizes of the messages of each stream.
        sizes: Vec<Vec<usize>>,
    },
}

/// The verdict about a payload.
pub(crate) enum Examined {
    Correct(Stamp),
    Foreign,
    Corrupt,
}

impl Judge {
    pub(crate) fn new(plan: &Plan, run: u16, clock: Arc<Clock>, writes: Arc<Writes>) -> Judge {
        let is_plain = plan.protocol.is_raw() && matches!(plan.publishing, Publishing::Message { .. });
        let padding = match &plan.activity {
            Activity::Replay { messages } => {
                let largest = messages.iter().map(|message| message.size).max().unwrap_or_default();
                let mut sizes = vec![Vec::new(); plan.topics.streams()];
                for (place, message) in (0..).zip(messages) {
                    let stream = message.stream(&plan.topics, place).unwrap_or_else(|| plan.topics.stream_at(place));
                    sizes[stream].push(message.size);
                }
                Padding::Recorded { text: payload::padding(largest.max(payload::STAMP_LENGTH)), sizes }
            }
            _ => Padding::Same(payload::padding(plan.size)),
        };
        Judge {
            run,
            opcode: is_plain.then_some(plan.opcode),
            form: Form::of(plan.size),
            padding,
            clock,
            writes,
            latency: histogram(),
            before: None,
            uncorrected: histogram(),
            buckets: LatencyBuckets::default(),
            foreign_sample: Vec::new(),
            corrupt_sample: Vec::new(),
            misrouted_sample: Vec::new(),
            retyped: 0,
            missing: 0,
            is_late: false,
            strays: Vec::new(),
        }
    }

    /// Judges a payload that arrived in a message with this opcode.
    pub(crate) fn examine(&mut self, opcode: u8, payload: &[u8], now_ns: u64) -> Examined {
        let stamp = match Stamp::decode(self.form, payload) {
            Some(stamp) if stamp.run == self.run => stamp,
            _ => return Examined::Foreign,
        };
        let found = &payload[self.form.length()..];
        let (padding, is_size_right) = match &self.padding {
            Padding::Same(padding) => (&padding[..], found.len() == padding.len()),
            Padding::Recorded { text, sizes } => {
                let size = sizes.get(usize::from(stamp.publisher)).and_then(|own| own.get(stamp.sequence as usize));
                (&text[..], size == Some(&payload.len()))
            }
        };
        let is_right = is_size_right
            && match found.split_last_chunk() {
                Some((middle, end)) if stamp.due_ns.is_some() => {
                    padding[..middle.len()] == *middle && *end == stamp.check_digits()
                }
                _ => found == &padding[..found.len()],
            };
        let is_retyped = self.opcode.is_some_and(|own| own != opcode);
        if !is_right || is_retyped {
            self.retyped += u64::from(is_right);
            keep(&mut self.corrupt_sample, payload);
            return Examined::Corrupt;
        }
        if let Some(due_ns) = stamp.due_ns
            && !self.is_late
            && self.clock.has_in_window(due_ns)
        {
            let latency_ns = now_ns.saturating_sub(due_ns);
            self.latency.saturating_record(latency_ns);
            self.buckets.record(latency_ns);
            if let Some(written_ns) = self.writes.written_ns(usize::from(stamp.publisher), stamp.sequence) {
                self.uncorrected.saturating_record(now_ns.saturating_sub(written_ns));
            }
        }
        Examined::Correct(stamp)
    }

    /// Keeps a foreign message, if it is one of the first.
    pub(crate) fn note_foreign(&mut self, message: &[u8]) {
        keep(&mut self.foreign_sample, message);
    }

    /// Keeps a message that was not awaited, before its connection was open.
    pub(crate) fn note_stray(&mut self, message: &[u8]) {
        self.strays.truncate(1);
        self.strays.push(shown(message));
    }

    /// Keeps a misrouted message, if it is one of the first.
    pub(crate) fn note_misrouted(&mut self, message: &[u8]) {
        keep(&mut self.misrouted_sample, message);
    }
}

/// Adds a message to a sample that is not full.
fn keep(sample: &mut Vec<String>, message: &[u8]) {
    if sample.len() < SAMPLE_MAX {
        sample.push(shown(message));
    }
}

/// The measured window, which the threads of a run share.
#[derive(Debug)]
pub(crate) struct Clock {
    edges: [AtomicU64; 2],
}

impl Default for Clock {
    /// Makes a clock without a window: nothing is measured.
    fn default() -> Clock {
        Clock { edges: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)] }
    }
}

impl Clock {
    /// Sets the window: the latency of messages that are due inside it is recorded, whenever they arrive.
    pub(crate) fn set_window(&self, window: Window) {
        self.edges[0].store(window.start_ns, Ordering::Relaxed);
        self.edges[1].store(window.end_ns, Ordering::Relaxed);
    }

    fn has_in_window(&self, due_ns: u64) -> bool {
        let [start_ns, end_ns] = self.edges.each_ref().map(|edge| edge.load(Ordering::Relaxed));
        Window { start_ns, end_ns }.contains(due_ns)
    }
}

/// The times at which the latest messages were written. One thread writes, all may read.
#[derive(Debug)]
pub(crate) struct Writes {
    streams: u64,
    writes: Box<[Write]>,
}

/// The time at which a message was written, and the number of this message.
#[derive(Debug, Default)]
struct Write {
    number: AtomicU64,
    time_ns: AtomicU64,
}

impl Writes {
    /// Makes room for the times of a run with this number of streams, 0 if nothing is published.
    pub(crate) fn new(streams: usize) -> Writes {
        let writes = if streams == 0 { 0 } else { WRITES };
        Writes { streams: streams as u64, writes: (0..writes).map(|_| Write::default()).collect() }
    }

    /// Notes when a message was written. The latest [`WRITES`] messages are remembered.
    pub(crate) fn note(&self, stream: usize, sequence: u64, now_ns: u64) {
        let number = self.number(stream, sequence);
        let write = &self.writes[number as usize % WRITES];
        // Each pairs with a load in `written_ns`, which finds no number while the time changes.
        write.number.store(0, Ordering::Relaxed);
        write.time_ns.store(now_ns, Ordering::Release);
        write.number.store(number, Ordering::Release);
    }

    /// Returns when a message was written; `None` if it is forgotten.
    fn written_ns(&self, stream: usize, sequence: u64) -> Option<u64> {
        let number = self.number(stream, sequence);
        let write = self.writes.get(number as usize % WRITES)?;
        if write.number.load(Ordering::Acquire) != number {
            return None;
        }
        let time_ns = write.time_ns.load(Ordering::Acquire);
        // The time may be that of a message that was written meanwhile in the same place.
        (write.number.load(Ordering::Relaxed) == number).then_some(time_ns)
    }

    /// Returns a number above 0 for each message.
    fn number(&self, stream: usize, sequence: u64) -> u64 {
        sequence.wrapping_mul(self.streams).wrapping_add(stream as u64 + 1)
    }
}

/// Makes a histogram of latencies. The highest value is an hour in nanoseconds; a longer latency counts as this.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("valid histogram bounds")
}

/// The messages whose times of writing are remembered, far more than those under way.
const WRITES: usize = 1 << 16;

/// The messages of a sample.
const SAMPLE_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_writing_are_those_of_the_message() {
        let writes = Writes::new(3);
        writes.note(2, 5, 700);
        assert_eq!(
            (writes.written_ns(2, 5), writes.written_ns(1, 5), writes.written_ns(2, 6)),
            (Some(700), None, None)
        );
        writes.note(2, 5 + WRITES as u64, 900);
        assert_eq!((writes.written_ns(2, 5), writes.written_ns(2, 5 + WRITES as u64)), (None, Some(900)));
        assert_eq!(Writes::new(0).written_ns(0, 0), None);
    }

    #[test]
    fn nothing_is_measured_before_the_window_is_known() {
        let clock = Clock::default();
        assert!(!clock.has_in_window(0) && !clock.has_in_window(u64::MAX - 1));
        clock.set_window(Window { start_ns: 5, end_ns: 7 });
        assert!(!clock.has_in_window(4) && clock.has_in_window(5) && !clock.has_in_window(7));
    }
}
