//! A thread that follows: it reads its share of the subscribers, and carries out the orders of the leading thread.

use crate::crew::{Crew, Handed, Order, Tallies, pin};
use crate::error::Error;
use crate::generator::Generator;
use crate::judge::histogram;
use crate::options::{Activity, Plan, Share};
use crate::publishing::Publishing;
use crate::scenario::churn::Churn;
use crate::scenario::storm;
use std::time::Duration;

/// Reads and carries out orders until the end. Returns `None` after a failure, which the leading thread reports.
pub(crate) fn follow<'a>(crew: &'a Crew, plan: &'a Plan, share: Share) -> Option<Generator<'a>> {
    match try_follow(crew, plan, share) {
        Ok(generator) => Some(generator),
        Err(error) => {
            crew.note_failure(share, error);
            None
        }
    }
}

fn try_follow<'a>(crew: &'a Crew, plan: &'a Plan, share: Share) -> Result<Generator<'a>, Error> {
    pin(plan, share.index)?;
    let mut generator = Generator::new(plan, crew, share)?;
    let mut turns = Turns::new(crew.tallies(share));
    loop {
        let (number, order) = crew.order();
        match order {
            Order::End => return Ok(generator),
            Order::Echo => echo(&mut generator, &mut turns, number)?,
            Order::Churn { begin_ns } => churn(&mut generator, &mut turns, number, begin_ns)?,
            _ => {
                carry_out(&mut generator, order)?;
                turns.tallies.tell(&generator);
                turns.tallies.tell_done(number);
                while crew.number() == number {
                    turns.read(&mut generator)?;
                    if order == Order::Drain {
                        turns.settle(&generator);
                    }
                }
            }
        }
    }
}

/// Carries out an order that has an end.
fn carry_out(generator: &mut Generator<'_>, order: Order) -> Result<(), Error> {
    match order {
        Order::Open { subscribers } => open(generator, subscribers),
        Order::Reopen { begin_ns } => {
            let Activity::Storm { at_once, .. } = generator.plan.activity else { return Ok(()) };
            let own = generator.crew.tallies(generator.share);
            let back = storm::reopen(generator, begin_ns, at_once, &mut |generator| {
                own.tell(generator);
                Ok(generator.crew.order().1 == Order::End)
            })?;
            own.hand_over(back);
            Ok(())
        }
        Order::Stall => {
            generator.stop_reading();
            Ok(())
        }
        Order::HandOver => {
            let take = |from: &mut hdrhistogram::Histogram<u64>| std::mem::replace(from, histogram());
            let (latency, uncorrected) = (take(&mut generator.judge.latency), take(&mut generator.judge.uncorrected));
            generator.crew.tallies(generator.share).hand_over(Handed { latency, uncorrected, ..Handed::new() });
            Ok(())
        }
        Order::Read => {
            generator.crew.tallies(generator.share).tell_unsettled();
            generator.read_again()
        }
        Order::Drain | Order::Echo | Order::Churn { .. } | Order::End => Ok(()),
    }
}

/// Opens this thread's share of the subscribers.
fn open(generator: &mut Generator<'_>, subscribers: usize) -> Result<(), Error> {
    let total = generator.share.size(subscribers);
    // A ramp ends at a refusal, but only if it has begun.
    if matches!(generator.plan.activity, Activity::Ramp { .. }) && !generator.connections.is_empty() {
        generator.refused.get_or_insert_default();
    }
    let own = generator.crew.tallies(generator.share);
    let why = generator.open_to(total, &mut |generator| {
        own.tell(generator);
        match generator.crew.order().1 {
            Order::End => Err(Error::Interrupted { opened: generator.opened, connections: total }),
            _ => Ok(()),
        }
    })?;
    if let Some(why) = why {
        own.tell_refusal(why);
    }
    Ok(())
}

/// Sends a message for each that comes back, until the leading thread drains. Then waits for the messages in flight.
fn echo(generator: &mut Generator<'_>, turns: &mut Turns<'_>, number: u64) -> Result<(), Error> {
    let Activity::Echo(pace) = generator.plan.activity else { return Ok(()) };
    let crew = generator.crew;
    let mut publishing = Publishing::new(generator, pace, 0);
    turns.tallies.tell_done(number);
    loop {
        let (latest, order) = crew.order();
        let is_over = latest != number;
        if is_over && order != Order::Drain {
            break;
        }
        turns.tallies.tell_done(latest);
        while crew.number() == latest {
            let published = if is_over { 0 } else { publishing.publish_now()? };
            turns.read_beside(publishing.generator, published)?;
            publishing.note_what_is_written();
            turns.tallies.tell_published(publishing.pushed);
            if is_over {
                turns.settle(publishing.generator);
            }
        }
    }
    let written = std::mem::take(&mut publishing.written);
    generator.written = written;
    Ok(())
}

/// Lets subscribers leave and join, until the leading thread drains. Then waits for the joining ones.
fn churn(generator: &mut Generator<'_>, turns: &mut Turns<'_>, number: u64, begin_ns: u64) -> Result<(), Error> {
    let crew = generator.crew;
    let mut churn = Churn::new(generator.plan, begin_ns);
    generator.refused = Some(Vec::new());
    loop {
        let (latest, order) = crew.order();
        let is_over = latest != number;
        if is_over && order != Order::Drain {
            break;
        }
        turns.tallies.tell_done(latest);
        while crew.number() == latest {
            let now_ns = generator.now_ns();
            if is_over {
                churn.welcome(generator)?;
                turns.settle(generator);
            } else {
                churn.turn(generator, now_ns)?;
            }
            turns.read(generator)?;
            turns.tallies.tell_joining(churn.joining());
        }
    }
    churn.finish(generator);
    Ok(())
}

/// The turns of a thread that follows.
struct Turns<'a> {
    tallies: &'a Tallies,
    told_ns: u64,
    checked_ns: u64,
}

impl<'a> Turns<'a> {
    fn new(tallies: &'a Tallies) -> Turns<'a> {
        Turns { tallies, told_ns: 0, checked_ns: 0 }
    }

    /// Reads what has arrived, and tells of it.
    fn read(&mut self, generator: &mut Generator<'_>) -> Result<(), Error> {
        self.read_beside(generator, 0)
    }

    /// Reads what has arrived in a turn that has published so many messages, and tells of it.
    fn read_beside(&mut self, generator: &mut Generator<'_>, published: u64) -> Result<(), Error> {
        let before_ns = generator.now_ns();
        let patience = if generator.plan.sleep && published == 0 { FOLLOWER_NAP_MAX } else { Duration::ZERO };
        let ready = generator.poll(patience)?;
        if published == 0 && ready == 0 {
            generator.note_spare(patience, before_ns);
        }
        let now_ns = generator.now_ns();
        self.tallies.tell(generator);
        if now_ns - self.told_ns > TOLD_EVERY_NS {
            self.told_ns = now_ns;
            self.tallies.tell_slowly(generator);
        }
        Ok(())
    }

    /// Tells, now and then, when every subscriber has every message.
    fn settle(&mut self, generator: &Generator<'_>) {
        let now_ns = generator.now_ns();
        if now_ns - self.checked_ns > TOLD_EVERY_NS {
            self.checked_ns = now_ns;
            // This is read first: a message that is published meanwhile makes the answer void.
            let published = generator.crew.published();
            if generator.owes_nothing() {
                self.tallies.tell_settled(published);
            }
        }
    }
}

/// The longest sleep of a thread with `--sleep`.
const FOLLOWER_NAP_MAX: Duration = Duration::from_millis(10);

/// The time between two updates of what a thread tells slowly.
const TOLD_EVERY_NS: u64 = 20_000_000;
