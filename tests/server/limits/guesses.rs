//! The rate of wrong credentials: what counts as a guess, and whose rate it uses up.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    callbacks::Application,
    support::{Client, Server, clean, dial, dial_from, program, read_response},
};

/// Starts a server with these settings in a file.
fn start(settings: &str, flags: &[String]) -> Server {
    static NUMBERS: AtomicU32 = AtomicU32::new(0);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("ringhub-guess-{}-{number}.toml", std::process::id()));
    fs::write(&file, settings).expect("a file of settings");
    let mut command = clean(program());
    command.args(["serve", "--config"]).arg(&file).args(flags);
    let server = Server::start_command(command);
    fs::remove_file(&file).expect("the file is there");
    server
}

/// Publishes with each of these header lines, which may be none. Returns the statuses.
fn publish<const N: usize>(server: &Server, target: &str, lines: [&str; N]) -> [u16; N] {
    lines.map(|line| {
        let line = if line.is_empty() { String::new() } else { format!("{line}\r\n") };
        let request = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{line}Content-Length: 2\r\n\r\nhi");
        let mut stream = dial(server.address());
        stream.write_all(request.as_bytes()).expect("the server takes the request");
        read_response(&mut stream, &[], true).status()
    })
}

const RIGHT: &str = "Authorization: Bearer right";

/// A page that shows guesses by its visitors' browsers uses up a rate of its own. The visitors, and all who share their
/// address, are served.
#[test]
fn a_foreign_page_does_not_use_up_the_rate_of_its_visitors() {
    let server = Server::start(&["--publish-tokens=right", "--max-guess-rate", "1/h burst 2"]);
    let guess = "/t/x?access_token=guess";
    let (cross, evil) = ("Sec-Fetch-Site: cross-site", "Origin: https://evil.example");
    assert_eq!(publish(&server, guess, [cross, evil, cross, evil]), [401, 401, 429, 429]);
    assert_eq!(publish(&server, "/t/x", [RIGHT, "Origin: http://a"]), [202, 401]);
    assert_eq!(publish(&server, "/t/x?access_token=right", ["", "Origin: http://a"]), [202, 202]);
    // On a shard too.
    let open = |lines: &[(&str, &str)], token: &str| {
        let target = format!("/t/x?mode=pub&access_token={token}");
        let opened = Client::open_with(dial(server.address()), &target, &[], lines);
        opened.map_or_else(|refused| refused.status(), |_| 101)
    };
    let foreign = [("Origin", "https://evil.example")];
    assert_eq!([open(&foreign, "right"), open(&[], "right")], [429, 101]);
    assert_eq!([open(&[], "a"), open(&[], "b"), open(&[], "right")], [401, 401, 429]);
}

/// A page that `allowed_origins` keeps out has no credentials looked at, so it guesses nothing.
#[test]
fn an_origin_that_is_refused_is_no_guess() {
    let flags = ["--publish-tokens=right", "--max-guess-rate", "1/h burst 2", "--allowed-origins=https://app.example"];
    let server = Server::start(&flags);
    let (cross, evil) = ("Sec-Fetch-Site: cross-site", "Origin: https://evil.example");
    assert_eq!(publish(&server, "/t/x?access_token=guess", [cross, evil, cross, evil]), [403; 4]);
    assert_eq!(publish(&server, "/t/x?access_token=right", ["", "Origin: https://app.example"]), [202, 202]);
}

/// A right token that is for something else, or for another topic, is no guess.
#[test]
fn right_credentials_are_no_guesses() {
    let settings = r#"
        max_guess_rate = "1/h burst 2"
        publish_tokens = ["right"]
        subscribe_tokens = ["other"]
        [[topics]]
        match = "closed/*"
        publish = "nobody"
    "#;
    let server = start(settings, &[]);
    assert_eq!(publish(&server, "/t/closed/x", [RIGHT; 4]), [403; 4]);
    assert_eq!(publish(&server, "/t/x", ["Authorization: Bearer other"; 4]), [403; 4]);
    assert_eq!(publish(&server, "/t/x", ["Cookie: theirs=1"; 4]), [401; 4]);
    assert_eq!(publish(&server, "/t/x", [RIGHT]), [202]);
    let wrong = "Authorization: Bearer wrong";
    assert_eq!(publish(&server, "/t/x", [wrong, wrong, RIGHT]), [401, 401, 429]);
    // A cookie that nobody looks at is as good as none.
    assert_eq!(publish(&server, "/t/x", ["Cookie: theirs=1"]), [401]);
}

/// The token of a user that an issuer has signed is no guess at the tokens of services beside the issuer, whatever else
/// is wrong with it.
#[test]
fn a_signed_token_beside_a_list_is_no_guess() {
    let settings = r#"
        max_guess_rate = "1/h burst 2"
        [[issuers]]
        name = "login"
        secrets = "a random text of 32 bytes, or more"
        [[routes]]
        match = "/t/{topic...}"
        handler = "hub"
        bearer = { tokens = { service = "right" } }
        jwt = "login"
    "#;
    let server = start(settings, &[]);
    let bearer = |claims: &str, signature: &str| format!("Authorization: Bearer {HEADER}.{claims}.{signature}");
    // {"sub":"ann","exp":1}
    let expired = &*bearer("eyJzdWIiOiJhbm4iLCJleHAiOjF9", "bR-yQsBM4sNbCFfuS-xxv2PK1bo6adfsjnpwwHHyaeY");
    // {"sub":"ann","exp":4102444800,"subscribe":["x"]}
    let claims = "eyJzdWIiOiJhbm4iLCJleHAiOjQxMDI0NDQ4MDAsInN1YnNjcmliZSI6WyJ4Il19";
    let for_reading = &*bearer(claims, "2pteH4V1L6Sx3bhzQTjsNqr0lOqT3HZQa3Y_pj5goUI");
    assert_eq!(publish(&server, "/t/x", [expired; 4]), [401; 4]);
    assert_eq!(publish(&server, "/t/x", [for_reading; 4]), [403; 4]);
    let forged = &*bearer(claims, "bR-yQsBM4sNbCFfuS-xxv2PK1bo6adfsjnpwwHHyaeY");
    assert_eq!(publish(&server, "/t/x", [RIGHT, forged, "Authorization: Bearer guess", RIGHT]), [202, 401, 401, 429]);
}

/// {"alg":"HS256"}
const HEADER: &str = "eyJhbGciOiJIUzI1NiJ9";

/// While the application does not answer, a wrong password is answered 503, and is a guess all the same.
#[test]
fn a_guess_that_is_answered_503_counts() {
    let settings = r#"
        max_guess_rate = "1/h burst 3"
        callback_url = "http://127.0.0.1:1/"
        callback_secrets = ["a-long-random-word"]
        [[routes]]
        match = "/t/{topic...}"
        handler = "hub"
        admit = "any"
        basic = { users = { alice = "secret" } }
        callback = true
    "#;
    let server = start(settings, &[]);
    let (right, wrong) = ("Authorization: Basic YWxpY2U6c2VjcmV0", "Authorization: Basic YWxpY2U6Z3Vlc3M=");
    assert_eq!(publish(&server, "/t/x", [right, wrong, wrong, "", wrong]), [202, 503, 503, 503, 503]);
    assert_eq!(publish(&server, "/t/x", [wrong, right, ""]), [429, 429, 503]);
    let mut elsewhere = dial_from(server.address(), Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))), None);
    let request = format!("POST /t/x HTTP/1.1\r\nHost: a\r\n{right}\r\nContent-Length: 2\r\n\r\nhi");
    elsewhere.write_all(request.as_bytes()).expect("the server takes the request");
    assert_eq!(read_response(&mut elsewhere, &[], true).status(), 202);
}

/// Whatever a client chooses to show the application is a guess if the application denies it, by whatever status. A
/// cookie, which every browser adds, is none.
#[test]
fn what_the_application_denies_is_a_guess() {
    let application = Application::start();
    let settings = r#"
        max_guess_rate = "1/h burst 2"
        callback_headers = ["cookie", "x-api-key"]
        [[routes]]
        match = "/t/{topic...}"
        handler = "hub"
        callback = true
    "#;
    let server = start(settings, &application.flags());
    assert_eq!(publish(&server, "/t/x", ["Cookie: ben"; 4]), [402; 4]);
    assert_eq!(publish(&server, "/t/x", ["X-Api-Key: a", "X-Api-Key: b"]), [402, 402]);
    let lines = ["X-Api-Key: c", "X-Api-Key: d\r\nCookie: ann", "Cookie: ann", "Cookie: ben", "Authorization: Basic x"];
    assert_eq!(publish(&server, "/t/x", lines), [429, 429, 202, 402, 402]);
    assert_eq!(publish(&server, "/t/x?access_token=guess", [""]), [429], "the application is told the query");
}
