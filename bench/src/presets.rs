//! Checks the generator's presets against the servers that they are for, and the flags of each peer against the peer.
//!
//! Each server is started once, and gets short loads of a few clients. The check is that each message arrives once and
//! in order. The lines of the output have the form of Rust's tests, which `tests/run` counts.

use crate::load::{NOT_EXACT, mistakes_of};
use crate::peers::{Load, Peer, Running};
use crate::tools::{Flags, Tools};
use clap::ValueEnum;
use ringhub_loadgen::{Outcome, PresetName, Report};
use std::error::Error;
use std::io;

/// Flags of `presets`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The servers to check. [default: all but baseline]
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Peer>,
    #[command(flatten)]
    tools: Flags,
}

impl Options {
    fn servers(&self) -> Vec<Peer> {
        match &*self.servers {
            // A baseline has the preset of the hub.
            [] => {
                let all = Peer::value_variants().iter().copied();
                all.filter(|peer| *peer != Peer::Baseline).collect()
            }
            servers => servers.to_vec(),
        }
    }
}

/// A load on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    /// The preset alone, at a fixed rate.
    Preset(PresetName),
    /// The peer's own flags.
    Fanout,
    /// The peer's own flags, with several topics.
    Topics,
    /// The peer's own flags, with large messages.
    Large,
    Echo,
}

/// The server that each preset is checked against. The presets for Pusher and Centrifuge have scripted servers in the
/// generator's tests.
const PRESETS: [(PresetName, Peer); 7] = [
    (PresetName::Ringhub, Peer::Hub),
    (PresetName::Ws, Peer::Ws),
    (PresetName::Bun, Peer::Bun),
    (PresetName::Kore, Peer::Kore),
    (PresetName::Nchan, Peer::Nchan),
    (PresetName::Nats, Peer::Nats),
    (PresetName::Socketio, Peer::SocketIo),
];

/// Returns the trials that a server takes.
fn trials(peer: Peer) -> Vec<Trial> {
    let presets = PRESETS.iter().filter(|(_, server)| *server == peer).map(|(preset, _)| Trial::Preset(*preset));
    let others = [
        (Trial::Fanout, peer.takes_fanout()),
        (Trial::Topics, peer.takes_fanout() && peer.has_topics()),
        (Trial::Large, peer.takes_fanout()),
        (Trial::Echo, peer.takes_echo()),
    ];
    presets.chain(others.into_iter().filter(|(_, is_taken)| *is_taken).map(|(trial, _)| trial)).collect()
}

/// Runs and prints all trials. Returns whether all of those that could run were exact.
pub(crate) fn presets(options: &Options) -> Result<bool, Box<dyn Error>> {
    let servers = options.servers();
    let tools = Tools::find(&options.tools, &servers)?;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for peer in servers {
        let trials = trials(peer);
        let server = match tools.obstacle(peer) {
            Some(why) => {
                println!("test {} ... ignored, {}", peer.name(), why.replace('\n', " "));
                skipped += trials.len();
                continue;
            }
            None => Running::start(peer, &tools),
        };
        let version = tools.installed(peer).and_then(|installed| Some(&*installed.as_ref().ok()?.version));
        let own = if peer.is_hub() { "of this project" } else { "of this program" };
        println!("{}, {}: {}", peer.name(), version.unwrap_or(own), peer.setting());
        for trial in trials {
            let failure = match &server {
                Err(error) => Some(error.to_string()),
                Ok(server) => trial.run(&tools, server)?,
            };
            match failure {
                None => {
                    println!("test {}: {} ... ok", peer.name(), trial.name());
                    passed += 1;
                }
                Some(failure) => {
                    println!("test {}: {} ... FAILED\n    {failure}", peer.name(), trial.name());
                    failed += 1;
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0)
}

impl Trial {
    fn name(self) -> String {
        match self {
            Trial::Preset(preset) => {
                let value = preset.to_possible_value();
                format!("preset {}", value.as_ref().map_or("", |value| value.get_name()))
            }
            Trial::Fanout => "fanout".to_owned(),
            Trial::Topics => "fanout of three topics".to_owned(),
            Trial::Large => "fanout of 256 KiB".to_owned(),
            Trial::Echo => "echo".to_owned(),
        }
    }

    /// Puts the load on the server. Returns why the run was not exact, if so.
    fn run(self, tools: &Tools, server: &Running) -> io::Result<Option<String>> {
        let flags = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let load = match self {
            Trial::Preset(_) => {
                let name = self.name();
                let (_, preset) = name.split_once(' ').unwrap_or_default();
                let flags = flags("--sleep --subscribers 10 --duration 1s --warmup 0s --rate 200");
                Load::run_preset(tools, server, preset, &flags)?
            }
            Trial::Fanout => {
                let flags = flags("--sleep --subscribers 10 --duration 300ms --warmup 0s --in-flight 16");
                Load::run(tools, server, &flags)?
            }
            Trial::Topics => {
                let flags = flags(
                    "--sleep --subscribers 10 --duration 300ms --warmup 0s --in-flight 16 --topics 3 --publishers 3",
                );
                Load::run(tools, server, &flags)?
            }
            Trial::Large => {
                let flags = flags("--sleep --subscribers 10 --duration 300ms --warmup 0s --in-flight 8 --size 262144");
                Load::run(tools, server, &flags)?
            }
            Trial::Echo => {
                let flags = flags("--sleep --connections 10 --depth 4 --duration 300ms --warmup 0s");
                Load::run_scenario(tools, server, "echo", &flags)?
            }
        };
        let failure = match load.report {
            Ok(report) => failure_of(&report),
            Err(why) => Some(why),
        };
        Ok(failure.map(|failure| format!("{failure}\n    {}\n    {}", server.command_line, load.command_line)))
    }
}

/// Returns why a run was not exact, if so. A run that delivers nothing proves nothing.
fn failure_of(report: &Report) -> Option<String> {
    let counts = &report.counts;
    match report.outcome {
        Outcome::Exact if counts.published > 0 && counts.expected > 0 => None,
        Outcome::Exact => Some("nothing was published".to_owned()),
        Outcome::Broken => Some(format!("{NOT_EXACT}: {}; {}", mistakes_of(report), report.foreign_sample.join("; "))),
        Outcome::Void => Some(format!("void: {}", report.void_reasons.join("; "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_preset_but_two_has_a_server() {
        let missing: Vec<&PresetName> = PresetName::value_variants()
            .iter()
            .filter(|preset| PRESETS.iter().all(|(tried, _)| tried != *preset))
            .collect();
        assert_eq!(missing, [&PresetName::Pusher, &PresetName::Centrifuge]);
    }

    #[test]
    fn each_server_takes_a_trial() {
        // `hub-v1` and `hub-sse` are hubs, and `hold` answers opening handshakes alone.
        let without = Peer::value_variants().iter().filter(|peer| trials(**peer).is_empty());
        assert_eq!(without.collect::<Vec<_>>(), [&Peer::HubV1, &Peer::HubSse, &Peer::Hold]);
        assert_eq!(trials(Peer::K3), [Trial::Echo]);
        assert_eq!(trials(Peer::Kore), [Trial::Preset(PresetName::Kore), Trial::Fanout, Trial::Large]);
    }
}
