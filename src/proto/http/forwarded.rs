//! The addresses that proxies name in header lines: `X-Forwarded-For`, and `Forwarded` (RFC 7239).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::borrow::Cow;

use super::{headers::Headers, syntax::is_token};

/// The most nodes of a list that are read. A chain of proxies is much shorter.
pub(crate) const NODES_MAX: usize = 32;

/// Returns the nodes of `X-Forwarded-For` from the last to the first, over all its lines as one list, at most
/// [`NODES_MAX`]. A node that is no address, such as `unknown`, is `None`. A node without a port has the port 0.
///
/// Each proxy appends the address of its own client, so a client decides only about the nodes at the beginning.
pub(crate) fn x_forwarded_for(headers: &Headers) -> impl Iterator<Item = Option<SocketAddr>> {
    elements(headers, "x-forwarded-for").map(node)
}

/// Returns the nodes of `Forwarded` (`for=`) as [`x_forwarded_for`] does. An element that is malformed, or has no
/// `for=`, is `None`.
///
/// A list is split from its end. So a quote that a client has opened and not closed belongs to the client's own
/// elements, and cannot take up the element that a proxy has appended.
pub(crate) fn forwarded_for(headers: &Headers) -> impl Iterator<Item = Option<SocketAddr>> {
    elements(headers, "forwarded").map(|element| node(&node_name(element)?))
}

/// Returns the elements of all lines of that name as one list, from the last to the first, without empty ones.
fn elements<'a>(headers: &'a Headers, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let lines: Vec<&[u8]> = headers.get_all(name).collect();
    let elements = lines.into_iter().rev().flat_map(|line| {
        let mut rest = Some(line);
        std::iter::from_fn(move || {
            let (before, last) = split_last(rest?);
            rest = before;
            Some(last.trim_ascii())
        })
    });
    elements.filter(|element| !element.is_empty()).take(NODES_MAX)
}

/// Splits a list before its last element. A comma in a quoted string, seen from the end, is part of an element.
fn split_last(list: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let mut is_quoted = false;
    for (at, octet) in list.iter().enumerate().rev() {
        match octet {
            b'"' => {
                let escapes = list[..at].iter().rev().take_while(|&&before| before == b'\\').count();
                // A quote after a backslash stands within a string (RFC 9110 5.6.4).
                if !(is_quoted && escapes % 2 == 1) {
                    is_quoted = !is_quoted;
                }
            }
            b',' if !is_quoted => return (Some(&list[..at]), &list[at + 1..]),
            _ => {}
        }
    }
    (None, list)
}

/// Returns the value of `for` in an element of `Forwarded` (RFC 7239 4); `None` without one, or if the element is
/// malformed.
fn node_name(element: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (mut found, mut rest) = (None, element);
    loop {
        rest = rest.trim_ascii_start();
        if let Some(after) = rest.strip_prefix(b";") {
            rest = after;
            continue;
        }
        if rest.is_empty() {
            return found;
        }
        let (name, after) = rest.split_at(rest.iter().position(|&octet| octet == b'=')?);
        let (value, after) = take_value(&after[1..])?;
        rest = after.trim_ascii_start();
        if !is_token(name) || !(rest.is_empty() || rest.starts_with(b";")) {
            return None;
        }
        // A parameter occurs once, or readers could choose different ones.
        if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
            return None;
        }
    }
}

/// Takes a token or a quoted string (RFC 9110 5.6.4) from the beginning of `rest`.
fn take_value(rest: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(quoted) = rest.strip_prefix(b"\"") else {
        let length = rest.iter().take_while(|&&octet| is_token([octet])).count();
        return (length > 0).then(|| (Cow::Borrowed(&rest[..length]), &rest[length..]));
    };
    let mut value = Vec::new();
    let mut octets = quoted.iter().enumerate();
    loop {
        match octets.next()? {
            (at, b'"') => return Some((value.into(), &quoted[at + 1..])),
            (_, b'\\') => value.push(*octets.next()?.1),
            (_, &octet) => value.push(octet),
        }
    }
}

/// Reads the address of a node (RFC 7239 6): `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`. The name
/// of a zone (`fe80::1%eth0`) means nothing to other machines, and is left out. An IPv4 address in the notation of IPv6
/// becomes one of IPv4.
fn node(text: impl AsRef<[u8]>) -> Option<SocketAddr> {
    let text = str::from_utf8(text.as_ref()).ok()?;
    let (address, port): (IpAddr, Option<&str>) = if let Some(bracketed) = text.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']')?;
        let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
        (ipv6(address)?.into(), port)
    } else if let Some((address, port)) = text.split_once(':').filter(|(_, port)| !port.contains(':')) {
        (address.parse::<Ipv4Addr>().ok()?.into(), Some(port))
    } else if text.contains(':') {
        (ipv6(text)?.into(), None)
    } else {
        (text.parse::<Ipv4Addr>().ok()?.into(), None)
    };
    Some(SocketAddr::new(address.to_canonical(), port.map_or(Some(0), node_port)?))
}

fn ipv6(text: &str) -> Option<Ipv6Addr> {
    let is_zone = |zone: &str| {
        !zone.is_empty() && zone.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-._~%".contains(&octet))
    };
    match text.split_once('%') {
        Some((address, zone)) if is_zone(zone) => address.parse().ok(),
        Some(_) => None,
        None => text.parse().ok(),
    }
}

/// Reads the port of a node. A port that the proxy hides (`_port`, RFC 7239 6.3) is 0.
fn node_port(text: &str) -> Option<u16> {
    if let Some(hidden) = text.strip_prefix('_') {
        let is_hidden = |octet: u8| octet.is_ascii_alphanumeric() || b"._-".contains(&octet);
        return (!hidden.is_empty() && hidden.bytes().all(is_hidden)).then_some(0);
    }
    let is_number = (1..=5).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::{super::RequestHead, *};

    fn nodes(lines: &[&str], read: impl Fn(&Headers) -> Vec<Option<SocketAddr>>) -> Vec<Option<String>> {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let head = RequestHead::decode(head.as_bytes()).unwrap().unwrap().0;
        read(head.headers()).into_iter().map(|node| node.map(|address| address.to_string())).collect()
    }

    #[track_caller]
    fn check_x(values: &[&str], expected: &[Option<&str>]) {
        let lines: Vec<String> = values.iter().map(|value| format!("X-Forwarded-For: {value}")).collect();
        let lines: Vec<&str> = lines.iter().map(|line| &**line).collect();
        let found = nodes(&lines, |headers| x_forwarded_for(headers).collect());
        assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), expected, "{values:?}");
    }

    #[track_caller]
    fn check_rfc(values: &[&str], expected: &[Option<&str>]) {
        let lines: Vec<String> = values.iter().map(|value| format!("fORWARDED: {value}")).collect();
        let lines: Vec<&str> = lines.iter().map(|line| &**line).collect();
        let found = nodes(&lines, |headers| forwarded_for(headers).collect());
        assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), expected, "{values:?}");
    }

    #[test]
    fn x_forwarded_for_is_one_list_from_the_right() {
        check_x(&[], &[]);
        check_x(&[" ,, "], &[]);
        check_x(&["192.0.2.1"], &[Some("192.0.2.1:0")]);
        check_x(
            &["192.0.2.1, 192.0.2.2", "192.0.2.3,,192.0.2.4"],
            &[Some("192.0.2.4:0"), Some("192.0.2.3:0"), Some("192.0.2.2:0"), Some("192.0.2.1:0")],
        );
        check_x(&["unknown, 192.0.2.1"], &[Some("192.0.2.1:0"), None]);
        // Quotes have no meaning here, and those of a client take up nothing.
        check_x(&["\"x, 192.0.2.1"], &[Some("192.0.2.1:0"), None]);
    }

    #[test]
    fn nodes_as_proxies_write_them() {
        for (text, expected) in [
            ("192.0.2.1:80", Some("192.0.2.1:80")),
            ("192.0.2.1:_p-1", Some("192.0.2.1:0")),
            ("2001:db8::1", Some("[2001:db8::1]:0")),
            ("[2001:DB8::1]", Some("[2001:db8::1]:0")),
            ("[2001:db8::1]:65535", Some("[2001:db8::1]:65535")),
            ("::ffff:192.0.2.1", Some("192.0.2.1:0")),
            ("[::ffff:c000:201]:1", Some("192.0.2.1:1")),
            ("fe80::1%eth0", Some("[fe80::1]:0")),
            ("[fe80::1%25eth0]:9", Some("[fe80::1]:9")),
            ("unknown", None),
            ("_hidden", None),
            ("localhost", None),
            ("192.0.2.1:", None),
            ("192.0.2.1:65536", None),
            ("192.0.2.1:000080", None),
            ("192.0.2.1:+80", None),
            ("192.0.2.1:_", None),
            ("192.0.2.01", None),
            ("192.0.2", None),
            ("0xC0000201", None),
            ("3221225985", None),
            ("192.0.2.1 192.0.2.2", None),
            ("[192.0.2.1]", None),
            ("[2001:db8::1", None),
            ("[2001:db8::1]80", None),
            ("2001:db8::1]:80", None),
            ("2001:db8::1%", None),
            ("2001:db8::1%a b", None),
            ("192.0.2.1%eth0", None),
            ("2001:db8:::1", None),
            ("\u{fc}", None),
        ] {
            check_x(&[text], &[expected]);
        }
    }

    /// RFC 7239 4, and its examples.
    #[test]
    fn forwarded() {
        check_rfc(&["for=192.0.2.43, for=198.51.100.17"], &[Some("198.51.100.17:0"), Some("192.0.2.43:0")]);
        check_rfc(&["For=\"[2001:db8:cafe::17]:4711\""], &[Some("[2001:db8:cafe::17]:4711")]);
        check_rfc(&["for=192.0.2.60;proto=http;by=203.0.113.43"], &[Some("192.0.2.60:0")]);
        check_rfc(
            &["for=192.0.2.43", "for=\"192.0.2.1:80\"; proto=https"],
            &[Some("192.0.2.1:80"), Some("192.0.2.43:0")],
        );
        check_rfc(&["by=1;for=192.0.2.1;;"], &[Some("192.0.2.1:0")]);
        check_rfc(&["host=\"a,for=192.0.2.9\";for=192.0.2.1"], &[Some("192.0.2.1:0")]);
        check_rfc(&["for=192.0.2.1;host=\"a\\\",for=192.0.2.9\""], &[Some("192.0.2.1:0")]);
        check_rfc(&["for=192.0.2.1;host=\"a,for=192.0.2.9\\\"b\""], &[Some("192.0.2.1:0")]);
        check_rfc(&["for=\"192.0.2\\.1\""], &[Some("192.0.2.1:0")]);
        for none in [
            "for=unknown",
            "for=\"_gazonk\"",
            "for=_SEVKISEK",
            "by=192.0.2.1",
            "for=192.0.2.1;FOR=192.0.2.2",
            "for=[2001:db8::1]",
            "for=2001:db8::1",
            "for=",
            "for=\"\"",
            "for=\"192.0.2.1",
            "for=192.0.2.1 proto=http",
            "for =192.0.2.1",
            "192.0.2.1",
            "=192.0.2.1",
        ] {
            check_rfc(&[none], &[None]);
        }
    }

    /// A client's open quote or its backslash takes up none of the elements that a proxy appends.
    #[test]
    fn a_client_cannot_take_up_the_elements_of_a_proxy() {
        check_rfc(&["for=\", for=192.0.2.1"], &[Some("192.0.2.1:0"), None]);
        check_rfc(&["for=\"x\\, for=192.0.2.1"], &[Some("192.0.2.1:0"), None]);
        check_rfc(&["a=\"b, for=\"[2001:db8::1]\""], &[Some("[2001:db8::1]:0"), None]);
        check_rfc(&["for=192.0.2.9;host=\"", "for=192.0.2.1"], &[Some("192.0.2.1:0"), None]);
    }

    #[test]
    fn a_list_is_read_up_to_a_limit() {
        let long = vec!["192.0.2.1"; NODES_MAX + 1].join(",");
        assert_eq!(
            nodes(&[&format!("X-Forwarded-For: {long}")], |all| x_forwarded_for(all).collect()).len(),
            NODES_MAX
        );
        let long = vec!["for=192.0.2.1"; NODES_MAX + 1].join(",");
        assert_eq!(nodes(&[&format!("Forwarded: {long}")], |all| forwarded_for(all).collect()).len(), NODES_MAX);
    }
}
