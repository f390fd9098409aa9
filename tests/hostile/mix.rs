//! A mix: a server, an honest crowd and a hostile crowd, drawn from a seed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    aftermath::{self, Before},
    crowd::{Crowd, Kind, Outcome, Random, SECRET, Scene},
    honest::{Honest, TOKEN},
    support::{Counts, DEADLINE, Server, binary_path, clean, program},
};

/// The choices of a seed.
pub(crate) struct Mix {
    pub(crate) seed: u64,
    shards: usize,
    /// Flags of the server.
    flags: Vec<String>,
    visitors: Vec<Kind>,
    message_max: usize,
}

impl Mix {
    /// Draws a mix for a server with this number of shards.
    pub(crate) fn draw(seed: u64, shards: usize) -> Mix {
        let mut random = Random::new(seed);
        let message_max: usize = random.pick(&[16 << 10, 32 << 10]);
        let per_address = random.pick(&[20, 40]);
        let backlog = random.pick(&[2, 4]) * message_max;
        let mut flags = vec![
            format!("--shards={shards}"),
            format!("--max-connections={}", usize::from(ADDRESSES) * per_address + HONEST),
            format!("--max-connections-per-address={per_address}"),
            format!("--max-http-connections={}", random.pick(&[40, 80])),
            format!("--max-message={message_max}"),
            format!("--max-backlog={backlog}"),
            format!("--max-backlog-messages={}", random.pick(&[4_000, 20_000])),
            format!("--max-gathered={}", random.pick(&[64 << 10, 128 << 10])),
            format!("--max-unfinished={}", 2 * shards * backlog),
            format!("--max-bodies={}", random.pick(&[4, 16]) * message_max),
            format!("--max-fragments={}", random.pick(&[100, 10_000])),
            format!("--max-idle-topics={IDLE_TOPICS}"),
            "--max-subscriptions=32".to_owned(),
        ];
        for (name, times) in [
            ("handshake-timeout", [5, 8]),
            ("message-timeout", [5, 8]),
            ("body-timeout", [5, 8]),
            ("idle-timeout", [2, 10]),
            ("ping-interval", [2, 3]),
            ("pong-timeout", [8, 12]),
            ("close-timeout", [5, 8]),
        ] {
            flags.push(format!("--{name}={}s", random.pick(&times)));
        }
        if random.once_in(2) {
            flags.push(format!("--send-buffer={}", random.pick(&[4_096, 32_768])));
        }
        // Each kind has visitors, some kinds more than others.
        let mut visitors: Vec<Kind> = Kind::ALL.repeat(8);
        let favoured = random.pick(&Kind::ALL);
        visitors.extend((0..60).map(|_| if random.once_in(3) { favoured } else { random.pick(&Kind::ALL) }));
        Mix { seed, shards, flags, visitors, message_max }
    }

    /// Runs both crowds at the same time, and checks the server's promises.
    pub(crate) fn run(&self, time: Duration) {
        println!("{}: {} visitors, {}", self.name(), self.visitors.len(), self.flags.join(" "));
        let folder = Folder::new(self);
        let worst_mib = self.worst_mib(&folder);
        assert!((50.0..500.0).contains(&worst_mib), "a crowd could not reach {worst_mib} MiB");
        let server = folder.serve(self);
        aftermath::serves(&server);
        let before = Before::of(&server);
        let honest = Honest::start(server.address(), self.seed);
        let crowd = self.crowd(&server);
        let outcome = self.lead(&crowd, &honest, &server, time);
        let tally = honest.finish();
        let memory_mib = aftermath::peak_mib(&server);
        self.report(&outcome);
        println!("{}: honest {tally:?}; {memory_mib:.1} MiB at the most, of {worst_mib:.1} MiB", self.name());
        assert!(outcome.violations.is_empty(), "{}:\n{}", self.name(), outcome.violations.join("\n"));
        assert!(memory_mib <= worst_mib, "{memory_mib} MiB, but check-config says at most {worst_mib}");
        self.check_reached(&server.counts());
        for kind in Kind::ALL {
            let of_kind = outcome.of(kind);
            assert!(of_kind.done > 0, "no visit of a {kind:?} has reached its end: {of_kind:?}");
        }
        assert!(tally.posted > 0 && tally.received > 100, "the honest crowd is idle: {tally:?}");
        assert!(tally.uncertain <= tally.posted, "most of the POSTs had no answer: {tally:?}");
        aftermath::check(server, &before, self.shards * IDLE_TOPICS);
    }

    /// Checks that the crowd has reached the refusals and ends that every crowd reaches, and prints how often it has
    /// reached those that depend on the moment.
    fn check_reached(&self, counts: &Counts) {
        for name in ALWAYS_REACHED {
            assert!(counts.get(name) > 0, "{}: the crowd has not reached {name}: {counts:?}", self.name());
        }
        let often = ALWAYS_REACHED.iter().chain(SOMETIMES_REACHED).map(|name| format!("{name} {}", counts.get(name)));
        println!("{}: {}", self.name(), often.collect::<Vec<_>>().join(", "));
    }

    fn name(&self) -> String {
        format!("seed {} on {} shards", self.seed, self.shards)
    }

    fn crowd(&self, server: &Server) -> Crowd {
        let scene = Scene {
            message_max: self.message_max,
            honest_targets: vec!["/t/honest-0".to_owned(), "/all/all%2Fhonest-1".to_owned()],
            patience_ms: 14_000,
        };
        let visitors = self.visitors.clone();
        Crowd { seed: self.seed, visitors, server: server.address(), addresses: ADDRESSES, scene }
    }

    /// Runs the hostile crowd until the time is over and the crowd has reached all of [`ALWAYS_REACHED`], or an honest
    /// client has failed.
    fn lead(&self, crowd: &Crowd, honest: &Honest, server: &Server, time: Duration) -> Outcome {
        let is_over = AtomicBool::new(false);
        let mut outcome = Outcome::default();
        thread::scope(|scope| {
            let parts: Vec<_> = (0..THREADS)
                .map(|part| {
                    scope.spawn({
                        let is_over = &is_over;
                        move || crowd.run(part, THREADS, is_over)
                    })
                })
                .collect();
            let begin = Instant::now();
            let has_failed = || honest.has_failed() || parts.iter().any(|part| part.is_finished());
            while begin.elapsed() < time && !has_failed() {
                thread::sleep(Duration::from_millis(20));
            }
            // On a busy machine the crowd needs longer to reach everything.
            while begin.elapsed() < time + DEADLINE && !has_failed() && !has_reached_all(&server.counts()) {
                thread::sleep(Duration::from_millis(500));
            }
            is_over.store(true, Ordering::Relaxed);
            for part in parts {
                outcome.merge(part.join().expect("a thread of the hostile crowd"));
            }
        });
        outcome
    }

    fn report(&self, outcome: &Outcome) {
        for ((kind, name), tally) in &outcome.visits {
            let (kind, name) = (format!("{kind:?}"), *name);
            println!(
                "  {kind:9} {name:40} {:5} begun, {:5} done, {:5} accepted, {:6} KiB sent, {:6} taken",
                tally.begun,
                tally.done,
                tally.accepted,
                tally.sent_bytes >> 10,
                tally.taken_bytes >> 10
            );
        }
    }

    /// Returns the sum at the end of the output of `check-config` for this server.
    fn worst_mib(&self, folder: &Folder) -> f64 {
        let mut command = clean(Command::new(binary_path()));
        let output = command.arg("check-config").args(&self.flags).arg(folder.file()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let line = text.lines().find(|line| line.contains("MiB  in all"));
        let line = line.unwrap_or_else(|| panic!("no sum in {text}{errors}"));
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// Returns whether a crowd has reached everything that each crowd reaches.
fn has_reached_all(counts: &Counts) -> bool {
    ALWAYS_REACHED.iter().all(|name| counts.get(name) > 0)
}

/// The folder of a server: its file of routes, and its documents.
struct Folder(PathBuf);

impl Folder {
    fn new(mix: &Mix) -> Folder {
        let name = format!("ringhub-hostile-{}-{}-{}", std::process::id(), mix.seed, mix.shards);
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("site/secret")).unwrap();
        fs::create_dir_all(path.join("site/sub")).unwrap();
        fs::create_dir_all(path.join("elsewhere")).unwrap();
        let write = |name: &str, text: &str| fs::write(path.join(name), text).unwrap();
        write("site/index.html", "<!doctype html>home");
        write("site/large.txt", &"large ".repeat(100_000));
        for private in
            ["site/secret/plan.txt", "site/secret/index.html", "site/.hidden", "site/sub/.hidden", "elsewhere/plan.txt"]
        {
            write(private, SECRET);
        }
        std::os::unix::fs::symlink("../elsewhere", path.join("site/out")).unwrap();
        write("ringhub.toml", &ROUTES.replace("TOKEN", TOKEN));
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        Path::new(&self.0).join("ringhub.toml")
    }

    fn serve(&self, mix: &Mix) -> Server {
        let mut command = clean(program());
        command.args(["serve", "--config"]).arg(self.file()).args(&mix.flags);
        Server::start_command(command)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Open topics, topics and files behind a token, topics for web pages of one origin, and routes that lead to all
/// topics.
const ROUTES: &str = r#"
    [[routes]]
    match = "/t/{topic...}"
    handler = "hub"
    topic_prefix = "all/"

    [[routes]]
    match = "/private/{topic...}"
    handler = "hub"
    topic_prefix = "private/"
    bearer = { tokens = { honest = "TOKEN" } }

    [[routes]]
    match = "/pages/{topic...}"
    handler = "hub"
    topic_prefix = "pages/"
    allowed_origins = ["https://good.example"]

    [[routes]]
    match = "/all/{topic...}"
    handler = "hub"

    [[routes]]
    match = "/rooms/{topic}"
    handler = "hub"

    [[routes]]
    match = "/echo"
    handler = "echo"

    [[routes]]
    match = "/site"
    documents = "./site"

    [[routes]]
    match = "/site/secret"
    documents = "./site/secret"
    bearer = { tokens = { honest = "TOKEN" } }

    [[routes]]
    match = "/"
    handler = "page"
"#;

/// Counters of refusals and ends that every crowd reaches.
const ALWAYS_REACHED: &[&str] = &[
    "protocol_errors_total",
    "aborted_total",
    "parked_total",
    "refused_total{cause=\"malformed\"}",
    "refused_total{cause=\"token\"}",
    "refused_total{cause=\"forbidden\"}",
    "refused_total{cause=\"not_found\"}",
];

/// Counters of refusals and ends that a crowd may reach.
const SOMETIMES_REACHED: &[&str] = &[
    "slow_closed_total",
    "reset_total",
    "handshake_timeout_total",
    "message_timeout_total",
    "pong_timeout_total",
    "close_timeout_total",
    "unfinished_closed_total",
    "policy_closed_total",
    "receive_paused_total",
    "http_displaced_total",
    "http_too_slow_total",
    "refused_total{cause=\"address\"}",
    "refused_total{cause=\"limit\"}",
    "refused_total{cause=\"too_large\"}",
    "refused_total{cause=\"timeout\"}",
];

/// The number of the visitors' addresses.
const ADDRESSES: u8 = 4;

/// The number of connections for the honest crowd, including those that have not quite ended.
const HONEST: usize = 80;

/// The limit of idle topics on a shard.
const IDLE_TOPICS: usize = 50;

/// The number of threads of the hostile crowd.
const THREADS: usize = 2;
