//! The plan of a run: flags without contradictions.

use super::{MachineFlags, Options, RampBy, Scenario, VerifyFlag, nanos};
use crate::error::Error;
use crate::frame::{PAYLOAD_MAX, opcode};
use crate::generator::is_in_share;
use crate::output::Assertion;
use crate::payload::{SHORT_STAMP_LENGTH, STAMP_LENGTH};
use crate::process::{cpu_of, cpus_of};
use crate::protocol::{Endpoint, Protocol, Publishing, Request};
use crate::replay::{Recorded, recorded};
use crate::topics::{Spread, Topics};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The plan of a run, without contradictions.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) endpoint: Endpoint,
    pub(crate) subscribe: Request,
    pub(crate) publishing: Publishing,
    pub(crate) protocol: Protocol,
    pub(crate) topics: Topics,
    pub(crate) subscribers: usize,
    pub(crate) publishers: usize,
    pub(crate) size: usize,
    pub(crate) opcode: u8,
    pub(crate) activity: Activity,
    pub(crate) drain_ns: u64,
    pub(crate) verify: Verify,
    pub(crate) total_order: bool,
    pub(crate) ignore_foreign: bool,
    pub(crate) connect_rate: u64,
    pub(crate) server_pid: Option<u32>,
    pub(crate) source_addresses: Vec<Ipv4Addr>,
    pub(crate) threads: usize,
    /// The CPUs of the threads, one after the other; empty if the threads are not pinned.
    pub(crate) cpus: Vec<usize>,
    pub(crate) sleep: bool,
    pub(crate) allow_disturbance: bool,
}

/// A scenario after the check of its flags: what happens when the first connections are open.
#[derive(Clone, Debug)]
pub(crate) enum Activity {
    /// Subscribers are opened in steps, and held.
    Hold {
        hold_ns: u64,
        steps: usize,
        settle_ns: u64,
    },
    Publish(Pace),
    Echo(Pace),
    Storm {
        hold_ns: u64,
        rounds: usize,
        at_once: usize,
    },
    Churn {
        pace: Pace,
        per_second: u64,
    },
    Stall {
        pace: Pace,
        share: f64,
    },
    Ramp {
        pace: Pace,
        by: RampBy,
        factor: f64,
        steps: usize,
        p99_ns: u64,
    },
    Replay {
        messages: Vec<Recorded>,
    },
}

/// When messages are published, and which of them are measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) load: Load,
    pub(crate) span: Span,
    pub(crate) warmup_ns: u64,
}

/// The rule for when the next message is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Messages per second, on a fixed schedule.
    Rate(u64),
    /// At most this many messages in flight: the outstanding deliveries divided by the mean number of subscribers of a
    /// message.
    InFlight(u64),
    /// As many messages as the publishers' sockets take.
    Unthrottled,
}

/// The end of publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// After this number of nanoseconds.
    Time(u64),
    /// After this number of messages.
    Messages(u64),
}

/// How deliveries are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Every subscriber reads every frame.
    All,
    /// This many subscribers read every frame; of the others the bytes are counted.
    Sample(usize),
}

/// The subscribers of one thread: each `of`th, beginning with `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) index: usize,
    pub(crate) of: usize,
}

impl Share {
    /// Returns the number of subscribers in the share, of `count` altogether.
    pub(crate) fn size(self, count: usize) -> usize {
        count.saturating_sub(self.index).div_ceil(self.of)
    }

    /// Returns the number among all subscribers of the share's subscriber `local`.
    pub(crate) fn global(self, local: usize) -> usize {
        local * self.of + self.index
    }
}

impl Verify {
    /// Returns whether subscriber `index` of `count` reads every frame. A sample is spread evenly over the connection
    /// order.
    pub fn reads_frames(&self, index: usize, count: usize) -> bool {
        match *self {
            Verify::All => true,
            Verify::Sample(sample) => (index + 1) * sample / count > index * sample / count,
        }
    }
}

impl Activity {
    /// Returns the pace; `None` if nothing is published, or a file has the times.
    pub(crate) fn pace(&self) -> Option<Pace> {
        match *self {
            Activity::Publish(pace)
            | Activity::Echo(pace)
            | Activity::Churn { pace, .. }
            | Activity::Stall { pace, .. }
            | Activity::Ramp { pace, .. } => Some(pace),
            Activity::Hold { .. } | Activity::Storm { .. } | Activity::Replay { .. } => None,
        }
    }

    /// Returns the name of the scenario.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Activity::Hold { .. } => "idle",
            Activity::Publish(_) => "fanout",
            Activity::Echo(_) => "echo",
            Activity::Storm { .. } => "storm",
            Activity::Churn { .. } => "churn",
            Activity::Stall { .. } => "stall",
            Activity::Ramp { .. } => "ramp",
            Activity::Replay { .. } => "replay",
        }
    }

    fn is_silent(&self) -> bool {
        matches!(self, Activity::Hold { .. } | Activity::Storm { .. })
    }

    /// Returns whether connections are only opened and held.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self, Activity::Hold { .. })
    }

    /// Returns whether all subscribers are there from the first message to the last, and read all the time.
    fn has_steady_subscribers(&self) -> bool {
        matches!(self, Activity::Publish(_) | Activity::Hold { .. })
    }
}

impl Plan {
    /// Returns the length of the measured window, if it is known before the run. A ramp has a window for each step.
    pub fn window_ns(&self) -> Option<u64> {
        match self.activity {
            Activity::Ramp { .. } => None,
            Activity::Hold { hold_ns, .. } => Some(hold_ns),
            _ => self.activity.pace().and_then(|pace| match pace.span {
                Span::Time(duration_ns) => Some(duration_ns),
                Span::Messages(_) => None,
            }),
        }
    }
}

impl Options {
    /// Checks the flags against each other.
    ///
    /// # Errors
    /// The first contradiction is returned, as a text for the user.
    pub fn plan(&self) -> Result<Plan, Error> {
        let (load, machine) = (&self.load, &self.machine);
        let target = self.target.target()?;
        let activity = self.activity()?;
        if let Some(pid) = machine.server_pid {
            let why = |error| Error::Options(format!("--server-pid {pid}: {error}"));
            cpu_of(pid).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Error::Options(format!("--server-pid: there is no process {pid}")),
                _ => why(error),
            })?;
        }
        let is_silent = activity.is_silent();
        let is_echo = matches!(activity, Activity::Echo(_));
        let publishers = match activity {
            Activity::Echo(_) => load.subscribers,
            _ if is_silent => 0,
            _ => load.publishers,
        };
        self.check_numbers(&activity, publishers)?;
        if let Publishing::Message { request, text } = &target.publishing
            && !is_echo
            && request.path.has_topic()
            && !text.has_topic()
            && !publishers.is_multiple_of(self.target.topics.max(1))
        {
            return wrong("each publisher's path has one topic: --publishers must be a multiple of --topics");
        }
        if is_echo {
            self.check_echo(&target.publishing)?;
        }
        self.check_fit(&activity)?;
        let verify = self.verify(&activity, &target.protocol)?;
        let mut topics_flags = self.target.clone();
        if is_echo {
            (topics_flags.topics, topics_flags.topics_per_connection) = (load.subscribers, 1);
        }
        let threads = machine.threads;
        if threads == 0 || threads > load.subscribers.min(THREADS_MAX) {
            return wrong("--threads is 1 to 256, and at most the number of subscribers or connections");
        }
        let is_raw = target.protocol.is_raw();
        let binary = load.binary || (target.is_binary && !is_raw);
        let sockets = self.sockets(&activity, load.subscribers + if is_echo { 0 } else { publishers });
        Ok(Plan {
            source_addresses: source_addresses(machine, &target.endpoint, sockets)?,
            cpus: cpus(machine, threads)?,
            endpoint: target.endpoint,
            subscribe: target.subscribe,
            publishing: target.publishing,
            protocol: target.protocol,
            topics: topics_flags.topics(publishers)?,
            subscribers: load.subscribers,
            publishers,
            size: load.size,
            opcode: if binary { opcode::BINARY } else { opcode::TEXT },
            drain_ns: nanos(load.drain),
            verify,
            total_order: load.total_order,
            ignore_foreign: load.ignore_foreign,
            connect_rate: machine.connect_rate,
            server_pid: machine.server_pid,
            threads,
            sleep: machine.sleep || is_silent,
            allow_disturbance: machine.allow_disturbance,
            activity,
        })
    }

    fn activity(&self) -> Result<Activity, Error> {
        let hold_ns = self.hold.map(nanos);
        Ok(match (&self.scenario, hold_ns) {
            (&Scenario::Idle { steps, settle }, hold_ns) => {
                if steps == 0 || steps > self.load.subscribers {
                    return wrong("--steps is 1 to the number of --connections");
                }
                Activity::Hold { hold_ns: hold_ns.unwrap_or_default(), steps, settle_ns: nanos(settle) }
            }
            (&Scenario::Storm { rounds, at_once }, hold_ns) => {
                if rounds == 0 {
                    return wrong("--rounds must be above 0");
                }
                if at_once == 0 {
                    return wrong("--at-once must be above 0");
                }
                Activity::Storm { hold_ns: hold_ns.unwrap_or_default(), rounds, at_once }
            }
            (_, Some(hold_ns)) => Activity::Hold { hold_ns, steps: 1, settle_ns: 0 },
            (Scenario::Fanout, None) => Activity::Publish(self.pace()?),
            (Scenario::Echo { .. }, None) => Activity::Echo(self.pace()?),
            (&Scenario::Churn { per_second }, None) if per_second > 0 => {
                Activity::Churn { pace: self.steady_pace("churn")?, per_second }
            }
            (&Scenario::Stall { share }, None) if (0.0..1.0).contains(&share) => {
                Activity::Stall { pace: self.steady_pace("stall")?, share }
            }
            (&Scenario::Ramp { by, from, factor, steps, p99 }, None) => {
                if from == 0 {
                    return wrong("--from must be above 0");
                }
                if steps == 0 {
                    return wrong("--steps must be above 0");
                }
                if factor <= 1.0 || !factor.is_finite() {
                    return wrong("--factor must be above 1");
                }
                if by == RampBy::Rate && self.load.rate != Some(from) {
                    return wrong("the first rate of a ramp is --from: leave out --rate");
                }
                Activity::Ramp { pace: self.steady_pace("ramp")?, by, factor, steps, p99_ns: nanos(p99) }
            }
            (Scenario::Replay { file, speed }, None) => {
                if *speed <= 0.0 || !speed.is_finite() {
                    return wrong("--speed must be above 0");
                }
                Activity::Replay { messages: recorded(file, *speed, self.target.topics)? }
            }
            (Scenario::Churn { .. }, None) => return wrong("--churn must be above 0"),
            (Scenario::Stall { .. }, None) => return wrong("--share is 0, for nobody, or more, and below 1"),
        })
    }

    /// Returns the pace that the flags ask for.
    fn pace(&self) -> Result<Pace, Error> {
        let flags = &self.load;
        let load = match (flags.rate, flags.in_flight) {
            (Some(0), _) => return wrong("--rate must be above 0"),
            (_, Some(0)) if matches!(self.scenario, Scenario::Echo { .. }) => return wrong("--depth must be above 0"),
            (_, Some(0)) => return wrong("--in-flight must be above 0"),
            (Some(rate), _) => Load::Rate(rate),
            (_, Some(in_flight)) => Load::InFlight(in_flight),
            (None, None) if flags.unthrottled => Load::Unthrottled,
            (None, None) => {
                let ways = "--rate 100, --in-flight 16, --unthrottled or, to stay idle, --hold 10s";
                return Err(Error::Options(format!("say how to publish: {ways}")));
            }
        };
        let span = flags.messages.map_or(Span::Time(nanos(flags.duration)), Span::Messages);
        let usual = if flags.messages.is_some() { Duration::ZERO } else { Duration::from_secs(1) };
        Ok(Pace { load, span, warmup_ns: nanos(flags.warmup.unwrap_or(usual)) })
    }

    /// Returns a pace that does not depend on the deliveries, for a time.
    fn steady_pace(&self, scenario: &str) -> Result<Pace, Error> {
        if self.load.messages.is_some() {
            return Err(Error::Options(format!("{scenario} takes no --messages: the run lasts for --duration")));
        }
        if self.load.rate.is_none() {
            return Err(Error::Options(format!("{scenario} needs --rate, such as --rate 100")));
        }
        self.pace()
    }

    /// Returns the most sockets that have a port at the same time: those that were closed keep theirs for a minute.
    fn sockets(&self, activity: &Activity, first: usize) -> usize {
        let closed = match activity {
            Activity::Storm { rounds, .. } => first.saturating_mul(*rounds),
            Activity::Churn { per_second, pace } => {
                let seconds = pace.warmup_ns.saturating_add(nanos(self.load.duration)).div_ceil(1_000_000_000);
                usize::try_from(per_second.saturating_mul(seconds.min(60))).unwrap_or(usize::MAX)
            }
            &Activity::Ramp { by: RampBy::Connections, factor, steps, .. } => {
                (first as f64 * factor.powi(steps as i32 - 1)) as usize
            }
            _ => 0,
        };
        match activity {
            // A ramp ends where there are no more ports.
            Activity::Ramp { .. } => first.max(closed).min(SOCKETS_PER_ADDRESS * usize::from(u8::MAX - 1)),
            _ => first.saturating_add(closed),
        }
    }

    /// Refuses an echo that would not come back.
    fn check_echo(&self, publishing: &Publishing) -> Result<(), Error> {
        let flags = &self.target;
        if matches!(publishing, Publishing::Post(_)) {
            return wrong("echo sends messages, and this server is published to by HTTP");
        }
        if flags.topics != 1 || flags.topics_per_connection != 1 || flags.spread != Spread::Uniform {
            return wrong(
                "in echo each connection has its own topic: leave out --topics, --topics-per-connection, --spread",
            );
        }
        Ok(())
    }

    /// Refuses flags that would be wrong or useless in this scenario.
    fn check_fit(&self, activity: &Activity) -> Result<(), Error> {
        let (load, flags) = (&self.load, &self.target);
        let has_one_topic = flags.topics == flags.topics_per_connection;
        if load.total_order && !(has_one_topic && activity.has_steady_subscribers()) {
            return wrong("--total-order is for fanout whose subscribers all get the same messages");
        }
        if !load.total_order && self.output.assertions.iter().any(|assertion| assertion.is_about("other_orders")) {
            return wrong("--assert: other_orders is counted with --total-order only");
        }
        let obstacle = |assertion: &Assertion| assertion.obstacle(activity.name());
        if let Some(why) = self.output.assertions.iter().find_map(obstacle) {
            return Err(Error::Options(why));
        }
        if let Activity::Ramp { .. } = activity {
            if load.size < STAMP_LENGTH {
                return wrong("ramp needs a latency: --size of at least 32");
            }
            if load.in_flight.is_some() || load.unthrottled {
                return wrong("ramp has a rate: leave out --in-flight and --unthrottled");
            }
        }
        if let &Activity::Stall { share, .. } = activity
            && share > 0.0
            && !(0..load.subscribers).any(|number| is_in_share(share, number))
        {
            return wrong("--share of these --subscribers is nobody");
        }
        let silent_hgrm = self.output.hgrm.is_some() && (activity.is_silent() || load.size < STAMP_LENGTH);
        if silent_hgrm {
            return wrong("--hgrm needs a latency: messages with a --size of at least 32");
        }
        if load.messages == Some(0) {
            return wrong("--messages must be above 0");
        }
        if load.duration.is_zero() {
            return wrong("--duration must be above 0");
        }
        let longest =
            [load.duration, load.warmup.unwrap_or_default(), load.drain].into_iter().max().unwrap_or_default();
        if longest > Duration::from_secs(24 * 3_600) {
            return wrong("--duration, --warmup and --drain are at most a day, which a stamp has room for");
        }
        Ok(())
    }

    fn check_numbers(&self, activity: &Activity, publishers: usize) -> Result<(), Error> {
        let flags = &self.load;
        if flags.subscribers == 0 {
            return Err(Error::Options(format!("{} must be above 0", self.scenario.connections_flag())));
        }
        if !activity.is_silent() && publishers == 0 {
            return wrong("--publishers must be above 0");
        }
        if publishers > usize::from(u16::MAX) {
            let flag = if let Activity::Echo(_) = activity { "--connections of echo" } else { "--publishers" };
            return Err(Error::Options(format!("{flag}: at most {}", u16::MAX)));
        }
        if !(SHORT_STAMP_LENGTH..=PAYLOAD_MAX).contains(&flags.size) {
            return Err(Error::Options(format!("--size is {SHORT_STAMP_LENGTH} to {PAYLOAD_MAX} bytes")));
        }
        Ok(())
    }

    fn verify(&self, activity: &Activity, protocol: &Protocol) -> Result<Verify, Error> {
        let flags = &self.load;
        let verify = match flags.verify {
            VerifyFlag::Sample if flags.sample == 0 => return wrong("--sample must be above 0"),
            VerifyFlag::Sample if flags.sample < flags.subscribers => Verify::Sample(flags.sample),
            VerifyFlag::All | VerifyFlag::Sample => return Ok(Verify::All),
        };
        if activity.is_silent() {
            return wrong(
                "--hold answers pings, for which every subscriber must read its frames: leave out --verify sample",
            );
        }
        if !activity.has_steady_subscribers() {
            return wrong("--verify sample is for fanout only");
        }
        if !protocol.is_raw() || self.target.url.to_ascii_lowercase().starts_with("wss:") {
            let without =
                "leave it out with wss://, with --delivery, --packing or --reply, and with a preset that has these";
            return Err(Error::Options(format!("--verify sample counts bytes: {without}")));
        }
        Ok(verify)
    }
}

/// Returns the CPUs to pin threads to. Several threads keep away from the CPUs of a server that does not have all.
fn cpus(machine: &MachineFlags, threads: usize) -> Result<Vec<usize>, Error> {
    if !machine.cpu.is_empty() {
        let own = cpus_of(std::process::id()).map_err(Error::system("read the generator's CPUs"))?;
        if let Some(foreign) = machine.cpu.iter().find(|cpu| !own.contains(cpu)) {
            let own: Vec<String> = own.iter().map(ToString::to_string).collect();
            let why = format!("--cpu {foreign}: this process may use the CPUs {}", own.join(", "));
            return Err(Error::Options(why));
        }
        if machine.cpu.len() != 1 && machine.cpu.len() != threads {
            return wrong("--cpu names one CPU, or one for each of the --threads");
        }
        return Ok(machine.cpu.clone());
    }
    let Some(pid) = machine.server_pid.filter(|_| threads > 1) else { return Ok(Vec::new()) };
    let servers = cpus_of(pid).map_err(Error::system("read the server's CPUs"))?;
    let own = cpus_of(std::process::id()).map_err(Error::system("read the generator's CPUs"))?;
    Ok(own.into_iter().filter(|cpu| !servers.contains(cpu)).collect())
}

/// Returns the source addresses; none if the system may choose.
fn source_addresses(machine: &MachineFlags, endpoint: &Endpoint, sockets: usize) -> Result<Vec<Ipv4Addr>, Error> {
    let loopback = endpoint.address.ip().is_loopback() && endpoint.address.is_ipv4();
    let needed = if sockets <= SOCKETS_OF_ONE { 1 } else { sockets.div_ceil(SOCKETS_PER_ADDRESS) };
    let count = match machine.source_addresses {
        Some(_) if !loopback => return wrong("--source-addresses needs a target in 127.0.0.0/8"),
        Some(count) => usize::from(count),
        None if loopback => needed,
        None => 1,
    };
    if count > usize::from(u8::MAX) - 1 {
        return Err(Error::Options(match machine.source_addresses {
            Some(_) => format!("--source-addresses is at most {}", u8::MAX - 1),
            None => format!("{sockets} connections need more than 254 source addresses, of {SOCKETS_PER_ADDRESS} each"),
        }));
    }
    Ok(if count <= 1 { Vec::new() } else { (1..=count).map(|host| Ipv4Addr::new(127, 0, 0, host as u8)).collect() })
}

fn wrong<T>(why: &str) -> Result<T, Error> {
    Err(Error::Options(why.to_owned()))
}

/// The most threads.
const THREADS_MAX: usize = 256;

/// The sockets of one source address, fewer than its usual 28 232 ephemeral ports.
const SOCKETS_OF_ONE: usize = 25_000;

/// The sockets of each of several source addresses, which use half of the ports: see [`crate::ports::Ports`].
const SOCKETS_PER_ADDRESS: usize = 14_000;

#[cfg(test)]
mod tests;
