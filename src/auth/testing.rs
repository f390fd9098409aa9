//! Requests for the tests of authenticators.

use super::{Authenticator, Credentials};
use crate::proto::{Refusal, RequestHead};

/// Returns the name of the sender that an authenticator finds for these header lines and this address, or the status
/// and all challenges of its refusal.
pub(super) fn judge(
    authenticator: &dyn Authenticator,
    target: &str,
    lines: &[&str],
    peer: Option<&str>,
) -> Result<String, (u16, Vec<String>)> {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let head = RequestHead::decode(format!("GET {target} HTTP/1.1\r\n{lines}\r\n").as_bytes()).unwrap().unwrap().0;
    let peer = peer.map(|address| std::net::SocketAddr::new(address.parse().unwrap(), 1));
    let outcome = authenticator.authenticate(&Credentials::new(&head, peer));
    outcome.map(|identity| identity.name).map_err(|refusal| (refusal.status, challenges(&refusal)))
}

fn challenges(refusal: &Refusal) -> Vec<String> {
    assert!(refusal.headers.iter().all(|(name, _)| name == "WWW-Authenticate"), "{refusal:?}");
    refusal.headers.iter().map(|(_, value)| value.clone()).collect()
}
