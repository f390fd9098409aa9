//! Requests, for `bodies::requests`.

use crate::random::Random;

/// Makes a request: lines with good and bad values, the announced body, and sometimes bytes after it. One in six is
/// spoiled.
pub(crate) fn requests(random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![random.byte()];
    bytes.extend(random.pick(&["", "", "", "", "", "", "", "\r\n", "\r\n\r\n", "\n"]).bytes());
    let method = random.pick(&["GET", "POST", "POST", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "get"]);
    let target = if random.once_in(10) { random.pick(TARGETS) } else { random.pick(&TARGETS[..8]) };
    let version = if random.once_in(8) { random.pick(&["1.0", "1.0", "1.2", "2.0", "1.10"]) } else { "1.1" };
    let space = if random.once_in(50) { random.pick(&["  ", "\t"]) } else { " " };
    let end = if random.once_in(50) { random.pick(&["\n", "\r", "\r\r\n"]) } else { "\r\n" };
    bytes.extend(format!("{method} {target}{space}HTTP/{version}{end}").bytes());
    if !random.once_in(20) {
        bytes.extend(b"Host: hub\r\n");
    }
    for _ in 0..random.below(4) {
        let lines = if random.once_in(12) { LINES } else { &LINES[..11] };
        bytes.extend(random.pick(lines).bytes());
    }
    let body = body(random, &mut bytes);
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes.extend(random.pick(&["", "", "GET / HTTP/1.1\r\n", "\r\n", "0\r\n\r\n"]).bytes());
    if random.once_in(6) {
        random.spoil(&mut bytes);
    }
    bytes
}

/// Appends the lines that announce a body, and returns the body.
fn body(random: &mut Random, lines: &mut Vec<u8>) -> Vec<u8> {
    match random.below(5) {
        0 => Vec::new(),
        1 | 2 => {
            let body = random.pick(&["", "b", "body", "0\r\n\r\n", "twelve bytes"]);
            let length = random.pick(&[body.len(), body.len(), body.len(), body.len(), body.len(), 5]);
            let length = match random.below(30) {
                0 => format!("+{length}"),
                1 => format!("{length}, {length}"),
                2 => format!(" 00{length} "),
                3 => "18446744073709551615".into(),
                4 => "18446744073709551616".into(),
                5 => format!("{length}\r\nContent-Length: {length}"),
                6 => String::new(),
                _ => length.to_string(),
            };
            lines.extend(format!("Content-Length: {length}\r\n").bytes());
            body.into()
        }
        _ => {
            let encoding = if random.once_in(20) { random.pick(ENCODINGS) } else { "chunked" };
            lines.extend(format!("Transfer-Encoding: {encoding}\r\n").bytes());
            chunks(random)
        }
    }
}

fn chunks(random: &mut Random) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..random.below(4) {
        let data = random.pick(&["d", "da", "0\r\n", "\r\n\r\n", "eleven more"]);
        let size = match random.below(16) {
            0 => format!("{:X}", data.len()),
            1 => format!("000{:x}", data.len()),
            2 => format!("{:x}", data.len() + 1),
            3 if random.once_in(4) => {
                random.pick(&["", "+1", "0x1", "-1", "g", "fffffffffffffff", "10000000000000001"]).into()
            }
            _ => format!("{:x}", data.len()),
        };
        let extension = if random.once_in(6) { random.pick(EXTENSIONS) } else { "" };
        let end = if random.once_in(30) { random.pick(&["\n", "\r", ""]) } else { "\r\n" };
        body.extend(format!("{size}{extension}\r\n{data}{end}").bytes());
    }
    if random.once_in(12) {
        return body;
    }
    body.extend(random.pick(&["0\r\n", "0\r\n", "0\r\n", "00\r\n", "0;last\r\n", "0 \r\n"]).bytes());
    for _ in 0..random.below(6) / 4 {
        body.extend(random.pick(TRAILERS).bytes());
    }
    body.extend(b"\r\n");
    body
}

/// The targets of requests. The first eight are valid.
const TARGETS: &[&str] = &[
    "/",
    "/t/news",
    "/t/news?echo=true&a=b",
    "/a//b",
    "/%41/%2e%2e",
    "*",
    "hub:80",
    "http://hub/a?b",
    "http://hub",
    "/a#b",
    "/`",
    "/?`",
    "/<>",
    "/\u{e9}",
    "//",
    "ws://hub:80/x",
    "a",
    "http://user@hub/",
    "http://[::1]:80/",
];

/// Header lines. The first eleven are valid.
const LINES: &[&str] = &[
    "Accept: */*\r\n",
    "Origin: https://a.example\r\n",
    "Cookie: a=b\r\n",
    "cookie: c=d\r\n",
    "Empty:\r\n",
    "Spaces: \t a b \t \r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Upgrade: websocket\r\nConnection: Upgrade\r\n",
    "Expect: 100-continue\r\n",
    "High: \u{e9}\r\n",
    "Upgrade: h2c\r\n",
    "Expect: 200-ok\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 3\r\n",
    "Host: other\r\n",
    " folded: x\r\n",
    "No colon\r\n",
    "Space : x\r\n",
    "Na(me: x\r\n",
    "Bare: x\n",
    "Return: a\rb\r\n",
    "Null: \0\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Trailer: x\r\n",
    ": nameless\r\n",
    "Delete: \x7f\r\n",
];

const ENCODINGS: &[&str] = &[
    "Chunked",
    "gzip",
    "gzip, chunked",
    "chunked, chunked",
    "identity",
    "chunked;a=b",
    "xchunked",
    " chunked ",
    ",chunked",
];

const EXTENSIONS: &[&str] = &[";a", ";a=b", ";a=\"b c\"", " ", " ;a", "\t", ";\n", ";\r", ";\u{e9}", ";"];

const TRAILERS: &[&str] = &[
    "A: b\r\n",
    "Content-Length: 3\r\n",
    "C:\r\n",
    "no colon\r\n",
    " folded\r\n",
    "Na me: x\r\n",
    "X: \u{e9}\r\n",
    "Bare: x\n",
];
