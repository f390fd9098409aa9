//! The URLs that a client connects to: `ws` and `wss` (RFC 6455 3), and a proxy's `http`.

use std::{fmt, net::Ipv6Addr};

/// The reason why a URL is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UrlError {
    /// The URL does not begin with a scheme and `://`.
    NoScheme,
    /// The scheme is not supported. Supported are `ws` and `wss`, in a redirect also `http` and `https`, and for a
    /// proxy `http` alone.
    UnknownScheme(String),
    /// The URL has a user name or a password, which logs would show. The builder has methods for credentials.
    UserInfo,
    /// The host is missing, or has a character that no host has. A name beyond ASCII is given in its ASCII form.
    Host(String),
    /// The port is not a number from 1 to 65535.
    Port(String),
    /// The URL has a fragment, `#...` (RFC 6455 3).
    Fragment,
    /// The path or query has this character, which must be percent-encoded.
    Character(char),
    /// A proxy's URL has a path or a query.
    Path,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoScheme => f.write_str("the URL does not begin with a scheme such as ws://"),
            Self::UnknownScheme(scheme) => write!(f, "the scheme {scheme:?} is not supported"),
            Self::UserInfo => f.write_str("the URL has a user name or a password"),
            Self::Host(host) => write!(f, "{host:?} is not a host"),
            Self::Port(port) => write!(f, "{port:?} is not a port"),
            Self::Fragment => f.write_str("the URL has a fragment"),
            Self::Character(character) => write!(f, "{character:?} must be percent-encoded"),
            Self::Path => f.write_str("a proxy's URL has no path or query"),
        }
    }
}

impl std::error::Error for UrlError {}

/// A URL that can be connected to. `Display` leaves out the query, which may hold a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    scheme: Scheme,
    /// The name or address; an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// The path and query: visible ASCII, beginning with `/`.
    target: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Ws,
    Wss,
    Http,
}

impl Url {
    /// Parses a `ws` or `wss` URL.
    pub(super) fn websocket(text: &str) -> Result<Self, UrlError> {
        Self::parse(text, &[("ws", Scheme::Ws), ("wss", Scheme::Wss)])
    }

    /// Parses a proxy's `http` URL.
    pub(super) fn proxy(text: &str) -> Result<Self, UrlError> {
        let url = Self::parse(text, &[("http", Scheme::Http)])?;
        if url.target == "/" { Ok(url) } else { Err(UrlError::Path) }
    }

    /// Parses a redirect's `Location` (RFC 9110 10.2.2): a URL, or a reference relative to this one.
    pub(super) fn redirect(&self, location: &str) -> Result<Self, UrlError> {
        let location = location.split_once('#').map_or(location, |(location, _)| location);
        if location.split_once("://").is_some_and(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        {
            let schemes = [("ws", Scheme::Ws), ("wss", Scheme::Wss), ("http", Scheme::Ws), ("https", Scheme::Wss)];
            return Self::parse(location, &schemes);
        }
        if location.starts_with("//") {
            return Self::websocket(&format!("{}:{location}", self.scheme.name()));
        }
        let path = self.path();
        let target = match location.chars().next() {
            None => self.target.clone(),
            Some('/') => location.into(),
            Some('?') => format!("{path}{location}"),
            Some(_) => format!("{}{location}", &path[..=path.rfind('/').unwrap_or(0)]),
        };
        check_target(&target)?;
        Ok(Self { target, ..self.clone() })
    }

    /// Returns whether the connection uses TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.scheme == Scheme::Wss
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the path and query.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// Returns the value of the `Host` header, without the scheme's default port (RFC 6455 4.1, requirement 4).
    pub(super) fn authority(&self) -> String {
        let full = self.host_and_port();
        if self.port == self.scheme.port() { full[..full.len() - self.port_len()].into() } else { full }
    }

    /// Returns the target of a `CONNECT` request (RFC 9110 9.3.6).
    pub(super) fn host_and_port(&self) -> String {
        let (host, port) = (&self.host, self.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Returns whether both URLs have the same origin, so that credentials for one may be sent to the other.
    pub(super) fn is_same_origin(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.host.eq_ignore_ascii_case(&other.host) && self.port == other.port
    }

    fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }

    fn port_len(&self) -> usize {
        format!(":{}", self.port).len()
    }

    fn parse(text: &str, schemes: &[(&str, Scheme)]) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::NoScheme)?;
        let known = schemes.iter().find(|(name, _)| name.eq_ignore_ascii_case(scheme));
        let &(_, scheme) = known.ok_or_else(|| UrlError::UnknownScheme(scheme.into()))?;
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::UserInfo);
        }
        let (host, port) = split_port(authority)?;
        let target = if target.starts_with('/') { target.into() } else { format!("/{target}") };
        check_target(&target)?;
        Ok(Self { scheme, host, port: port.unwrap_or(scheme.port()), target })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = if self.target.contains('?') { "?…" } else { "" };
        write!(f, "{}://{}{}{query}", self.scheme.name(), self.authority(), self.path())
    }
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Http => "http",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Ws | Self::Http => 80,
            Self::Wss => 443,
        }
    }
}

fn split_port(authority: &str) -> Result<(String, Option<u16>), UrlError> {
    let no_host = || UrlError::Host(authority.into());
    let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').ok_or_else(no_host)?;
        host.parse::<Ipv6Addr>().map_err(|_| no_host())?;
        match rest.strip_prefix(':') {
            None if !rest.is_empty() => return Err(no_host()),
            port => (host, port),
        }
    } else {
        let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
        let is_host = |octet: u8| octet.is_ascii_alphanumeric() || b"-._".contains(&octet);
        if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.bytes().all(is_host) {
            return Err(no_host());
        }
        (host, port)
    };
    let port = port.map(|port| match port.parse() {
        Ok(number @ 1..) if port.bytes().all(|octet| octet.is_ascii_digit()) => Ok(number),
        _ => Err(UrlError::Port(port.into())),
    });
    Ok((host.into(), port.transpose()?))
}

fn check_target(target: &str) -> Result<(), UrlError> {
    match target.chars().find(|character| !character.is_ascii_graphic() || *character == '#') {
        None => Ok(()),
        Some('#') => Err(UrlError::Fragment),
        Some(character) => Err(UrlError::Character(character)),
    }
}

/// The longest name in the DNS (RFC 1035 2.3.4).
const HOST_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, authority: &str, port: u16, target: &str) {
        let url = Url::websocket(text).unwrap();
        assert_eq!((&*url.authority(), url.port(), url.target()), (authority, port, target), "{text}");
        assert_eq!(url.is_secure(), text.to_ascii_lowercase().starts_with("wss"));
    }

    fn refused(text: &str, error: UrlError) {
        assert_eq!(Url::websocket(text), Err(error), "{text}");
    }

    /// RFC 6455 3.
    #[test]
    fn addresses() {
        check("ws://hub", "hub", 80, "/");
        check("WSS://hub/t/x?echo=true", "hub", 443, "/t/x?echo=true");
        check("ws://hub:443?q", "hub:443", 443, "/?q");
        check("wss://hub:443/", "hub", 443, "/");
        check("ws://[::1]:6455/a@b:c", "[::1]:6455", 6455, "/a@b:c");
        check("ws://[::1]", "[::1]", 80, "/");
        check("ws://127.0.0.1:1", "127.0.0.1:1", 1, "/");
    }

    #[test]
    fn no_addresses() {
        refused("", UrlError::NoScheme);
        refused("localhost:6455/t/x", UrlError::NoScheme);
        refused("http://hub/", UrlError::UnknownScheme("http".into()));
        refused("ws://me:secret@hub/", UrlError::UserInfo);
        refused("ws:///t/x", UrlError::Host("".into()));
        refused("ws://hüb/", UrlError::Host("hüb".into()));
        refused("ws://[::g]/", UrlError::Host("[::g]".into()));
        refused("ws://[::1]x/", UrlError::Host("[::1]x".into()));
        refused("ws://hub:/", UrlError::Port("".into()));
        refused("ws://hub:0/", UrlError::Port("0".into()));
        refused("ws://hub:+1/", UrlError::Port("+1".into()));
        refused("ws://hub:65536/", UrlError::Port("65536".into()));
        refused("ws://hub/t#x", UrlError::Fragment);
        refused("ws://hub/t x", UrlError::Character(' '));
        refused("ws://hub/\r\nHost: other", UrlError::Character('\r'));
        refused("ws://hub/é", UrlError::Character('é'));
    }

    #[test]
    fn redirects() {
        let url = Url::websocket("wss://hub:6455/t/x?y").unwrap();
        let check = |location: &str, expected: &str| {
            assert_eq!(url.redirect(location), Url::websocket(expected), "{location}");
        };
        check("ws://other/", "ws://other/");
        check("https://other/a?b#c", "wss://other/a?b");
        check("http://other", "ws://other/");
        check("//other:1/a", "wss://other:1/a");
        check("/a?to=ws://b", "wss://hub:6455/a?to=ws://b");
        check("z", "wss://hub:6455/t/z");
        check("?z", "wss://hub:6455/t/x?z");
        check("", "wss://hub:6455/t/x?y");
        assert_eq!(url.redirect("ftp://other/"), Err(UrlError::UnknownScheme("ftp".into())));
        assert_eq!(url.redirect("/a b"), Err(UrlError::Character(' ')));
    }

    #[test]
    fn a_query_is_not_shown() {
        assert_eq!(Url::websocket("ws://hub:80/t/x?token=secret").unwrap().to_string(), "ws://hub/t/x?…");
    }
}
