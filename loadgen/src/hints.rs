//! Hints of a report: what the user may do about what went wrong, and what he should check.

use crate::disturbance::Disturbance;
use crate::frame::opcode;
use crate::options::{Activity, Plan};
use crate::protocol::Publishing;
use crate::report::{Outcome, Report};

/// Returns the hints of a report. `retyped` is the number of messages that are correct but for their type.
pub(crate) fn hints(plan: &Plan, report: &Report, disturbed: &[Disturbance], retyped: u64) -> Vec<String> {
    let mut hints: Vec<String> = Vec::new();
    let mut add = |is_fitting: bool, hint: &str| {
        if is_fitting && !hints.iter().any(|known| known == hint) {
            hints.push(hint.to_owned());
        }
    };
    for disturbance in disturbed {
        add(true, disturbance.cause.remedy(plan.sleep));
    }
    add(report.outcome == Outcome::Void && !disturbed.is_empty(), "--allow-disturbance shows the figures all the same");
    let is_echo = matches!(plan.activity, Activity::Echo(_));
    let is_text = plan.opcode == opcode::TEXT;
    add(retyped > 0 && is_text, "text messages came back as binary ones: --binary sends binary messages");
    add(retyped > 0 && !is_text, "binary messages came back as text: leave out --binary");
    add(
        is_echo && report.counts.misrouted > 0,
        "the server sends the messages of a connection to others: echo needs an address that answers the sender alone",
    );
    let is_foreign = report.counts.foreign > 0 && !plan.ignore_foreign;
    add(is_foreign, "compare the foreign messages with --delivery and --ignore");
    let is_posting = matches!(plan.publishing, Publishing::Post(_));
    add(
        report.counts.unpublished > 0 && is_posting,
        "each publisher has one request in flight: give more --publishers, or a lower --rate",
    );
    add(plan.activity.is_held() && plan.server_pid.is_none(), "--server-pid PID adds the server's memory");
    if let Some(pid) = plan.server_pid.filter(|_| has_idle_server(report)) {
        add(true, &format!("the process {pid} used no CPU time: does --server-pid name the server?"));
    }
    hints
}

/// Returns whether the named process used no CPU time, although the deliveries of the window must have taken some.
fn has_idle_server(report: &Report) -> bool {
    let Some(figures) = &report.figures else { return false };
    let is_idle = figures.server.is_some_and(|server| server.cpu.total_ns() == 0);
    is_idle && figures.deliveries >= DELIVERIES_SEEN
}

/// Deliveries that take more CPU time of a server than a clock tick, in which the kernel counts it: 10 ms.
const DELIVERIES_SEEN: u64 = 20_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::disturbance::Cause;
    use crate::output::testing::{bare, report};
    use crate::process::Cpu;
    use clap::Parser as _;

    fn of(flags: &str, report: &Report, disturbed: &[Disturbance], retyped: u64) -> Vec<String> {
        let words = ["ringhub-loadgen"].into_iter().chain(flags.split_ascii_whitespace());
        let plan = Cli::try_parse_from(words).unwrap().into_options().unwrap().plan().unwrap();
        hints(&plan, report, disturbed, retyped)
    }

    #[test]
    fn each_disturbance_has_a_remedy_once() {
        let found = |cause| Disturbance { cause, text: String::new() };
        let void = Report { outcome: Outcome::Void, ..bare() };
        let hints = of("--rate 1", &void, &[found(Cause::Waiting), found(Cause::Waiting), found(Cause::Stolen)], 0);
        assert_eq!(hints.len(), 3, "{hints:?}");
        assert!(hints[0].contains("--sleep") && hints[2].starts_with("--allow-disturbance"), "{hints:?}");
        let hints = of("--rate 1 --sleep", &bare(), &[found(Cause::Waiting)], 0);
        assert!(hints.len() == 1 && !hints[0].contains("--sleep") && hints[0].contains("--cpu"), "{hints:?}");
        for (cause, flag) in [(Cause::Bottleneck, "--subscribers"), (Cause::Others, "--server-pid")] {
            let hints = of("--rate 1", &bare(), &[found(cause)], 0);
            assert!(hints.len() == 1 && hints[0].contains(flag), "{hints:?}");
        }
    }

    #[test]
    fn what_went_wrong_has_a_hint() {
        let check = |flags: &str, report: &Report, retyped: u64, hint: &str| {
            let hints = of(flags, report, &[], retyped);
            assert!(hints.len() == 1 && hints[0].contains(hint), "{flags}: {hints:?}");
        };
        let with = |change: fn(&mut Report)| {
            let mut report = bare();
            change(&mut report);
            report
        };
        check("--rate 1", &bare(), 5, "--binary sends binary messages");
        check("--rate 1 --binary", &bare(), 5, "leave out --binary");
        check("echo", &with(|report| report.counts.misrouted = 1), 0, "echo needs an address");
        check("--rate 1", &with(|report| report.counts.foreign = 1), 0, "--ignore");
        let unpublished = with(|report| report.counts.unpublished = 1);
        check("--rate 1 --preset nchan --url ws://127.0.0.1:1", &unpublished, 0, "more --publishers");
        check("idle", &bare(), 0, "--server-pid PID");
        let (pid, mut idle) = (std::process::id(), report());
        idle.figures.as_mut().unwrap().server.as_mut().unwrap().cpu = Cpu::default();
        check(&format!("--rate 1 --server-pid {pid}"), &idle, 0, &format!("the process {pid} used no CPU time"));
        idle.figures.as_mut().unwrap().deliveries = 100;
        assert_eq!(of(&format!("--rate 1 --server-pid {pid}"), &idle, &[], 0), [""; 0]);
        assert_eq!(of("--rate 1 --ignore-foreign", &with(|report| report.counts.foreign = 1), &[], 0), [""; 0]);
        assert_eq!(of("--rate 1", &bare(), &[], 0), [""; 0]);
    }
}
