//! The header of the PROXY protocol, by which a proxy names the client of a whole connection, in front of its first
//! request: version 1 (a line of text) and version 2 (binary).
//!
//! The specification is doc/proxy-protocol.txt of HAProxy. The two versions and HTTP differ in their first byte or soon
//! after it, so a header is told from anything else as soon as the bytes differ.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    /// The proxy speaks for a client.
    Proxied {
        /// The client's address.
        source: SocketAddr,
    },
    /// The proxy names no client: it speaks for itself (`LOCAL`), or the client has no address of IP (`UNKNOWN`,
    /// `UNSPEC`, a Unix socket).
    Local,
}

/// The reason for which the beginning of a connection is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyHeaderError {
    /// The bytes begin like no header.
    Missing,
    /// The bytes begin like a header, and are none.
    Malformed,
    /// The header is longer than any header may be.
    TooLong,
}

impl ProxyHeaderError {
    /// Returns a fixed word for logs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            ProxyHeaderError::Missing => "missing",
            ProxyHeaderError::Malformed => "malformed",
            ProxyHeaderError::TooLong => "too_long",
        }
    }
}

impl ProxyHeader {
    /// Returns the client's address, if the proxy names a client.
    pub(crate) fn source(self) -> Option<SocketAddr> {
        match self {
            ProxyHeader::Proxied { source } => Some(source),
            ProxyHeader::Local => None,
        }
    }

    /// Decodes the header at the front of `input`, and returns its length. `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// As soon as the bytes cannot become a header.
    pub(crate) fn decode(input: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
        let begins = |beginning: &[u8]| {
            let length = input.len().min(beginning.len());
            input[..length] == beginning[..length]
        };
        if begins(TEXT_BEGINNING) {
            decode_text(input)
        } else if begins(SIGNATURE) {
            decode_binary(input)
        } else {
            Err(ProxyHeaderError::Missing)
        }
    }
}

/// Decodes version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443` and CRLF.
fn decode_text(input: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    let Some(end) = input.iter().take(TEXT_BYTES_MAX).position(|&octet| octet == b'\n') else {
        return if input.len() < TEXT_BYTES_MAX { Ok(None) } else { Err(ProxyHeaderError::TooLong) };
    };
    let line = input[..end].strip_suffix(b"\r").and_then(|line| str::from_utf8(line).ok());
    let header = line.and_then(|line| read_line(line.strip_prefix("PROXY ")?));
    header.map(|header| Some((header, end + 1))).ok_or(ProxyHeaderError::Malformed)
}

fn read_line(line: &str) -> Option<ProxyHeader> {
    // What follows the word has no meaning.
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(ProxyHeader::Local);
    }
    let mut words = line.split(' ');
    let family = words.next()?;
    let mut address = || {
        let text = words.next()?;
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let (source, _destination) = (address()?, address()?);
    let (port, _) = (read_port(words.next()?)?, read_port(words.next()?)?);
    words.next().is_none().then(|| proxied(source, port))
}

/// Reads a port, which has no leading zeros.
fn read_port(text: &str) -> Option<u16> {
    let is_canonical = text.bytes().all(|octet| octet.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_canonical)
}

/// Decodes version 2: the signature, version and command, family, length of the rest, addresses, further fields (TLVs).
fn decode_binary(input: &[u8]) -> Result<Option<(ProxyHeader, usize)>, ProxyHeaderError> {
    let Some(&command) = input.get(SIGNATURE.len()) else { return Ok(None) };
    if !matches!(command, COMMAND_LOCAL | COMMAND_PROXY) {
        return Err(ProxyHeaderError::Malformed);
    }
    let Some((fixed, rest)) = input.split_at_checked(FIXED_BYTES) else { return Ok(None) };
    let (family, length) = (fixed[13], usize::from(u16::from_be_bytes([fixed[14], fixed[15]])));
    let whole = FIXED_BYTES + length;
    if whole > BINARY_BYTES_MAX {
        return Err(ProxyHeaderError::TooLong);
    }
    let Some(rest) = rest.get(..length) else { return Ok(None) };
    let header = match (command, family) {
        // The family of a proxy that speaks for itself has no meaning.
        (COMMAND_LOCAL, _) | (_, FAMILY_UNSPECIFIED) => Some(ProxyHeader::Local),
        (_, FAMILY_TCP4) => rest.first_chunk::<12>().map(|block| {
            let [a, b, c, d, ..] = *block;
            proxied(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([block[8], block[9]]))
        }),
        (_, FAMILY_TCP6) => rest.first_chunk::<36>().and_then(|block| {
            let source = Ipv6Addr::from(*block.first_chunk::<16>()?);
            Some(proxied(source.into(), u16::from_be_bytes([block[32], block[33]])))
        }),
        (_, FAMILY_UNIX_STREAM) => rest.first_chunk::<UNIX_BYTES>().map(|_| ProxyHeader::Local),
        // A datagram has no connection, and other families do not exist.
        _ => None,
    };
    header.map(|header| Some((header, whole))).ok_or(ProxyHeaderError::Malformed)
}

fn proxied(source: IpAddr, port: u16) -> ProxyHeader {
    ProxyHeader::Proxied { source: SocketAddr::new(source.to_canonical(), port) }
}

const TEXT_BEGINNING: &[u8] = b"PROXY ";
/// The longest header of version 1, with its CRLF.
const TEXT_BYTES_MAX: usize = 107;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, and length.
const FIXED_BYTES: usize = 16;
/// The longest header of version 2. Proxies add a few hundred bytes of further fields at most.
const BINARY_BYTES_MAX: usize = 4 * 1_024;

const COMMAND_LOCAL: u8 = 0x20;
const COMMAND_PROXY: u8 = 0x21;
const FAMILY_UNSPECIFIED: u8 = 0x00;
const FAMILY_TCP4: u8 = 0x11;
const FAMILY_TCP6: u8 = 0x21;
const FAMILY_UNIX_STREAM: u8 = 0x31;
/// Two paths of Unix sockets.
const UNIX_BYTES: usize = 216;

#[cfg(test)]
mod tests {
    use super::{
        ProxyHeaderError::{Malformed, Missing, TooLong},
        *,
    };

    /// Checks the outcome for `input`, whole, followed by a request, and byte by byte.
    #[track_caller]
    fn check(input: &[u8], expected: Result<&str, ProxyHeaderError>) {
        let shown = |header| match header {
            ProxyHeader::Proxied { source } => source.to_string(),
            ProxyHeader::Local => "local".to_owned(),
        };
        let text = String::from_utf8_lossy(input);
        let followed = [input, b"GET / HTTP/1.1\r\n"].concat();
        for bytes in [input, &followed] {
            let outcome = ProxyHeader::decode(bytes).map(|found| found.map(|(header, length)| (shown(header), length)));
            assert_eq!(outcome, expected.map(|source| Some((source.to_owned(), input.len()))), "{text:?}");
        }
        let first =
            (0..=input.len()).map(|length| ProxyHeader::decode(&input[..length])).find(|part| *part != Ok(None));
        match expected {
            Ok(_) => assert_eq!(first, Some(ProxyHeader::decode(input)), "{text:?}"),
            Err(error) => assert_eq!(first, Some(Err(error)), "{text:?}"),
        }
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 0x04, 0x01, 0xbb];

    #[test]
    fn version_1() {
        check(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", Ok("192.0.2.1:56324"));
        check(b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Ok("255.255.255.255:65535"));
        check(b"PROXY TCP6 2001:DB8::1 2001:db8::2 0 443\r\n", Ok("[2001:db8::1]:0"));
        check(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", Ok("192.0.2.1:1"));
        let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        check(format!("PROXY TCP6 {full} {full} 65535 65535\r\n").as_bytes(), Ok(&format!("[{full}]:65535")));
        check(b"PROXY UNKNOWN\r\n", Ok("local"));
        check(format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n").as_bytes(), Ok("local"));
    }

    #[test]
    fn what_is_no_version_1() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            "PROXY TCP4 192.0.2.1\r 192.0.2.2 1 2\r\n",
        ] {
            check(line.as_bytes(), Err(Malformed));
        }
        check(&[b"PROXY UNKNOWN ", &[b'x'; 91][..], b"\r\n"].concat(), Ok("local"));
        check(&[b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n"].concat(), Err(TooLong));
    }

    #[test]
    fn version_2() {
        check(&binary(COMMAND_PROXY, FAMILY_TCP4, &V4), Ok("192.0.2.1:56324"));
        // Further fields are skipped.
        check(&binary(COMMAND_PROXY, FAMILY_TCP4, &[&V4[..], b"\x02\x00\x03abc"].concat()), Ok("192.0.2.1:56324"));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 1;
        v6[32..34].copy_from_slice(&[0, 80]);
        check(&binary(COMMAND_PROXY, FAMILY_TCP6, &v6), Ok("[2001:db8::1]:80"));
        check(&binary(COMMAND_LOCAL, 0, &[]), Ok("local"));
        check(&binary(COMMAND_LOCAL, FAMILY_TCP4, &V4), Ok("local"));
        check(&binary(COMMAND_LOCAL, 0xff, b"x"), Ok("local"));
        check(&binary(COMMAND_PROXY, FAMILY_UNSPECIFIED, b"anything"), Ok("local"));
        check(&binary(COMMAND_PROXY, FAMILY_UNIX_STREAM, &[0; UNIX_BYTES]), Ok("local"));
        check(&binary(COMMAND_LOCAL, 0, &[0; 4_096 - 16]), Ok("local"));
    }

    #[test]
    fn what_is_no_version_2() {
        check(&binary(COMMAND_LOCAL, 0, &[0; 4_096 - 15]), Err(TooLong));
        for command in [0x00, 0x11, 0x1f, 0x22, 0x2f, 0x31] {
            check(&binary(command, FAMILY_TCP4, &V4), Err(Malformed));
        }
        for family in [0x01, 0x10, 0x12, 0x13, 0x22, 0x32, 0x41, 0xff] {
            check(&binary(COMMAND_PROXY, family, &[0; UNIX_BYTES]), Err(Malformed));
        }
        check(&binary(COMMAND_PROXY, FAMILY_TCP4, &V4[..11]), Err(Malformed));
        check(&binary(COMMAND_PROXY, FAMILY_TCP6, &[0; 35]), Err(Malformed));
        check(&binary(COMMAND_PROXY, FAMILY_UNIX_STREAM, &[0; UNIX_BYTES - 1]), Err(Malformed));
    }

    /// Whatever is no header is told at its first byte that differs.
    #[test]
    fn requests_are_no_headers() {
        for (request, needed) in [
            ("GET / HTTP/1.1\r\n", 1),
            ("POST / HTTP/1.1\r\n", 2),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 3),
            ("PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n", 6),
            ("proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 1),
            ("\r\nGET / HTTP/1.1\r\n", 3),
            ("\r\n\r\nGET", 5),
            ("\r\n\r\n\0\r\nQUIT\r", 12),
            ("\x16\x03\x01", 1),
        ] {
            check(request.as_bytes(), Err(Missing));
            assert_eq!(ProxyHeader::decode(&request.as_bytes()[..needed - 1]), Ok(None), "{request:?}");
            assert_eq!(ProxyHeader::decode(&request.as_bytes()[..needed]), Err(Missing), "{request:?}");
        }
        assert_eq!(ProxyHeader::decode(b""), Ok(None));
    }
}
