//! Addresses to listen on.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs as _},
    str::FromStr,
};

/// Reads an address and port in the form that they have in settings.
///
/// ```
/// use ringhub::config::parse_address;
/// assert_eq!(parse_address("[::1]:80").map(|address| address.port()), Ok(80));
/// assert!(parse_address("localhost").unwrap_err().contains("write it like 127.0.0.1:6455"));
/// ```
///
/// # Errors
///
/// A sentence about a text that is no address and port, with examples.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.trim().parse();
    address.map_err(|_| format!("{text:?} is no address and port; write it like 127.0.0.1:6455 or [::1]:6455"))
}

/// An address to listen on: an IP address or the name of a host, and a port.
///
/// ```
/// use ringhub::config::ListenAddress;
/// let address: ListenAddress = "localhost:6455".parse()?;
/// assert_eq!(address, ListenAddress::Name("localhost".into(), 6455));
/// assert!(address.resolve()?.iter().all(|address| address.ip().is_loopback() && address.port() == 6455));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// The name of a host, and a port. [`Config::new`](super::Config::new) resolves it.
    Name(String, u16),
}

impl ListenAddress {
    /// Returns the addresses of a name, at least one and each once; for a `Socket`, just its own address. The call
    /// waits for an answer of the name servers.
    ///
    /// # Errors
    ///
    /// A sentence about a name that has no address, or for which no name server has an answer.
    pub fn resolve(&self) -> Result<Vec<SocketAddr>, String> {
        let (name, port) = match self {
            ListenAddress::Socket(address) => return Ok(vec![*address]),
            ListenAddress::Name(name, port) => (name, *port),
        };
        let resolved = (&**name, port).to_socket_addrs();
        let resolved = resolved.map_err(|error| format!("the name {name:?} cannot be resolved: {error}"))?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in resolved {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(format!("the name {name:?} has no address")) } else { Ok(addresses) }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Socket(address) => address.fmt(f),
            ListenAddress::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Ok(ListenAddress::Socket(address));
        }
        let name = text.rsplit_once(':').filter(|(name, _)| is_host_name(name));
        let name = name.and_then(|(name, port)| Some(ListenAddress::Name(name.into(), port.parse().ok()?)));
        name.ok_or_else(|| {
            let examples = "127.0.0.1:6455, [::1]:6455 or localhost:6455";
            format!("{text:?} is no address and port; write it like {examples}")
        })
    }
}

/// Returns whether a text is the name of a host (RFC 1123 2.1), which may have underscores. A name whose last label is
/// a number is a misspelled IPv4 address.
fn is_host_name(text: &str) -> bool {
    let is_inner = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(is_inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_number = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|octet| octet.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(is_label) && !is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        let name =
            |text: &str| text.parse::<ListenAddress>().is_ok_and(|address| matches!(address, ListenAddress::Name(..)));
        for good in ["localhost:1", "a-b.example:65535", "example.org.:0", "_http.1a:1", " hub:1 "] {
            assert!(name(good), "{good}");
        }
        let long = format!("{}:1", "a".repeat(64));
        for bad in
            ["localhost", "a:b", ":1", "a:65536", "127.0.0.1.1:1", "127.0.0.256:1", "::1:1", "a b:1", "-a:1", &long]
        {
            let error = bad.parse::<ListenAddress>().unwrap_err();
            assert!(error.contains(&format!("{bad:?} is no address and port")), "{error}");
        }
        assert_eq!("[::1]:2".parse(), Ok(ListenAddress::Socket("[::1]:2".parse().unwrap())));
        let error = ListenAddress::Name("no-such-host.invalid".into(), 1).resolve().unwrap_err();
        assert!(error.starts_with("the name \"no-such-host.invalid\" cannot be resolved: "), "{error}");
    }
}
