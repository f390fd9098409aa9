//! Settles the rules of a route: checks the given rules, and completes them with those of the server.

use super::super::{
    checked::{Config, Limits},
    quantities::Size,
};
use crate::{
    auth::Callback,
    handler::{ANY_PROTOCOL, RouteOptions, Rules},
    proto::{CONTROL_PAYLOAD_MAX, KeepAlive, MessageLimits, is_token},
    rates::InputRates,
    surface::Surface,
};

/// The rules of a server, which hold for a route without its own, and the limits that the server's settings set for the
/// rules of routes.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    pub(crate) limits: MessageLimits,
    pub(crate) keep_alive: KeepAlive,
    pub(crate) rates: InputRates,
    pub(crate) backlog_bytes_max: u64,
    pub(crate) gathered_bytes_max: u64,
    /// Bytes of all bodies together.
    pub(crate) bodies_bytes_max: u64,
    /// The callback that routes of a file may ask.
    pub(crate) callback: Option<Callback>,
    /// Whether this is no server's base, but that of [`Base::of_any_server`].
    pub(crate) is_any: bool,
}

impl Config {
    /// Returns the base for the rules of routes.
    pub(crate) fn base_of_routes(&self) -> Base {
        Base {
            limits: self.limits.message,
            keep_alive: self.keep_alive,
            rates: self.limits.input_rates,
            backlog_bytes_max: self.limits.backlog_bytes_max as u64,
            gathered_bytes_max: self.limits.gathered_bytes_max as u64,
            bodies_bytes_max: self.http.bodies_bytes_max as u64,
            callback: self.callback.clone(),
            is_any: false,
        }
    }
}

impl Base {
    /// Returns the base of a server without limits. Only rules that are wrong for every server fail against it.
    pub(crate) fn of_any_server() -> Base {
        Base {
            limits: MessageLimits { message_bytes_max: Limits::MESSAGE_BYTES_MAX as u32, ..MessageLimits::DEFAULT },
            keep_alive: KeepAlive::default(),
            rates: InputRates::default(),
            backlog_bytes_max: u64::MAX,
            gathered_bytes_max: u64::MAX,
            bodies_bytes_max: u64::MAX,
            callback: None,
            is_any: true,
        }
    }

    /// Returns the base for a route whose messages have these sources.
    fn of_route(&self, sources: Sources) -> Base {
        match sources {
            Sources::WebSocketsAndBodies => self.clone(),
            Sources::WebSockets => Base { bodies_bytes_max: u64::MAX, ..self.clone() },
        }
    }
}

/// The sources of a route's messages, which decide the server's limits for its largest message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sources {
    /// WebSockets, and bodies of requests that publish to its topics: a route of the hub.
    WebSocketsAndBodies,
    /// WebSockets alone: a handler other than the hub gets no body.
    WebSockets,
}

/// A wrong rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RuleFault {
    /// The key in a file.
    pub(crate) key: &'static str,
    /// The index of the wrong value, if the rule has several.
    pub(crate) item: usize,
    pub(crate) what: String,
    /// The setting of the server that the rule does not fit.
    pub(crate) against: Option<&'static str>,
}

/// Checks rules, and completes them with those of the server, for routes of a file and of an embedder.
///
/// # Errors
///
/// All faults, at least one.
pub(crate) fn settle(given: &RouteOptions, sources: Sources, base: &Base) -> Result<Rules, Vec<RuleFault>> {
    let mut faults = Faults(Vec::new());
    let limits = settle_limits(given, &base.of_route(sources), &mut faults);
    if given.ping_payload.len() > CONTROL_PAYLOAD_MAX {
        let count = given.ping_payload.len();
        faults.add("ping_payload", format!("{count} bytes are more than a ping carries, {CONTROL_PAYLOAD_MAX}"));
    }
    check_protocols(given, &mut faults);
    if !faults.0.is_empty() {
        return Err(faults.0);
    }
    Ok(Rules {
        gate: given.gate.clone(),
        protocols: given.protocols.clone(),
        requires_protocol: given.requires_protocol,
        limits,
        rates: InputRates {
            messages: given.max_message_rate.unwrap_or(base.rates.messages),
            bytes: given.max_byte_rate.unwrap_or(base.rates.bytes),
        },
        keep_alive: KeepAlive {
            ping_interval: given.ping_interval.unwrap_or(base.keep_alive.ping_interval),
            pong_timeout: given.pong_timeout.unwrap_or(base.keep_alive.pong_timeout),
            close_timeout: given.close_timeout.unwrap_or(base.keep_alive.close_timeout),
        },
        ping_payload: given.ping_payload.clone(),
        inspects_frames: given.inspects_frames,
        forgets_request: given.forgets_request,
        skips_broadcasts: given.skips_broadcasts,
        has_manual_backpressure: given.has_manual_backpressure,
    })
}

/// Checks the rules of a surface's route, and completes them with those of the server.
///
/// # Errors
///
/// All faults, at least one.
pub(crate) fn settle_surface(surface: &Surface, given: &RouteOptions, base: &Base) -> Result<Rules, Vec<RuleFault>> {
    let sources = if surface.takes_messages_as_bodies() { Sources::WebSocketsAndBodies } else { Sources::WebSockets };
    let settled = settle(given, sources, base);
    let Some(bytes) = surface.body_bytes_max().map(u64::from).filter(|bytes| *bytes > base.bodies_bytes_max) else {
        return settled;
    };
    let (name, needed, given) = (surface.name, Size(bytes), Size(base.bodies_bytes_max));
    let what = format!("{name:?} needs a max_bodies of {needed}, which is {given}");
    let fault = RuleFault { key: "handler", item: 0, what, against: Some("max_bodies") };
    Err(settled.err().into_iter().flatten().chain([fault]).collect())
}

/// The faults found so far.
struct Faults(Vec<RuleFault>);

impl Faults {
    fn add(&mut self, key: &'static str, what: String) {
        self.0.push(RuleFault { key, item: 0, what, against: None });
    }

    fn add_against(&mut self, key: &'static str, what: String, setting: &'static str) {
        self.0.push(RuleFault { key, item: 0, what, against: Some(setting) });
    }
}

/// Returns the limits of messages, which hold only if no fault is found.
fn settle_limits(given: &RouteOptions, base: &Base, faults: &mut Faults) -> MessageLimits {
    let message = given.max_message.unwrap_or(base.limits.message_bytes_max.into());
    let largest = Size(Limits::MESSAGE_BYTES_MAX);
    if message == 0 || message > largest.0 {
        faults.add("max_message", format!("{} is not between 1 and {largest}", Size(message)));
    } else if given.max_message.is_some() {
        let room = [
            ("max_backlog", base.backlog_bytes_max, 2),
            ("max_gathered", base.gathered_bytes_max, 1),
            ("max_bodies", base.bodies_bytes_max, 1),
        ];
        if let Some((setting, bytes, times)) = room.into_iter().find(|(_, bytes, times)| times * message > *bytes) {
            let (size, needed) = (Size(message), Size(times * message));
            let what = format!("{size} needs a {setting} of {needed}, which is {}", Size(bytes));
            faults.add_against("max_message", what, setting);
        }
    }
    let frame = given.max_frame.unwrap_or(u64::from(base.limits.frame_bytes_max).min(message));
    let largest_here = Size(message);
    if given.max_frame.is_some() && frame == 0 {
        faults.add("max_frame", format!("0 is not between 1 and the route's largest message, {largest_here}"));
    } else if frame > message {
        let what = format!("{} is more than the route's largest message, {largest_here}", Size(frame));
        match given.max_message {
            Some(_) => faults.add("max_frame", what),
            None => faults.add_against("max_frame", what, "max_message"),
        }
    }
    let fragments = given.max_fragments.unwrap_or(base.limits.fragments_max);
    if fragments == 0 {
        faults.add("max_fragments", "a message has at least one frame".into());
    }
    MessageLimits {
        message_bytes_max: message as u32,
        frame_bytes_max: frame as u32,
        fragments_max: fragments,
        checks_utf8: given.check_utf8.unwrap_or(base.limits.checks_utf8),
        deliver: given.deliver,
    }
}

fn check_protocols(given: &RouteOptions, faults: &mut Faults) {
    let protocols = &given.protocols;
    for (at, protocol) in protocols.iter().enumerate() {
        let what = if !is_token(protocol) {
            format!("{protocol:?} is no subprotocol: letters, digits and !#$%&'*+-.^_`|~")
        } else if protocols[..at].contains(protocol) {
            format!("{protocol:?} is there twice")
        } else if protocol == ANY_PROTOCOL && at + 1 < protocols.len() {
            format!("{protocol:?} stands for any subprotocol, so it has to be the last one")
        } else {
            continue;
        };
        faults.0.push(RuleFault { key: "protocols", item: at, what, against: None });
    }
    if given.requires_protocol && protocols.is_empty() {
        faults.add("protocols", "a subprotocol is needed and none is named".into());
    }
}
