//! Files of settings, for `bodies::settings`.

use ringhub::config::{Preset, SETTINGS};

use crate::random::Random;

/// Makes a file with some settings and routes, most of them valid; one in four is spoiled.
pub(crate) fn settings(random: &mut Random) -> Vec<u8> {
    let mut file = String::new();
    let first = random.below(SETTINGS.len());
    let step = 1 + random.below(8);
    for setting in SETTINGS.iter().skip(first).step_by(step) {
        let value = match setting.preset {
            _ if random.once_in(24) => random.pick(ODD).into(),
            Preset::Value(text) => value(random, text),
            Preset::Otherwise { example, .. } => value(random, example),
        };
        file += &format!("{} = {value}{}\n", setting.key, random.pick(&["", "", "", "  # \u{e9}"]));
    }
    if random.once_in(12) {
        file += random.pick(&[
            "max_mesage = 1\n",
            "max-message = 1\n",
            "listen = 1\n",
            "max_fragments = 5\n",
            "\"\" = 1\n",
        ]);
    }
    for at in 0..random.below(4) {
        route(random, at, &mut file);
    }
    let mut bytes = file.into_bytes();
    if random.once_in(4) {
        random.spoil(&mut bytes);
    }
    bytes
}

/// Returns a value similar to a valid one, as TOML.
fn value(random: &mut Random, good: &str) -> String {
    let digits: String = good.chars().take_while(char::is_ascii_digit).collect();
    let unit = &good[digits.len()..];
    if !digits.is_empty() && !unit.contains(['.', ':']) {
        let number = random.pick(&[0_u64, 1, 2, 3, 60, 125, 1_000, 65_536, 70_000]);
        return match (unit, random.below(8)) {
            ("", 0) => format!("\"{number}\""),
            ("", 1) => format!("0x{number:x}"),
            ("", _) => {
                if random.once_in(2) {
                    digits
                } else {
                    number.to_string()
                }
            }
            (unit, 0) => format!("\"{number}{unit}\""),
            (unit, 1) => format!("\"{number} {unit}\""),
            (unit, _) => format!("\"{digits}{unit}\""),
        };
    }
    match random.below(6) {
        0 => format!("['{good}']"),
        1 => format!("[\n  {good:?},\n]"),
        2 => format!("'''{good}'''"),
        _ => format!("{good:?}"),
    }
}

fn route(random: &mut Random, at: usize, file: &mut String) {
    let handlers = [
        ("/t{at}/{topic...}", "hub"),
        ("/rooms{at}/{topic}", "hub"),
        ("/echo{at}", "echo"),
        ("/%65cho{at}/{x}", "echo"),
        ("/watch{at}", "page"),
        ("/site{at}", "files"),
    ];
    let (pattern, handler) = random.pick(&handlers);
    let pattern = if random.once_in(12) {
        random.pick(&["/a//b", "a", "/{topic}", "/{x", "/%", "/", "/healthz"])
    } else {
        pattern
    };
    *file += &format!("[[routes]]\nmatch = {:?}\nhandler = {handler:?}\n", pattern.replace("{at}", &at.to_string()));
    if handler == "files" {
        *file += "documents = \".\"\n";
    }
    let websocket = matches!(handler, "hub" | "echo") || random.once_in(12);
    for _ in 0..random.below(4) {
        if websocket {
            *file += random.pick(WEBSOCKET_LINES);
        }
    }
    if random.once_in(3) {
        *file += random.pick(&[
            "allowed_origins = \"https://a.example\"\n",
            "allowed_origins = []\n",
            "admit = \"any\"\n",
            "admit = 1\n",
        ]);
    }
    if random.once_in(3) {
        *file += random.pick(TABLES);
    }
}

const ODD: &[&str] = &[
    "1",
    "-1",
    "\"\"",
    "[]",
    "true",
    "1.5",
    "1979-05-27",
    "{ a = 1 }",
    "[[1]]",
    "99999999999999999999",
    "\"\\u0000\"",
    "[1, \"a\"]",
    "",
];

const WEBSOCKET_LINES: &[&str] = &[
    "max_message = \"64KiB\"\n",
    "max_frame = 1000\n",
    "max_fragments = 16\n",
    "ping_interval = \"5s\"\n",
    "pong_timeout = \"5s\"\n",
    "ping_payload = \"are you\\tthere\"\n",
    "check_utf8 = false\n",
    "protocols = [\"v1.echo\", \"v2\"]\n",
    "protocols = [\"a b\"]\n",
    "topic_prefix = \"news/\"\n",
    "topic_prefix = \"\"\n",
    "max_frame = \"1GiB\"\n",
    "ping_interval = 0\n",
    "max_fragment = 16\n",
];

const TABLES: &[&str] = &[
    "[routes.bearer.tokens]\nbilling = \"hush-hush-0\"\nother = [\"hush-hush-1\", \"hush-hush-2\"]\n",
    "[routes.bearer.tokens]\nbilling = \"hush hush\"\n",
    "[routes.bearer]\ntokens = { \"a b\" = \"hush-hush-3\" }\n",
    "[routes.basic]\nrealm = \"staff\"\nusers = { alice = \"hush-hush-4\", \"b:c\" = \"x\" }\n",
    "[routes.basic.users]\nalice = \"hush-hush-5\"\n'bo\\b' = \"sha256:00\"\n",
    "[routes.network]\nallow = [\"10.0.0.0/8\", \"fd00::/8\"]\ndeny = \"10.66.0.0/16\"\n",
    "[routes.network]\nallow = \"10.0.0.1/8\"\n",
    "[routes.network]\nalow = \"10.0.0.0/8\"\n",
];
