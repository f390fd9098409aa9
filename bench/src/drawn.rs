//! The crowd of `tests/hostile`, drawn from a seed: flooders, crawlers, hoarders, droppers, stallers and forgers.

#[path = "../../tests/hostile/crowd/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests use more of a crowd")]
mod crowd;

use crate::flood::{Done, NICE, READY};
use crowd::{Crowd, Kind, Scene};
use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Runs `visitors` visitors at the lowest priority until standard input ends. Prints their results, in which a visit
/// counts as a frame.
pub(crate) fn drawn(address: SocketAddr, seed: u64, visitors: usize) -> Result<bool, Box<dyn Error>> {
    rustix::process::nice(NICE)?;
    let scene =
        Scene { message_max: MESSAGE_MAX, honest_targets: vec!["/t/heard-drawn".to_owned()], patience_ms: PATIENCE_MS };
    let visitors = Kind::ALL.iter().copied().cycle().take(visitors).collect();
    let crowd = Crowd { seed, visitors, server: address, addresses: ADDRESSES, scene };
    let is_over = AtomicBool::new(false);
    let outcome = thread::scope(|scope| -> Result<_, Box<dyn Error>> {
        let visits = scope.spawn(|| crowd.run(0, 1, &is_over));
        println!("{READY}");
        let end = io::stdout().flush().and_then(|()| io::copy(&mut io::stdin(), &mut io::sink()));
        is_over.store(true, Ordering::Relaxed);
        end?;
        visits.join().map_err(|_| "the crowd panicked".into())
    })?;
    if !outcome.violations.is_empty() {
        return Err(outcome.violations.join("\n").into());
    }
    let mut done = Done::default();
    for tally in outcome.visits.values() {
        done.bytes += tally.sent_bytes;
        done.frames += tally.begun;
        done.opened += tally.accepted;
    }
    println!("{}", serde_json::to_string(&done)?);
    Ok(true)
}

/// The largest message of a server with default settings.
const MESSAGE_MAX: usize = 1 << 20;

/// The longest time for which a visitor holds its connection, in milliseconds.
const PATIENCE_MS: usize = 5_000;

/// The number of addresses that the visitors share.
const ADDRESSES: u8 = 4;
