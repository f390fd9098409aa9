//! Measures every row of `bench/RESULTS.md` in rounds, and writes it and `bench/results.html`.
//!
//! Each round of a row is a record of its own, so a run can be stopped at any time and goes on with the rounds that are
//! missing. The pages are made from the records alone.

mod html;
mod kept;
mod markdown;
mod view;

use crate::judge;
use crate::micro_rows;
use crate::peers::Peer;
use crate::record::{self, Circumstances, measured_state};
use crate::run::{OTHERS_MAX, Order, Run, at_least_one, rotated, run_once};
use crate::scenario::{Load, Rival, SATURATION, Scenario};
use crate::table::rows;
use crate::tools::{Flags, OUTPUT, Tools};
use clap::builder::PossibleValuesParser;
use kept::{Described, Kept, Stamp, crates, is_given_up};
use serde::Serialize;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use view::ROUNDS;
use view::View;

/// Flags of `results`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The rows to measure. [default: all]
    #[arg(long, num_args = 1.., value_delimiter = ',',
          value_parser = PossibleValuesParser::new(rows().map(|scenario| scenario.name)))]
    only: Vec<String>,
    /// The rounds that each row needs. A bar is judged from 9 rounds on.
    #[arg(long, default_value_t = ROUNDS, value_parser = at_least_one)]
    rounds: usize,
    /// Length of each measured window. Rounds with another window do not count.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=20))]
    seconds: u64,
    /// CPUs that may be busy with other programs during a run; with more the run is disturbed.
    #[arg(long, default_value_t = OTHERS_MAX)]
    others_max: f64,
    /// Measure nothing, and only write the pages from the records.
    #[arg(long)]
    no_run: bool,
    #[command(flatten)]
    tools: Flags,
}

/// A record: one round of one scenario. [`kept::Round`] reads it.
#[derive(Serialize)]
struct Record<'a> {
    stamp: Stamp,
    command: String,
    servers: &'a [Described],
    runs: &'a [Run],
}

/// Measures the rows that are not measured yet, and writes the pages. Returns whether every bar of the rows was judged
/// and met.
pub(crate) fn results(options: &Options) -> Result<bool, Box<dyn Error>> {
    let wanted: Vec<&Scenario> =
        rows().filter(|row| options.only.is_empty() || options.only.contains(&row.name.to_owned())).collect();
    let state = measured_state(options.tools.program().as_deref());
    if !options.no_run {
        let mut session = Session::begin(options, &wanted, state.clone())?;
        for row in &wanted {
            session.measure(row)?;
        }
    }
    let kept = Kept::read(&record::directory(), &state, options.seconds);
    for (why, count) in &kept.left_out {
        eprintln!("{count} records do not count: {why}");
    }
    let view = View::of(&kept, &state, options.seconds);
    println!("{}", view.summary());
    let is_full = options.only.is_empty() && !options.no_run && options.rounds >= ROUNDS;
    let (pages, unmeasured) = pages(&kept, is_full);
    fs::write(&pages[0], markdown::page(&view))?;
    fs::write(&pages[1], html::page(&view))?;
    let [page, html_page] = pages.each_ref().map(|path| path.display());
    println!("{page} and {html_page} are written");
    if let Some(row) = unmeasured {
        println!("{PAGE} stays as it is: there is no record of {row} and perhaps of others (`bench/run results`)");
    }
    Ok(view.rows.iter().filter(|row| wanted.iter().any(|wanted| wanted.name == row.name)).all(view::Row::is_met))
}

/// Returns the paths of the pages. The published ones are replaced by a full run, or if each row has a record; else the
/// first row without a record is returned too.
fn pages(kept: &Kept, is_full: bool) -> ([PathBuf; 2], Option<&'static str>) {
    let unmeasured = rows().map(|row| row.name).find(|name| kept.rounds_of(name).next().is_none());
    match unmeasured {
        Some(row) if !is_full => {
            let below = |page: &str| Path::new(OUTPUT).join(Path::new(page).file_name().unwrap_or_default());
            ([PAGE, HTML_PAGE].map(below), Some(row))
        }
        _ => ([PAGE, HTML_PAGE].map(PathBuf::from), None),
    }
}

/// A run of `results`.
struct Session<'o> {
    options: &'o Options,
    tools: Tools,
    state: String,
    kept: Kept,
}

impl<'o> Session<'o> {
    fn begin(options: &'o Options, wanted: &[&Scenario], state: String) -> Result<Session<'o>, Box<dyn Error>> {
        let kept = Kept::read(&record::directory(), &state, options.seconds);
        let mut servers: Vec<Peer> = Vec::new();
        for row in wanted {
            let named = row.named_servers(kept.best_crate(row));
            // Which of the servers on crates is the best is perhaps found only during this run.
            let may_be_best = matches!(row.load, Load::Share(_, Rival::BestCrate)).then(crates);
            for server in named.into_iter().chain(may_be_best.into_iter().flatten()) {
                if !servers.contains(&server) {
                    servers.push(server);
                }
            }
        }
        Ok(Session { options, tools: Tools::prepare(&options.tools, &servers, None)?, state, kept })
    }

    /// Measures a row until it has its rounds. Rounds in several placements of the CPUs may make that impossible, so
    /// the number of rounds is bounded.
    fn measure(&mut self, row: &'static Scenario) -> Result<(), Box<dyn Error>> {
        if row.load == Load::Micro {
            return self.measure_in_memory(row);
        }
        let best = self.kept.best_crate(row);
        let rate = match self.rate(row, best) {
            Ok(rate) => rate,
            Err(why) => {
                eprintln!("skipped: {}: {why}", row.name);
                return Ok(());
            }
        };
        let named = row.servers(&row.named_servers(best));
        let able: Vec<Peer> = named.iter().copied().filter(|server| self.tools.obstacle(*server).is_none()).collect();
        let described: Vec<Described> = named.iter().map(|server| self.describe(*server)).collect();
        let most = self.kept.next_round(row.name) + ROUNDS_FACTOR * self.options.rounds;
        while !self.kept.unfinished(row.name, &able, self.options.rounds).is_empty() {
            let round = self.kept.next_round(row.name);
            if round >= most {
                eprintln!("{}: the placement of the CPUs changes too often, or other programs run", row.name);
                break;
            }
            let known = self.kept.runs_of(row.name);
            let servers: Vec<Peer> = able.iter().copied().filter(|server| !is_given_up(&known, *server)).collect();
            let circumstances = Circumstances::now();
            let mut runs = Vec::new();
            for &server in rotated(&servers, round) {
                self.run(
                    Order {
                        round,
                        scenario: row,
                        server,
                        rate,
                        seconds: self.options.seconds,
                        others_max: self.options.others_max,
                    },
                    &mut runs,
                );
            }
            self.keep(row, circumstances, described.clone(), runs)?;
        }
        Ok(())
    }

    /// Runs a server, and once more if other programs have disturbed it.
    fn run(&self, order: Order<'_>, runs: &mut Vec<Run>) {
        for _ in 0..=RETRIES {
            let run = run_once(&self.tools, order);
            eprintln!("round {} {}", order.round + 1, run.line());
            let again = run.failure.is_none() && run.disturbed;
            runs.push(run);
            if !again {
                break;
            }
        }
    }

    /// Measures the rows of the read path, all of them in one call of the benchmark.
    fn measure_in_memory(&mut self, row: &'static Scenario) -> Result<(), Box<dyn Error>> {
        if self.kept.rounds_of(row.name).next().is_some() {
            return Ok(());
        }
        let circumstances = Circumstances::now();
        let figures = match micro_rows::measure() {
            Ok(figures) => figures,
            Err(why) => {
                eprintln!("skipped: {}: {why}", row.name);
                return Ok(());
            }
        };
        for row in rows().filter(|row| row.load == Load::Micro) {
            let runs = micro_rows::runs(&figures, row)?;
            self.keep(row, circumstances.clone(), Vec::new(), runs)?;
        }
        Ok(())
    }

    /// Writes the record of a round.
    fn keep(
        &mut self,
        row: &Scenario,
        circumstances: Circumstances,
        servers: Vec<Described>,
        runs: Vec<Run>,
    ) -> Result<(), Box<dyn Error>> {
        let stamp = Stamp::of(row, &self.state, self.options.seconds);
        let command = format!("bench/run results --only {}", row.name);
        let record = Record { stamp: stamp.clone(), command: command.clone(), servers: &servers, runs: &runs };
        let number = runs.first().map_or(0, |run| run.round);
        record::write(&format!("results-{}-{number}", row.name), &circumstances, &record)?;
        self.kept.rounds.push(kept::Round { circumstances, stamp, command, servers, runs });
        Ok(())
    }

    /// Returns the messages per second of a row, if its load depends on what servers can handle.
    fn rate(&self, row: &Scenario, best: Option<Peer>) -> Result<Option<u64>, String> {
        let Load::Share(percent, rival) = row.load else { return Ok(None) };
        let rival = rival.peer(best).ok_or_else(|| format!("measure {SATURATION} with a server on a crate first"))?;
        let found = judge::rate(&self.kept.runs_of(SATURATION), percent, rival, row.subscribers);
        let rate = self.kept.rate_of(row.name).or(found);
        rate.map(Some).ok_or_else(|| format!("measure {SATURATION} with hub and {} first", rival.name()))
    }

    fn describe(&self, server: Peer) -> Described {
        let version = self.tools.installed(server).and_then(|installed| Some(installed.as_ref().ok()?.version.clone()));
        Described {
            name: server.name().to_owned(),
            version,
            setting: server.setting().to_owned(),
            obstacle: self.tools.obstacle(server).map(str::to_owned),
        }
    }
}

/// The page in Markdown.
pub(crate) const PAGE: &str = "bench/RESULTS.md";

/// The page in HTML.
const HTML_PAGE: &str = "bench/results.html";

/// How often a run that was disturbed is repeated within its round.
const RETRIES: usize = 1;

/// How many rounds a row may take in one run, as a multiple of those that it needs.
const ROUNDS_FACTOR: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Metric;
    use crate::run::testing::run;

    #[test]
    fn a_part_of_the_rows_leaves_the_published_pages() {
        let round =
            |name: &str| kept::testing::round(name, 1, vec![run(name, Peer::Hub, 0, Metric::DeliveriesPerSecond, 1.0)]);
        let part = Kept { rounds: vec![round(SATURATION)], ..Kept::default() };
        let (paths, unmeasured) = pages(&part, false);
        assert_eq!(
            paths.map(|path| path.display().to_string()),
            ["target/bench/RESULTS.md", "target/bench/results.html"]
        );
        assert!(unmeasured.is_some_and(|row| row != SATURATION));
        let published = [PAGE, HTML_PAGE].map(PathBuf::from);
        assert_eq!(pages(&part, true), (published.clone(), None));
        let all = Kept { rounds: rows().map(|row| round(row.name)).collect(), ..Kept::default() };
        assert_eq!(pages(&all, false), (published, None));
    }
}
