//! The plan of one hostile connection.

use std::time::Duration;

use super::{Random, requests::upgrade};

/// The steps of one hostile connection, from the beginning of its socket to the end.
#[derive(Debug)]
pub(crate) struct Visit {
    /// The name of the plan.
    pub(crate) name: &'static str,
    pub(crate) steps: Vec<Step>,
    pub(crate) end: End,
    /// The largest allowed number of answers 101 and 2xx.
    pub(crate) accepted_max: usize,
    /// The receive buffer of the socket in bytes; `None` leaves the kernel's default.
    pub(crate) receive_buffer: Option<usize>,
    /// The longest time without progress, after which the visit ends.
    pub(crate) patience: Duration,
}

/// One step of a visit.
#[derive(Debug)]
pub(crate) enum Step {
    /// Sends bytes in pieces, with a pause after each; receives meanwhile if `takes`.
    Send { bytes: Vec<u8>, piece: usize, pause: Duration, takes: bool },
    /// Sends bytes again and again until `total` bytes are sent.
    Flood { unit: Vec<u8>, total: usize, takes: bool },
    /// Waits for the end of an answer's head. The visit ends if it is not 101.
    AwaitOpening,
    /// Receives up to `total` bytes in pieces, with a pause after each.
    Take { total: usize, piece: usize, pause: Duration },
    /// Sends and receives nothing.
    Hold(Duration),
    /// Ends the client's side.
    Finish,
}

/// The end of a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client closes its socket, which may have unread input.
    Close,
    /// The client resets its connection (`SO_LINGER` 0).
    Reset,
}

impl Visit {
    /// Describes the plan for a report.
    pub(super) fn described(&self) -> String {
        let lossy = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(600)]));
        let step = |step: &Step| match step {
            Step::Send { bytes, piece, .. } => format!("send {}, {piece} bytes at a time", lossy(bytes)),
            Step::Flood { unit, total, .. } => format!("send {} until {total} bytes are sent", lossy(unit)),
            other => format!("{other:?}"),
        };
        self.steps.iter().map(step).collect::<Vec<_>>().join("\n")
    }

    /// Plans a visit with a drawn end, which may get any answer.
    pub(crate) fn new(name: &'static str, steps: Vec<Step>, random: &mut Random) -> Visit {
        let end = if random.once_in(2) { End::Reset } else { End::Close };
        let patience = Duration::from_millis(500 + random.below(2_500) as u64);
        Visit { name, steps, end, accepted_max: usize::MAX, receive_buffer: None, patience }
    }

    /// Lets the visit end by a reset.
    pub(crate) fn with_reset(self) -> Visit {
        Visit { end: End::Reset, ..self }
    }

    /// Gives the visit a small receive buffer.
    pub(crate) fn with_small_buffer(self) -> Visit {
        Visit { receive_buffer: Some(4_096), ..self }
    }

    /// Limits the number of answers 101 and 2xx that the visit may get.
    pub(crate) fn with_accepted_max(self, accepted_max: usize) -> Visit {
        Visit { accepted_max, ..self }
    }
}

impl Step {
    /// Sends bytes without pauses, and receives meanwhile.
    pub(crate) fn send(bytes: impl Into<Vec<u8>>) -> Step {
        Step::Send { bytes: bytes.into(), piece: usize::MAX, pause: Duration::ZERO, takes: true }
    }

    /// Sends bytes without pauses, and receives nothing.
    pub(crate) fn send_only(bytes: impl Into<Vec<u8>>) -> Step {
        Step::Send { bytes: bytes.into(), piece: usize::MAX, pause: Duration::ZERO, takes: false }
    }

    /// Sends bytes in small pieces with pauses.
    pub(crate) fn crawl(bytes: impl Into<Vec<u8>>, random: &mut Random) -> Step {
        let pause = Duration::from_millis(random.pick(&[0, 1, 1, 5, 20]));
        Step::Send { bytes: bytes.into(), piece: random.pick(&[1, 1, 1, 2, 7]), pause, takes: true }
    }

    /// Receives until the server ends the connection, or sends nothing for the visit's patience.
    pub(crate) fn take_all() -> Step {
        Step::Take { total: usize::MAX, piece: 64 * 1_024, pause: Duration::ZERO }
    }

    /// Holds the connection for a drawn time, up to `most` milliseconds.
    pub(crate) fn hold(random: &mut Random, most: usize) -> Step {
        Step::Hold(Duration::from_millis(random.below(most.max(1)) as u64))
    }
}

/// Returns the steps that open a WebSocket.
pub(crate) fn open(target: &str) -> Vec<Step> {
    vec![Step::send_only(upgrade(target)), Step::AwaitOpening]
}
