//! The origins of browsers' pages.

use crate::proto::{Refusal, RequestHead};

/// The origins whose pages may use the hub (RFC 6454). By default, the pages of all origins may.
///
/// A browser names the origin of a page in `Origin`: always in an opening handshake and in a POST, and in a GET whose
/// answer a page of another origin is to read (CORS). A GET for an element of a page, such as a script or a picture,
/// has no `Origin`. Its `Sec-Fetch-Site` says whether the page is of another origin; but browsers leave that line out
/// if they reach the hub by plain HTTP and by another name than `localhost`. A request with neither line passes, like
/// the requests of clients that are not browsers. Header lines of the answer then keep the answer from pages of other
/// origins: `Cross-Origin-Resource-Policy` from their elements, and `Content-Security-Policy` from their frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Checks that each text is an origin, such as `https://example.org` or `http://localhost:8080`. To allow all
    /// origins, use [`Origins::default`], not an empty list.
    ///
    /// # Errors
    ///
    /// A sentence about the first text that is no origin, or about an empty list.
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

    /// Returns whether the list itself has an origin; if all origins are allowed, there is no list. `null` does not
    /// count, since any page can open a sandboxed frame of that origin.
    pub(crate) fn has(&self, origin: &[u8]) -> bool {
        !self.are_any() && self.allow(origin) && !origin.eq_ignore_ascii_case(b"null")
    }

    /// Returns whether a browser says that a page of another origin has sent a request: the request has an `Origin`
    /// that is neither in the list nor that of its own host; or it has no `Origin`, and `Sec-Fetch-Site` is
    /// `cross-site` or `same-site`.
    pub(crate) fn is_foreign(&self, head: &RequestHead) -> bool {
        let headers = head.headers();
        let mut origins = headers.get_all("origin").peekable();
        if origins.peek().is_none() {
            return headers.get_all("sec-fetch-site").any(is_of_another_origin);
        }
        let host = headers.only("host");
        origins.any(|origin| !self.has(origin) && !host.as_ref().is_ok_and(|host| is_at(origin, host)))
    }

    /// Refuses a request if its browser says that it comes from a page that may not use the hub. A navigation of a
    /// whole window passes, whatever page its link is on: that page does not see the answer.
    ///
    /// # Errors
    ///
    /// 403 for a page of another origin.
    pub(crate) fn check(&self, head: &RequestHead) -> Result<(), Refusal> {
        if self.are_any() {
            return Ok(());
        }
        let headers = head.headers();
        let mut origins = headers.get_all("origin").peekable();
        let has_origin = origins.peek().is_some();
        if !has_origin && headers.get_all("sec-fetch-site").any(is_of_another_origin) && !is_navigation(head) {
            let error = "pages of other origins may use this hub only with CORS (allowed_origins)";
            return Err(Refusal::new(403, error));
        }
        match origins.find(|origin| !self.allow(origin)) {
            None => Ok(()),
            Some(origin) => {
                let origin = String::from_utf8_lossy(origin).into_owned();
                Err(Refusal::new(403, format!("pages of {origin:?} may not use this hub (allowed_origins)")))
            }
        }
    }
}

/// Returns whether a value of `Sec-Fetch-Site` stands for a page of another origin.
fn is_of_another_origin(site: &[u8]) -> bool {
    site == b"cross-site" || site == b"same-site"
}

/// Returns whether a browser loads the answer into a whole window, not into a frame or an object of a page (W3C Fetch
/// Metadata 2.1 and 2.2).
pub(super) fn is_navigation(head: &RequestHead) -> bool {
    let is_every = |name: &str, expected: &[u8]| head.headers().get_all(name).all(|value| value == expected);
    let has_mode = head.headers().get("sec-fetch-mode").is_some();
    ["GET", "HEAD"].contains(&head.method())
        && has_mode
        && is_every("sec-fetch-mode", b"navigate")
        && is_every("sec-fetch-dest", b"document")
}

/// Returns whether an origin has this host and port. The scheme is not compared: a proxy in front may have ended TLS.
pub(super) fn is_at(origin: &[u8], host: &[u8]) -> bool {
    let (Ok(origin), Ok(host)) = (str::from_utf8(origin), str::from_utf8(host)) else { return false };
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    let usual = match &*scheme.to_ascii_lowercase() {
        "https" => "443",
        "http" => "80",
        _ => return false,
    };
    let ((name, port), (own_name, own_port)) = (with_port(authority, usual), with_port(host, usual));
    !name.is_empty() && name.eq_ignore_ascii_case(own_name) && port == own_port
}

/// Splits a host and its port. The colons of an IPv6 address are within brackets.
fn with_port<'a>(authority: &'a str, usual: &'a str) -> (&'a str, &'a str) {
    match authority.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (authority, usual),
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
        assert!(origins.has(b"https://EXAMPLE.org") && !origins.has(b"https://example.org:8443"));
        assert!(!Origins::default().has(b"https://example.org"));
        let null = Origins::new(vec!["null".into()]).unwrap();
        assert!(null.allow(b"null") && !null.has(b"null"));
        for bad in ["", "example.org", "https://", "://x", "https://a/", "https://u@a", "*"] {
            assert!(Origins::new(vec![bad.into()]).is_err(), "{bad}");
        }
        assert!(Origins::new(Vec::new()).unwrap_err().starts_with("the list is empty"));
    }

    /// W3C Fetch Metadata: what browsers send with each kind of request.
    #[test]
    fn pages_that_name_no_origin() {
        let origins = Origins::new(vec!["https://a.example".into()]).unwrap();
        let check = |origins: &Origins, method: &str, lines: &[&str], is_admitted: bool| {
            let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let head = RequestHead::decode(head.as_bytes()).unwrap().unwrap().0;
            let status = origins.check(&head).map_err(|refusal| refusal.status);
            assert_eq!(status, if is_admitted { Ok(()) } else { Err(403) }, "{method} {lines}");
        };
        let (navigate, document) = ("Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document");
        for site in ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"] {
            check(&origins, "GET", &[site], false);
            check(&origins, "GET", &[site, "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: script"], false);
            check(&origins, "GET", &[site, navigate, "Sec-Fetch-Dest: iframe"], false);
            check(&origins, "GET", &[site, navigate, "Sec-Fetch-Dest: object"], false);
            check(&origins, "GET", &[site, "Sec-Fetch-Mode: no-cors", navigate, document], false);
            check(&origins, "GET", &[site, document], false);
            check(&origins, "POST", &[site, navigate, document], false);
            for method in ["GET", "HEAD"] {
                check(&origins, method, &[site, navigate, document], true);
                check(&origins, method, &[site, navigate], true);
            }
            // With CORS.
            check(&origins, "GET", &[site, "Sec-Fetch-Mode: cors", "Origin: https://a.example"], true);
            check(&origins, "GET", &[site, "Sec-Fetch-Mode: cors", "Origin: https://b.example"], false);
            check(&origins, "GET", &[site, "Origin: https://a.example", "Origin: https://b.example"], false);
            check(&Origins::default(), "GET", &[site], true);
        }
        check(&origins, "GET", &["Sec-Fetch-Site: same-site", "Sec-Fetch-Site: same-origin"], false);
        check(&origins, "GET", &["Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: no-cors"], true);
        check(&origins, "GET", &["Sec-Fetch-Site: none", navigate, document], true);
        check(&origins, "GET", &[], true);
    }

    #[test]
    fn hosts_and_ports() {
        let check = |origin: &str, host: &str, is_same: bool| {
            assert_eq!(is_at(origin.as_bytes(), host.as_bytes()), is_same, "{origin} {host}");
        };
        check("http://localhost:6455", "localhost:6455", true);
        check("http://localhost:6455", "localhost", false);
        check("http://[::1]:80", "[::1]", true);
        check("http://[::1]", "[::1]:80", true);
        check("http://[::1]", "[::2]", false);
        check("https://a", "a:80", false);
        check("http://", "", false);
    }

    /// An origin in the list, and that of the request's own host, is not foreign. Without an `Origin`, `Sec-Fetch-Site`
    /// decides.
    #[test]
    fn pages_of_other_origins() {
        let listed = Origins::new(vec!["https://app.example".into(), "null".into()]).unwrap();
        let check = |lines: &[&str], expected: (bool, bool)| {
            let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let head = format!("GET / HTTP/1.1\r\nHost: hub.example\r\n{lines}\r\n");
            let head = RequestHead::decode(head.as_bytes()).unwrap().unwrap().0;
            let found = (Origins::default().is_foreign(&head), listed.is_foreign(&head));
            assert_eq!(found, expected, "{lines}");
        };
        check(&[], (false, false));
        check(&["Sec-Fetch-Site: same-origin"], (false, false));
        check(&["Sec-Fetch-Site: none"], (false, false));
        check(&["Sec-Fetch-Site: cross-site"], (true, true));
        check(&["Sec-Fetch-Site: same-site"], (true, true));
        check(&["Origin: https://hub.example", "Sec-Fetch-Site: same-origin"], (false, false));
        check(&["Origin: https://app.example", "Sec-Fetch-Site: cross-site"], (true, false));
        check(&["Origin: https://evil.example"], (true, true));
        check(&["Origin: null"], (true, true));
        check(&["Origin: https://hub.example", "Origin: https://evil.example"], (true, true));
    }
}
