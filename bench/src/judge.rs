//! Chooses the runs that are compared, and judges bars by them.

use crate::distance::Placement;
use crate::metric::Metric;
use crate::peers::Peer;
use crate::run::{Elsewhere, Run};
use crate::scenario::{Against, Bar, SATURATION, Verdict};
use crate::statistics::Summary;
use std::collections::{BTreeMap, BTreeSet};

/// The runs of one scenario that count, in one placement of the CPUs.
pub(crate) struct Sample<'a> {
    pub(crate) placement: Placement,
    runs: Vec<&'a Run>,
}

/// What was found about a bar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Found {
    /// The value that the limit is for.
    pub(crate) value: f64,
    /// The least and the greatest value of a single round.
    pub(crate) spread: [f64; 2],
    /// The rounds of the side with fewer of them.
    pub(crate) rounds: usize,
    pub(crate) verdict: Verdict,
}

impl<'a> Sample<'a> {
    /// Returns a sample for each placement that has runs of the scenario that count.
    pub(crate) fn all(scenario: &str, runs: &'a [Run]) -> Vec<Sample<'a>> {
        let mut samples: BTreeMap<Placement, Vec<&Run>> = BTreeMap::new();
        for run in runs.iter().filter(|run| run.scenario == scenario && run.counts()) {
            samples.entry(run.placement).or_default().push(run);
        }
        samples.into_iter().map(|(placement, runs)| Sample { placement, runs }).collect()
    }

    /// Returns the sample in which the server with the fewest runs has most. Servers without any run that counts are
    /// left out. Of two such samples it is the one with more runs.
    pub(crate) fn deepest(scenario: &str, runs: &'a [Run]) -> Option<Sample<'a>> {
        let samples = Sample::all(scenario, runs);
        let servers: BTreeSet<&str> =
            samples.iter().flat_map(|sample| &sample.runs).map(|run| run.server.as_str()).collect();
        samples.into_iter().max_by_key(|sample| (sample.depth(servers.iter().copied()), sample.runs.len()))
    }

    /// Returns the number of runs of the server with the fewest.
    pub(crate) fn depth<'s>(&self, servers: impl IntoIterator<Item = &'s str>) -> usize {
        servers.into_iter().map(|server| self.runs_of(server).count()).min().unwrap_or(0)
    }

    pub(crate) fn runs_of(&self, server: &str) -> impl Iterator<Item = &'a Run> {
        self.runs.iter().copied().filter(move |run| run.server == server)
    }

    pub(crate) fn summary(&self, server: &str, metric: Metric) -> Option<Summary> {
        Summary::of(self.runs_of(server).filter_map(|run| run.values.get(&metric).copied()))
    }

    /// Returns whether the generator was the bottleneck in most of a server's runs, so that the server could have
    /// done more.
    pub(crate) fn is_limited(&self, server: &str) -> bool {
        let runs = || self.runs_of(server);
        2 * runs().filter(|run| run.is_limited).count() > runs().count()
    }

    /// Returns the ratio of two servers' medians.
    pub(crate) fn ratio(&self, of: &str, metric: Metric, against: &str) -> Option<f64> {
        Some(self.summary(of, metric)?.median / self.summary(against, metric)?.median)
    }

    /// Judges a bar; `None` if one of its sides has no run here.
    pub(crate) fn judge(&self, bar: &Bar, best_crate: Option<Peer>) -> Option<Found> {
        let of = self.summary(bar.of.name(), bar.metric)?;
        if bar.against == Against::Nothing {
            let spread = [of.min, of.max];
            return Some(Found { value: of.median, spread, rounds: of.count, verdict: bar.limit.judge(of.median) });
        }
        if bar.against.peer(best_crate).is_none() && !matches!(bar.against, Against::Crate(_)) {
            return None;
        }
        let against = bar.against.name(best_crate);
        let compare = |of: f64, against: f64| match bar.against {
            Against::Above(_) => of - against,
            _ => of / against,
        };
        let other = self.summary(against, bar.metric)?;
        let value = compare(of.median, other.median);
        if let Some(Elsewhere { rounds, spread }) = self.runs_of(against).find_map(|run| run.elsewhere) {
            return Some(Found { value, spread, rounds, verdict: bar.limit.judge(value) });
        }
        let (ours, theirs) = (self.by_round(bar.of.name(), bar.metric), self.by_round(against, bar.metric));
        let rounds = ours.iter().filter_map(|(round, of)| Some(compare(*of, *theirs.get(round)?)));
        // Without a common round the medians are all that there is.
        let spread = Summary::of(rounds).map_or([value; 2], |spread| [spread.min, spread.max]);
        Some(Found { value, spread, rounds: of.count.min(other.count), verdict: bar.limit.judge(value) })
    }

    /// Returns a server's figure in each round. Of a round that was repeated the last run counts.
    fn by_round(&self, server: &str, metric: Metric) -> BTreeMap<usize, f64> {
        self.runs_of(server).filter_map(|run| Some((run.round, *run.values.get(&metric)?))).collect()
    }
}

/// Returns the server on a crate with the most deliveries per second, if any was measured.
pub(crate) fn best_crate(runs: &[Run], crates: &[Peer]) -> Option<Peer> {
    let sample = Sample::deepest(SATURATION, runs)?;
    let speeds = crates
        .iter()
        .filter_map(|peer| Some((*peer, sample.summary(peer.name(), Metric::DeliveriesPerSecond)?.median)));
    speeds.max_by(|one, other| one.1.total_cmp(&other.1)).map(|(peer, _)| peer)
}

/// Returns a percentage of the messages per second that the slower of the hub and a rival can handle, by the runs of
/// the scenario [`SATURATION`] with this number of subscribers.
pub(crate) fn rate(runs: &[Run], percent: u64, rival: Peer, subscribers: usize) -> Option<u64> {
    let sample = Sample::deepest(SATURATION, runs)?;
    let speed = |peer: Peer| Some(sample.summary(peer.name(), Metric::DeliveriesPerSecond)?.median * 1e3);
    let slower = speed(Peer::Hub)?.min(speed(rival)?);
    let rate = slower / subscribers as f64 * percent as f64 / 100.0;
    (rate >= 1.0).then_some(rate as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::testing::run;
    use crate::scenario::{Limit, Rival};

    const SPEED: Metric = Metric::DeliveriesPerSecond;

    fn bar(against: Against, limit: Limit) -> Bar {
        Bar { of: Peer::Hub, metric: SPEED, against, limit }
    }

    /// Returns a run of each round with these values.
    fn runs(server: Peer, values: &[f64]) -> Vec<Run> {
        values.iter().enumerate().map(|(round, value)| run(SATURATION, server, round, SPEED, *value)).collect()
    }

    fn both(ours: &[f64], theirs: &[f64]) -> Vec<Run> {
        runs(Peer::Hub, ours).into_iter().chain(runs(Peer::Bun, theirs)).collect()
    }

    #[test]
    fn a_ratio_is_that_of_the_medians_and_its_spread_that_of_the_rounds() {
        let runs = both(&[30.0, 40.0, 50.0], &[10.0, 10.0, 20.0]);
        let sample = Sample::deepest(SATURATION, &runs).unwrap();
        let bar = bar(Against::Rival(Rival::Peer(Peer::Bun)), Limit::AtLeast(4.1));
        let expected = Found { value: 4.0, spread: [2.5, 4.0], rounds: 3, verdict: Verdict::WithinNoise };
        assert_eq!(sample.judge(&bar, None), Some(expected));
    }

    #[test]
    fn each_kind_of_comparison_has_its_value() {
        let runs = both(&[30.0], &[10.0]);
        let sample = Sample::deepest(SATURATION, &runs).unwrap();
        let check = |against, limit, value, verdict| {
            let expected = Found { value, spread: [value; 2], rounds: 1, verdict };
            assert_eq!(sample.judge(&bar(against, limit), Some(Peer::Bun)), Some(expected), "{against:?}");
        };
        check(Against::Nothing, Limit::AtMost(30.0), 30.0, Verdict::Met);
        check(Against::Nothing, Limit::AtMost(29.0), 30.0, Verdict::Missed);
        check(Against::Above(Peer::Bun), Limit::AtMost(20.0), 20.0, Verdict::Met);
        check(Against::Above(Peer::Bun), Limit::AtMost(19.0), 20.0, Verdict::Missed);
        check(Against::Rival(Rival::Peer(Peer::Bun)), Limit::AtLeast(3.0), 3.0, Verdict::Met);
        check(Against::Rival(Rival::Peer(Peer::Bun)), Limit::AtLeast(3.2), 3.0, Verdict::Missed);
        check(Against::Rival(Rival::BestCrate), Limit::AtLeast(3.0), 3.0, Verdict::Met);
        check(Against::Crate("bun"), Limit::AtLeast(3.0), 3.0, Verdict::Met);
        assert_eq!(sample.judge(&bar(Against::Rival(Rival::BestCrate), Limit::AtLeast(1.0)), None), None);
        assert_eq!(sample.judge(&bar(Against::Crate("tungstenite"), Limit::AtLeast(1.0)), None), None);
    }

    #[test]
    fn the_placement_with_most_whole_rounds_is_chosen() {
        let placed = |runs: Vec<Run>, placement| runs.into_iter().map(move |run| Run { placement, ..run });
        // Near has more runs, but Bun only one; far has two of both.
        let near = runs(Peer::Hub, &[1.0; 6]).into_iter().chain(runs(Peer::Bun, &[1.0]));
        let far = both(&[8.0; 2], &[2.0; 2]);
        let all: Vec<Run> = placed(near.collect(), Placement::Near).chain(placed(far, Placement::Far)).collect();
        let sample = Sample::deepest(SATURATION, &all).unwrap();
        assert_eq!((sample.placement, sample.depth(["hub", "bun"])), (Placement::Far, 2));
        assert_eq!(sample.ratio("hub", SPEED, "bun"), Some(4.0));
        // A server that never ran does not decide.
        assert_eq!(sample.depth(["hub", "kore"]), 0);
        assert_eq!(Sample::all(SATURATION, &all).len(), 2);
    }

    #[test]
    fn runs_that_do_not_count_are_left_out() {
        let mut runs = both(&[30.0, 90.0, 90.0], &[10.0, 1.0, 1.0]);
        for run in &mut runs {
            match run.round {
                1 => run.failure = Some("void: no CPU".to_owned()),
                2 => run.disturbed = true,
                _ => {}
            }
        }
        let sample = Sample::deepest(SATURATION, &runs).unwrap();
        assert_eq!(sample.ratio("hub", SPEED, "bun"), Some(3.0));
        runs.iter_mut().for_each(|run| run.disturbed = true);
        assert!(Sample::deepest(SATURATION, &runs).is_none());
    }

    #[test]
    fn the_best_crate_and_the_rate_come_from_the_saturation() {
        let crates = [Peer::TokioTungstenite, Peer::Fastwebsockets];
        let mut all = runs(Peer::Hub, &[4_000.0]);
        all.extend(runs(Peer::TokioTungstenite, &[900.0]));
        assert_eq!(best_crate(&all, &crates), Some(Peer::TokioTungstenite));
        all.extend(runs(Peer::Fastwebsockets, &[1_000.0]));
        assert_eq!(best_crate(&all, &crates), Some(Peer::Fastwebsockets));
        assert_eq!(best_crate(&[], &crates), None);
        // 1 000 000 deliveries per second to 1 000 subscribers are 1 000 messages per second.
        assert_eq!(rate(&all, 50, Peer::Fastwebsockets, 1_000), Some(500));
        assert_eq!(rate(&all, 70, Peer::TokioTungstenite, 1_000), Some(630));
        assert_eq!(rate(&all, 50, Peer::Bun, 1_000), None);
        // The hub may be the slower one.
        let slow = both(&[200.0], &[900.0]);
        assert_eq!(rate(&slow, 50, Peer::Bun, 1_000), Some(100));
    }
}
