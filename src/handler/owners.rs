//! Whom the ids and receipts of a client's messages count for.

use std::net::SocketAddr;

use crate::{
    auth::Identity,
    hub::Owner,
    rates::{AddressBlock, NetworkBlock},
};

/// Returns the owner of a client's messages: the client's identity, or the network of its address. An identity that is
/// a network stands for many clients.
pub(crate) fn owner_of(identity: Option<&Identity>, address: Option<SocketAddr>) -> Option<Owner> {
    let of_address = || address.map(|address| Owner::of(&NetworkBlock::of(AddressBlock::of(address.ip()))));
    let person = identity.and_then(|identity| identity.each().find(|identity| !identity.is_network));
    person.map(|identity| Owner::of(&identity.name)).or_else(of_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_goes_before_an_address() {
        let address = |text: &str| Some(text.parse().unwrap());
        let [a, b, of_site] = ["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"].map(address);
        let user = Identity::new("user");
        assert_eq!(owner_of(Some(&user), a), owner_of(Some(&user), b));
        assert_ne!(owner_of(Some(&user), a), owner_of(Some(&Identity::new("other")), a));
        assert_ne!(owner_of(None, a), owner_of(None, b));
        assert_eq!(owner_of(None, of_site), owner_of(None, address("[2001:db8:0:7::2]:5")));
        let network = Identity { is_network: true, ..Identity::new("192.0.2.0/24") };
        assert_eq!((owner_of(Some(&network), a), owner_of(None, None)), (owner_of(None, a), None));
    }
}
