//! `ringhub health`: the request of a container's health check, and all answers that make it fail.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use crate::support::{program, run_to_end};

#[test]
fn a_server_that_says_200_is_alive() {
    for answer in ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.0 200 \r\n\r\n", "HTTP/1.1 200 OK\n\n"] {
        let address = answering(move |stream| stream.write_all(answer.as_bytes()));
        check(address, 0, "");
    }
}

/// The request is complete HTTP/1.1. The answer may come in pieces.
#[test]
fn the_request_is_whole_and_the_answer_may_come_in_pieces() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let head = read_head(&mut stream);
        for piece in "HTTP/1.1 200 OK\r\n\r\n".split_inclusive(' ') {
            stream.write_all(piece.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
        head
    });
    check(address, 0, "");
    let head = server.join().unwrap();
    assert_eq!(head, format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"));
}

#[test]
fn every_other_answer_is_refused_by_name() {
    let refused = |answer: &'static [u8], complaint: &str| {
        let address = answering(move |stream| stream.write_all(answer));
        check(address, 1, &format!("ringhub: {address} {complaint}\n"));
    };
    refused(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "answered 503 to GET /healthz");
    refused(b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404 to GET /healthz");
    refused(b"HTTP/1.1 2000\r\n\r\n", "answered 2000 to GET /healthz");
    refused(b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer in HTTP: \"SSH-2.0-OpenSSH_9.2\"");
    refused(b"\x15\x03\xff\n200", "does not answer in HTTP: \"\\u{15}\\u{3}\u{fffd}\"");
    refused(b"HTTP/1.1", "does not answer in HTTP: \"HTTP/1.1\"");
    refused(b"", "does not answer in HTTP: \"\"");
    refused(&[b'x'; 5_000], &format!("does not answer in HTTP: \"{}\"", "x".repeat(256)));
}

#[test]
fn nobody_listens() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    check(free, 1, &format!("ringhub: {free} cannot be asked: Connection refused (os error 111)\n"));
}

#[test]
fn an_answer_that_does_not_come_is_not_waited_for() {
    let silent = answering(|stream| stream.read_to_end(&mut Vec::new()).map(drop));
    check(silent, 1, &format!("ringhub: {silent} has not answered within 2s\n"));
    // An answer that trickles in without end also has only 2 s.
    let trickling = answering(|stream| {
        loop {
            stream.write_all(b"H")?;
            thread::sleep(Duration::from_millis(50));
        }
    });
    check(trickling, 1, &format!("ringhub: {trickling} has not answered within 2s\n"));
}

/// The address follows from the `listen` setting of the container's server.
#[test]
fn the_address_follows_from_where_the_server_listens() {
    let asked = |listen: &str, loopback: &str| {
        let listener = TcpListener::bind(loopback).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            read_head(&mut stream);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        });
        let mut command = program();
        command.arg("health").env("RINGHUB_LISTEN", listen.replace("PORT", &port.to_string()));
        let output = run_to_end(command);
        assert!(output.status.success(), "{listen}: {}", String::from_utf8_lossy(&output.stderr));
    };
    asked("0.0.0.0:PORT", "127.0.0.1:0");
    asked("127.0.0.1:PORT", "127.0.0.1:0");
    asked("[::]:PORT", "[::1]:0");
    asked("127.0.0.1:PORT,192.0.2.1:1", "127.0.0.1:0");
}

/// The address may also come from the server's settings file.
#[test]
fn a_file_says_where_the_server_listens() {
    let address = answering(|stream| stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"));
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("health-{}.toml", std::process::id()));
    fs::write(&file, format!("listen = \"{address}\"")).unwrap();
    let mut command = program();
    command.arg("health").env("RINGHUB_CONFIG", &file);
    let output = run_to_end(command);
    fs::remove_file(&file).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The server has read its settings long ago, so an error in its other settings now says nothing about its health.
#[test]
fn only_the_address_is_read() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("health-folder-{}", std::process::id()));
    fs::create_dir_all(folder.join("site")).unwrap();
    let file = folder.join("hub.toml");
    let address = |answers: usize| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for _ in 0..answers {
                let mut stream = listener.accept().unwrap().0;
                read_head(&mut stream);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            }
        });
        address
    };
    let route = "[[routes]]\nmatch = \"/\"\ndocuments = \"site\"";
    fs::write(&file, format!("listen = \"{}\"\nnonsense = 1\nshards = \"x\"\n{route}", address(2))).unwrap();
    let run = || {
        let mut command = program();
        command.arg("health").env("RINGHUB_CONFIG", &file).env("RINGHUB_MAX_MESAGE", "1").env("RINGHUB_PIN", "x");
        let output = run_to_end(command);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let alive = (Some(0), String::new());
    assert_eq!(run(), alive);
    fs::remove_dir(folder.join("site")).unwrap();
    assert_eq!(run(), alive);
    fs::remove_dir_all(&folder).unwrap();
}

/// If the named file cannot be used, the check fails; it does not fall back to the default address.
#[test]
fn settings_that_cannot_be_read_are_an_error() {
    let run = |arguments: &[&str], file: &str| {
        let mut command = program();
        command.arg("health").args(arguments).env("RINGHUB_CONFIG", file);
        let output = run_to_end(command);
        assert!(output.stdout.is_empty());
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, told) = run(&[], "nope.toml");
    assert!(status == Some(1) && told.starts_with("ringhub: RINGHUB_CONFIG: \"nope.toml\" cannot be read: "), "{told}");
    let (status, told) = run(&["--config", "no.toml"], "nope.toml");
    assert!(status == Some(1) && told.starts_with("ringhub: --config: \"no.toml\" cannot be read: "), "{told}");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("health-bad-{}.toml", std::process::id()));
    let path = file.to_str().unwrap();
    let address = answering(|stream| stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"));
    fs::write(&file, "shards = 1\nlisten = \"nowhere\"").unwrap();
    let by_variable = run(&[], path);
    fs::write(&file, format!("listen = \"{address}\"")).unwrap();
    let by_flag = run(&["--config", path], "nope.toml");
    fs::remove_file(&file).unwrap();
    let (status, told) = by_variable;
    let expected = format!("ringhub: {path}:2: listen: \"nowhere\" is no address and port");
    assert!(status == Some(1) && told.starts_with(&expected), "{told}");
    assert_eq!(by_flag, (Some(0), String::new()));
    // With `--address` no settings are read.
    let (status, told) = run(&["--address", "foo"], "nope.toml");
    let expected = "ringhub: --address: \"foo\" is no address and port; write it like 127.0.0.1:6455 or [::1]:6455\n";
    assert_eq!((status, &*told), (Some(1), expected));
    let address = answering(|stream| stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n"));
    assert_eq!(run(&["--address", &address.to_string()], "nope.toml"), (Some(0), String::new()));
}

/// For log collectors, each line is one JSON object, with a field for each value that can be searched for.
#[test]
fn failures_are_json_where_logs_are() {
    let told = |arguments: &[&str], variable: &str| {
        let mut command = program();
        command.arg("health").args(arguments).env("RINGHUB_LOG_FORMAT", variable);
        let output = run_to_end(command);
        assert!(output.status.code() == Some(1) && output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    let address = || answering(|stream| stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")).to_string();
    for (flag, variable) in [(&["--log-format", "json"][..], "text"), (&[], "json")] {
        let address = address();
        let line = told(&[&["--address", &address], flag].concat(), variable);
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        let message = format!("{address} answered 503 to GET /healthz");
        for (key, value) in [("level", "ERROR"), ("message", &message), ("address", &address), ("status", "503")] {
            assert_eq!(event[key], value, "{key} of {line}");
        }
    }
    let address = address();
    let line = told(&["--address", &address, "--log-format", "text"], "json");
    assert_eq!(line, format!("ringhub: {address} answered 503 to GET /healthz\n"));
    // If the settings cannot be read, the event has neither an address nor a status.
    let line = told(&["--config", "no.toml"], "json");
    let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
    assert!(event["message"].as_str().unwrap().starts_with("--config: \"no.toml\" cannot be read"), "{line}");
    assert!(event.get("status").is_none() && event.get("address").is_none(), "{line}");
}

/// Runs `ringhub health` and expects this status and standard error.
fn check(address: SocketAddr, status: i32, complaint: &str) {
    let mut command = program();
    command.args(["health", "--address", &address.to_string()]);
    let output = run_to_end(command);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), &*stderr), (Some(status), complaint));
    assert!(output.stdout.is_empty());
}

/// Starts a listener that reads one request and answers it by `answer`.
fn answering<F>(answer: F) -> SocketAddr
where
    F: FnOnce(&mut TcpStream) -> std::io::Result<()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        read_head(&mut stream);
        // The check may hang up before it has read everything; that is no failure here.
        drop(answer(&mut stream));
    });
    address
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
