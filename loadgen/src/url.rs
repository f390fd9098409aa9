//! URLs of servers, and their addresses.

use crate::error::Error;
use crate::output::masked;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

/// Whether a URL asks for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Plain,
    Tls,
}

/// A URL with a host: `ws:`, `wss:`, `http:` or `https:`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) scheme: Scheme,
    /// The value of the `Host` header line.
    pub(crate) authority: String,
    /// The host's name or address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The path and query; empty if the URL has none.
    pub(crate) path: String,
}

impl Url {
    /// Parses the value of `flag`, whose scheme is `plain` or `tls`.
    ///
    /// # Errors
    /// The error says what is wrong with the URL.
    pub(crate) fn parse(flag: &str, url: &str, [plain, tls]: [&str; 2]) -> Result<Url, Error> {
        let shown = masked(flag.trim_start_matches('-'), url);
        let wrong = |why: &str| {
            Error::Options(format!("{flag} {shown}: {why}; expected {plain}://HOST[:PORT][/PATH] or {tls}://…"))
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("a scheme is missing"))?;
        let scheme = match scheme {
            name if name.eq_ignore_ascii_case(plain) => Scheme::Plain,
            name if name.eq_ignore_ascii_case(tls) => Scheme::Tls,
            other => return Err(wrong(&format!("the scheme is {other}"))),
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(wrong("a user name stands in it, which belongs into --header 'Authorization: …'"));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(literal) => {
                let (host, port) = literal.split_once(']').ok_or_else(|| wrong("a bracket is not closed"))?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong("not an IPv6 address in the brackets"))?;
                (host, port)
            }
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) => digits.parse().map_err(|_| wrong("the port is not a number up to 65535"))?,
            None if port.is_empty() => {
                if scheme == Scheme::Tls {
                    443
                } else {
                    80
                }
            }
            None => return Err(wrong("something stands between the host and the path")),
        };
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        if rest.bytes().any(|byte| byte <= b' ' || byte == 0x7f || byte == b'#') {
            return Err(wrong("a space, a control character or a # stands in it"));
        }
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        Ok(Url { scheme, authority: authority.to_owned(), host: host.to_owned(), port, path })
    }

    /// Returns the address of the host. Of several addresses the first IPv4 address wins; `localhost` is 127.0.0.1.
    ///
    /// # Errors
    /// An error is returned if the host has no address.
    pub(crate) fn address(&self) -> Result<SocketAddr, Error> {
        if self.host.eq_ignore_ascii_case("localhost") {
            return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
        }
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(SocketAddr::from((ip, self.port)));
        }
        let failed = |why: String| Error::Connect(format!("the host {} has no address: {why}", self.host));
        let found = (&*self.host, self.port).to_socket_addrs().map_err(|error| failed(error.to_string()))?;
        let addresses: Vec<SocketAddr> = found.collect();
        let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        first.copied().ok_or_else(|| failed("the resolver found none".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Url, String> {
        Url::parse("--url", url, ["ws", "wss"]).map_err(|error| error.to_string())
    }

    #[test]
    fn hosts_ports_and_paths() {
        let check = |url: &str, scheme: Scheme, host: &str, port: u16, path: &str| {
            let found = parse(url).unwrap();
            assert_eq!((found.scheme, &*found.host, found.port, &*found.path), (scheme, host, port, path), "{url}");
        };
        check("ws://127.0.0.1:99/t/a?b=c", Scheme::Plain, "127.0.0.1", 99, "/t/a?b=c");
        check("WSS://example.org", Scheme::Tls, "example.org", 443, "");
        check("ws://example.org?x=1", Scheme::Plain, "example.org", 80, "/?x=1");
        check("ws://[::1]:8080/x", Scheme::Plain, "::1", 8080, "/x");
        check("ws://[::1]/x", Scheme::Plain, "::1", 80, "/x");
        assert_eq!(parse("ws://[::1]:8080/x").unwrap().authority, "[::1]:8080");
    }

    #[test]
    fn wrong_urls_are_refused() {
        for url in [
            "example.org/x",
            "http://example.org/",
            "ws:///x",
            "ws://a:x/",
            "ws://a:70000/",
            "ws://[::1/",
            "ws://[::1]x/",
            "ws://[1.2.3.4]/",
            "ws://a/b c",
            "ws://user@a/",
        ] {
            let shown = url.replace("user@", "***@").replace("ws://***", "***");
            assert!(parse(url).is_err_and(|why| why.contains(&shown)), "{url}");
        }
    }

    #[test]
    fn names_become_addresses() {
        let address = |url: &str| parse(url).unwrap().address().map_err(|error| error.to_string());
        assert_eq!(address("ws://localhost:99/"), Ok("127.0.0.1:99".parse().unwrap()));
        assert_eq!(address("ws://[::1]:99/"), Ok("[::1]:99".parse().unwrap()));
        assert!(address("ws://name.invalid/").is_err_and(|why| why.contains("name.invalid")));
    }
}
