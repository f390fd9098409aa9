//! The token that a request shows, and the pages whose cookies count.

use std::borrow::Cow;

use super::{
    super::{
        Credentials,
        origins::{is_at, is_navigation},
    },
    fault::Fault,
};
use crate::proto::RequestHead;

/// A token, as a request shows it.
pub(super) struct Shown<'a, 'c> {
    pub(super) token: Cow<'a, [u8]>,
    /// The name of the cookie that it was in.
    pub(super) cookie: Option<&'c str>,
}

/// Returns the token that a request shows: in `Authorization`, in the query, among the subprotocols, or in the first of
/// these cookies that it has. A browser adds a cookie to the requests of every page, so a cookie comes last, and counts
/// only if the request says that it is from a page of this host, from an allowed page, or from no page.
///
/// # Errors
///
/// [`Fault::Unfit`] for a cookie of another page, and for a cookie that is there twice.
pub(super) fn shown<'a, 'c>(
    credentials: &Credentials<'a>,
    cookies: &[&'c str],
) -> Result<Option<Shown<'a, 'c>>, Fault> {
    if let Some(token) = credentials.token() {
        return Ok(Some(Shown { token, cookie: None }));
    }
    for &name in cookies {
        let mut values = cookie_values(credentials.head, name);
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            // A page of a sibling domain may have set the other one.
            return Err(Fault::Unfit("its cookie is there twice".into()));
        }
        if !is_own_page(credentials) {
            let what = "it came as a cookie, and neither Origin nor Sec-Fetch-Site shows a page of this host or of \
                        allowed_origins";
            return Err(Fault::Unfit(what.into()));
        }
        return Ok(Some(Shown { token: Cow::Borrowed(value), cookie: Some(name) }));
    }
    Ok(None)
}

/// Returns the values of the cookies of a name (RFC 6265 5.4), without empty ones.
fn cookie_values<'a>(head: &'a RequestHead, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = head.headers().get_all("cookie").flat_map(|line| line.split(|&octet| octet == b';'));
    pairs.filter_map(move |pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        (!value.is_empty()).then_some(value)
    })
}

/// Returns whether a request shows that its page is of the request's own host or of an origin in the list that holds
/// for the request, or that no page has sent it. A browser that reaches the host by plain HTTP may show nothing of the
/// kind, whatever the page.
fn is_own_page(credentials: &Credentials<'_>) -> bool {
    let head = credentials.head;
    let mut origins = head.headers().get_all("origin");
    match (origins.next(), origins.next()) {
        (None, _) => {
            let is_own = |site: &[u8]| site == b"same-origin" || site == b"none";
            let mut sites = head.headers().get_all("sec-fetch-site").peekable();
            sites.peek().is_some() && sites.all(is_own) || is_navigation(head)
        }
        (Some(origin), None) => {
            let is_listed = credentials.origins().is_some_and(|origins| origins.has(origin));
            is_listed || head.headers().only("host").is_ok_and(|host| is_at(origin, host))
        }
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::Origins, *};

    /// Returns the token that a request with these lines shows, and whether it is from a cookie.
    fn found(target: &str, lines: &[&str], origins: Option<&Origins>) -> Result<Option<(String, bool)>, Fault> {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!("GET {target} HTTP/1.1\r\nHost: hub.example\r\n{lines}\r\n");
        let head = RequestHead::decode(head.as_bytes()).unwrap().unwrap().0;
        let credentials = Credentials::new(&head, None);
        let credentials = match origins {
            Some(origins) => credentials.behind(origins),
            None => credentials,
        };
        let shown = shown(&credentials, &["token", "__Host-second"])?;
        Ok(shown.map(|shown| (String::from_utf8(shown.token.into_owned()).unwrap(), shown.cookie.is_some())))
    }

    fn check(target: &str, lines: &[&str], expected: Option<(&str, bool)>) {
        let found = found(target, lines, None).unwrap();
        assert_eq!(found.as_ref().map(|(token, is_cookie)| (&**token, *is_cookie)), expected, "{target} {lines:?}");
    }

    #[test]
    fn a_cookie_comes_last() {
        let cookie = "Cookie: a=b; token=c; d=e";
        let own = "Sec-Fetch-Site: same-origin";
        check("/", &[cookie, own], Some(("c", true)));
        check("/?access_token=q", &[cookie], Some(("q", false)));
        check("/?access_token=q", &[cookie, "Authorization: Bearer h"], Some(("h", false)));
        check("/", &[cookie, "Sec-WebSocket-Protocol: access_token, s"], Some(("s", false)));
        check("/", &["Cookie: __Host-second=s", "Cookie: x=y", own], Some(("s", true)));
        check("/", &["Cookie: __Host-second=s; token=t", own], Some(("t", true)));
        for other in ["Cookie: Token=c", "Cookie: xtoken=c", "Cookie: token", "Cookie: token=", "X: token=c"] {
            check("/", &[other], None);
        }
        assert!(found("/", &["Cookie: token=a; token=b"], None).is_err());
        assert!(found("/", &["Cookie: token=a", "Cookie: token=a"], None).is_err());
    }

    /// Cross-site WebSocket hijacking: the browser of a visitor adds the cookie, whichever page opens the WebSocket.
    #[test]
    fn a_cookie_counts_for_own_pages() {
        let cookie = "Cookie: token=c";
        let listed = Origins::new(vec!["https://app.example".into(), "null".into()]).unwrap();
        let any = Origins::default();
        let is_taken = |line: &str, origins| found("/", &[cookie, line], origins).is_ok();
        for own in ["Origin: https://hub.example", "Origin: http://HUB.example", "Origin: https://hub.example:443"] {
            assert!(is_taken(own, None) && is_taken(own, Some(&listed)), "{own}");
        }
        for line in ["Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none"] {
            assert!(is_taken(line, None), "{line}");
        }
        for foreign in [
            "Origin: https://app.example.evil",
            "Origin: https://evil.example",
            "Origin: https://sub.hub.example",
            "Origin: https://hub.example:8443",
            "Origin: https://hub.example.evil",
            "Origin: null",
            "Origin: ",
            "Origin: hub.example",
            "Origin: file://hub.example",
            "Origin: \u{e9}://hub.example",
            "Sec-Fetch-Site: cross-site",
            "Sec-Fetch-Site: same-site",
            "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site",
            // A browser over plain HTTP, or an old one.
            "X: no word of a page",
        ] {
            assert!(!is_taken(foreign, None) && !is_taken(foreign, Some(&any)), "{foreign}");
            assert!(!is_taken(foreign, Some(&listed)), "{foreign}");
        }
        assert!(is_taken("Origin: https://app.example", Some(&listed)));
        assert!(!is_taken("Origin: https://app.example", None));
        let two = ["Origin: https://hub.example", "Origin: https://hub.example"];
        assert!(found("/", &[cookie, two[0], two[1]], None).is_err());
        // A link that leads here, which shows its page nothing.
        let link = ["Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"];
        assert!(found("/", &[cookie, link[0], link[1], link[2]], None).is_ok());
    }
}
