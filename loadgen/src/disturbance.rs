//! Decides whether this machine has disturbed a run, and by what.

use crate::options::{Load, Plan, Span};
use crate::sampling::Edge;

/// What disturbed a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disturbance {
    pub(crate) cause: Cause,
    /// The disturbance with its extent, for people.
    pub(crate) text: String,
}

/// The kind of a disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The generator had no time to spare.
    Bottleneck,
    /// A thread of the generator waited for its CPU.
    Waiting,
    /// A hypervisor took CPU time away.
    Stolen,
    /// Other programs used CPUs.
    Others,
}

impl Cause {
    /// Returns what the user can do. `sleeps` says whether the generator sleeps already.
    pub(crate) fn remedy(self, sleeps: bool) -> &'static str {
        match self {
            Cause::Bottleneck => "leave the generator time: fewer --subscribers, a lower --rate, or more --threads",
            Cause::Waiting if sleeps => "give each thread a free CPU: --cpu, and taskset for the server",
            Cause::Waiting => {
                "give each thread a free CPU (--cpu, and taskset for the server), or let the generator sleep (--sleep)"
            }
            Cause::Stolen => "measure at another time, or on another machine",
            Cause::Others => "end the other programs; if they are processes of the server, leave out --server-pid",
        }
    }
}

/// Returns the reasons for which the figures say more about this machine than about the server. Neither a short window
/// is judged, since the kernel counts CPU time in ticks, nor a number of messages, which are counted rather than timed,
/// nor connections that are only held, whose figure is memory.
pub(crate) fn disturbances(plan: &Plan, edges: &[Edge; 2]) -> Vec<Disturbance> {
    let [start, end] = edges;
    let window_ns = end.time_ns - start.time_ns;
    let mut found = Vec::new();
    if !is_judged(plan, edges) {
        return found;
    }
    let mut add = |cause: Cause, text: String| found.push(Disturbance { cause, text });
    let percent = |part_ns: u64| part_ns as f64 * 100.0 / window_ns as f64;
    if let Some(text) = bottleneck(plan, edges) {
        add(Cause::Bottleneck, text);
    }
    let waited = end.waited_ns.iter().flatten().zip(start.waited_ns.iter().flatten());
    let waited = waited.map(|(end, start)| percent(end.saturating_sub(*start))).reduce(f64::max);
    if let Some(waited) = waited.filter(|&waited| waited > WAITED_MAX_PERCENT) {
        let text = format!(
            "other programs, or threads of the generator, kept a thread from its CPU for {waited:.1} % of the window"
        );
        add(Cause::Waiting, text);
    }
    let stolen = percent(end.machine.stolen_ns.saturating_sub(start.machine.stolen_ns));
    if stolen > STOLEN_MAX_PERCENT {
        add(Cause::Stolen, format!("the hypervisor took {stolen:.0} % of a CPU away"));
    }
    if let Some(server) = end.server.zip(start.server) {
        let known_ns = server.0.since(server.1).total_ns() + (end.own_cpu_ns - start.own_cpu_ns);
        let busy_ns = end.machine.busy_ns.saturating_sub(start.machine.busy_ns);
        let others = percent(busy_ns.saturating_sub(known_ns));
        if others > OTHERS_MAX_PERCENT {
            add(Cause::Others, format!("other programs used {:.2} CPUs", others / 100.0));
        }
    }
    found
}

/// Returns the sentence that says that the generator was the bottleneck, if it was. A generator that publishes as fast
/// as it can has no time to spare, whatever the server does.
pub(crate) fn bottleneck(plan: &Plan, edges: &[Edge; 2]) -> Option<String> {
    let [start, end] = edges;
    let is_unthrottled = plan.activity.pace().is_some_and(|pace| pace.load == Load::Unthrottled);
    let spare = spare(start, end);
    (is_judged(plan, edges) && spare < SPARE_VOID && !is_unthrottled)
        .then(|| format!("the generator was the bottleneck: it had {:.1} % of its time to spare", spare * 100.0))
}

/// Returns whether a window is judged.
fn is_judged(plan: &Plan, [start, end]: &[Edge; 2]) -> bool {
    let is_counted = plan.activity.pace().is_some_and(|pace| matches!(pace.span, Span::Messages(_)));
    !is_counted && !plan.activity.is_held() && end.time_ns - start.time_ns >= JUDGED_WINDOW_MIN_NS
}

/// Returns the fraction of the window that the busiest thread had to spare.
pub(crate) fn spare(start: &Edge, end: &Edge) -> f64 {
    let window_ns = (end.time_ns - start.time_ns).max(1) as f64;
    let spare =
        end.spare_ns.iter().zip(&start.spare_ns).map(|(end, start)| end.saturating_sub(*start) as f64 / window_ns);
    spare.fold(1.0, f64::min)
}

/// A window that is shorter is not judged. A window of a second begins a little late.
pub(crate) const JUDGED_WINDOW_MIN_NS: u64 = 950_000_000;

/// A generator with less time to spare counts as the bottleneck.
const SPARE_VOID: f64 = 0.02;

/// The share of the window for which the generator may be ready to run without a CPU.
const WAITED_MAX_PERCENT: f64 = 5.0;

/// The share of a CPU that a hypervisor may take away.
const STOLEN_MAX_PERCENT: f64 = 10.0;

/// The share of a CPU that other programs may use, where the server's own use is known.
const OTHERS_MAX_PERCENT: f64 = 50.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::process::{Cpu, MachineTime};
    use clap::Parser as _;

    const SECOND: u64 = 1_000_000_000;

    /// The end of a window that began at zero, of a generator with half of its time to spare.
    fn end() -> Edge {
        Edge {
            time_ns: 2 * SECOND,
            received: crate::generator::Received::default(),
            server: Some(Cpu { user_ns: SECOND, system_ns: 0 }),
            own_cpu_ns: 2 * SECOND,
            waited_ns: Some(vec![0, 0]),
            machine: MachineTime { busy_ns: 3 * SECOND, stolen_ns: 0 },
            spare_ns: vec![SECOND, SECOND],
        }
    }

    fn reasons(flags: &str, end: Edge) -> Vec<String> {
        let words = ["ringhub-loadgen"].into_iter().chain(flags.split_ascii_whitespace());
        let plan = Cli::try_parse_from(words).unwrap().into_options().unwrap().plan().unwrap();
        let start = Edge {
            time_ns: 0,
            server: Some(Cpu::default()),
            own_cpu_ns: 0,
            machine: MachineTime::default(),
            spare_ns: vec![0, 0],
            ..end.clone()
        };
        let edges = [Edge { waited_ns: Some(vec![0, 0]), ..start }, end];
        let reasons: Vec<String> = disturbances(&plan, &edges).into_iter().map(|found| found.text).collect();
        let is_first = |bottleneck| reasons.first() == Some(&bottleneck);
        assert!(bottleneck(&plan, &edges).is_none_or(is_first), "{reasons:?}");
        reasons
    }

    #[test]
    fn each_disturbance_has_its_reason() {
        let check = |end: Edge, reason: &str| {
            let found = reasons("--rate 1", end);
            assert!(found.len() == 1 && found[0] == reason, "{found:?}");
        };
        assert_eq!(reasons("--rate 1", end()), [""; 0]);
        let spare_ns = vec![SECOND, SECOND / 50];
        check(Edge { spare_ns, ..end() }, "the generator was the bottleneck: it had 1.0 % of its time to spare");
        let waited_ns = Some(vec![0, SECOND / 4]);
        let reason = "other programs, or threads of the generator, kept a thread from its CPU for 12.5 % of the window";
        check(Edge { waited_ns, ..end() }, reason);
        let machine = MachineTime { busy_ns: 3 * SECOND, stolen_ns: SECOND };
        check(Edge { machine, ..end() }, "the hypervisor took 50 % of a CPU away");
        let machine = MachineTime { busy_ns: 6 * SECOND, stolen_ns: 0 };
        check(Edge { machine, ..end() }, "other programs used 1.50 CPUs");
    }

    #[test]
    fn what_cannot_be_judged_is_no_reason() {
        let busy = || Edge { spare_ns: vec![0, 0], ..end() };
        assert_eq!(reasons("--unthrottled", busy()), [""; 0]);
        assert_eq!(reasons("--rate 1 --messages 5", busy()), [""; 0]);
        assert_eq!(reasons("--rate 1", Edge { time_ns: SECOND / 2, ..busy() }), [""; 0]);
        assert_eq!(reasons("idle", busy()), [""; 0]);
        assert_eq!(reasons("--hold 1s", busy()), [""; 0]);
        assert_eq!(reasons("storm", busy()).len(), 1);
        assert_eq!(reasons("--rate 1", Edge { server: None, waited_ns: None, ..end() }), [""; 0]);
        assert_eq!(reasons("--in-flight 1", busy()).len(), 1);
    }
}
