//! Tokens, escapes and header lines, as they are written.

use std::borrow::Cow;

/// Decodes percent-encoded text, such as `%41` (RFC 3986 2.1). Returns `None` for a broken escape, or bytes that are
/// not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.as_bytes().contains(&b'%') {
        return Some(text.into());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            bytes.push((digit()? * 16 + digit()?) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(Cow::from)
}

/// Returns whether bytes are a token (RFC 9110 5.6.2).
pub(crate) fn is_token(bytes: impl AsRef<[u8]>) -> bool {
    let bytes = bytes.as_ref();
    !bytes.is_empty() && bytes.iter().all(|octet| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(octet))
}

/// Appends a header line. Each control character in the value becomes a space (RFC 9110 5.5), so no value can add a
/// second line.
///
/// # Panics
///
/// If `name` is not a token.
pub(in crate::proto) fn push_header(out: &mut Vec<u8>, name: &str, value: &str) {
    assert!(is_token(name.as_bytes()), "{name:?} is no header name");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend(value.bytes().map(|octet| if octet.is_ascii_control() { b' ' } else { octet }));
    out.extend_from_slice(b"\r\n");
}
