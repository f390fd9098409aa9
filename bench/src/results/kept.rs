//! The records of rounds that `results` keeps, and which of them still say something.

use crate::judge::{Sample, best_crate};
use crate::peers::Peer;
use crate::record::Circumstances;
use crate::run::Run;
use crate::scenario::{Load, Scenario};
use crate::table;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What a round must agree with, so that its runs are comparable with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// The version of the record's form and of the way of measuring.
    pub(crate) version: u32,
    /// The state of the measured programs.
    pub(crate) state: String,
    pub(crate) scenario: String,
    /// The load in words.
    pub(crate) load: String,
    /// Length of the measured window.
    pub(crate) seconds: u64,
}

/// A server of a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    pub(crate) setting: String,
    /// Why the server could not take part, if so.
    pub(crate) obstacle: Option<String>,
}

/// A record: one round of one scenario.
#[derive(Debug, Deserialize)]
pub(crate) struct Round {
    pub(crate) circumstances: Circumstances,
    pub(crate) stamp: Stamp,
    pub(crate) command: String,
    pub(crate) servers: Vec<Described>,
    pub(crate) runs: Vec<Run>,
}

/// The rounds that count, in the order of their time, and the number of those that do not by the reason.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) rounds: Vec<Round>,
    pub(crate) left_out: BTreeMap<String, usize>,
}

/// The version of records. It is raised when older records mean something else.
pub(crate) const VERSION: u32 = 2;

impl Stamp {
    /// Returns the stamp of a new round.
    pub(crate) fn of(scenario: &Scenario, state: &str, seconds: u64) -> Stamp {
        let (name, load) = (scenario.name.to_owned(), scenario.description());
        Stamp { version: VERSION, state: state.to_owned(), scenario: name, load, seconds }
    }

    /// Returns why a round with this stamp says nothing about this state, if so.
    fn obstacle(&self, state: &str, seconds: u64) -> Option<String> {
        let Some(scenario) = table::scenario(&self.scenario) else {
            return Some(format!("the scenario {} is no more", self.scenario));
        };
        let wanted = Stamp::of(scenario, state, seconds);
        if self.version != wanted.version {
            Some(format!("version {} of records", self.version))
        } else if self.state != wanted.state {
            Some(format!("of {}", self.state))
        } else if self.load != wanted.load {
            Some(format!("the load of {} was another one", self.scenario))
        } else {
            (self.seconds != wanted.seconds).then(|| format!("windows of {} s", self.seconds))
        }
    }
}

impl Kept {
    /// Reads the records in a folder. Those of other states are left out, and so are files that are no such record.
    pub(crate) fn read(folder: &Path, state: &str, seconds: u64) -> Kept {
        let mut kept = Kept::default();
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_record =
            |path: &Path| path.to_string_lossy().ends_with(".json") && path.to_string_lossy().contains(NAME);
        for path in files.filter(|path| is_record(path)) {
            match fs::read(&path).map(|text| serde_json::from_slice::<Round>(&text)) {
                Ok(Ok(round)) => match round.stamp.obstacle(state, seconds) {
                    None => kept.rounds.push(round),
                    Some(why) => kept.leave_out(why),
                },
                // A run that was stopped may have left a part of a file.
                _ => kept.leave_out("no whole record".to_owned()),
            }
        }
        kept.rounds.sort_by_key(|round| (round.circumstances.started, round.runs.first().map_or(0, |run| run.round)));
        kept
    }

    fn leave_out(&mut self, why: String) {
        *self.left_out.entry(why).or_default() += 1;
    }

    pub(crate) fn rounds_of(&self, scenario: &str) -> impl DoubleEndedIterator<Item = &Round> {
        self.rounds.iter().filter(move |round| round.stamp.scenario == scenario)
    }

    /// Returns all runs of a scenario at the rate of its first round.
    pub(crate) fn runs_of(&self, scenario: &str) -> Vec<Run> {
        let runs = self.rounds_of(scenario).flat_map(|round| &round.runs);
        let rate = self.rate_of(scenario);
        runs.filter(|run| run.rate == rate).cloned().collect()
    }

    /// Returns the rate of the scenario's first round, if its load depends on what servers can handle.
    pub(crate) fn rate_of(&self, scenario: &str) -> Option<u64> {
        self.rounds_of(scenario).flat_map(|round| &round.runs).find_map(|run| run.rate)
    }

    /// Returns the number of the next round of a scenario.
    pub(crate) fn next_round(&self, scenario: &str) -> usize {
        let numbers = self.rounds_of(scenario).flat_map(|round| &round.runs).map(|run| run.round + 1);
        numbers.max().unwrap_or(0)
    }

    /// Returns the server on a crate that the scenario was measured with, or else the one that is the best now.
    pub(crate) fn best_crate(&self, scenario: &Scenario) -> Option<Peer> {
        let crates = crates();
        let ran = |peer: &Peer| {
            self.rounds_of(scenario.name).any(|round| round.runs.iter().any(|run| run.server == peer.name()))
        };
        match scenario.load {
            Load::Share(..) => crates.iter().copied().find(ran),
            _ => None,
        }
        .or_else(|| best_crate(&self.runs_of(crate::scenario::SATURATION), &crates))
    }

    /// Returns those of `servers` that need another round: with fewer than `rounds` runs that count in one placement.
    /// A server that has failed [`GIVEN_UP_AFTER`] times and never counted is given up, and so is one that has failed
    /// as often as it should count.
    pub(crate) fn unfinished(&self, scenario: &str, servers: &[Peer], rounds: usize) -> Vec<Peer> {
        let runs = self.runs_of(scenario);
        let sample = Sample::deepest(scenario, &runs);
        let needs_more = |server: &&Peer| {
            let counting = sample.as_ref().map_or(0, |sample| sample.runs_of(server.name()).count());
            let failed = runs.iter().filter(|run| run.server == server.name() && run.failure.is_some()).count();
            counting < rounds && failed < rounds && !is_given_up(&runs, **server)
        };
        servers.iter().filter(needs_more).copied().collect()
    }
}

/// Returns whether a server has failed several times, and never counted.
pub(crate) fn is_given_up(runs: &[Run], server: Peer) -> bool {
    let own = || runs.iter().filter(move |run| run.server == server.name());
    !own().any(Run::counts) && own().filter(|run| run.failure.is_some()).count() >= GIVEN_UP_AFTER
}

/// Returns the servers of ours on crates.
pub(crate) fn crates() -> Vec<Peer> {
    let peers = <Peer as clap::ValueEnum>::value_variants().iter();
    peers.copied().filter(|peer| peer.is_on_a_crate()).collect()
}

/// The part of a record's name after its time and before the scenario.
pub(crate) const NAME: &str = "-results-";

const GIVEN_UP_AFTER: usize = 3;

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Returns a record of some runs.
    pub(crate) fn round(scenario: &str, started: u64, runs: Vec<Run>) -> Round {
        let circumstances = Circumstances::for_test(started);
        let stamp = Stamp::of(table::scenario(scenario).unwrap(), "abc", 4);
        let describe = |run: &Run| Described {
            name: run.server.clone(),
            version: Some("1.2".to_owned()),
            setting: "as documented".to_owned(),
            obstacle: None,
        };
        let servers = runs.iter().map(describe).collect();
        Round { circumstances, stamp, command: format!("bench/run results --only {scenario}"), servers, runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Metric;
    use crate::run::testing::run;
    use crate::scenario::SATURATION;

    const SPEED: Metric = Metric::DeliveriesPerSecond;

    fn kept(rounds: Vec<Round>) -> Kept {
        Kept { rounds, ..Kept::default() }
    }

    #[test]
    fn only_records_of_this_state_are_read() {
        let folder = std::env::temp_dir().join(format!("ringhub-kept-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let put = |name: &str, change: &dyn Fn(&mut Stamp)| {
            let mut round = testing::round("rate-100", 7, vec![run("rate-100", Peer::Hub, 0, SPEED, 1.0)]);
            change(&mut round.stamp);
            let Round { circumstances, stamp, command, servers, runs } = &round;
            let text = serde_json::json!({"circumstances": circumstances, "stamp": stamp, "command": command,
                "servers": servers, "runs": runs});
            fs::write(folder.join(name), text.to_string()).unwrap();
        };
        put("1-results-rate-100.json", &|_| {});
        put("2-results-rate-100.json", &|stamp| stamp.state = "abd".to_owned());
        put("3-results-rate-100.json", &|stamp| stamp.seconds = 1);
        put("4-results-rate-100.json", &|stamp| stamp.load = "another".to_owned());
        put("5-results-rate-100.json", &|stamp| stamp.version = 0);
        put("6-results-gone.json", &|stamp| stamp.scenario = "gone".to_owned());
        put("7-compare.json", &|_| {});
        fs::write(folder.join("8-results-rate-100.json"), "{\"circumstances\":").unwrap();
        let kept = Kept::read(&folder, "abc", 4);
        let [none, missing] = [Kept::read(&folder, "zzz", 4), Kept::read(&folder.join("none"), "abc", 4)];
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(kept.rounds.len(), 1, "{kept:?}");
        let reasons: Vec<&str> = kept.left_out.keys().map(String::as_str).collect();
        let expected = [
            "no whole record",
            "of abd",
            "the load of rate-100 was another one",
            "the scenario gone is no more",
            "version 0 of records",
            "windows of 1 s",
        ];
        assert_eq!(reasons, expected);
        assert_eq!((none.rounds.len(), missing.rounds.len(), missing.left_out.len()), (0, 0, 0));
    }

    #[test]
    fn a_stopped_row_goes_on_where_it_was() {
        let one = |round, server| run("rate-100", server, round, SPEED, 1.0);
        let whole =
            |round| testing::round("rate-100", 10 + round as u64, vec![one(round, Peer::Hub), one(round, Peer::Bun)]);
        let servers = [Peer::Hub, Peer::Bun];
        let rest = |kept: &Kept, rounds| kept.unfinished("rate-100", &servers, rounds);
        let mut kept = kept(vec![whole(0)]);
        assert_eq!((rest(&kept, 2), kept.next_round("rate-100")), (servers.to_vec(), 1));
        // The second round was stopped after the hub.
        kept.rounds.push(testing::round("rate-100", 11, vec![one(1, Peer::Hub)]));
        assert_eq!((rest(&kept, 2), kept.next_round("rate-100")), (vec![Peer::Bun], 2));
        kept.rounds.push(whole(2));
        assert_eq!((rest(&kept, 2), rest(&kept, 3)), (vec![], vec![Peer::Bun]));
        assert_eq!(kept.next_round("in-flight-16"), 0);
    }

    #[test]
    fn runs_in_other_placements_do_not_finish_a_row() {
        let mut runs: Vec<Run> = (0..4).map(|round| run("rate-100", Peer::Hub, round, SPEED, 1.0)).collect();
        runs[3].placement = crate::distance::Placement::Far;
        runs[2].disturbed = true;
        let kept = kept(vec![testing::round("rate-100", 1, runs)]);
        assert_eq!(kept.unfinished("rate-100", &[Peer::Hub], 2), []);
        assert_eq!(kept.unfinished("rate-100", &[Peer::Hub], 3), [Peer::Hub]);
    }

    #[test]
    fn a_server_that_always_fails_is_given_up() {
        let failed =
            |round| Run { failure: Some("not exact".to_owned()), ..run("rate-100", Peer::Kore, round, SPEED, 1.0) };
        let mut kept = kept(vec![testing::round("rate-100", 1, vec![failed(0), failed(1)])]);
        assert_eq!(kept.unfinished("rate-100", &[Peer::Kore], 9), [Peer::Kore]);
        kept.rounds.push(testing::round("rate-100", 2, vec![failed(2)]));
        assert_eq!(kept.unfinished("rate-100", &[Peer::Kore], 9), []);
        // With one run that counts, there is hope.
        kept.rounds.push(testing::round("rate-100", 3, vec![run("rate-100", Peer::Kore, 3, SPEED, 1.0)]));
        assert_eq!(kept.unfinished("rate-100", &[Peer::Kore], 9), [Peer::Kore]);
    }

    #[test]
    fn a_share_keeps_its_rate_and_its_rival() {
        let speed = |server, value| run(SATURATION, server, 0, SPEED, value);
        let mut kept = kept(vec![testing::round(
            SATURATION,
            1,
            vec![speed(Peer::Fastwebsockets, 9.0), speed(Peer::SockudoWs, 8.0)],
        )]);
        let half = table::scenario("half-of-crate").unwrap();
        assert_eq!((kept.best_crate(half), kept.rate_of(half.name)), (Some(Peer::Fastwebsockets), None));
        let at = |round, rate| Run { rate: Some(rate), ..run(half.name, Peer::SockudoWs, round, Metric::P50, 1.0) };
        kept.rounds.push(testing::round(half.name, 2, vec![at(0, 100)]));
        kept.rounds.push(testing::round(half.name, 3, vec![at(1, 120)]));
        assert_eq!((kept.best_crate(half), kept.rate_of(half.name)), (Some(Peer::SockudoWs), Some(100)));
        assert_eq!(kept.runs_of(half.name).len(), 1);
    }
}
