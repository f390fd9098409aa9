//! A run from the first connection to the verdict.

use crate::crew::{Crew, Order, pin};
use crate::error::Error;
use crate::follower::follow;
use crate::generator::Generator;
use crate::machine::Machine;
use crate::open::raise_descriptor_limit;
use crate::options::{Plan, Share};
use crate::process::memory_of;
use crate::progress::Progress;
use crate::report::Report;
use crate::reporting::report;
use crate::scenario::carry_out;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// Carries out a plan.
///
/// # Errors
/// An error is returned if the run could not take place, or was interrupted before it began. Mistakes of the server
/// are in the report instead.
pub fn run(plan: &Plan, progress: &mut dyn Progress) -> Result<Report, Error> {
    let machine = Machine::read();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    raise_descriptor_limit(plan)?;
    let memory_before = plan.server_pid.map(memory_of);
    let crew = Crew::new(plan);
    let share = |index| Share { index, of: plan.threads };
    let crew = &crew;
    thread::scope(|scope| {
        // The other threads begin before this one is pinned, since a new thread has the CPUs of the one that makes it.
        let followers: Vec<_> =
            (1..plan.threads).map(|index| scope.spawn(move || follow(crew, plan, share(index)))).collect();
        let led = pin(plan, 0).and_then(|()| Generator::new(plan, crew, share(0))).and_then(|mut leader| {
            let run = carry_out(&mut leader, progress)?;
            Ok((leader, run))
        });
        crew.give(Order::End);
        let ended = followers.into_iter().filter_map(|follower| follower.join().expect("a thread without a panic"));
        let followers: Vec<Generator<'_>> = ended.collect();
        progress.done();
        let (leader, run) = led?;
        if let Some(failure) = crew.failure() {
            return Err(failure);
        }
        let generators = std::iter::once(leader).chain(followers).collect();
        let mut report = report(generators, run, memory_before);
        report.started_unix_ms = Some(started);
        report.machine = Some(machine);
        Ok(report)
    })
}
