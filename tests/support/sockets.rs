//! The kernel's sockets of a server's connections, also those without a descriptor in the server.

use std::{
    fmt, fs, thread,
    time::{Duration, Instant},
};

use super::{DEADLINE, Server};

/// One socket on the server's side, as `/proc/net/tcp` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelSocket {
    /// `st`: 1 is established, 6 waits for late segments, 10 listens.
    pub(crate) state: u8,
    /// The bytes that the peer has not taken.
    pub(crate) unsent: u64,
    /// The bytes that the server has not received.
    pub(crate) unread: u64,
    inode: u64,
}

impl KernelSocket {
    const TIME_WAIT: u8 = 6;
    const LISTEN: u8 = 10;
    const LEFT_TO_KERNEL_MAX: u64 = 64 * 1_024;

    /// Returns the sockets with this local port, except listeners.
    pub(crate) fn of_port(port: u16) -> Vec<KernelSocket> {
        let table = fs::read_to_string("/proc/net/tcp").expect("the kernel has TCP");
        let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        let number = |text: &str| u64::from_str_radix(text, 16).expect("a number");
        rows.filter(|row| row[1].split_once(':').is_some_and(|(_, own)| number(own) == u64::from(port)))
            .map(|row| {
                let (unsent, unread) = row[4].split_once(':').expect("two numbers");
                KernelSocket {
                    state: number(row[3]) as u8,
                    unsent: number(unsent),
                    unread: number(unread),
                    inode: row[9].parse().expect("a number"),
                }
            })
            .filter(|socket| socket.state != Self::LISTEN)
            .collect()
    }

    /// Returns the sockets with this local port except those that only wait for late segments.
    pub(crate) fn open_ones(port: u16) -> Vec<KernelSocket> {
        Self::of_port(port).into_iter().filter(|socket| socket.state != Self::TIME_WAIT).collect()
    }

    /// Returns the sockets with this local port that hold more unsent bytes than a closed connection may leave to the
    /// kernel.
    pub(crate) fn with_much_unsent(port: u16) -> Vec<KernelSocket> {
        Self::of_port(port).into_iter().filter(|socket| socket.unsent > Self::LEFT_TO_KERNEL_MAX).collect()
    }

    /// Returns the open sockets of the server's port for which the server has no descriptor.
    pub(crate) fn without_descriptor(server: &Server) -> Vec<KernelSocket> {
        let sockets = Self::open_ones(server.address().port());
        let folder = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
        let inodes: Vec<u64> = fs::read_dir(folder)
            .expect("the server runs")
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
            .collect();
        let has_none = |socket: &KernelSocket| !inodes.contains(&socket.inode);
        sockets.into_iter().filter(has_none).collect()
    }

    /// Calls `ask` until it returns nothing; fails after a third of the deadline.
    #[track_caller]
    pub(crate) fn until_none<T: fmt::Debug>(what: &str, mut ask: impl FnMut() -> Vec<T>) {
        let begin = Instant::now();
        loop {
            let left = ask();
            if left.is_empty() {
                return;
            }
            assert!(begin.elapsed() < DEADLINE / 3, "{} {what}, such as {:?}", left.len(), &left[..left.len().min(5)]);
            thread::sleep(Duration::from_millis(20));
        }
    }
}
