//! Answers of HTTP/1.1 servers (RFC 9112), to opening handshakes and to publishing by HTTP.

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The status line and the header lines, separated by CRLF.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// The number of bytes of the answer.
    pub(crate) length: usize,
}

/// Whether the server may still send bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Open,
    Ended,
}

/// Reads the answer at the start of `bytes`; `None` if it is not whole yet. An answer whose body has no length ends
/// with the connection.
///
/// # Errors
/// The error says why the bytes are no answer, as the end of the sentence "the server answered".
pub(crate) fn read(bytes: &[u8], input: Input) -> Result<Option<Answer>, String> {
    let Some(head_end) = crate::pattern::position(&bytes[..bytes.len().min(HEAD_MAX + 4)], b"\r\n\r\n") else {
        return if bytes.len() > HEAD_MAX { Err("with more than 16 KiB of headers".to_owned()) } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let status_line = head.split("\r\n").next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok())
        .ok_or_else(|| format!("not in HTTP/1.1, but: {}", shown(status_line.as_bytes())))?;
    let body_at = head_end + 4;
    let rest = &bytes[body_at..];
    let (body, used) = match (header(&head, "Transfer-Encoding"), header(&head, "Content-Length")) {
        _ if status < 200 || status == 204 || status == 304 => (Vec::new(), 0),
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => match dechunked(rest)? {
            Some(whole) => whole,
            None if input == Input::Ended => (rest.to_vec(), rest.len()),
            None if rest.len() > BODY_MAX => {
                return Err(format!("{}, and an endless body", shown(status_line.as_bytes())));
            }
            None => return Ok(None),
        },
        (_, Some(length)) => {
            let length: usize =
                length.parse().map_err(|_| format!("with a wrong Content-Length: {}", shown(length.as_bytes())))?;
            if length > BODY_MAX {
                return Err(format!("{}, and a body of {length} bytes", shown(status_line.as_bytes())));
            }
            if rest.len() < length && input == Input::Open {
                return Ok(None);
            }
            let length = length.min(rest.len());
            (rest[..length].to_vec(), length)
        }
        _ if input == Input::Open && rest.len() < BODY_SHOWN_MAX => return Ok(None),
        _ => (rest.to_vec(), rest.len()),
    };
    Ok(Some(Answer { status, head, body, length: body_at + used }))
}

impl Answer {
    /// Returns the value of a header line.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Returns the status line and the start of the body, for people.
    pub(crate) fn summary(&self) -> String {
        let line = shown(self.head.split("\r\n").next().unwrap_or_default().as_bytes());
        let location = self.header("Location").filter(|_| (300..400).contains(&self.status));
        let line = location.map_or(line.clone(), |place| format!("{line} (Location: {})", shown(place.as_bytes())));
        let body = shown(&self.body);
        if body.is_empty() { line } else { format!("{line}: {body}") }
    }
}

/// Returns the start of some bytes as one line of text.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(BODY_SHOWN_MAX)]);
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    // Text may come from a server: it may not hide or turn what stands beside it.
    let is_turning = |letter| matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    line.retain(|letter| !letter.is_control() && !is_turning(letter));
    if bytes.len() > BODY_SHOWN_MAX { format!("{line} …") } else { line }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.split("\r\n").skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Reads a chunked body (RFC 9112 7.1). Returns the body and the number of bytes that it takes; `None` if it is not
/// whole yet.
fn dechunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = crate::pattern::position(&bytes[at..], b"\r\n") else { return Ok(None) };
        let digits = String::from_utf8_lossy(&bytes[at..at + line]).into_owned();
        let size = usize::from_str_radix(digits.split(';').next().unwrap_or_default().trim(), 16)
            .ok()
            .filter(|&size| size <= crate::frame::PAYLOAD_MAX)
            .ok_or_else(|| "with a chunk of a wrong size".to_owned())?;
        at += line + 2;
        if bytes.len() < at + size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&bytes[at..at + size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

/// The largest head of an answer.
const HEAD_MAX: usize = 16 << 10;

/// The longest body. No more is kept of an answer.
const BODY_MAX: usize = 1 << 20;

/// The bytes of a body that are shown. An answer without a length is whole when its body has this many.
const BODY_SHOWN_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    fn body(answer: &str, input: Input) -> Option<String> {
        read(answer.as_bytes(), input).unwrap().map(|answer| String::from_utf8(answer.body).unwrap())
    }

    #[test]
    fn bodies_with_a_length_in_chunks_and_to_the_end() {
        let sized = "HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\nwrong";
        assert_eq!(body(sized, Input::Open).as_deref(), Some("wrong"));
        assert_eq!(body(&sized[..sized.len() - 1], Input::Open), None);
        assert_eq!(body(&sized[..sized.len() - 1], Input::Ended).as_deref(), Some("wron"));
        let chunked = "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwro\r\n2;x\r\nng\r\n0\r\n\r\n";
        assert_eq!(body(chunked, Input::Open).as_deref(), Some("wrong"));
        assert_eq!(body(&chunked[..chunked.len() - 4], Input::Open), None);
        let endless = "HTTP/1.0 500 Oh\r\n\r\nwrong";
        assert_eq!((body(endless, Input::Open), body(endless, Input::Ended).as_deref()), (None, Some("wrong")));
        assert_eq!(body("HTTP/1.1 204 No Content\r\n\r\n", Input::Open).as_deref(), Some(""));
        assert_eq!(body("HTTP/1.1 200 OK\r\n", Input::Open), None);
    }

    #[test]
    fn the_next_answer_begins_where_this_one_ends() {
        let two = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 201 Created\r\n";
        let first = read(two, Input::Open).unwrap().unwrap();
        assert!(two[first.length..].starts_with(b"HTTP/1.1 201"));
        assert_eq!(first.summary(), "HTTP/1.1 202 Accepted: ok");
    }

    #[test]
    fn another_place_is_shown() {
        let moved = b"HTTP/1.1 301 Moved\r\nLocation: /chat\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(read(moved, Input::Open).unwrap().unwrap().summary(), "HTTP/1.1 301 Moved (Location: /chat)");
    }

    #[test]
    fn what_is_no_answer() {
        assert!(read(b"SSH-2.0\r\n\r\n", Input::Open).is_err());
        assert!(read(&[b'x'; HEAD_MAX + 1], Input::Open).is_err());
        assert!(read(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Input::Open).is_err());
        assert!(read(b"HTTP/1.1 503 No\r\nContent-Length: 1000000000000\r\n\r\n", Input::Open).is_err());
        let endless = [b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n", &b"3\r\nabc\r\n".repeat(200_000)[..]];
        assert!(read(&endless.concat(), Input::Open).is_err());
        let hostile = read(b"HTTP/1.1 503 \x1b[2J\x1b]0;x\nfine\r\n\r\n", Input::Ended).unwrap().unwrap();
        assert_eq!(hostile.summary(), "HTTP/1.1 503 [2J]0;x fine");
        assert!(read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", Input::Open).is_err());
    }

    #[test]
    fn long_bodies_are_cut() {
        assert_eq!(shown(b"a\r\n b\x07"), "a b");
        assert_eq!(shown("a\u{1b}[2J\u{9b}1m\u{202e}b".as_bytes()), "a[2J1mb");
        assert!(shown(&[b'x'; 1_000]).len() < 310);
    }
}
