//! Runs the test vectors of `ringhub.v1`, tests/vectors/ringhub.v1.json, against the server.

use std::{collections::HashMap, fs, io::Write as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::support::{Client, Received, Server, dial, program, read_response};

/// The file.
#[derive(Deserialize)]
struct Vectors {
    vectors: Vec<Conversation>,
}

/// A conversation with a server.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Conversation {
    name: String,
    settings: Option<String>,
    steps: Vec<Step>,
}

/// A step of a conversation.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Step {
    client: Option<String>,
    open: Option<String>,
    protocols: Option<Vec<String>>,
    send: Option<String>,
    send_base64: Option<String>,
    expect: Option<String>,
    expect_hex: Option<String>,
    expect_nothing: Option<bool>,
    post: Option<String>,
    r#type: Option<String>,
    body: Option<String>,
    body_base64: Option<String>,
}

#[test]
fn the_server_answers_as_the_vectors_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/ringhub.v1.json");
    let Vectors { vectors } = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let plain = Server::start(&["--shards", "1"]);
    assert!(vectors.len() >= 20, "{} conversations", vectors.len());
    for (number, conversation) in vectors.iter().enumerate() {
        println!("{}", conversation.name);
        match &conversation.settings {
            None => run(&plain, conversation),
            Some(settings) => {
                let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("vector-{number}.toml"));
                fs::write(&file, settings).unwrap();
                let mut command = program();
                command.args(["--shards", "1", "--config"]).arg(&file);
                run(&Server::start_command(command), conversation);
            }
        }
    }
}

fn run(server: &Server, conversation: &Conversation) {
    let mut clients: HashMap<&str, Client> = HashMap::new();
    for step in &conversation.steps {
        if let Some(topic) = &step.post {
            let kind = step.r#type.as_deref().unwrap();
            let body = match (&step.body, &step.body_base64) {
                (Some(body), None) => body.clone().into_bytes(),
                (None, Some(body)) => STANDARD.decode(body).unwrap(),
                _ => panic!("{step:?} has one body"),
            };
            let head = format!(
                "POST /t/{topic} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: \
                 {}\r\n\r\n",
                body.len()
            );
            let mut stream = dial(server.address());
            stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
            let response = read_response(&mut stream, &[], true);
            assert_eq!(response.status(), 202, "{step:?}");
            continue;
        }
        let name = step.client.as_deref().expect("a step has a client");
        if let Some(target) = &step.open {
            let protocols: Vec<&str> = step.protocols.iter().flatten().map(String::as_str).collect();
            let opened = Client::open_with(dial(server.address()), target, &protocols, &[]);
            clients.insert(name, opened.unwrap_or_else(|response| panic!("{step:?}: {response:?}")));
            continue;
        }
        let client = clients.get_mut(name).expect("a client that has been opened");
        if let Some(message) = &step.send {
            client.send_text(message);
        } else if let Some(message) = &step.send_base64 {
            client.send_binary(&STANDARD.decode(message).unwrap());
        } else if let Some(expected) = &step.expect {
            match client.receive() {
                Received::Text(found) => assert!(is_like(&found, expected), "{}: {found}\n{step:?}", conversation.name),
                other => panic!("{}: {other:?}\n{step:?}", conversation.name),
            }
        } else if let Some(expected) = &step.expect_hex {
            let found = match client.receive() {
                Received::Binary(found) => found,
                Received::Text(found) => found.into_bytes(),
                other => panic!("{}: {other:?}\n{step:?}", conversation.name),
            };
            let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(is_like(&found, expected), "{}: {found}\n{step:?}", conversation.name);
        } else if step.expect_nothing == Some(true) {
            client.expect_nothing();
        } else {
            panic!("{step:?} says nothing");
        }
    }
}

/// Returns whether a frame is the expected one, in which `<epoch>` and `<reason>` stand for other characters.
fn is_like(found: &str, expected: &str) -> bool {
    let Some(at) = expected.find(['<']) else { return found == expected };
    let (before, rest) = expected.split_at(at);
    let Some(found) = found.strip_prefix(before) else { return false };
    if let Some(rest) = rest.strip_prefix("<epoch>") {
        // In a binary frame the epoch has 16 digits, in JSON it ends with its string.
        let digits = found.find(|digit: char| !digit.is_ascii_hexdigit()).unwrap_or(16).min(16);
        return digits > 0 && is_like(&found[digits..], rest);
    }
    if let Some(rest) = rest.strip_prefix("<reason>") {
        let mut is_escaped = false;
        let end = found.find(|character| {
            let is_end = character == '"' && !is_escaped;
            is_escaped = character == '\\' && !is_escaped;
            is_end
        });
        return end.is_some_and(|end| end > 0 && is_like(&found[end..], rest));
    }
    found.starts_with('<') && is_like(&found[1..], &rest[1..])
}
