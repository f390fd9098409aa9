//! The addresses that count as one where a limit holds for each address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The addresses that count as one: an IPv4 address, also where it is mapped into IPv6, or the 2^64 IPv6 addresses that
/// one subscriber of a provider usually has (RFC 6177).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AddressBlock {
    V4(Ipv4Addr),
    /// The first 64 bits.
    V6(u64),
}

impl AddressBlock {
    /// Returns the block that the address counts as.
    pub(crate) fn of(address: IpAddr) -> AddressBlock {
        match address.to_canonical() {
            IpAddr::V4(address) => AddressBlock::V4(address),
            IpAddr::V6(address) => AddressBlock::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// The addresses that count as one where many of one sender would take what others need: an IPv4 address, or a /48 of
/// IPv6, which is what a site usually has (RFC 6177).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum NetworkBlock {
    V4(Ipv4Addr),
    /// The first 48 bits.
    V6(u64),
}

impl NetworkBlock {
    /// Returns the network of a block.
    pub(crate) fn of(block: AddressBlock) -> NetworkBlock {
        match block {
            AddressBlock::V4(address) => NetworkBlock::V4(address),
            AddressBlock::V6(bits) => NetworkBlock::V6(bits >> 16),
        }
    }
}

impl fmt::Display for AddressBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            AddressBlock::V4(address) => address.fmt(f),
            AddressBlock::V6(bits) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(bits) << 64)),
        }
    }
}

impl fmt::Debug for AddressBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_its_ipv4_address_and_a_64_is_one_block() {
        let of = |text: &str| AddressBlock::of(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(
            (of("::ffff:192.0.2.1").to_string(), of("2001:db8::1").to_string()),
            ("192.0.2.1".into(), "2001:db8::/64".into())
        );
    }

    #[test]
    fn a_48_is_one_network() {
        let of = |text: &str| NetworkBlock::of(AddressBlock::of(text.parse().unwrap()));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:ffff::1"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:1:1::1"));
    }
}
