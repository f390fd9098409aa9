//! Forgers: they send requests that a parser could misunderstand, always without the right token and the right origin.

use super::{
    Random, Scene, paths,
    requests::{bare, post, post_with, upgrade, upgrade_with},
    visit::{Step, Visit},
};

pub(super) fn visit(random: &mut Random, scene: &Scene) -> Visit {
    match random.below(9) {
        0 | 1 => openings_of_private_places(random),
        2 => requests_for_private_places(random),
        3 => pages_of_other_origins(random),
        4 => two_readings(random, scene),
        5 => odd_queries(random),
        6 => hidden_in_bodies(random, scene),
        7 => behind_another_request(random),
        _ => spoiled(random),
    }
}

/// Draws header lines with a wrong token.
fn wrong_token(random: &mut Random) -> String {
    let value = random.pick(&[
        "Bearer wrong",
        "Bearer the-right-wor",
        "Bearer the-right-wordx",
        "Bearer THE-RIGHT-WORD",
        "Bearer  ",
        "Bearer",
        "the-right-word",
        "Basic the-right-word",
        "Basic dGhlLXJpZ2h0LXdvcmQ=",
        "Bearer the-right-word, Bearer wrong",
        "Bearer \"the-right-word\"",
    ]);
    match random.below(4) {
        0 => String::new(),
        1 => format!("Authorization: {value}\r\nAuthorization: Bearer wrong\r\n"),
        2 => format!("X-Forwarded-Authorization: Bearer the-right-word\r\nAuthorization: {value}\r\n"),
        _ => format!("Authorization: {value}\r\n"),
    }
}

/// Draws header lines that mislead some servers.
fn odd_lines(random: &mut Random) -> &'static str {
    random.pick(&[
        "",
        "",
        "X-Original-URL: /private/plan\r\n",
        "X-Rewrite-URL: /site/secret/plan.txt\r\n",
        "X-HTTP-Method-Override: POST\r\n",
        "X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n",
        "Forwarded: for=127.0.0.1\r\n",
        "Upgrade: websocket\r\n",
        "Connection: keep-alive, upgrade, close\r\n",
        "Connection: Authorization\r\n",
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        "Sec-WebSocket-Protocol: a, b, a\r\n",
        "Expect: 100-continue\r\n",
        "Range: bytes=0-\r\n",
    ])
}

fn openings_of_private_places(random: &mut Random) -> Visit {
    let target = paths::spelling(random);
    let lines = wrong_token(random) + odd_lines(random);
    let request = upgrade_with(&target, &lines);
    let steps = vec![step_of(request, random), Step::take_all()];
    of_target(Visit::new("forged opening", steps, random), &target)
}

fn requests_for_private_places(random: &mut Random) -> Visit {
    let target = paths::spelling(random);
    let lines = wrong_token(random) + odd_lines(random);
    // OPTIONS is left out, since its answer is public.
    let method =
        random.pick(&["GET", "GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get", "PoSt", "QUERY"]);
    let request = match random.below(2) {
        0 => bare(method, &target, &lines),
        _ => post_with(&target, &lines, FORGED),
    };
    let steps = vec![step_of(request, random), Step::take_all()];
    of_target(Visit::new("forged request", steps, random), &target)
}

fn of_target(visit: Visit, target: &str) -> Visit {
    if paths::is_forbidden(target) { visit.with_accepted_max(0) } else { visit }
}

fn pages_of_other_origins(random: &mut Random) -> Visit {
    let lines = random.pick(&[
        "Origin: https://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: https://good.example.evil.example\r\n",
        "Origin: https://good.example:8443\r\n",
        "Origin: http://good.example\r\n",
        "Origin: https://good.example\r\nOrigin: https://evil.example\r\n",
        "Origin: https://evil.example\r\nOrigin: https://good.example\r\n",
        "Origin: \r\n",
        "Origin: https://good.example https://evil.example\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
    ]);
    let target = random.pick(&["/pages/x", "/%70ages/x", "/all/pages/x", "/all/pages%2fx", "/rooms/pages%2Fx"]);
    let request = if random.once_in(2) { upgrade_with(target, lines) } else { post_with(target, lines, FORGED) };
    Visit::new("page of another origin", vec![step_of(request, random), Step::take_all()], random).with_accepted_max(0)
}

/// Sends a request that two parsers could understand differently, with further requests after it that the server must
/// not answer.
fn two_readings(random: &mut Random, scene: &Scene) -> Visit {
    let plain = String::from_utf8(post("/t/forge", b"hello")).expect("text");
    let opening = String::from_utf8(upgrade("/t/forge")).expect("text");
    let chunked = |encoding: &str, body: &str| {
        format!("POST /t/forge HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {encoding}\r\n\r\n{body}")
    };
    let with = |request: &str, line: &str| request.replacen("\r\n", &format!("\r\n{line}\r\n"), 1);
    let either = if random.once_in(2) { &plain } else { &opening };
    let request = match random.below(20) {
        0 => with(&plain, "Transfer-Encoding: chunked"),
        1 => with(&plain, random.pick(&["Content-Length: 50", "Content-Length: 5", "Content-Length: 0"])),
        2 => plain.replace(
            "Length: 5",
            random.pick(&["Length: 5, 5", "Length: +5", "Length: 0x5", "Length: -1", "Length: "]),
        ),
        3 => plain.replace("Length: 5", "Length: 18446744073709551621"),
        4 => chunked(random.pick(&["gzip, chunked", "chunked, identity", "xchunked", "chunked, chunked"]), "0\r\n\r\n"),
        5 => chunked("chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
        6 => chunked("\u{b}chunked", "0\r\n\r\n"),
        7 => chunked("chunked", "0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"),
        8 => chunked(
            "chunked",
            random.pick(&["hello\r\n", "5\nhello\r\n0\r\n\r\n", "5\r\nhelloo\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n"]),
        ),
        9 => chunked(
            "chunked",
            random.pick(&[
                "5;\nx\r\nhello\r\n0\r\n\r\n",
                "-5\r\nhello\r\n",
                "0x5\r\nhello\r\n",
                "10000000000000005\r\nhello",
            ]),
        ),
        10 => either.replace("\r\n", "\n"),
        11 => either.replacen("\r\n", "\n", 1),
        12 => with(either, random.pick(&["X: a\nUpgrade: websocket", "X: a\rUpgrade: websocket", "X: a\0b"])),
        13 => with(either, random.pick(&["X: a\r\n b", "X : a", ": a", "X", "Host: b", "X\t: a", "(: a"])),
        14 => either.replacen(' ', random.pick(&["  ", "\t", " \t"]), 1),
        15 => {
            let version = random.pick(&["HTTP/1.1 x", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1\u{b}", "HTTP/11"]);
            either.replacen("HTTP/1.1", version, 1)
        }
        16 => plain.replace("Host: a\r\n", ""),
        17 => with(&opening, "Content-Length: 500"),
        18 => with(&opening, random.pick(&["Transfer-Encoding: chunked", "Transfer-Encoding: gzip"])),
        _ => with(&opening, "Transfer-Encoding: chunked") + "0\r\n\r\n",
    };
    let bytes = [request.into_bytes(), hidden(random, scene)].concat();
    let steps = vec![step_of(bytes, random), Step::take_all()];
    Visit::new("two readings", steps, random).with_accepted_max(0)
}

/// Returns the requests that an attacker hides behind another, or in its body.
fn hidden(random: &mut Random, scene: &Scene) -> Vec<u8> {
    let target = &scene.honest_targets[random.below(scene.honest_targets.len())];
    [upgrade(target), post(target, FORGED)].concat()
}

/// Hides requests in the body of another request, which the server publishes unchanged.
fn hidden_in_bodies(random: &mut Random, scene: &Scene) -> Visit {
    let hidden = hidden(random, scene);
    let request = if random.once_in(2) {
        post("/t/forge", &hidden)
    } else {
        let cut = 1 + random.below(hidden.len() - 1);
        super::requests::post_in_chunks("/t/forge", &hidden, cut)
    };
    Visit::new("hidden in a body", vec![step_of(request, random), Step::take_all()], random).with_accepted_max(1)
}

/// Asks for a private place after a request that keeps the connection open.
fn behind_another_request(random: &mut Random) -> Visit {
    let target = paths::spelling(random);
    let first = random.pick(&["GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"]);
    let behind = match random.below(3) {
        0 => upgrade_with(&target, &wrong_token(random)),
        1 => post_with(&target, &wrong_token(random), FORGED),
        _ => bare("GET", &target, &wrong_token(random)),
    };
    let steps = vec![step_of([first.as_bytes(), &behind].concat(), random), Step::take_all()];
    let visit = Visit::new("behind another request", steps, random);
    let own = usize::from(first.contains("healthz"));
    if paths::is_forbidden(&target) { visit.with_accepted_max(own) } else { visit }
}

/// Opens a WebSocket or publishes with an invalid query.
fn odd_queries(random: &mut Random) -> Visit {
    let query = random.pick(&[
        "mode=none",
        "mode=sub&mode=pub",
        "echo=1",
        "echo=true&echo=true",
        "scope=planet",
        "name=x",
        "mode",
        "=",
        "mode=%zz",
        "mode=%73ub&mode=sub",
        "ech%6f=true&echo=false",
        "mode=sub;echo=true",
        "mode=sub\u{0}",
    ]);
    let target = format!("/t/forge?{query}");
    let request = if random.once_in(3) { post(&target, FORGED) } else { upgrade(&target) };
    Visit::new("odd query", vec![step_of(request, random), Step::take_all()], random)
}

/// Sends a request with some bytes changed.
fn spoiled(random: &mut Random) -> Visit {
    let mut request = match random.below(3) {
        0 => upgrade("/t/forge"),
        1 => post("/t/forge", FORGED),
        _ => bare("GET", "/site/index.html", ""),
    };
    for _ in 0..1 + random.below(4) {
        random.spoil(&mut request);
    }
    Visit::new("spoiled request", vec![step_of(request, random), Step::take_all()], random)
}

/// Sends a request at once, or in two pieces, or slowly.
fn step_of(request: Vec<u8>, random: &mut Random) -> Step {
    match random.below(6) {
        0 => Step::crawl(request, random),
        _ => Step::send(request),
    }
}

/// A message that honest subscribers must never see.
const FORGED: &[u8] = b"forged";
