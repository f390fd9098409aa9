//! The addresses at which a process on this machine listens, from `/proc`.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::health::reachable;

/// Returns the TCP addresses at which a process listens, as they can be reached from here, each once. Returns none if
/// this user may not see them.
pub(crate) fn addresses_of(pid: i32) -> Vec<SocketAddr> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let sockets: Vec<String> =
        links.filter_map(|link| Some(fs::read_link(link.ok()?.path()).ok()?.display().to_string())).collect();
    let tables =
        ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default());
    let listeners = tables.iter().flat_map(|table| table.lines().filter_map(listener_in));
    let own = listeners.filter(|(_, inode)| sockets.iter().any(|socket| *socket == format!("socket:[{inode}]")));
    let mut addresses: Vec<SocketAddr> = own.map(|(address, _)| reachable(address)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Returns the address and the inode of a listener, from a line of the kernel's table of sockets (proc_net_tcp).
fn listener_in(line: &str) -> Option<(SocketAddr, &str)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, local, _, LISTEN, _, _, _, _, _, inode, ..] = words[..] else { return None };
    let (ip, port) = local.split_once(':')?;
    // Each group is a number of 32 bits, whose bytes are in the order of the network.
    let group = |at: usize| Some(u32::from_str_radix(ip.get(8 * at..8 * at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(group(0)?)),
        32 => {
            let groups = [group(0)?, group(1)?, group(2)?, group(3)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(groups).ok()?))
        }
        _ => return None,
    };
    Some((SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?), inode))
}

/// The state of a listener.
const LISTEN: &str = "0A";

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, process};

    use super::*;

    #[test]
    fn the_listeners_of_a_process_are_found() {
        let [first, second] = ["127.0.0.1:0", "[::1]:0"].map(|address| TcpListener::bind(address).unwrap());
        let addresses = [&first, &second].map(|listener| listener.local_addr().unwrap());
        let found = addresses_of(process::id() as i32);
        assert!(addresses.iter().all(|address| found.contains(address)), "{found:?}");
        drop(first);
        assert!(!addresses_of(process::id() as i32).contains(&addresses[0]));
        assert_eq!(addresses_of(-1), []);
    }

    #[test]
    fn only_lines_of_listeners_are_read() {
        let line = |state: &str| format!("  0: 00000000:1937 00000000:0000 {state} 00000000:00000000 00:0 0 0 0 77 1");
        assert_eq!(listener_in(&line("0A")), Some(("0.0.0.0:6455".parse().unwrap(), "77")));
        assert_eq!(listener_in(&line("01")), None);
        assert_eq!(listener_in("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt"), None);
    }
}
