//! All faults of clients at once, for the minutes that `tests/soak` names, beside an honest crowd that must not notice.
//! The server's memory, descriptors, sockets and gauges must not grow meanwhile.
//!
//! One seed draws the troubles and their sizes. The machine decides at which moments they meet.

mod honest;
mod random;
mod samples;
mod troubles;

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use self::{
    honest::Honest,
    random::Random,
    samples::Samples,
    troubles::{Tally, Trouble},
};
use crate::support::{CrowdPermit, KernelSocket, Server};

/// All kinds of trouble at once, on four shards. The honest listeners lose nothing and see every message in order. No
/// thread panics, nothing is left behind, and the server does not grow.
///
/// `RINGHUB_SOAK_MINUTES` is the duration, and `RINGHUB_SOAK_SEED` the seed (`tests/soak`). Without them each kind of
/// trouble comes once, which is too short to see growth.
#[test]
fn all_troubles_at_once() {
    let _permit = CrowdPermit::take();
    let minutes: f64 = env::var("RINGHUB_SOAK_MINUTES").map_or(0.0, |minutes| minutes.parse().expect("a number"));
    let seed = env::var("RINGHUB_SOAK_SEED").map_or_else(|_| fresh_seed(), |seed| seed.parse().expect("a number"));
    println!("seed {seed}, {minutes} minutes");
    let mut server = Server::start(SETTINGS);
    let at_start = Samples::descriptors(&server);
    let honest = Honest::join(&server);
    let (is_over, tally) = (AtomicBool::new(false), Tally::default());
    let mut samples = Samples::new();
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    thread::scope(|scope| {
        let (address, honest, is_over, tally) = (server.address(), &honest, &is_over, &tally);
        let _guard = Over(is_over);
        let mut threads: Vec<_> = honest.serve(scope, is_over);
        for own in 0..2 {
            threads.push(scope.spawn(move || {
                let _failure = Failure(is_over);
                let mut random = Random::new(seed ^ own);
                // Each thread causes half of the kinds once, then random ones.
                for &trouble in Trouble::ALL.iter().skip(own as usize).step_by(2) {
                    tally.make(trouble, address, honest, &mut random);
                }
                while Instant::now() < end && !is_over.load(Ordering::Relaxed) {
                    tally.make(Trouble::draw(&mut random), address, honest, &mut random);
                }
            }));
        }
        // The last two threads cause the troubles. If another thread has ended meanwhile, it has failed.
        let is_at_work = || threads[threads.len() - 2..].iter().any(|thread| !thread.is_finished());
        let has_failed = || threads[..threads.len() - 2].iter().any(|thread| thread.is_finished());
        while is_at_work() && !has_failed() {
            samples.take(&server, tally);
            thread::sleep(SAMPLE);
        }
    });
    println!("{tally:?}");
    server.expect_counts(&[
        ("connections_open", 0),
        ("http_connections_open", 0),
        ("slow_consumers", 0),
        ("polls_armed", 0),
        ("handler_panics_total", 0),
        ("log_lines_dropped_total", 0),
    ]);
    KernelSocket::until_none("sockets without a descriptor", || KernelSocket::without_descriptor(&server));
    KernelSocket::until_none("sockets of no connection", || KernelSocket::open_ones(server.address().port()));
    Samples::expect_descriptors(&server, at_start);
    if minutes > 0.0 {
        samples.expect_no_growth();
    }
    let log = server.end();
    assert!(!log.contains("panicked"), "{log}");
    println!("{} deliveries were checked, nothing is lost and nothing is left behind", honest.checked());
}

/// Tells the other threads to end, when dropped in a panic.
struct Failure<'a>(&'a AtomicBool);

impl Drop for Failure<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Tells all threads that the troubles are over, when dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970").as_secs()
}

/// Small limits, which troubles reach often, and timeouts that honest clients keep on a busy machine.
const SETTINGS: &[&str] = &[
    "--shards=4",
    "--max-connections=8000",
    "--max-http-connections=2000",
    "--max-message=64KiB",
    "--max-backlog=1MiB",
    "--max-gathered=1MiB",
    "--max-unfinished=8MiB",
    "--max-bodies=4MiB",
    "--max-idle-topics=100",
    "--send-buffer=64KiB",
    "--ping-interval=2s",
    "--pong-timeout=30s",
    "--handshake-timeout=5s",
    "--message-timeout=5s",
    "--body-timeout=2s",
    "--close-timeout=1s",
];

/// The time between two samples.
const SAMPLE: Duration = Duration::from_secs(1);
