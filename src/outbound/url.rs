//! The URLs of targets.

use std::fmt;

use hyper::{Uri, http::uri::Scheme};

/// The URL of a target: `http` or `https`, without credentials or a fragment. `Display` leaves out the path and the
/// query, which may have a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TargetUrl {
    is_secure: bool,
    /// The name or address; an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// The host as `Host` has it: with the port, if it is not the scheme's own (RFC 9110 7.2).
    authority: String,
    /// The path and the query.
    target: String,
}

/// The reason for which a text is no URL of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetUrlError(String);

impl fmt::Display for TargetUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; write it like https://app.example/ringhub", self.0)
    }
}

impl std::error::Error for TargetUrlError {}

impl TargetUrl {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// A sentence that shows neither credentials nor the query.
    pub(super) fn parse(text: &str) -> Result<TargetUrl, TargetUrlError> {
        let wrong = |what: String| Err(TargetUrlError(what));
        if text.contains('#') {
            return wrong("the URL has a fragment, which no request has".into());
        }
        let uri: Uri = match text.parse() {
            Ok(uri) => uri,
            Err(error) => return wrong(format!("this is no URL: {error}")),
        };
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return wrong("the URL does not begin with http:// or https:// and a host".into());
        };
        let is_secure = *scheme == Scheme::HTTPS;
        if !is_secure && *scheme != Scheme::HTTP {
            return wrong(format!("the scheme {:?} is not supported", scheme.as_str()));
        }
        if authority.as_str().contains('@') {
            return wrong("the URL has a user name or a password, which logs could show".into());
        }
        let own = if is_secure { 443 } else { 80 };
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host).unwrap_or_default() {
            "" | ":" => own,
            port => match port.trim_start_matches(':').parse() {
                Ok(port) if port > 0 => port,
                _ => return wrong("the URL has no port from 1 to 65535 after its host".into()),
            },
        };
        if host.is_empty() {
            return wrong("the URL has no host".into());
        }
        Ok(TargetUrl {
            is_secure,
            host: host.trim_start_matches('[').trim_end_matches(']').into(),
            port,
            authority: if port == own { host.into() } else { format!("{host}:{port}") },
            target: format!("{}{}", uri.path(), uri.query().map(|query| format!("?{query}")).unwrap_or_default()),
        })
    }

    /// Returns whether the connection uses TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.is_secure
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the value of `Host`.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the path and the query.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// Returns whether a connection for one URL can carry requests for the other.
    pub(super) fn shares_connections(&self, other: &TargetUrl) -> bool {
        self.is_secure == other.is_secure && self.host == other.host && self.port == other.port
    }
}

impl fmt::Display for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let check = |text: &str, host: &str, port: u16, authority: &str, target: &str| {
            let url = TargetUrl::parse(text).unwrap();
            let parts = (url.host(), url.port(), url.authority(), url.target());
            assert_eq!(parts, (host, port, authority, target), "{text}");
        };
        check("http://a.example", "a.example", 80, "a.example", "/");
        check("HTTP://a.example:80/x?y=%20&z", "a.example", 80, "a.example", "/x?y=%20&z");
        check("https://a.example:8443/hook", "a.example", 8443, "a.example:8443", "/hook");
        check("http://a.example:/", "a.example", 80, "a.example", "/");
        check("https://[::1]/", "::1", 443, "[::1]", "/");
        check("http://[::1]:8080?a", "::1", 8080, "[::1]:8080", "/?a");
        assert_eq!(TargetUrl::parse("https://a.example/secret?token=x").unwrap().to_string(), "https://a.example");
    }

    #[test]
    fn what_is_no_url() {
        let check = |text: &str, expected: &str| {
            let error = TargetUrl::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hush"), "{text}: {error}");
        };
        check("", "this is no URL");
        check("/hook", "does not begin with http:// or https://");
        check("app.example", "does not begin with http:// or https://");
        check("ftp://a.example/", "\"ftp\" is not supported");
        check("http://user:hush@a.example/", "a user name or a password");
        check("http://a.example/#x", "fragment");
        check("http://a.example:0/", "no port");
        check("http://a.example:65536/", "no port");
        check("http://a b/", "this is no URL");
        check("http://a.example/ b", "this is no URL");
    }

    #[test]
    fn connections_are_for_one_server() {
        let url = |text| TargetUrl::parse(text).unwrap();
        assert!(url("http://a/x").shares_connections(&url("http://a:80/y")));
        for other in ["https://a:80/x", "http://b/x", "http://a:81/x"] {
            assert!(!url("http://a/x").shares_connections(&url(other)), "{other}");
        }
    }
}
