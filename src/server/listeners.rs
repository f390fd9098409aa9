//! The listeners of a server, and the shards that accept on them.

use std::{io, net::SocketAddr, net::TcpListener, os::fd::OwnedFd};

use crate::{
    config::{Config, ListenIpv6},
    error::StartError,
    shard::{Beginning, Listener, ListenerOwner},
    sys::net,
};

/// The listeners of a server.
#[derive(Debug)]
pub(super) struct Listeners {
    /// The listeners of each shard.
    pub(super) by_shard: Vec<Vec<Listener>>,
    /// The addresses, at least one.
    pub(super) addresses: Vec<SocketAddr>,
}

impl Listeners {
    /// Listens on the addresses of the settings. Each shard gets its own listener at each address.
    ///
    /// # Errors
    ///
    /// [`StartError::Listen`] for an address that cannot be listened on.
    pub(super) fn open(config: &Config) -> Result<Listeners, StartError> {
        let mut listeners = Listeners::none(config.shards);
        for &address in &config.listen {
            let beginning = beginning_at(address, config);
            let listen = net::listen(address, config.shards, config.listen_ipv6 == ListenIpv6::Dual);
            let (sockets, address) = listen.map_err(|error| StartError::Listen(address, error))?;
            for (of_shard, socket) in listeners.by_shard.iter_mut().zip(sockets) {
                of_shard.push(Listener { socket, owner: ListenerOwner::Server, beginning });
            }
            listeners.addresses.push(address);
        }
        Ok(listeners)
    }

    /// Divides the listeners of the server's parent among the shards, address by address. Each shard gets a listener at
    /// each address. If an address has more listeners than there are shards, some shards get several listeners. If an
    /// address has fewer listeners, some shards share a listener.
    ///
    /// No shard opens a further listener of its own. At the server's end, the connections in the queue of such a
    /// listener would be lost.
    ///
    /// # Errors
    ///
    /// If a listener has no address, a descriptor cannot be duplicated, or an address of `proxy_protocol` has no
    /// listener.
    pub(super) fn inherit(inherited: Vec<TcpListener>, config: &Config) -> io::Result<Listeners> {
        let shards = config.shards;
        let mut listeners = Listeners::none(shards);
        let mut by_address: Vec<Vec<OwnedFd>> = Vec::new();
        for listener in inherited {
            let address = listener.local_addr()?;
            listener.set_nonblocking(true)?;
            let known = listeners.addresses.iter().position(|known| *known == address);
            let at = known.unwrap_or_else(|| {
                listeners.addresses.push(address);
                by_address.push(Vec::new());
                by_address.len() - 1
            });
            by_address[at].push(listener.into());
        }
        if let Some(missing) = config.proxy_protocol.iter().find(|address| !listeners.addresses.contains(address)) {
            return Err(io::Error::other(format!("no listener is at {missing}, an address of proxy_protocol")));
        }
        for (sockets, &address) in by_address.into_iter().zip(&listeners.addresses) {
            let beginning = beginning_at(address, config);
            let count = sockets.len();
            let copies =
                (count..shards).map(|shard| sockets[shard % count].try_clone()).collect::<io::Result<Vec<_>>>()?;
            for (at, socket) in sockets.into_iter().chain(copies).enumerate() {
                listeners.by_shard[at % shards].push(Listener { socket, owner: ListenerOwner::Parent, beginning });
            }
        }
        Ok(listeners)
    }

    fn none(shards: usize) -> Listeners {
        Listeners { by_shard: (0..shards).map(|_| Vec::new()).collect(), addresses: Vec::new() }
    }
}

/// Returns the beginning of the connections to an address.
fn beginning_at(address: SocketAddr, config: &Config) -> Beginning {
    if config.proxy_protocol.contains(&address) { Beginning::ProxyHeader } else { Beginning::Request }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ListenAddress, Settings};

    /// Returns the ports of each shard's listeners. `first` and `second` are the numbers of listeners at two addresses.
    fn ports(first: usize, second: usize, shards: usize) -> (Vec<Vec<u16>>, [u16; 2]) {
        let listen = |count| net::listen("127.0.0.1:0".parse().unwrap(), count, false).unwrap();
        let (of_first, of_second) = (listen(first), listen(second));
        let all = of_first.0.into_iter().chain(of_second.0).map(TcpListener::from).collect();
        let settings = Settings { shards: Some(shards), ..Settings::default() };
        let config = Config::new(&settings, 20_000).unwrap();
        let listeners = Listeners::inherit(all, &config).unwrap();
        assert_eq!(listeners.addresses, [of_first.1, of_second.1]);
        let port = |listener: &Listener| net::local(&listener.socket).unwrap().port();
        let ports = listeners.by_shard.iter().map(|of_shard| of_shard.iter().map(port).collect()).collect();
        (ports, [of_first.1.port(), of_second.1.port()])
    }

    #[test]
    fn each_shard_accepts_on_each_inherited_address() {
        // One listener for all three shards; one for each shard; two for three shards.
        for (first, second) in [(1, 1), (3, 1), (2, 3)] {
            let (ports, addresses) = ports(first, second, 3);
            assert_eq!(ports, vec![addresses.to_vec(); 3]);
        }
        // More listeners than shards.
        let (ports, [first, second]) = ports(3, 1, 2);
        assert_eq!(ports, [vec![first, first, second], vec![first, second]]);
    }

    #[test]
    fn inherited_listeners_begin_as_the_settings_say() {
        let listen = || net::listen("127.0.0.1:0".parse().unwrap(), 1, false).unwrap();
        let ((proxied, proxied_at), (plain, plain_at)) = (listen(), listen());
        let settings = Settings {
            listen: vec![ListenAddress::Socket(proxied_at), ListenAddress::Socket(plain_at)],
            proxy_protocol: Some(vec![ListenAddress::Socket(proxied_at)]),
            trusted_proxies: Some(vec!["127.0.0.1".parse().unwrap()]),
            shards: Some(1),
            ..Settings::default()
        };
        let config = Config::new(&settings, 20_000).unwrap();
        let copy = plain[0].try_clone().unwrap();
        let all = proxied.into_iter().chain(plain).map(TcpListener::from).collect();
        let listeners = Listeners::inherit(all, &config).unwrap();
        let beginnings: Vec<Beginning> = listeners.by_shard[0].iter().map(|listener| listener.beginning).collect();
        assert_eq!(beginnings, [Beginning::ProxyHeader, Beginning::Request]);
        // The settings and the manager must not disagree: clients would be taken for their proxy.
        let error = Listeners::inherit(vec![copy.into()], &config).unwrap_err().to_string();
        assert_eq!(error, format!("no listener is at {proxied_at}, an address of proxy_protocol"));
    }
}
