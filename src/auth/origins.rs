//! The origins of browsers' pages.

use crate::proto::Refusal;

/// The origins whose pages may use the hub (RFC 6454); by default, all may.
///
/// A request without an `Origin` header does not come from a browser's page and is not judged by this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Checks that each is one, such as `https://example.org` or `http://localhost:8080`, and that there is one at
    /// least: an empty list does not mean all, which [`Origins::default`] does.
    ///
    /// # Errors
    ///
    /// A sentence about the first that is none, or the empty list.
    pub fn new(origins: Vec<String>) -> Result<Origins, String> {
        if origins.is_empty() {
            return Err("the list is empty, and no page would be allowed".into());
        }
        for origin in &origins {
            let host = origin.split_once("://").map(|(scheme, host)| (!scheme.is_empty()).then_some(host));
            let is_origin = host.flatten().is_some_and(|host| {
                !host.is_empty() && host.bytes().all(|octet| octet.is_ascii_graphic() && !b"/?#@".contains(&octet))
            });
            if !is_origin && origin != "null" {
                let example = "write it as a browser does, like https://example.org, without a path";
                return Err(format!("{origin:?} is no origin; {example}"));
            }
        }
        Ok(Origins(origins.into_iter().map(|origin| origin.to_ascii_lowercase()).collect()))
    }

    /// Returns whether all origins are allowed.
    #[must_use]
    pub fn are_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether a page of an origin may use the hub.
    #[must_use]
    pub fn allow(&self, origin: &[u8]) -> bool {
        self.are_any() || self.0.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(origin))
    }

    /// Checks that a page of an origin may use the hub.
    pub(crate) fn check(&self, origin: &[u8]) -> Result<(), Refusal> {
        if self.allow(origin) {
            return Ok(());
        }
        let origin = String::from_utf8_lossy(origin).into_owned();
        Err(Refusal::new(403, format!("pages of {origin:?} may not use this hub (allowed_origins)")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        let origins = Origins::new(vec!["https://Example.org".into(), "http://[::1]:8080".into()]).unwrap();
        assert!(origins.allow(b"https://example.org") && origins.allow(b"http://[::1]:8080"));
        assert!(!origins.allow(b"https://example.org:8443") && !origins.allow(b"null"));
        assert!(Origins::default().allow(b"null"));
        for bad in ["", "example.org", "https://", "://x", "https://a/", "https://u@a", "*"] {
            assert!(Origins::new(vec![bad.into()]).is_err(), "{bad}");
        }
        assert!(Origins::new(Vec::new()).unwrap_err().starts_with("the list is empty"));
    }
}
