//! The differences between the peers' receivers and the product, each with the section of RFC 6455 that decides it.

use ringhub::proto::{ProtocolError as E, fuzz::Seen};

use super::{
    Case, End, LIMITS,
    peers::{FASTWEBSOCKETS, TUNGSTENITE},
};

/// A known difference, with its justification.
pub(crate) struct Difference {
    /// The behaviour of the peer.
    pub(crate) name: &'static str,
    /// The peers that behave so.
    pub(crate) peers: &'static [&'static str],
    /// The section of RFC 6455, and its content.
    pub(crate) section: &'static str,
    /// Returns whether two readings differ only by this.
    pub(crate) holds: fn(&Case<'_>) -> bool,
}

const BOTH: &[&str] = &[TUNGSTENITE, FASTWEBSOCKETS];

/// Every known difference. A test must see each of them.
pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "refuses a frame when it is whole, not by its beginning",
        peers: BOTH,
        section: "7.1.7, 8.1, 10.4: an endpoint fails the connection for a fault; it need not await the rest",
        holds: |case| case.is_refused_later(),
    },
    Difference {
        name: "checks the size of a frame before the rest of its header",
        peers: BOTH,
        section: "10.4, 7.4.1: of several faults of one frame any may be named",
        holds: |case| case.is_refused_with(End::TooBig) && case.refused_length() > LIMITS.frame_bytes_max.into(),
    },
    Difference {
        name: "checks the reason of a close frame before its code",
        peers: BOTH,
        section: "5.5.1, 7.4.1: of several faults of one frame any may be named",
        holds: |case| case.is_refused_with(End::Utf8) && matches!(case.error, Some(E::CloseCodeInvalid(_))),
    },
    Difference {
        name: "accepts a length that is not in its shortest encoding",
        peers: BOTH,
        section: "5.2: the minimal number of bytes MUST be used to encode the length",
        holds: |case| {
            // A valid control frame always has the shortest encoding.
            let is_short_control = case.error == Some(E::ControlTooLong) && case.refused_length() <= 125;
            case.goes_on() && (is_short_control || case.error == Some(E::LengthNotMinimal))
        },
    },
    Difference {
        name: "reports a close code that must not be sent as 1002",
        peers: &[TUNGSTENITE],
        section: "7.4.1: 1005, 1006 and 1015 MUST NOT be set in a close frame",
        holds: |case| {
            let close = Seen::Close(Some(1002), "Protocol violation".into());
            case.goes_on()
                && matches!(case.error, Some(E::CloseCodeInvalid(_)))
                && case.theirs.events.last() == Some(&close)
        },
    },
    Difference {
        name: "refuses the close code 1014",
        peers: BOTH,
        section: "7.4.2, 11.7: the codes to 2999 are IANA's to register, and 1014 is",
        holds: |case| {
            let Some((Seen::Close(Some(1014), _), before)) = case.ours.events.split_last() else { return false };
            case.theirs.events.starts_with(before) && case.theirs.events.len() <= before.len() + 1
        },
    },
    Difference {
        name: "accepts a frame without a mask from a client",
        peers: &[FASTWEBSOCKETS],
        section: "5.1: the server MUST close the connection upon receiving a frame that is not masked",
        holds: |case| case.goes_on() && case.error == Some(E::MaskMissing),
    },
    Difference {
        name: "accepts a close frame and a pong of more than 125 bytes",
        peers: &[FASTWEBSOCKETS],
        section: "5.5: all control frames MUST have a payload length of 125 bytes or less",
        holds: |case| case.goes_on() && case.error == Some(E::ControlTooLong),
    },
    Difference {
        name: "drops a fragmented message when another begins",
        peers: &[FASTWEBSOCKETS],
        section: "5.4: the fragments of one message MUST NOT be interleaved between those of another",
        holds: |case| case.goes_on() && case.error == Some(E::MessageInterrupted),
    },
    Difference {
        name: "drops the beginning of a character at the end of a fragmented text",
        peers: &[FASTWEBSOCKETS],
        section: "8.1: an endpoint MUST fail the connection for text that is not UTF-8",
        holds: |case| case.goes_on() && case.error == Some(E::InvalidUtf8),
    },
    Difference {
        name: "has no limit for a message of several frames",
        peers: &[FASTWEBSOCKETS],
        section: "10.4: limits of a message after reassembly are an implementation's own",
        holds: |case| case.goes_on() && case.error == Some(E::MessageTooBig),
    },
];
