//! Measures how far apart the two CPUs are at the moment.
//!
//! In a virtual machine the two CPUs may share a core, and the host may move one of them to another chip and back
//! within minutes. Server and generator exchange every byte through their caches, so the same server costs two or three
//! times as much in another placement. Figures of different placements must not be compared, so each run measures the
//! distance before and after.

use core_affinity::{CoreId, set_for_current};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

/// The placement of the two CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Placement {
    /// They share a core: a cache line crosses in some 15 ns.
    Near,
    /// They share a chip's last-level cache.
    Apart,
    /// They do not even share this cache.
    Far,
}

impl Placement {
    /// Returns the placement for a hop of this number of nanoseconds.
    pub(crate) fn of(hop_ns: f64) -> Placement {
        match hop_ns {
            ..NEAR_MAX_NS => Placement::Near,
            ..APART_MAX_NS => Placement::Apart,
            _ => Placement::Far,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Placement::Near => "near",
            Placement::Apart => "apart",
            Placement::Far => "far",
        }
    }
}

/// Returns the nanoseconds that a cache line needs from one CPU to the other. It is the median of many short rallies,
/// so a few interrupted ones do not matter.
pub(crate) fn hop_ns(one: usize, other: usize) -> f64 {
    let ball = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            set_for_current(CoreId { id: other });
            // An even number means that the ball is on this side, an odd one on the other. Acquire and Release pair
            // with those below.
            for hit in 0..RALLIES * HITS {
                await_ball(&ball, 2 * hit + 1);
                ball.store(2 * hit + 2, Ordering::Release);
            }
        });
        let rallies = scope.spawn(|| {
            set_for_current(CoreId { id: one });
            let rally = |rally: u32| {
                let begin = Instant::now();
                for hit in rally * HITS..(rally + 1) * HITS {
                    ball.store(2 * hit + 1, Ordering::Release);
                    await_ball(&ball, 2 * hit + 2);
                }
                begin.elapsed().as_nanos() as f64 / f64::from(2 * HITS)
            };
            let mut hops: Vec<f64> = (0..RALLIES).map(rally).collect();
            hops.sort_unstable_by(f64::total_cmp);
            hops[hops.len() / 2]
        });
        rallies.join().expect("a rally does not panic")
    })
}

fn await_ball(ball: &AtomicU32, value: u32) {
    while ball.load(Ordering::Acquire) != value {
        spin_loop();
    }
}

const RALLIES: u32 = 61;
const HITS: u32 = 500;

/// The limit between the 14 to 17 ns of one core and the 28 to 60 ns of one chip.
const NEAR_MAX_NS: f64 = 22.0;

/// The limit between the 28 to 60 ns of one chip and the 150 to 300 ns of two chips.
const APART_MAX_NS: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_of_one_placement_have_one_name() {
        let of = |hops: &[f64]| hops.iter().map(|hop| Placement::of(*hop)).collect::<Vec<_>>();
        assert_eq!(of(&[13.9, 16.8]), [Placement::Near; 2]);
        assert_eq!(of(&[28.0, 34.1, 36.2, 43.0, 60.0]), [Placement::Apart; 5]);
        assert_eq!(of(&[150.0, 173.0, 230.0]), [Placement::Far; 3]);
    }

    #[test]
    fn a_hop_takes_time() {
        if thread::available_parallelism().map_or(1, usize::from) < 2 {
            return; // Two threads that spin for each other on one CPU take minutes.
        }
        let hop_ns = hop_ns(0, 1);
        assert!(hop_ns > 1.0, "{hop_ns} ns");
        assert!([Placement::Near, Placement::Apart, Placement::Far].contains(&Placement::of(hop_ns)));
    }
}
