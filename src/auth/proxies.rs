//! The proxies that a server trusts, and the client of a request that came through them.

use std::net::{IpAddr, SocketAddr};

use super::AddressRange;
use crate::proto::{ProxyHeader, RequestHead, forwarded_for, x_forwarded_for};

/// The proxies that a server trusts to name the addresses of their clients. By default there are none, and no header
/// line is read.
///
/// A range has to include proxies alone: every machine in it can take any address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    ranges: Vec<AddressRange>,
    named_by: ClientAddress,
}

/// The header line in which trusted proxies name the addresses of their clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientAddress {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// No header line. A proxy can name its client by the PROXY protocol alone.
    None,
}

/// The addresses of the other side of a request: the client's, and that of the proxy through which the client came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Remote {
    /// The client's address, as far as proxies have named it: the address of a trusted proxy if that proxy has named
    /// nobody. `None` if the socket has no peer any more.
    pub(crate) client: Option<SocketAddr>,
    /// The address of the socket's peer, if it is not the client.
    pub(crate) proxy: Option<SocketAddr>,
    /// Whether the header lines of requests are the client's own, although the peer is a trusted proxy: a proxy that
    /// begins a connection with a header of the PROXY protocol reads no HTTP.
    are_lines_of_client: bool,
}

impl Remote {
    /// Returns the other side of a socket with this peer. `header` is the header of the PROXY protocol by which a
    /// trusted proxy has begun the connection.
    ///
    /// Without a client in it, the proxy stands for its clients. They can write what they like behind the header, and
    /// name nobody. A client that the header names may be a trusted proxy itself, which is then believed.
    pub(crate) fn of_socket(peer: Option<SocketAddr>, header: Option<ProxyHeader>) -> Remote {
        let are_lines_of_client = header == Some(ProxyHeader::Local);
        match header.and_then(ProxyHeader::source) {
            Some(client) => Remote { client: Some(client), proxy: peer, are_lines_of_client },
            None => Remote { client: peer, proxy: None, are_lines_of_client },
        }
    }

    /// Returns the client's address, if the socket has another peer.
    pub(crate) fn named_client(self) -> Option<SocketAddr> {
        self.client.filter(|_| self.proxy.is_some())
    }
}

impl TrustedProxies {
    /// Returns the proxies in these ranges, which name their clients in this header line.
    #[must_use]
    pub fn new(ranges: Vec<AddressRange>, named_by: ClientAddress) -> TrustedProxies {
        TrustedProxies { ranges, named_by }
    }

    /// Returns whether an address is that of a trusted proxy.
    #[must_use]
    pub fn include(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// Returns whether there are no trusted proxies.
    #[must_use]
    pub fn are_none(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns whether every address of a family is that of a trusted proxy.
    pub(crate) fn include_everybody(&self) -> bool {
        self.ranges.iter().any(AddressRange::is_everything)
    }

    /// Returns the other side of a request, where the proxies on its way may name it.
    ///
    /// A list of nodes is read from its end, since each proxy appends the node that it got the request from. What a
    /// trusted proxy has appended is true. So the reading ends at the first node that is no trusted proxy, and this
    /// node is the client. A node that is no address ends the reading too, and so does the beginning of the list: then
    /// the client is the node that was read last, or the peer if no node was read.
    pub(crate) fn remote(&self, of_connection: Remote, head: &RequestHead) -> Remote {
        let Some(peer) = of_connection.client else { return of_connection };
        if self.named_by == ClientAddress::None || of_connection.are_lines_of_client || !self.include(peer.ip()) {
            return of_connection;
        }
        let client = match self.named_by {
            ClientAddress::XForwardedFor => self.first_client(x_forwarded_for(head.headers())),
            ClientAddress::Forwarded => self.first_client(forwarded_for(head.headers())),
            ClientAddress::None => None,
        };
        let Some(client) = client else { return of_connection };
        Remote { client: Some(client), proxy: of_connection.proxy.or(Some(peer)), ..of_connection }
    }

    /// Returns the first of these nodes that is no trusted proxy, or else the last one that was read. A node that is no
    /// address ends the reading.
    fn first_client(&self, nodes: impl Iterator<Item = Option<SocketAddr>>) -> Option<SocketAddr> {
        let mut last = None;
        for node in nodes {
            let Some(address) = node else { break };
            last = Some(address);
            if !self.include(address.ip()) {
                break;
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(lines: &[&str]) -> RequestHead {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        RequestHead::decode(head.as_bytes()).unwrap().unwrap().0
    }

    fn proxies(named_by: ClientAddress) -> TrustedProxies {
        let ranges = ["10.0.0.0/8", "fd00::/8", "192.0.2.1"].map(|range| range.parse().unwrap());
        TrustedProxies::new(ranges.into(), named_by)
    }

    #[track_caller]
    fn check(named_by: ClientAddress, peer: &str, lines: &[&str], client: &str) {
        let peer: SocketAddr = peer.parse().unwrap();
        let found = proxies(named_by).remote(Remote::of_socket(Some(peer), None), &head(lines));
        assert_eq!(found.client.map(|client| client.to_string()).as_deref(), Some(client), "{peer} {lines:?}");
        assert_eq!(found.proxy, (found.client != Some(peer)).then_some(peer), "{peer} {lines:?}");
    }

    #[test]
    fn the_first_node_that_is_no_proxy_is_the_client() {
        let x = |peer: &str, lines: &[&str], client: &str| check(ClientAddress::XForwardedFor, peer, lines, client);
        // Nobody is believed who is no trusted proxy.
        x("198.51.100.1:5", &["X-Forwarded-For: 203.0.113.9"], "198.51.100.1:5");
        x("11.0.0.1:5", &["X-Forwarded-For: 10.0.0.1"], "11.0.0.1:5");
        x("10.0.0.1:5", &["X-Forwarded-For: 203.0.113.9"], "203.0.113.9:0");
        x("[::ffff:10.0.0.1]:5", &["X-Forwarded-For: 203.0.113.9"], "203.0.113.9:0");
        x("[fd00::1]:5", &["X-Forwarded-For: 2001:db8::9"], "[2001:db8::9]:0");
        // The client has sent a line of its own, which the proxy has kept.
        x("10.0.0.1:5", &["X-Forwarded-For: 10.9.9.9, 203.0.113.9"], "203.0.113.9:0");
        x("10.0.0.1:5", &["X-Forwarded-For: 10.9.9.9", "X-Forwarded-For: 203.0.113.9"], "203.0.113.9:0");
        // Several proxies.
        x("10.0.0.1:5", &["X-Forwarded-For: 7.7.7.7, 203.0.113.9:81, 192.0.2.1, 10.2.3.4"], "203.0.113.9:81");
        x("10.0.0.1:5", &["X-Forwarded-For: 10.0.0.3, fd00::2"], "10.0.0.3:0");
        // A node that is no address.
        x("10.0.0.1:5", &["X-Forwarded-For: 203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2:0");
        x("10.0.0.1:5", &["X-Forwarded-For: 203.0.113.9, _hidden"], "10.0.0.1:5");
        x("10.0.0.1:5", &["X-Forwarded-For:"], "10.0.0.1:5");
        x("10.0.0.1:5", &[], "10.0.0.1:5");
        // The other header line is never read.
        x("10.0.0.1:5", &["Forwarded: for=203.0.113.9"], "10.0.0.1:5");
        x("10.0.0.1:5", &["Forwarded: for=203.0.113.8", "X-Forwarded-For: 203.0.113.9"], "203.0.113.9:0");
    }

    #[test]
    fn the_line_of_the_setting_alone_is_read() {
        let lines = ["Forwarded: for=10.9.9.9, for=\"203.0.113.8:81\"", "X-Forwarded-For: 203.0.113.9"];
        check(ClientAddress::Forwarded, "10.0.0.1:5", &lines, "203.0.113.8:81");
        check(ClientAddress::Forwarded, "10.0.0.1:5", &lines[1..], "10.0.0.1:5");
        check(ClientAddress::Forwarded, "11.0.0.1:5", &lines, "11.0.0.1:5");
        check(ClientAddress::None, "10.0.0.1:5", &lines, "10.0.0.1:5");
    }

    #[test]
    fn without_trusted_proxies_nothing_is_read() {
        let peer = Remote::of_socket(Some("127.0.0.1:5".parse().unwrap()), None);
        let head = head(&["X-Forwarded-For: 203.0.113.9", "Forwarded: for=203.0.113.9"]);
        assert_eq!(TrustedProxies::default().remote(peer, &head), peer);
        let gone = Remote::of_socket(None, None);
        assert_eq!(proxies(ClientAddress::XForwardedFor).remote(gone, &head), gone);
    }

    /// A proxy for connections in front of a proxy for requests, or of a client.
    #[test]
    fn a_connection_whose_client_is_named() {
        let [balancer, proxy, client] =
            ["10.0.0.1:5", "10.0.0.2:6", "198.51.100.1:7"].map(|text| text.parse().unwrap());
        let head = head(&["X-Forwarded-For: 203.0.113.9"]);
        let proxies = proxies(ClientAddress::XForwardedFor);
        let named = |source| Remote::of_socket(Some(balancer), Some(ProxyHeader::Proxied { source }));
        let remote = proxies.remote(named(proxy), &head);
        assert_eq!((remote.client, remote.proxy), (Some("203.0.113.9:0".parse().unwrap()), Some(balancer)));
        let remote = proxies.remote(named(client), &head);
        assert_eq!((remote.client, remote.proxy), (Some(client), Some(balancer)));
        assert_eq!(remote.named_client(), Some(client));
        assert_eq!(Remote::of_socket(Some(client), None).named_client(), None);
    }

    /// Behind a header without a client, the bytes are those of somebody whom the proxy has not named.
    #[test]
    fn a_connection_whose_client_is_not_named_names_nobody() {
        let proxy: SocketAddr = "10.0.0.1:5".parse().unwrap();
        let of_connection = Remote::of_socket(Some(proxy), Some(ProxyHeader::Local));
        for (line, named_by) in [
            ("X-Forwarded-For: 203.0.113.9", ClientAddress::XForwardedFor),
            ("Forwarded: for=203.0.113.9", ClientAddress::Forwarded),
        ] {
            assert_eq!(proxies(named_by).remote(of_connection, &head(&[line])), of_connection);
        }
        assert_eq!(
            (of_connection.client, of_connection.proxy, of_connection.named_client()),
            (Some(proxy), None, None)
        );
    }
}
