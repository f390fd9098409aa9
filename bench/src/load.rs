//! Puts the load of a scenario on a server, and takes the figures.

use crate::client::{metrics_of, open, open_stream};
use crate::metric::{Metric, Values, of_report, of_requests};
use crate::peers::Peer;
use crate::peers::{Load as Generator, Running, on_the_loads_cpu};
use crate::post;
use crate::run::Order;
use crate::scenario::{Counting, Load, STALL_WINDOWS, Scenario, Topics};
use crate::streams;
use crate::tools::Tools;
use ringhub_loadgen::{Outcome, Report, ScenarioFigures, memory_of};
use socket2::SockRef;
use std::error::Error;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The result of a load on a server.
#[derive(Default)]
pub(crate) struct Driven {
    pub(crate) command: String,
    /// The reason why the run was not exact, if so.
    pub(crate) failure: Option<String>,
    /// What disturbed the run, by the generator's own judgement.
    pub(crate) disturbance: Option<String>,
    pub(crate) values: Values,
    pub(crate) report: Option<Report>,
    pub(crate) requests: Option<post::Figures>,
}

/// Puts the scenario's load on a server.
///
/// # Errors
/// An error is returned if the server, the generator or a counter cannot be asked.
pub(crate) fn drive(tools: &Tools, server: &Running, order: Order<'_>) -> Result<Driven, Box<dyn Error>> {
    let Order { scenario, seconds, .. } = order;
    match scenario.load {
        Load::Post(connections) => {
            let &Scenario { subscribers, size, .. } = scenario;
            let done = post::drive(server, post::Plan { connections, subscribers, size, seconds });
            let command = format!("# POST of {size} B by ringhub-bench for {seconds} s, {connections} connections");
            let (requests, failure) = (done.as_ref().ok().copied(), done.err());
            let values = requests.as_ref().map(of_requests).unwrap_or_default();
            Ok(Driven { command, failure, values, requests, ..Driven::default() })
        }
        Load::Idle => {
            let command = format!("# {FEW}, then {} connections of ringhub-bench that stay idle", scenario.subscribers);
            let values = on_the_loads_cpu(|| idle(server, scenario.subscribers).map_err(|error| error.to_string()))?;
            Ok(Driven { command, values, ..Driven::default() })
        }
        Load::Streams(rate) => {
            let &Scenario { subscribers, size, .. } = scenario;
            let done = streams::drive(server, streams::Plan { subscribers, size, rate, seconds });
            let command = format!("# {rate} POST/s of {size} B by ringhub-bench for {seconds} s");
            let (values, failure) = (done.as_ref().ok().cloned().unwrap_or_default(), done.err());
            Ok(Driven { command, failure, values, ..Driven::default() })
        }
        Load::Keep { few, many } => {
            let command = format!("# POST of {many} messages of {} B by ringhub-bench", scenario.size);
            let values =
                on_the_loads_cpu(|| keep(server, scenario.size, [few, many]).map_err(|error| error.to_string()))?;
            Ok(Driven { command, values, ..Driven::default() })
        }
        Load::Micro => Err("the read path is measured by `bench/run micro`, without a server".into()),
        Load::Stall { .. } => with_stalled_readers(tools, server, order),
        _ => generate(tools, server, order),
    }
}

/// Runs the generator against a server.
fn generate(tools: &Tools, server: &Running, order: Order<'_>) -> Result<Driven, Box<dyn Error>> {
    let Order { scenario, seconds, rate, .. } = order;
    let counts = order.server.is_hub();
    // The load must last until perf, which needs a moment to start, has counted for the whole window.
    let loaded = if scenario.counting == Counting::Calls { seconds + PERF_STARTS_WITHIN } else { seconds };
    let (word, flags) = words(Order { seconds: loaded, ..order });
    let (done, calls) = match scenario.counting {
        Counting::Calls if counts => {
            let (done, calls) = thread::scope(|scope| {
                let counted = scope.spawn(|| {
                    let calls = calls_per_delivery(server, seconds).map_err(|error| error.to_string());
                    (calls, Instant::now())
                });
                let done = Generator::run_scenario(tools, server, word, &flags);
                let ended = Instant::now();
                (done, counted.join().map(|(calls, counted)| calls.map(|calls| (calls, counted < ended))))
            });
            let (calls, is_within) = calls.map_err(|_| "the counting of system calls panicked")??;
            if !is_within {
                return Err("the load ended before the system calls were counted".into());
            }
            (done?, Some(calls))
        }
        _ => (Generator::run_scenario(tools, server, word, &flags)?, None),
    };
    let exact = scenario.load.exact_messages(WARMUP_SECONDS, loaded, rate);
    let mut values = done.report.as_ref().map(of_report).unwrap_or_default();
    let (failure, report) = match done.report {
        Err(why) => (Some(why), None),
        Ok(report) => (failure_of(&report, scenario, exact), Some(short(report))),
    };
    let disturbance = report.as_ref().and_then(|report| disturbance_of(report, scenario));
    values.extend(calls.map(|calls| (Metric::CallsPerDelivery, calls)));
    if scenario.counting == Counting::Sends && counts {
        // The opening answer of each connection is a send too, so these sends are left out.
        let publishers = if scenario.topics == Topics::Two { 2 } else { 1 };
        let sends = counted(server.address, "sends")? - (scenario.subscribers + publishers) as f64;
        let deliveries = counted(server.address, "deliveries")?;
        values.extend([(Metric::SendsPerDelivery, sends / deliveries), (Metric::MessagesPerSend, deliveries / sends)]);
    }
    Ok(Driven { command: done.command_line, failure, disturbance, values, report, requests: None })
}

/// Runs the generator with readers that stall, and reads the memory of the server before the load, and near the end of
/// the stall.
fn with_stalled_readers(tools: &Tools, server: &Running, order: Order<'_>) -> Result<Driven, Box<dyn Error>> {
    let before = memory_of(server.pid()).rss_anon;
    let (driven, grown) = thread::scope(|scope| {
        let read = scope.spawn(|| -> Result<Option<f64>, String> {
            if !order.server.is_hub() {
                return Ok(None);
            }
            await_deliveries(server).map_err(|error| error.to_string())?;
            thread::sleep(Duration::from_secs(WARMUP_SECONDS + STALL_WINDOWS * order.seconds) * 17 / 20);
            let accounted = accounted(server.address).map_err(|error| error.to_string())?;
            let anonymous = memory_of(server.pid()).rss_anon;
            Ok(anonymous.zip(before).map(|(now, before)| now.saturating_sub(before) as f64 / accounted))
        });
        (generate(tools, server, order), read.join())
    });
    let mut driven = driven?;
    let grown = grown.map_err(|_| "the reading of memory panicked")?;
    // Without an exact load, that is what is told.
    if driven.failure.is_none() {
        driven.values.extend(grown?.map(|grown| (Metric::MemoryOfAccounted, grown)));
    }
    let whole = memory_of(server.pid()).rss_peak;
    driven.values.extend(whole.map(|bytes| (Metric::ServerMebibytes, bytes as f64 / MEBIBYTE)));
    Ok(driven)
}

/// Returns the bytes that a hub accounts for, of all kinds, without those of its tables.
fn accounted(address: SocketAddr) -> Result<f64, Box<dyn Error>> {
    let metrics = metrics_of(address)?;
    let lines = metrics.lines().filter(|line| line.starts_with("ringhub_memory_bytes{"));
    let bytes = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    bytes.reduce(|sum, bytes| sum + bytes).ok_or_else(|| "the server's metrics do not have its memory".into())
}

/// Waits until a hub has delivered something.
fn await_deliveries(server: &Running) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + DELIVERY_DEADLINE;
    while counted(server.address, "deliveries")? == 0.0 {
        if Instant::now() > deadline {
            return Err("nothing was delivered".into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Returns the generator's command, such as `fanout`, and its flags.
fn words(order: Order<'_>) -> (&'static str, Vec<String>) {
    let Order { scenario, server, seconds, rate, .. } = order;
    let Scenario { subscribers, topics, size, load, .. } = scenario;
    let mut flags = load.flags(WARMUP_SECONDS, seconds, rate);
    let mut put = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
    match load {
        Load::Storm => {
            put("--connections", subscribers.to_string());
            ("storm", flags)
        }
        Load::Echo(_) => {
            put("--connections", subscribers.to_string());
            put("--size", size.to_string());
            ("echo", flags)
        }
        _ => {
            let is_longer = matches!(load, Load::OfV1(_)) && server != Peer::HubV1;
            put("--subscribers", subscribers.to_string());
            put("--size", (size + if is_longer { V1_BYTES } else { 0 }).to_string());
            // Each frame of ringhub.v1 has to be read, so each raw one is read too; and `stall` reads all.
            let verify = if matches!(load, Load::OfV1(_) | Load::Stall { .. }) { "all" } else { "sample" };
            put("--verify", verify.to_owned());
            if matches!(load, Load::Stall { .. }) && server.is_hub() {
                put("--sub-query", "mode=sub&lag=silent".to_owned());
            }
            match topics {
                Topics::One => put("--publishers", "1".to_owned()),
                Topics::Two => put("--publishers", "2".to_owned()),
                Topics::Zipf(topics) => {
                    for flag in ["--topics", "--publishers"] {
                        put(flag, topics.to_string());
                    }
                    for flag in ["--spread", "--publish-spread"] {
                        put(flag, "zipf".to_owned());
                    }
                }
            }
            (if matches!(load, Load::Stall { .. }) { "stall" } else { "fanout" }, flags)
        }
    }
}

/// The beginning of the reason when messages were lost, repeated or invented.
pub(crate) const NOT_EXACT: &str = "not exact";

/// Returns what disturbed a run, by the generator's judgement. A generator without time to spare is no disturbance:
/// [`crate::run::Run::is_limited`] says so. In a storm the kernel's own work on the connections takes time from the
/// generator's CPU.
fn disturbance_of(report: &Report, scenario: &Scenario) -> Option<String> {
    let is_other = |reason: &&String| Some(*reason) != report.bottleneck.as_ref();
    report.disturbances.iter().find(is_other).filter(|_| scenario.load != Load::Storm).cloned()
}

/// Returns the reason for which a run does not count, if there is one.
fn failure_of(report: &Report, scenario: &Scenario, exact_messages: Option<u64>) -> Option<String> {
    let published = report.counts.published;
    let is_silent = scenario.load == Load::Storm;
    match report.outcome {
        Outcome::Void => Some(format!("void: {}", report.void_reasons.join("; "))),
        Outcome::Broken => Some(format!("{NOT_EXACT}: {}", mistakes_of(report))),
        Outcome::Exact => match exact_messages {
            Some(exact) if published != exact => Some(format!("published {published} messages instead of {exact}")),
            _ if report.figures.is_none() => Some("the report has no figures".to_owned()),
            _ if refused(report) > 0 => Some(format!("{} connections were refused", refused(report))),
            _ if !is_silent && report.figures.as_ref().is_none_or(|figures| figures.deliveries == 0) => {
                Some("nothing was delivered inside the window".to_owned())
            }
            _ => None,
        },
    }
}

/// Returns what went wrong in a run, for people: the numbers of mistakes, and the first connections that ended.
pub(crate) fn mistakes_of(report: &Report) -> String {
    let numbers = [report.mistakes()].into_iter().filter(|numbers| !numbers.is_empty());
    numbers.chain(report.disconnections.iter().cloned()).collect::<Vec<_>>().join("; ")
}

/// Returns how many connections of a storm were refused before they came back.
fn refused(report: &Report) -> u64 {
    match &report.scenario_figures {
        Some(ScenarioFigures::Storm { rounds, .. }) => rounds.iter().map(|round| round.refused).sum(),
        _ => 0,
    }
}

/// Returns the report without its curves, which are most of it.
fn short(mut report: Report) -> Report {
    if let Some(figures) = &mut report.figures {
        figures.series.clear();
        (figures.distribution, figures.distribution_uncorrected) = (None, None);
    }
    report
}

/// Returns one of the server's counters, over all shards.
fn counted(address: SocketAddr, counter: &str) -> Result<f64, Box<dyn Error>> {
    sum_of(&metrics_of(address)?, &format!("{counter}_total"))
        .ok_or_else(|| format!("the server's metrics do not have {counter}").into())
}

/// Returns the sum of a metric over all shards, if `metrics` have it.
fn sum_of(metrics: &str, name: &str) -> Option<f64> {
    let begin = format!("ringhub_{name}{{shard=");
    let values = metrics.lines().filter(|line| line.starts_with(&begin));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).reduce(|sum, value| sum + value)
}

/// Counts the server's system calls and deliveries for most of the window. The kernel counts the calls by the trace
/// point at their entry, which `perf` reads; each call then takes a little longer.
fn calls_per_delivery(server: &Running, seconds: u64) -> Result<f64, Box<dyn Error>> {
    await_deliveries(server)?;
    // The first deliveries belong to the warm-up, which is longer than this wait.
    thread::sleep(Duration::from_millis(500));
    let (begin, before) = (Instant::now(), counted(server.address, "deliveries")?);
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", &server.pid().to_string()]);
    perf.args(["--", "sleep", &seconds.to_string()]);
    let output =
        perf.stdin(Stdio::null()).output().map_err(|error| format!("perf, which counts system calls: {error}"))?;
    let (elapsed, after) = (begin.elapsed().as_secs_f64(), counted(server.address, "deliveries")?);
    let said = String::from_utf8_lossy(&output.stderr);
    let calls = calls_of(&said).ok_or_else(|| format!("perf does not count system calls here: {}", said.trim()))?;
    // The span of the counter of deliveries is a little longer, so rates are compared.
    Ok(calls / seconds as f64 / ((after - before) / elapsed))
}

/// Returns the count in the output of `perf stat -x,`, which is its first field.
fn calls_of(output: &str) -> Option<f64> {
    let line = output.lines().find(|line| line.contains("raw_syscalls:sys_enter"))?;
    line.split(',').next()?.parse().ok()
}

/// Opens idle subscribers, and returns the memory of each: from the difference between few and `many` of them.
fn idle(server: &Running, many: usize) -> Result<Values, Box<dyn Error>> {
    let resource = rustix::process::Resource::Nofile;
    let mut limit = rustix::process::getrlimit(resource);
    limit.current = limit.maximum;
    rustix::process::setrlimit(resource, limit)?;
    await_ended_connections(ENDED_MAX)?;
    let mut connections: Vec<TcpStream> = Vec::with_capacity(many);
    let mut grow = |count: usize| -> Result<[f64; 2], Box<dyn Error>> {
        while connections.len() < count {
            let connection = match server.peer {
                Peer::HubSse => open_stream(server.address, "/t/bench")?.0,
                _ => open(server.address, "/t/bench?mode=sub")?,
            };
            // A reset leaves nothing in the kernel whose end could fall between two readings of a later run.
            SockRef::from(&connection).set_linger(Some(Duration::ZERO))?;
            connections.push(connection);
        }
        thread::sleep(SETTLE);
        let user = memory_of(server.pid()).rss_anon.ok_or("the kernel does not show the server's memory")? as f64;
        Ok([user, user + kernel_bytes(server.pid())?])
    };
    let (few, all) = (grow(FEW)?, grow(many)?);
    let slope = |kind: usize| (all[kind] - few[kind]) / (many - FEW) as f64;
    let mut values = Values::from([(Metric::UserBytes, slope(0)), (Metric::AllBytes, slope(1))]);
    let whole = memory_of(server.pid()).pss;
    values.extend(whole.map(|bytes| (Metric::ServerMebibytes, bytes as f64 / MEBIBYTE)));
    Ok(values)
}

/// Publishes messages that a hub keeps, and returns the memory of each: from the difference between few and many.
fn keep(server: &Running, size: usize, [few, many]: [usize; 2]) -> Result<Values, Box<dyn Error>> {
    let plan = post::Plan { connections: KEEPERS, subscribers: 0, size, seconds: 0 };
    let mut load = post::Load::open(server.address, plan)?;
    let mut publish = |messages: usize| -> Result<f64, Box<dyn Error>> {
        load.repeat(messages, |send| Ok(send()?))?;
        thread::sleep(SETTLE);
        Ok(memory_of(server.pid()).rss_anon.ok_or("the kernel does not show the server's memory")? as f64)
    };
    let (before, after) = (publish(few)?, publish(many - few)?);
    let metrics = metrics_of(server.address)?;
    let kept = sum_of(&metrics, "history_messages").ok_or("the server's metrics do not have its kept messages")?;
    if kept != many as f64 {
        return Err(format!("{kept} messages are kept instead of {many}").into());
    }
    let mut values = Values::from([(Metric::KeptBytes, (after - before) / (many - few) as f64)]);
    let whole = memory_of(server.pid()).pss;
    values.extend(whole.map(|bytes| (Metric::ServerMebibytes, bytes as f64 / MEBIBYTE)));
    Ok(values)
}

/// Waits until the kernel has forgotten the connections that ended before, but for `most` of them. It keeps an ended
/// connection for a minute. Meanwhile the memory of some thousand of them would be missing from the second of two
/// readings, and their ports cannot be used.
pub(crate) fn await_ended_connections(most: u64) -> io::Result<()> {
    let begin = Instant::now();
    let mut is_told = false;
    while begin.elapsed() < FORGOTTEN_AFTER
        && let Some(ended) = ended_connections(&fs::read_to_string("/proc/net/sockstat")?).filter(|ended| *ended > most)
    {
        if !std::mem::replace(&mut is_told, true) {
            eprintln!("waiting up to a minute, until the kernel forgets {ended} connections that have ended");
        }
        thread::sleep(SETTLE);
    }
    Ok(())
}

/// Returns the ended connections (TIME_WAIT) that the text of `/proc/net/sockstat` counts.
fn ended_connections(sockstat: &str) -> Option<u64> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split(' ').skip_while(|word| *word != "tw");
    words.nth(1)?.parse().ok()
}

/// Returns the kernel's memory: its objects, of the whole machine, and the page tables of the server.
fn kernel_bytes(pid: u32) -> io::Result<f64> {
    let objects = kilobytes(&fs::read_to_string("/proc/meminfo")?, "Slab:");
    let tables = kilobytes(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmPTE:");
    objects.zip(tables).map(|(objects, tables)| (objects + tables) * 1_024.0).ok_or_else(|| {
        io::Error::other("/proc/meminfo and /proc/PID/status do not have the form that proc(5) describes")
    })
}

fn kilobytes(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

const WARMUP_SECONDS: u64 = 1;

/// The bytes around a payload of the topic `bench` in a message of `ringhub.v1`, with an epoch of 16 digits and an
/// offset of 3.
const V1_BYTES: usize = r#"{"message":{"topic":"bench","epoch":"1330597713264823","offset":100,"data":""}}"#.len();

/// The seconds within which perf must have started, and read the counters again.
const PERF_STARTS_WITHIN: u64 = 2;

const FEW: usize = 1_000;

/// The connections that publish messages to be kept. It divides the numbers of messages.
const KEEPERS: usize = 16;
const MEBIBYTE: f64 = 1_048_576.0;

/// The ended connections that a reading may have beside it, of 256 bytes each: 4 bytes for each idle connection.
const ENDED_MAX: u64 = 200;

/// The time after which the kernel has forgotten every ended connection: a minute.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(65);

/// The time between the last handshake and the reading of memory. The hub gives back what a storm has left free within
/// two seconds.
const SETTLE: Duration = Duration::from_secs(3);

/// How long the first delivery may take, with the opening of all connections.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{SCENARIOS, scenario};
    use clap::Parser as _;
    use ringhub_loadgen::Cli;

    fn order(scenario: &Scenario) -> Order<'_> {
        Order { round: 0, scenario, server: Peer::Hub, rate: Some(1_234), seconds: 4, others_max: 0.1 }
    }

    /// The generator takes the flags of every scenario, and its plan has no contradiction.
    #[test]
    fn the_generator_takes_every_scenario() {
        let mut taken = 0;
        for scenario in SCENARIOS {
            if matches!(scenario.load, Load::Post(_) | Load::Streams(_) | Load::Idle | Load::Keep { .. } | Load::Micro)
            {
                continue;
            }
            let (word, flags) = words(order(scenario));
            let echo: &[&str] = if word == "echo" { &["--sub-query", "echo=true"] } else { &[] };
            let program = ["ringhub-loadgen", word, "--json", "--preset", "ringhub", "--url", "ws://127.0.0.1:6455"];
            let line = program.iter().chain(echo).map(ToString::to_string).chain(flags.clone());
            let options = Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{error}")).into_options().unwrap();
            options.plan().unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
            assert!(flags.contains(&scenario.subscribers.to_string()), "{flags:?}");
            taken += 1;
        }
        assert!(taken > 20, "{taken}");
    }

    #[test]
    fn a_generator_that_was_the_bottleneck_is_no_disturbance() {
        let report = |bottleneck: Option<&str>| -> Report {
            let fields = serde_json::json!({
                "outcome": "exact", "void": false, "void_reasons": [], "disconnections": [], "subscribers": 1,
                "publishers": 1, "size": 128, "load": "rate 1", "verified_subscribers": 1,
                "counts": {"published": 1, "expected": 1, "lost": 0, "duplicated": 0, "reordered": 0, "foreign": 0,
                    "corrupt": 0, "disconnected": 0, "other_orders": 0},
                "disturbances": ["no time to spare"], "bottleneck": bottleneck,
            });
            serde_json::from_value(fields).unwrap()
        };
        let (rate, storm) = (scenario("rate-100").unwrap(), scenario("storm").unwrap());
        assert_eq!(disturbance_of(&report(None), rate), Some("no time to spare".to_owned()));
        assert_eq!(disturbance_of(&report(Some("no time to spare")), rate), None);
        assert_eq!(disturbance_of(&report(None), storm), None);
    }

    #[test]
    fn a_share_takes_the_rate_that_was_found() {
        let half = scenario("half-of-bun").unwrap();
        let (_, flags) = words(order(half));
        assert!(flags.windows(2).any(|two| two == ["--rate", "1234"]), "{flags:?}");
        assert_eq!(half.load.exact_messages(WARMUP_SECONDS, 4, Some(1_234)), Some(5 * 1_234));
    }

    #[test]
    fn counters_are_added_over_the_shards() {
        let metrics = "# HELP x\nringhub_sends_total{shard=\"0\"} 3\nringhub_sends_total{shard=\"1\"} 4\n\
                       ringhub_short_sends_total{shard=\"0\"} 9\n";
        assert_eq!(sum_of(metrics, "sends_total"), Some(7.0));
        assert_eq!(sum_of(metrics, "turns_total"), None);
    }

    #[test]
    fn the_count_of_perf_is_its_first_field() {
        assert_eq!(calls_of("978673,,raw_syscalls:sys_enter,946341050,100.00,,\n"), Some(978_673.0));
        assert_eq!(calls_of("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
        assert_eq!(calls_of("event syntax error: 'raw_syscalls:sys_enter'\n"), None);
        assert_eq!(calls_of("Access to performance monitoring is limited.\n"), None);
    }

    #[test]
    fn ended_connections_are_counted() {
        let text = "sockets: used 90\nTCP: inuse 9 orphan 0 tw 1234 alloc 12 mem 1\nUDP: inuse 0 mem 0\n";
        assert_eq!(ended_connections(text), Some(1_234));
        assert_eq!(ended_connections("UDP: inuse 0 tw 5\n"), None);
    }

    #[test]
    fn the_kernels_memory_is_readable() {
        assert!(kernel_bytes(std::process::id()).is_ok_and(|bytes| bytes > 1e6));
        assert_eq!(kilobytes("SlabX: 1 kB\nSlab:   20 kB\n", "Slab:"), Some(20.0));
    }
}
