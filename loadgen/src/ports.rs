//! Local ports of connections that are bound to a source address.

use std::cell::Cell;
use std::ops::RangeInclusive;

/// The local ports of a thread, in turn.
///
/// The kernel could choose a port at `bind`, but it looks at all sockets of the ports that it tries, and those of
/// connections that ended a minute ago are among them: after a storm of 15 000 connections this takes longer than
/// everything else that the generator does.
///
/// A port that was bound is not given to connections that bind none, for a minute after its end too. The kernel gives
/// these every other port, from the first of its range on, as long as it can, and the rest to `bind`. So the ports here
/// are of the rest, and other programs find theirs.
#[derive(Debug)]
pub(crate) struct Ports {
    first: u16,
    count: usize,
    next: Cell<usize>,
}

impl Ports {
    /// Returns ports of those that the kernel uses for outgoing connections. `place`, such as the process id, decides
    /// with which they begin, so that runs which follow each other do not begin with the same ports.
    pub(crate) fn local(place: usize) -> Ports {
        let file = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
        Ports::of(&file.as_deref().and_then(parsed).unwrap_or(USUAL_RANGE), place)
    }

    fn of(range: &RangeInclusive<u16>, place: usize) -> Ports {
        let count = (range.len() / 2).max(1);
        Ports { first: range.start().saturating_add(1).min(*range.end()), count, next: Cell::new(place % count) }
    }

    /// Returns the number of ports.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the next port; the first one follows the last one.
    pub(crate) fn take(&self) -> u16 {
        let place = self.next.get();
        self.next.set((place + 1) % self.count);
        self.first + 2 * place as u16
    }
}

/// Parses the kernel's file: the first and the last port.
fn parsed(file: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = file.split_whitespace().map(str::parse);
    match (ports.next()?, ports.next()?) {
        (Ok(first), Ok(last)) if first <= last => Some(first..=last),
        _ => None,
    }
}

/// The kernel's range where nobody has changed it.
const USUAL_RANGE: RangeInclusive<u16> = 32_768..=60_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_go_round_and_leave_every_other_one() {
        let ports = Ports::of(&(10..=15), 1);
        assert_eq!(ports.count(), 3);
        assert_eq!([(); 5].map(|()| ports.take()), [13, 15, 11, 13, 15]);
        let ports = Ports::of(&(10..=14), 0);
        assert_eq!([(); 3].map(|()| ports.take()), [11, 13, 11]);
        for range in [USUAL_RANGE, 65_535..=65_535, 65_534..=65_535, 0..=65_535] {
            let ports = Ports::of(&range, usize::MAX);
            assert!((0..=ports.count()).all(|_| range.contains(&ports.take())), "{range:?}");
        }
    }

    #[test]
    fn the_range_of_the_kernel_is_read() {
        assert_eq!(parsed("32768\t60999\n"), Some(USUAL_RANGE));
        for bad in ["", "5", "9 8", "1 x", "1 65536"] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
