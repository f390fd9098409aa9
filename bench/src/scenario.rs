//! Scenarios and bars: what is measured, against what, and what must come out. `table.rs` has all of them.

use crate::metric::Metric;
use crate::peers::Peer;

/// A load, and the bars that servers must reach under it.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// The subscribers; with [`Load::Echo`], [`Load::Storm`] and [`Load::Idle`] all connections.
    pub(crate) subscribers: usize,
    pub(crate) topics: Topics,
    /// Payload bytes.
    pub(crate) size: usize,
    pub(crate) load: Load,
    /// What is counted besides the generator's figures, at servers of this project.
    pub(crate) counting: Counting,
    /// The bars that `compare` and `results` judge.
    pub(crate) bars: &'static [Bar],
    /// The bars that only `compare` judges, if the servers are named.
    pub(crate) asked: &'static [Bar],
    /// Servers that `results` measures without a bar.
    pub(crate) beside: &'static [Peer],
}

/// The topics of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topics {
    One,
    /// Each subscriber has the same two topics, on one connection. Each topic has a publisher.
    Two,
    /// Each subscriber has one of this number of topics. Subscribers and messages fall on them by Zipf's law, and each
    /// topic has a publisher.
    Zipf(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Open loop, messages per second.
    Rate(u64),
    /// Open loop, messages per second to subscribers of `ringhub.v1`. The payloads of raw subscribers are larger, so
    /// that both get frames of equal length.
    OfV1(u64),
    /// Open loop, messages per second to event streams by POST. The payloads of raw subscribers are larger, so that
    /// both get equal bytes.
    Streams(u64),
    /// Open loop. In the second half of the window some subscribers do not read.
    Stall {
        /// Messages per second.
        rate: u64,
        /// The subscribers that do not read, in per cent.
        percent: u64,
    },
    /// Open loop, at this percentage of the messages per second that the slower of the hub and a rival can handle.
    Share(u64, Rival),
    /// Closed loop, the number of messages that are not yet delivered to all.
    InFlight(u64),
    /// As fast as the server reads, this number of messages for each second of the window. A walk takes many
    /// milliseconds, and a window of seconds would end within a walk. So the window is a number of messages.
    Unthrottled(u64),
    /// HTTP requests, one in flight on each of this number of connections.
    Post(usize),
    /// Each connection sends messages and gets them back, with this number under way.
    Echo(u64),
    /// All connections are closed at once, and come back at once.
    Storm,
    /// Connections are opened and stay idle.
    Idle,
    /// Messages are published by HTTP to a hub that keeps them. The memory of each is the difference between few and
    /// many.
    Keep {
        /// The kept messages at the first reading of memory.
        few: usize,
        /// The kept messages at the second reading.
        many: usize,
    },
    /// A reader of frames in memory, by `bench/run micro`.
    Micro,
}

/// A server that the hub is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    Peer(Peer),
    /// Of our servers on crates, the one with the most deliveries per second in the scenario [`SATURATION`].
    BestCrate,
}

/// What is counted at servers of this project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counting {
    Nothing,
    /// Sends, by the server's metrics.
    Sends,
    /// System calls, by the kernel.
    Calls,
}

/// A limit on a figure of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    /// The server that must reach the bar.
    pub(crate) of: Peer,
    pub(crate) metric: Metric,
    pub(crate) against: Against,
    pub(crate) limit: Limit,
}

/// What a server's median is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Against {
    /// The limit is on the median itself.
    Nothing,
    /// The limit is on the median divided by that of the rival.
    Rival(Rival),
    /// The limit is on the median divided by that of this crate's reader.
    Crate(&'static str),
    /// The limit is on the median less that of the peer.
    Above(Peer),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// The windows that a run with stalled readers lasts: the sockets of readers that stall for the second half must fill.
pub(crate) const STALL_WINDOWS: u64 = 4;

/// The scenario whose deliveries per second are the most that a server can handle.
pub(crate) const SATURATION: &str = "in-flight-128";

impl Scenario {
    /// Returns those of `servers` that can take part in this scenario.
    pub(crate) fn servers(&self, servers: &[Peer]) -> Vec<Peer> {
        let can = |server: &Peer| match (self.load, self.topics) {
            (Load::Micro, _) => false,
            (Load::OfV1(_), _) => matches!(server, Peer::Hub | Peer::HubV1),
            (Load::Streams(_), _) => matches!(server, Peer::Hub | Peer::HubSse),
            (Load::Keep { .. }, _) => *server == Peer::HubHistory,
            (Load::Post(_), _) => server.takes_posts(),
            (Load::Echo(_), _) => server.takes_echo(),
            (Load::Idle | Load::Storm, _) => *server != Peer::Nchan,
            (_, Topics::One) => server.takes_fanout(),
            (_, Topics::Two) => server.has_two_topics(),
            (_, Topics::Zipf(_)) => server.takes_fanout() && server.has_topics(),
        };
        servers.iter().copied().filter(can).collect()
    }

    /// Returns the servers that `results` measures: those of the bars, and those beside them.
    pub(crate) fn named_servers(&self, best_crate: Option<Peer>) -> Vec<Peer> {
        let of_bars = self.bars.iter().flat_map(|bar| [Some(bar.of), bar.against.peer(best_crate)]);
        let named = of_bars.flatten().chain(self.beside.iter().copied());
        let mut servers = Vec::new();
        for server in named.filter(|_| self.load != Load::Micro) {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers
    }

    /// Returns all bars of `compare`: the scenario's, and those that every scenario has against a baseline.
    pub(crate) fn compared_bars(&self) -> impl Iterator<Item = Bar> {
        let beside_baseline = self.load.headline().into_iter().map(|(metric, limit)| Bar {
            of: Peer::Hub,
            metric,
            against: Against::Rival(Rival::Peer(Peer::Baseline)),
            limit,
        });
        self.bars.iter().chain(self.asked).copied().chain(beside_baseline)
    }

    /// Returns the columns of the scenario's table.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let counted: &[Metric] = match self.counting {
            Counting::Nothing => &[],
            Counting::Sends => &[Metric::MessagesPerSend, Metric::SendsPerDelivery],
            Counting::Calls => &[Metric::CallsPerDelivery],
        };
        self.load.metrics().iter().chain(counted).copied().collect()
    }

    /// Returns a line for people.
    pub(crate) fn line(&self) -> String {
        format!("{}: {}", self.name, self.description())
    }

    /// Returns the load in words. Two scenarios with the same words put the same load on a server.
    pub(crate) fn description(&self) -> String {
        let Scenario { subscribers, size, load, .. } = self;
        let (connections, size) = (grouped(*subscribers), grouped(*size));
        let topics = match self.topics {
            Topics::One => String::new(),
            Topics::Two => " of 2 topics each".to_owned(),
            Topics::Zipf(topics) => format!(" of {} topics (Zipf)", grouped(topics)),
        };
        let counted = if self.counting == Counting::Calls { "; system calls are counted" } else { "" };
        let fanout = |pace: String| format!("{connections} subscribers{topics}, {size} B, {pace}{counted}");
        match load {
            Load::Rate(rate) => fanout(format!("{rate} messages/s")),
            Load::OfV1(rate) => {
                fanout(format!("{rate} messages/s, frames of ringhub.v1, and raw ones of their length"))
            }
            Load::Streams(rate) => {
                fanout(format!("{rate} POST/s to event streams, and to raw subscribers with frames of their length"))
            }
            Load::Stall { rate, percent } => fanout(format!("{rate} messages/s, {percent} % of the readers stall")),
            Load::Share(percent, rival) => fanout(format!(
                "{percent} % of the messages/s that the slower of hub and {} can handle",
                Against::Rival(*rival).name(None)
            )),
            Load::InFlight(in_flight) => fanout(format!("{in_flight} in flight")),
            Load::Unthrottled(_) => fanout("one publisher, unthrottled".to_owned()),
            Load::Post(posting) => fanout(format!("POST on {posting} kept connections, one request in flight on each")),
            Load::Echo(depth) => format!("echo, {connections} connections, {size} B, {depth} under way on each"),
            Load::Storm => format!("{connections} connections that come back at once"),
            Load::Idle => format!("{connections} idle subscribers"),
            Load::Keep { many, .. } => format!("{} messages of {size} B that are kept", grouped(*many)),
            Load::Micro => {
                format!("read path: header, unmasking, UTF-8 and assembly of messages of {size} B in memory")
            }
        }
    }
}

/// Returns a number with its thousands apart.
pub(crate) fn grouped(number: usize) -> String {
    match number {
        1_000.. => format!("{} {:03}", grouped(number / 1_000), number % 1_000),
        _ => number.to_string(),
    }
}

impl Load {
    /// Returns the generator's flags for a window of `seconds`. `rate` is the rate of a [`Load::Share`].
    pub(crate) fn flags(&self, warmup_seconds: u64, seconds: u64, rate: Option<u64>) -> Vec<String> {
        let timed = |flag: &str, value: u64| {
            [
                flag.to_owned(),
                value.to_string(),
                format!("--warmup={warmup_seconds}s"),
                format!("--duration={seconds}s"),
            ]
            .to_vec()
        };
        match self {
            Load::Rate(rate) | Load::OfV1(rate) => timed("--rate", *rate),
            Load::Stall { rate, percent } => {
                let share = format!("--share={}", *percent as f64 / 100.0);
                let window = STALL_WINDOWS * seconds;
                let warmup = format!("--warmup={warmup_seconds}s");
                vec!["--rate".to_owned(), rate.to_string(), warmup, format!("--duration={window}s"), share]
            }
            Load::Share(..) => timed("--rate", rate.unwrap_or_default()),
            Load::InFlight(in_flight) => timed("--in-flight", *in_flight),
            Load::Echo(depth) => timed("--depth", *depth),
            Load::Unthrottled(per_second) => {
                ["--unthrottled", "--drain=60s", "--messages", &(per_second * seconds).to_string()]
                    .map(str::to_owned)
                    .to_vec()
            }
            // The old connections keep their ports for a while, so one address would not have enough of them.
            Load::Storm => ["--rounds=1", "--hold=1s", "--source-addresses=4"].map(str::to_owned).to_vec(),
            Load::Post(_) | Load::Streams(_) | Load::Idle | Load::Keep { .. } | Load::Micro => Vec::new(),
        }
    }

    /// Returns the number of messages that a run publishes, if it does not depend on the server.
    pub(crate) fn exact_messages(&self, warmup_seconds: u64, seconds: u64, rate: Option<u64>) -> Option<u64> {
        match self {
            Load::Rate(rate) | Load::OfV1(rate) => Some(rate * (warmup_seconds + seconds)),
            Load::Stall { rate, .. } => Some(rate * (warmup_seconds + STALL_WINDOWS * seconds)),
            Load::Share(..) => rate.map(|rate| rate * (warmup_seconds + seconds)),
            Load::Unthrottled(per_second) => Some(per_second * seconds),
            _ => None,
        }
    }

    /// Returns the main figures with what is asked of them beside a baseline.
    pub(crate) fn headline(&self) -> Vec<(Metric, Limit)> {
        let (less, more) = (Limit::AtMost(1.0), Limit::AtLeast(1.0));
        match self {
            Load::Post(_) => vec![(Metric::CpuPerRequest, less), (Metric::RequestsPerSecond, more)],
            Load::Unthrottled(_) => vec![(Metric::BusyPerDelivery, less), (Metric::DeliveriesPerSecond, more)],
            Load::Echo(_) => vec![(Metric::RoundTripsPerSecond, more)],
            Load::Storm => vec![(Metric::SecondsToAll, less)],
            Load::Idle => vec![(Metric::UserBytes, less), (Metric::AllBytes, less)],
            Load::Keep { .. } => vec![(Metric::KeptBytes, less)],
            Load::Micro => Vec::new(),
            _ => vec![(Metric::CpuPerDelivery, less), (Metric::DeliveriesPerSecond, more)],
        }
    }

    /// Returns the figures that every scenario with this load has.
    fn metrics(&self) -> &'static [Metric] {
        match self {
            Load::Post(_) => &[
                Metric::CpuPerRequest,
                Metric::RequestsPerSecond,
                Metric::RequestsPerCpuSecond,
                Metric::P50,
                Metric::P99,
                Metric::Others,
            ],
            Load::Echo(_) => &[Metric::RoundTripsPerSecond, Metric::P50, Metric::P99, Metric::Spare, Metric::Others],
            Load::Storm => &[Metric::SecondsToAll, Metric::Others],
            Load::Idle => &[Metric::UserBytes, Metric::AllBytes, Metric::ServerMebibytes],
            Load::Streams(_) => &[Metric::CpuPerDelivery, Metric::DeliveriesPerSecond, Metric::Others],
            Load::Keep { .. } => &[Metric::KeptBytes, Metric::ServerMebibytes],
            Load::Micro => &[Metric::BytesPerSecond],
            Load::Stall { .. } => &[
                Metric::P99Stalled,
                Metric::ThroughputStalled,
                Metric::MemoryOfAccounted,
                Metric::ServerMebibytes,
                Metric::P99,
                Metric::CpuPerDelivery,
                Metric::DeliveriesPerSecond,
                Metric::Spare,
                Metric::Others,
            ],
            _ => &[
                Metric::CpuPerDelivery,
                Metric::BusyPerDelivery,
                Metric::DeliveriesPerSecond,
                Metric::P50,
                Metric::P99,
                Metric::MessagesPerRead,
                Metric::Spare,
                Metric::Others,
            ],
        }
    }
}

impl Rival {
    /// Returns the peer, if it is known.
    pub(crate) fn peer(self, best_crate: Option<Peer>) -> Option<Peer> {
        match self {
            Rival::Peer(peer) => Some(peer),
            Rival::BestCrate => best_crate,
        }
    }
}

impl Against {
    /// Returns the peer that must run for this comparison.
    pub(crate) fn peer(self, best_crate: Option<Peer>) -> Option<Peer> {
        match self {
            Against::Rival(rival) => rival.peer(best_crate),
            Against::Above(peer) => Some(peer),
            Against::Nothing | Against::Crate(_) => None,
        }
    }

    /// Returns the name of the other side. The best server on a crate is named as such until it is known.
    pub(crate) fn name(self, best_crate: Option<Peer>) -> &'static str {
        match (self, self.peer(best_crate)) {
            (_, Some(peer)) => peer.name(),
            (Against::Crate(name), _) => name,
            (Against::Rival(_), None) => "the best crate peer",
            _ => "absolute",
        }
    }
}

impl Bar {
    /// Returns the limit for people, such as `≤ 1.03×`.
    pub(crate) fn must(&self) -> String {
        let (sign, limit) = match self.limit {
            Limit::AtMost(limit) => ("≤", limit),
            Limit::AtLeast(limit) => ("≥", limit),
        };
        match self.against {
            Against::Rival(_) | Against::Crate(_) => format!("{sign} {limit}×"),
            Against::Nothing | Against::Above(_) => format!("{sign} {}", self.metric.text(limit)),
        }
    }

    /// Returns a value that is compared with the limit, for people.
    pub(crate) fn text(&self, value: f64) -> String {
        match self.against {
            Against::Rival(_) | Against::Crate(_) => format!("{}×", crate::metric::number(value)),
            Against::Nothing | Against::Above(_) => self.metric.text(value),
        }
    }
}

/// The verdict about a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    /// The bar is missed by no more than [`TOLERANCE`], which is noise and counts as met.
    WithinNoise,
    Missed,
}

impl Limit {
    pub(crate) fn judge(self, value: f64) -> Verdict {
        let (met, near) = match self {
            Limit::AtMost(limit) => (value <= limit, value <= limit * (1.0 + TOLERANCE)),
            Limit::AtLeast(limit) => (value >= limit, value >= limit * (1.0 - TOLERANCE)),
        };
        match (met, near) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::WithinNoise,
            (false, false) => Verdict::Missed,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Verdict::Met => "met",
            Verdict::WithinNoise => "met within 3 %",
            Verdict::Missed => "MISSED",
        })
    }
}

const TOLERANCE: f64 = 0.03;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_a_margin_of_three_per_cent() {
        assert_eq!(Limit::AtMost(0.85).judge(0.85), Verdict::Met);
        assert_eq!(Limit::AtMost(0.85).judge(0.87), Verdict::WithinNoise);
        assert_eq!(Limit::AtMost(0.85).judge(0.88), Verdict::Missed);
        assert_eq!(Limit::AtLeast(3.5).judge(3.5), Verdict::Met);
        assert_eq!(Limit::AtLeast(3.5).judge(3.4), Verdict::WithinNoise);
        assert_eq!(Limit::AtLeast(3.5).judge(3.39), Verdict::Missed);
        assert_eq!(Limit::AtMost(1.0).judge(f64::NAN), Verdict::Missed);
        assert_eq!(Limit::AtLeast(1.0).judge(f64::NAN), Verdict::Missed);
    }

    #[test]
    fn a_limit_is_written_as_it_is_compared() {
        let bar = |metric, against, limit| Bar { of: Peer::Hub, metric, against, limit };
        let bun = Against::Rival(Rival::Peer(Peer::Bun));
        let check = |bar: Bar, must: &str| assert_eq!(bar.must(), must);
        check(bar(Metric::CpuPerDelivery, bun, Limit::AtMost(0.92)), "≤ 0.92×");
        check(bar(Metric::DeliveriesPerSecond, bun, Limit::AtLeast(4.5)), "≥ 4.5×");
        check(bar(Metric::CallsPerDelivery, Against::Nothing, Limit::AtMost(1.0 / 48.0)), "≤ 1/48");
        check(bar(Metric::AllBytes, Against::Above(Peer::Hold), Limit::AtMost(512.0)), "≤ 512");
        check(bar(Metric::MessagesPerSend, Against::Nothing, Limit::AtLeast(115.0)), "≥ 115");
    }

    #[test]
    fn the_best_crate_is_named_when_it_is_known() {
        let against = Against::Rival(Rival::BestCrate);
        assert_eq!((against.peer(None), against.name(None)), (None, "the best crate peer"));
        let best = Some(Peer::SockudoWs);
        assert_eq!((against.peer(best), against.name(best)), (best, "sockudo-ws"));
        assert_eq!(Against::Nothing.name(best), "absolute");
        assert_eq!(Against::Crate("tungstenite").name(best), "tungstenite");
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1_000, 65_536, 262_144].map(grouped), ["0", "999", "1 000", "65 536", "262 144"]);
    }
}
