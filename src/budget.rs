//! The memory budget of a server: what its threads hold, and whether that is too much.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// The memory budget of a server (`max_memory`).
///
/// A shard notes what it holds in each tick in which it runs, and before it sleeps. The control thread notes what it
/// holds, and the resident memory of the process, each 100 ms while more than half of the limit is used or resident,
/// and otherwise each second. The sum has the backlogs, unfinished messages, bodies, input and lanes by their sizes,
/// and connections, topics and revocations by the weights of `config::weights`. It does not have the server's own
/// requests to other servers, at most 64 MiB. Two numbers bound the rest of the server's need from above: the sum of
/// what its threads hold, since backlogs are charged memory that they share; and the resident memory, since the
/// allocator keeps memory that was freed. So the smaller number counts. Above the limit the server is short of memory,
/// until the smaller number is a tenth below the limit.
///
/// The threads give up what is too much by what each of them can give up. Openings end for their part of that. Where
/// they hold more than all the rest that can be given up, or a quarter of the limit ([`MUCH_DIVISOR`]), they are taken
/// for a flood of half requests, and end for all that they hold, so that the flood costs nobody else.
///
/// The resident memory has a second limit of its own, near the memory that the process may have at all: the kernel ends
/// a process whose resident memory is above that, whatever the server knows to hold. Above the second limit the server
/// is short of memory too, until the resident memory is a twentieth below it.
///
/// All loads and stores are relaxed: each number is from the last look of its thread, and a newer one corrects the
/// decision at the next look.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: u64,
    /// The limit of the resident memory alone.
    resident_max: u64,
    /// What the server holds without connections and messages.
    idle_bytes: u64,
    /// By the number of the thread: the shards, then the control thread.
    threads: Box<[Held]>,
    /// The resident memory of the process, [`u64::MAX`] if it is unknown.
    resident: AtomicU64,
    is_short: AtomicBool,
    /// How many times the server has become short of memory.
    shortages: AtomicU64,
}

/// What one thread holds.
#[derive(Debug, Default)]
struct Held {
    /// All of it but the opening handshakes, in bytes.
    bytes: AtomicU64,
    /// The opening handshakes (their requests are being read or judged), in bytes. They change between the turns of a
    /// shard.
    openings: AtomicU64,
    /// Of `bytes`, what can be given up: backlogs, unfinished messages and bodies, input that waits.
    spare: AtomicU64,
    /// Of `bytes`, the large profiles of connections: opening requests, identities with grants, renewed tokens. They
    /// are given up only if those of all threads are much of the limit.
    kept: AtomicU64,
}

impl Budget {
    /// Returns the budget of a server with so many shards. `resident_max` is the limit of the resident memory alone, at
    /// least `bytes_max`. `idle_bytes` is what the server holds without connections and messages.
    pub(crate) fn new(bytes_max: u64, resident_max: u64, idle_bytes: u64, shards: usize) -> Arc<Budget> {
        Arc::new(Budget {
            bytes_max,
            resident_max: resident_max.max(bytes_max),
            idle_bytes,
            threads: (0..=shards).map(|_| Held::default()).collect(),
            resident: AtomicU64::new(u64::MAX),
            is_short: AtomicBool::new(false),
            shortages: AtomicU64::new(0),
        })
    }

    /// Returns the limit.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Notes what a thread holds, without its opening handshakes, and how much of it can be given up.
    pub(crate) fn note(&self, thread: usize, bytes: u64, spare: u64) {
        self.threads[thread].bytes.store(bytes, Ordering::Relaxed);
        self.threads[thread].spare.store(spare, Ordering::Relaxed);
    }

    /// Notes the bytes of the large profiles of a thread's connections.
    pub(crate) fn note_kept(&self, thread: usize, bytes: u64) {
        self.threads[thread].kept.store(bytes, Ordering::Relaxed);
    }

    /// Notes the bytes of a thread's opening handshakes.
    pub(crate) fn note_openings(&self, thread: usize, bytes: u64) {
        self.threads[thread].openings.store(bytes, Ordering::Relaxed);
    }

    /// Returns whether a thread holds more than its part of a quarter of the limit, so that it has to look again in
    /// each tick. All threads that hold less hold at most a quarter of the limit together.
    pub(crate) fn holds_much(&self, thread: usize) -> bool {
        self.threads[thread].bytes.load(Ordering::Relaxed) > self.bytes_max / 4 / self.threads.len() as u64
    }

    /// Notes the resident memory of the process; `None` if it cannot be read.
    pub(crate) fn note_resident(&self, bytes: Option<u64>) {
        self.resident.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns whether so much resident memory is above its own limit.
    pub(crate) fn is_too_resident(&self, bytes: Option<u64>) -> bool {
        bytes.is_some_and(|bytes| bytes > self.resident_max)
    }

    /// Returns the bytes that all threads hold.
    pub(crate) fn held(&self) -> u64 {
        let both =
            |held: &Held| held.bytes.load(Ordering::Relaxed).saturating_add(held.openings.load(Ordering::Relaxed));
        self.threads.iter().map(both).fold(self.idle_bytes, u64::saturating_add)
    }

    /// Returns the bytes that count: the sum of what the threads hold, or the resident memory if that is smaller.
    pub(crate) fn used(&self) -> u64 {
        self.held().min(self.resident.load(Ordering::Relaxed))
    }

    /// Decides whether the server is short of memory. Returns by how many bytes the use exceeds the mark at which it is
    /// short no longer; 0 if the server is not short.
    pub(crate) fn judge(&self) -> u64 {
        let was_short = self.is_short();
        let excess = |bytes: u64, limit: u64, mark: u64| {
            let is_above = bytes > if was_short { mark } else { limit };
            if is_above { bytes.saturating_sub(mark) } else { 0 }
        };
        let by_both = excess(self.used(), self.bytes_max, self.bytes_max / 10 * 9);
        let resident = Some(self.resident.load(Ordering::Relaxed)).filter(|&bytes| bytes != u64::MAX);
        let by_resident = excess(resident.unwrap_or(0), self.resident_max, self.resident_max / 20 * 19);
        let excess = by_both.max(by_resident);
        let was_short_still = self.is_short.swap(excess > 0, Ordering::Relaxed);
        self.shortages.fetch_add(u64::from(excess > 0 && !was_short_still), Ordering::Relaxed);
        excess
    }

    /// Returns how many times the server has become short of memory since the last call.
    pub(crate) fn take_shortages(&self) -> u64 {
        self.shortages.swap(0, Ordering::Relaxed)
    }

    /// Returns whether the server is short of memory, by the last decision.
    pub(crate) fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Decides whether the server is short of memory ([`Budget::judge`]). Returns how many bytes a thread is to give
    /// up: of the excess without the part of the openings, the same part that the thread has of all that the threads
    /// can give up. A thread with less than a sixteenth of the mean gives up nothing: a small message under way is not
    /// lost for the large ones of others.
    pub(crate) fn part_to_give_up(&self, thread: usize) -> u64 {
        let excess = self.judge();
        let excess = excess - self.openings_part(excess).bytes;
        let (own, all) = (self.spare_of(&self.threads[thread..=thread]), self.spare_of(&self.threads));
        if u128::from(own) * 16 * (self.threads.len() as u128) < u128::from(all) {
            return 0;
        }
        part_of(excess, own, all)
    }

    /// Decides whether the server is short of memory ([`Budget::judge`]). Returns how many openings of this weight, in
    /// bytes, a thread is to end: for the part of the openings in the excess, the same part that the thread has of all
    /// openings.
    pub(crate) fn openings_to_end(&self, thread: usize, weight: u64) -> u64 {
        let part = self.openings_part(self.judge());
        let own = self.threads[thread].openings.load(Ordering::Relaxed);
        let bytes = part_of(part.bytes, own, self.sum(|held| &held.openings));
        // The few openings of a shard are not rounded up to the end of one, since others give up more than they hold.
        if part.is_flood { bytes.div_ceil(weight) } else { bytes / weight }
    }

    /// Returns the part of the excess for which openings end, which is at most what they hold.
    fn openings_part(&self, excess: u64) -> OpeningsPart {
        let (openings, spare) = (self.sum(|held| &held.openings), self.spare_of(&self.threads));
        let is_flood = openings > spare || self.is_much(openings);
        let bytes = if is_flood { excess } else { part_of(excess, openings, openings.saturating_add(spare)) };
        OpeningsPart { bytes: bytes.min(openings), is_flood }
    }

    /// Returns what threads can give up beside their openings.
    fn spare_of(&self, threads: &[Held]) -> u64 {
        let gives_up_kept = self.gives_up_kept();
        let kept = |held: &Held| if gives_up_kept { held.kept.load(Ordering::Relaxed) } else { 0 };
        let spare = |held: &Held| held.spare.load(Ordering::Relaxed).saturating_add(kept(held));
        threads.iter().map(spare).fold(0, u64::saturating_add)
    }

    /// Returns whether threads close connections for their large profiles: together these are a quarter of the limit
    /// ([`MUCH_DIVISOR`]). Otherwise they are hardly the reason for a shortage, and their connections may be idle.
    pub(crate) fn gives_up_kept(&self) -> bool {
        self.is_much(self.sum(|held| &held.kept))
    }

    /// Returns whether threads give up small holdings of connections too, once the large ones are given up: all that
    /// they can give up is a quarter of the limit ([`MUCH_DIVISOR`]). Otherwise that would free next to nothing.
    pub(crate) fn gives_up_small(&self) -> bool {
        self.is_much(self.sum(|held| &held.spare))
    }

    fn is_much(&self, bytes: u64) -> bool {
        bytes >= self.bytes_max / MUCH_DIVISOR
    }

    /// Returns the sum of a number of all threads.
    fn sum(&self, number: impl Fn(&Held) -> &AtomicU64) -> u64 {
        self.threads.iter().map(|held| number(held).load(Ordering::Relaxed)).fold(0, u64::saturating_add)
    }
}

/// The part of an excess for which openings end.
struct OpeningsPart {
    bytes: u64,
    /// Whether the openings are taken for a flood.
    is_flood: bool,
}

/// Returns the part of `bytes` that `own` is of `all`, rounded up; 0 of nothing.
fn part_of(bytes: u64, own: u64, all: u64) -> u64 {
    if own == 0 {
        return 0;
    }
    (u128::from(bytes) * u128::from(own)).div_ceil(u128::from(all)).try_into().unwrap_or(u64::MAX)
}

/// What many connections hold together is much from this part of the limit on: a quarter.
const MUCH_DIVISOR: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_number_counts() {
        let budget = Budget::new(1_000, 7_000, 100, 2);
        budget.note(0, 500, 0);
        budget.note(2, 300, 0);
        assert_eq!((budget.used(), budget.judge(), budget.is_short()), (900, 0, false));
        budget.note(1, 5_000, 0);
        assert_eq!((budget.used(), budget.judge(), budget.is_short()), (5_900, 5_000, true));
        budget.note_resident(Some(950));
        assert_eq!((budget.used(), budget.judge(), budget.is_short()), (950, 50, true), "it is not below the mark");
        budget.note_resident(Some(900));
        assert_eq!((budget.judge(), budget.is_short()), (0, false));
        budget.note_resident(Some(950));
        assert_eq!((budget.judge(), budget.is_short()), (0, false), "it is not above the limit");
        assert_eq!((budget.take_shortages(), budget.take_shortages()), (1, 0));
        budget.note_resident(None);
        assert_eq!((budget.judge(), budget.is_short()), (5_000, true));
        assert_eq!(budget.take_shortages(), 1);
    }

    /// Threads give up memory in proportion to what each of them can give up.
    #[test]
    fn each_thread_has_its_part() {
        let budget = Budget::new(1_000, 7_000, 0, 2);
        budget.note(0, 1_000, 900);
        budget.note(1, 500, 300);
        budget.note(2, 400, 0);
        assert_eq!((budget.part_to_give_up(0), budget.part_to_give_up(1), budget.part_to_give_up(2)), (750, 250, 0));
        budget.note(1, 500, 18);
        assert_eq!((budget.part_to_give_up(0), budget.part_to_give_up(1)), (981, 0), "it has next to nothing");
        budget.note(1, 500, 300);
        budget.note(0, 0, 0);
        assert_eq!((budget.part_to_give_up(0), budget.part_to_give_up(1)), (0, 0));
    }

    /// Opening handshakes are ended for what they hold, and nothing else is given up for it.
    #[test]
    fn openings_pay_for_themselves() {
        let budget = Budget::new(1_000, 7_000, 0, 2);
        budget.note(0, 200, 90);
        budget.note(2, 200, 30);
        budget.note_openings(0, 600);
        budget.note_openings(1, 200);
        assert_eq!(parts(&budget), ([225, 75, 0], [0; 3]));
        budget.note(2, 900, 30);
        assert_eq!(parts(&budget), ([600, 200, 0], [150, 0, 50]), "what is left of the excess is spread");
        budget.note_openings(0, 0);
        budget.note_openings(1, 0);
        assert_eq!(parts(&budget), ([0; 3], [150, 0, 50]));
    }

    /// Returns how many openings of a byte each of three threads is to end, and how many bytes it is to give up.
    fn parts(budget: &Budget) -> ([u64; 3], [u64; 3]) {
        let threads = [0, 1, 2];
        (threads.map(|thread| budget.openings_to_end(thread, 1)), threads.map(|thread| budget.part_to_give_up(thread)))
    }

    /// A few openings end for their part of the memory that others fill, and a flood of openings for all of its own.
    #[test]
    fn a_few_openings_do_not_pay_for_others() {
        let budget = Budget::new(10_000, 70_000, 0, 2);
        budget.note(0, 9_900, 4_800);
        budget.note_openings(0, 120);
        budget.note_openings(1, 80);
        assert_eq!(parts(&budget), ([27, 18, 0], [1_056, 0, 0]), "22 % of all that can be given up");
        assert_eq!(budget.openings_to_end(0, 20), 1);
        assert_eq!(budget.openings_to_end(1, 20), 0, "the part is less than an opening");
        // They hold more than the rest that can be given up.
        budget.note(0, 9_900, 150);
        assert_eq!(parts(&budget), ([120, 80, 0], [900, 0, 0]));
        assert_eq!(budget.openings_to_end(1, 30), 3, "a part of an opening is one");
        budget.note(0, 9_900, 200);
        assert_eq!(parts(&budget), ([120, 80, 0], [900, 0, 0]), "all ends that can");
        // They hold a quarter of the limit, and one byte less than that.
        budget.note(0, 7_600, 4_800);
        budget.note_openings(0, 2_420);
        assert_eq!(parts(&budget), ([1_065, 36, 0], [0; 3]));
        budget.note_openings(0, 2_419);
        assert_eq!(parts(&budget), ([365, 13, 0], [722, 0, 0]));
    }

    /// Large profiles and small holdings are given up where there is much of them, and otherwise not.
    #[test]
    fn much_of_what_is_kept_or_small_is_given_up_too() {
        let budget = Budget::new(1_000, 7_000, 0, 1);
        budget.note(0, 1_000, 0);
        budget.note(1, 100, 0);
        budget.note_kept(0, 249);
        assert_eq!((budget.part_to_give_up(0), budget.gives_up_kept()), (0, false));
        budget.note_kept(0, 250);
        assert_eq!((budget.part_to_give_up(0), budget.gives_up_kept(), budget.gives_up_small()), (200, true, false));
        budget.note(0, 1_000, 249);
        assert!(!budget.gives_up_small());
        budget.note(1, 100, 1);
        assert!(budget.gives_up_small());
    }

    /// The resident memory alone makes the server short above its own limit, whatever the threads know to hold.
    #[test]
    fn the_resident_memory_has_a_limit_of_its_own() {
        let budget = Budget::new(1_000, 2_000, 0, 1);
        budget.note(0, 100, 60);
        budget.note_resident(Some(2_000));
        assert_eq!((budget.judge(), budget.is_short(), budget.is_too_resident(Some(2_000))), (0, false, false));
        budget.note_resident(Some(2_001));
        assert_eq!((budget.judge(), budget.part_to_give_up(0)), (101, 101));
        assert!(budget.is_short() && budget.is_too_resident(Some(2_001)));
        budget.note_resident(Some(1_901));
        assert_eq!((budget.judge(), budget.is_short()), (1, true), "it is not a twentieth below the limit");
        budget.note_resident(Some(1_900));
        assert_eq!((budget.judge(), budget.is_short()), (0, false));
        budget.note_resident(None);
        assert_eq!((budget.judge(), budget.is_too_resident(None)), (0, false), "an unknown number is no sign");
        assert_eq!(Budget::new(1_000, 0, 0, 1).resident_max, 1_000);
    }

    /// Opening handshakes change between the turns, and are noted by themselves.
    #[test]
    fn openings_are_held_too() {
        let budget = Budget::new(1_000, 7_000, 100, 1);
        budget.note_openings(0, 500);
        budget.note(0, 300, 0);
        assert_eq!(budget.used(), 900);
        budget.note_openings(0, 0);
        assert_eq!((budget.used(), budget.holds_much(0), budget.holds_much(1)), (400, true, false));
    }
}
