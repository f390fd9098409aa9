//! The servers that are compared: what each can do, and the command that starts it.

use crate::others;
pub(crate) use crate::running::{Load, Running, on_the_loads_cpu};
use crate::tools::{OUTPUT, Tools, pinned};
use clap::ValueEnum;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// This project.
    Hub,
    /// This project on epoll.
    HubEpoll,
    /// This project with subscribers that speak `ringhub.v1`.
    HubV1,
    /// This project with a history of its topics.
    HubHistory,
    /// This project with subscribers that read event streams.
    HubSse,
    /// This project at another commit.
    Baseline,
    /// This project with two shards on one CPU. It shows the cost of the mesh.
    Shards2,
    /// This project with a handler that publishes each message. It shows the cost of the handler's calls.
    Handler,
    /// This project with all limits and a rule for its topics. It shows the cost of their checks.
    Limited,
    /// A server on Bun that uses Bun's `publish`. Its engine is uWebSockets.
    Bun,
    /// A module for Kore that uses Kore's broadcast.
    Kore,
    /// nginx with the module nchan. Messages are published by POST.
    Nchan,
    /// The WebSocket listener of a NATS server.
    Nats,
    /// A server on Node's `ws`.
    Ws,
    /// A server on Socket.IO.
    SocketIo,
    /// A server on tokio-tungstenite with tokio's broadcast channel.
    TokioTungstenite,
    /// A server on fastwebsockets with tokio's broadcast channel.
    Fastwebsockets,
    /// A server on sockudo-ws with this crate's `PubSub`.
    SockudoWs,
    /// The bare loop of plain sends, one system call for each subscriber (`plain.rs`).
    K1,
    /// The bare loop of batched sends (`k2.rs`).
    K2,
    /// A bare server that only holds connections (`hold.rs`).
    Hold,
    /// The bare echo: one system call for a receive, and one for the send of what was received (`plain.rs`).
    K3,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Peer::Hub => "hub",
            Peer::HubEpoll => "hub-epoll",
            Peer::HubV1 => "hub-v1",
            Peer::HubHistory => "hub-history",
            Peer::HubSse => "hub-sse",
            Peer::Baseline => "baseline",
            Peer::Shards2 => "shards2",
            Peer::Handler => "handler",
            Peer::Limited => "limited",
            Peer::Bun => "bun",
            Peer::Kore => "kore",
            Peer::Nchan => "nchan",
            Peer::Nats => "nats",
            Peer::Ws => "ws",
            Peer::SocketIo => "socket-io",
            Peer::TokioTungstenite => "tokio-tungstenite",
            Peer::Fastwebsockets => "fastwebsockets",
            Peer::SockudoWs => "sockudo-ws",
            Peer::K1 => "k1",
            Peer::K2 => "k2",
            Peer::K3 => "k3",
            Peer::Hold => "hold",
        }
    }

    /// Returns whether this is a server of this project's hub, whose counters can be read.
    pub(crate) fn is_hub(self) -> bool {
        use Peer::{Baseline, Handler, Hub, HubEpoll, HubHistory, HubSse, HubV1, Limited, Shards2};
        matches!(self, Hub | HubEpoll | HubV1 | HubHistory | HubSse | Baseline | Shards2 | Handler | Limited)
    }

    /// Returns whether this is a server of ours on a crate for WebSockets.
    pub(crate) fn is_on_a_crate(self) -> bool {
        matches!(self, Peer::TokioTungstenite | Peer::Fastwebsockets | Peer::SockudoWs)
    }

    /// Returns whether a message of a publisher goes to all subscribers.
    pub(crate) fn takes_fanout(self) -> bool {
        !matches!(self, Peer::HubV1 | Peer::HubSse | Peer::K3 | Peer::Hold)
    }

    /// Returns whether one run can have several topics.
    pub(crate) fn has_topics(self) -> bool {
        !matches!(self, Peer::Kore | Peer::K1 | Peer::K2 | Peer::K3 | Peer::Hold)
    }

    /// Returns whether this server can send each message back to its sender alone.
    pub(crate) fn takes_echo(self) -> bool {
        use Peer::{Hold, HubSse, HubV1, K1, K2, Kore, Nchan, SocketIo};
        !matches!(self, HubV1 | HubSse | Kore | Nchan | SocketIo | K1 | K2 | Hold)
    }

    /// Returns whether this server publishes messages that are sent by POST to `/t/{topic}`.
    pub(crate) fn takes_posts(self) -> bool {
        use Peer::{Baseline, Bun, Hub, HubEpoll, HubHistory, Limited, Shards2};
        matches!(self, Hub | HubEpoll | HubHistory | Baseline | Shards2 | Limited | Bun)
    }

    /// Returns whether this kind of server can run with subscribers that have two topics each.
    pub(crate) fn has_two_topics(self) -> bool {
        matches!(self, Peer::Hub | Peer::Baseline | Peer::Bun)
    }

    /// Returns the setting of this server. The table of servers in `bench/README.md` has the reasons.
    pub(crate) fn setting(self) -> &'static str {
        match self {
            Peer::Hub => "io_uring, one shard, no pings",
            Peer::HubEpoll => "epoll, one shard, no pings",
            Peer::HubV1 => "as hub, subscribers speak ringhub.v1",
            Peer::HubHistory => "as hub, with a history of 200 000 messages",
            Peer::HubSse => "as hub, subscribers read event streams",
            Peer::Baseline => "as hub, at the other commit",
            Peer::Shards2 => "as hub, two shards on the one CPU",
            Peer::Handler => "as hub, with a handler that publishes",
            Peer::Limited => "as hub, with every limit and a rule for topics",
            Peer::Bun => "server.publish, no compression, no pings, backpressure limit 64 MiB",
            Peer::Kore => "one worker, kore_websocket_broadcast, no TLS",
            Peer::Nchan => "one nginx process, WebSockets for publishers too, no access log",
            Peer::Nats => "WebSocket listener without TLS and compression",
            Peer::Ws => {
                "perMessageDeflate off, bufferutil, a frame made once by Sender.frame, sockets corked for a turn"
            }
            Peer::SocketIo => "WebSocket transport alone, perMessageDeflate off, rooms",
            Peer::TokioTungstenite => "current-thread runtime, tokio broadcast, feed and flush",
            Peer::Fastwebsockets => "current-thread runtime, tokio broadcast, halves of the socket, BufWriter",
            Peer::SockudoWs => "current-thread runtime, its PubSub, feed and flush, mimalloc",
            Peer::K1 => "epoll, one send for each subscriber",
            Peer::K2 => "the hub's ring, sends in batches",
            Peer::K3 => "epoll, one send for each receive, back to the sender",
            Peer::Hold => "accepts, answers the opening handshake, and does nothing more",
        }
    }

    /// Returns the generator's preset for this server. Servers of ours that have topics speak the paths and queries of
    /// the hub.
    fn preset(self) -> &'static str {
        match self {
            Peer::Kore => "kore",
            Peer::Nchan => "nchan",
            Peer::Nats => "nats",
            Peer::SocketIo => "socketio",
            _ => "ringhub",
        }
    }

    /// Returns the generator's flags that say where this server is, and what it speaks.
    pub(crate) fn target_flags(self, address: SocketAddr) -> Vec<String> {
        let mut flags = preset_flags(self.preset(), address);
        if self == Peer::HubV1 {
            let of_v1 = [
                ("--subscribe-path", "/ws"),
                ("--sub-query", ""),
                ("--subscribe-message", r#"{"subscribe":{"id":{id},"topic":"{topic}"}}"#),
                ("--acknowledgement", r#"{"subscribed":{any}"#),
                ("--delivery", r#"{"message":{"topic":"{topic}",{any},"data":"{payload}"}}"#),
                ("--publish-path", "/ws"),
                ("--pub-query", ""),
                ("--publish-message", r#"{"publish":{"topic":"{topic}","data":"{payload}"}}"#),
                ("--subprotocol", "ringhub.v1"),
            ];
            flags.extend(of_v1.iter().flat_map(|(flag, value)| [flag.to_string(), value.to_string()]));
        }
        // A publisher by POST waits for each answer, and one by WebSocket does not.
        if self == Peer::Nchan {
            let by_message = ["--publish-path", "/pub?id={topic}", "--publish-message", "{payload}"];
            flags.extend(by_message.map(str::to_owned));
            flags.push("--publishers-receive".to_owned());
        }
        flags
    }

    /// Returns the flags of an echo: each connection has a topic of its own.
    pub(crate) fn echo_flags(self, address: SocketAddr) -> Vec<String> {
        let mut flags = self.target_flags(address);
        if self != Peer::Nats {
            flags.extend(["--sub-query", "echo=true"].map(str::to_owned));
        }
        flags
    }

    /// Returns the flags of a load as this server can take them. The generator counts the bytes of some subscribers
    /// (`--verify sample`) only if each message of the server is a payload.
    pub(crate) fn fitted(self, flags: &[String]) -> Vec<String> {
        let wraps_payloads = matches!(self, Peer::Nats | Peer::SocketIo);
        let fit = |flag: &String| if wraps_payloads && flag == "sample" { "all".to_owned() } else { flag.clone() };
        flags.iter().map(fit).collect()
    }

    /// Returns the command that starts this server with subscribers that have two topics each.
    pub(crate) fn command_of_two_topics(self, tools: &Tools, address: SocketAddr) -> Result<Command, Box<dyn Error>> {
        let (listen, cpu) = (address.to_string(), SERVER_CPU.to_string());
        if self == Peer::Baseline {
            let program = tools.baseline.as_ref().and_then(|baseline| baseline.two_topics.as_deref());
            let mut command = pinned(SERVER_CPU, program.ok_or("no baseline with two topics was built")?);
            command.args([&listen, &cpu]);
            return Ok(command);
        }
        if self == Peer::Bun {
            let mut command = self.command(tools, address)?;
            command.arg("two-topics");
            return Ok(command);
        }
        let mut command = pinned(SERVER_CPU, &tools.bench);
        command.args(["two-topics", "--listen", &listen, "--cpu", &cpu]);
        Ok(command)
    }

    pub(crate) fn command(self, tools: &Tools, address: SocketAddr) -> Result<Command, Box<dyn Error>> {
        match self {
            Peer::Hub
            | Peer::HubEpoll
            | Peer::HubV1
            | Peer::HubHistory
            | Peer::HubSse
            | Peer::Shards2
            | Peer::Limited
            | Peer::Baseline => {
                let program = match self {
                    Peer::Baseline => &tools.baseline.as_ref().ok_or("no baseline was built")?.program,
                    _ => &tools.hub,
                };
                let mut command = hub(program, address, if self == Peer::Shards2 { 2 } else { 1 });
                if self == Peer::HubEpoll {
                    command.args(["--io", "epoll"]);
                }
                let settings = match self {
                    Peer::Limited => Some(LIMITS),
                    Peer::HubHistory => Some(HISTORY),
                    _ => None,
                };
                if let Some(settings) = settings {
                    let file = Path::new(OUTPUT).join(format!("{}.toml", self.name()));
                    fs::write(&file, settings)?;
                    command.arg("--config").arg(file);
                }
                Ok(command)
            }
            Peer::Handler | Peer::K1 | Peer::K2 | Peer::K3 | Peer::Hold => {
                let mut command = pinned(SERVER_CPU, &tools.bench);
                let cpu = SERVER_CPU.to_string();
                command.args([self.name(), "--listen", &address.to_string(), "--cpu", &cpu]);
                Ok(command)
            }
            _ => others::command(self, tools, address),
        }
    }
}

/// Returns the generator's flags for a server of this preset.
pub(crate) fn preset_flags(preset: &str, address: SocketAddr) -> Vec<String> {
    // These presets have no path of their own.
    let path = if matches!(preset, "bun" | "kore" | "ws") { "/t/bench" } else { "" };
    ["--preset", preset, "--url", &format!("ws://{address}{path}")].map(str::to_owned).to_vec()
}

/// Returns the command of a hub with all its shards on the server's CPU.
pub(crate) fn hub(program: &Path, address: SocketAddr, shards: usize) -> Command {
    let mut command = pinned(SERVER_CPU, program);
    command.args(["serve", "--listen", &address.to_string(), "--cpus", &SERVER_CPU.to_string()]);
    command.args(["--ping-interval", "0", "--shards", &shards.to_string()]);
    command
}

/// Settings of a hub whose subscribers may stall: it keeps little for each.
pub(crate) const STALLS: &str = r#"
max_message = "64KiB"

[[topics]]
match = "bench"
slow = "drop_oldest"
backlog_bytes = "256KiB"
unsent_low_water = "64KiB"
"#;

/// Settings of a hub that keeps a history of its topic. A row that publishes more messages than are kept measures also
/// how messages leave the history.
const HISTORY: &str = r#"
history_memory = "256MiB"

[[topics]]
match = "bench"
history_messages = 200000
"#;

/// Settings with every limit that is off by default, each far above what the loads need.
const LIMITS: &str = r#"
max_message_rate = "100000000/s"
max_byte_rate = "100GiB/s"
max_publish_rate_per_address = "100000000/s"
max_publish_rate_per_identity = "100000000/s"
max_publish_rate_per_token = "100000000/s"
max_handshake_rate = "100000000/s"
max_accept_rate = "100000000/s"
max_connections_per_address = 1000000
max_memory = "64GiB"
trusted_proxies = ["192.0.2.1"]

[[topics]]
match = ["bench", "orders/**"]
subscribe = "anyone"
publish = "anyone"
"#;

/// The CPU of the server under test.
pub(crate) const SERVER_CPU: usize = 0;

/// The CPU of the generator.
pub(crate) const LOAD_CPU: usize = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_name_is_that_of_the_flag_and_of_the_record() {
        for peer in Peer::value_variants() {
            assert_eq!(peer.to_possible_value().map(|value| value.get_name().to_owned()), Some(peer.name().to_owned()));
            assert_eq!(serde_json::to_value(peer).unwrap(), peer.name());
        }
    }

    #[test]
    fn the_readme_has_the_setting_of_each_server() {
        let readme = include_str!("../README.md");
        for peer in Peer::value_variants() {
            let row = format!("| `{}` |", peer.name());
            let row = readme.lines().find(|line| line.starts_with(&row)).unwrap_or_else(|| panic!("{row} is missing"));
            assert!(row.contains(&format!("| {} |", peer.setting())), "{row}: {}", peer.setting());
        }
    }

    #[test]
    fn each_server_gets_the_flags_that_fit_it() {
        let address = "127.0.0.1:1".parse().unwrap();
        assert_eq!(Peer::Kore.target_flags(address), ["--preset", "kore", "--url", "ws://127.0.0.1:1/t/bench"]);
        assert_eq!(Peer::Ws.target_flags(address), ["--preset", "ringhub", "--url", "ws://127.0.0.1:1"]);
        assert_eq!(Peer::Ws.echo_flags(address)[4..], ["--sub-query", "echo=true"]);
        assert_eq!(Peer::Nats.echo_flags(address), Peer::Nats.target_flags(address));
        let flags = ["--verify", "sample"].map(str::to_owned);
        assert_eq!(Peer::Nats.fitted(&flags), ["--verify", "all"]);
        assert_eq!(Peer::Bun.fitted(&flags), flags);
    }
}
