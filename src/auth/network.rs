//! Addresses that are let in.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv4Net};

use super::{Authenticator, Identity, credentials::Credentials};
use crate::proto::Refusal;

/// Networks whose addresses are let in, and networks whose addresses are not. A client that is not let in is answered
/// 403.
///
/// The address of an IPv4 client counts as IPv4 even if the client reached an IPv6 socket. So `0.0.0.0/0` is all of
/// IPv4, and `::/0` all of IPv6. Behind a proxy every request has the proxy's address, unless the server trusts the
/// proxy to name the client's ([`TrustedProxies`](super::TrustedProxies)).
///
/// ```
/// use ringhub::auth::Network;
/// let network = Network::new(&["10.0.0.0/8", "fd00::/8", "192.0.2.1"], &["10.66.0.0/16"])?;
/// assert!(network.admits("10.1.2.3".parse().unwrap()) && network.admits("::ffff:10.1.2.3".parse().unwrap()));
/// assert!(!network.admits("10.66.2.3".parse().unwrap()) && !network.admits("192.0.2.2".parse().unwrap()));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    allowed: Vec<AddressRange>,
    denied: Vec<AddressRange>,
}

impl Network {
    /// Lets in the addresses that are in one of `allow` and in none of `deny`. If `allow` is empty, lets in all
    /// addresses that are in none of `deny`. Each text is a network (`10.0.0.0/8`) or an address.
    ///
    /// # Errors
    ///
    /// A sentence about the first text that is neither, or about two empty lists.
    pub fn new(allow: &[&str], deny: &[&str]) -> Result<Network, String> {
        let read = |networks: &[&str]| networks.iter().map(|text| text.parse()).collect::<Result<Vec<_>, String>>();
        let (allowed, denied) = (read(allow)?, read(deny)?);
        if allowed.is_empty() && denied.is_empty() {
            return Err("without networks to allow or to deny, everybody would be let in".into());
        }
        Ok(Network { allowed, denied })
    }

    /// Returns whether an address is let in.
    #[must_use]
    pub fn admits(&self, address: IpAddr) -> bool {
        self.network_of(address.to_canonical()).is_some()
    }

    /// Returns the network that lets an address in; the address itself if there are only networks to deny. Returns
    /// `None` if the address is not let in.
    fn network_of(&self, address: IpAddr) -> Option<AddressRange> {
        if self.denied.iter().any(|network| network.contains(address)) {
            return None;
        }
        if self.allowed.is_empty() {
            return Some(AddressRange(address.into()));
        }
        self.allowed.iter().find(|network| network.contains(address)).copied()
    }
}

impl Authenticator for Network {
    fn depends_on_topic(&self) -> bool {
        false
    }

    /// Returns an identity with the name of the network that lets the client in, such as `10.0.0.0/8`.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let network = credentials.address().and_then(|address| self.network_of(address));
        let identity = network.map(|network| Identity { is_network: true, ..Identity::new(network.to_string()) });
        identity.ok_or_else(|| Refusal::new(403, "this is not for your network"))
    }

    /// Returns `false`: an address is nothing that could be guessed.
    fn sees_credentials(&self, _: &Credentials<'_>) -> bool {
        false
    }
}

/// A network or a single address, such as `10.0.0.0/8`, `fd00::/8` or `192.0.2.1`.
///
/// ```
/// use ringhub::auth::AddressRange;
/// let range: AddressRange = "10.0.0.0/8".parse()?;
/// assert!(range.contains("10.1.2.3".parse().unwrap()) && range.contains("::ffff:10.1.2.3".parse().unwrap()));
/// # Ok::<(), String>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange(IpNet);

impl AddressRange {
    /// Returns whether an address is in the range. An IPv4 address in the notation of IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Returns whether the range has all addresses of its family.
    pub(crate) fn is_everything(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

/// A network with bits of a host, such as `10.0.0.1/8`, is probably a mistake, so it is an error.
impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<AddressRange, String> {
        let is_none = |example: &str| format!("{text:?} is no network; write it like {example}");
        let network = match text.parse::<IpAddr>() {
            Ok(address) => address.into(),
            Err(_) => text.parse::<IpNet>().map_err(|_| is_none("10.0.0.0/8, fd00::/8 or 192.0.2.1"))?,
        };
        if network != network.trunc() {
            return Err(is_none(&network.trunc().to_string()));
        }
        // An IPv4 network in the notation of IPv6. The addresses that are judged never have this notation.
        let mapped = match network {
            IpNet::V6(network) if network.prefix_len() >= 96 => {
                network.addr().to_ipv4_mapped().map(|address| (network, address))
            }
            _ => None,
        };
        Ok(AddressRange(match mapped {
            Some((network, address)) => Ipv4Net::new_assert(address, network.prefix_len() - 96).into(),
            None => network,
        }))
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::judge, *};

    fn check(network: &Network, peer: Option<&str>, expected: Option<&str>) {
        let expected = expected.map(String::from).ok_or((403, Vec::new()));
        assert_eq!(judge(network, "/", &[], peer), expected, "{peer:?}");
    }

    #[test]
    fn networks() {
        let network = Network::new(&["10.0.0.0/8", "fd00::/8", "192.0.2.1", "::1"], &["10.66.0.0/16"]).unwrap();
        check(&network, Some("10.1.2.3"), Some("10.0.0.0/8"));
        check(&network, Some("::ffff:10.1.2.3"), Some("10.0.0.0/8"));
        check(&network, Some("fd12::1"), Some("fd00::/8"));
        check(&network, Some("192.0.2.1"), Some("192.0.2.1/32"));
        check(&network, Some("::1"), Some("::1/128"));
        for stranger in ["10.66.0.1", "::ffff:10.66.0.1", "11.0.0.1", "192.0.2.2", "fe80::1", "::10.1.2.3", "127.0.0.1"]
        {
            check(&network, Some(stranger), None);
        }
        // The address of a client that has gone is not known.
        check(&network, None, None);
    }

    #[test]
    fn only_denied() {
        let network = Network::new(&[], &["192.0.2.0/24", "::/0"]).unwrap();
        check(&network, Some("10.1.2.3"), Some("10.1.2.3/32"));
        check(&network, Some("::ffff:10.1.2.3"), Some("10.1.2.3/32"));
        check(&network, Some("192.0.2.9"), None);
        check(&network, Some("2001:db8::1"), None);
        check(&network, None, None);
    }

    #[test]
    fn ipv4_in_the_clothes_of_ipv6() {
        let network = Network::new(&["::ffff:10.0.0.0/104", "::ffff:192.0.2.1"], &[]).unwrap();
        check(&network, Some("10.1.2.3"), Some("10.0.0.0/8"));
        check(&network, Some("192.0.2.1"), Some("192.0.2.1/32"));
        check(&network, Some("11.1.2.3"), None);
        check(&Network::new(&["0.0.0.0/0"], &[]).unwrap(), Some("::1"), None);
        check(&Network::new(&["::/0"], &[]).unwrap(), Some("::ffff:10.1.2.3"), None);
    }

    #[test]
    fn what_is_no_network() {
        let check = |text: &str, expected: &str| {
            for lists in [(&[text][..], &[][..]), (&["::/0"], &["10.0.0.0/8", text])] {
                let error = Network::new(lists.0, lists.1).unwrap_err();
                assert!(error.contains(expected), "{error}");
            }
        };
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "localhost", "10.0.0.0/", "/8", "10.0.0.0/8 ", "*"] {
            check(text, "is no network; write it like 10.0.0.0/8, fd00::/8 or 192.0.2.1");
        }
        check("10.1.2.3/8", "write it like 10.0.0.0/8");
        check("fd12::1/8", "write it like fd00::/8");
        assert!(Network::new(&[], &[]).unwrap_err().contains("everybody"));
    }
}
