//! Writes `src/surface/client.min.js`, the form of `client.js` that the server has, and checks its size.
//!
//! `RINGHUB_WRITE=1 cargo test --test repository client_js` writes it.
//!
//! Comments on lines of their own, spaces and line ends that JavaScript does not need are left out, and names that only
//! this file uses are shortened: all private names, and [`NAMES`]. A string, a template and a regular expression are on
//! one line. A line ends with a token that cannot end a statement, or the next begins with one, or the line end stays.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
};

use crate::files::root;

/// Names of variables, parameters, and members of objects that no other code sees. No template names any of them.
const NAMES: &[&str] = &[
    "again",
    "answer",
    "begin",
    "command",
    "commands",
    "decoder",
    "DEFAULTS",
    "ended",
    "entry",
    "failure",
    "fault",
    "frame",
    "how",
    "isAsked",
    "isMeant",
    "isSilent",
    "members",
    "octet",
    "openedAt",
    "packed",
    "passing",
    "payload",
    "PROTOCOL",
    "protocols",
    "range",
    "reject",
    "resolve",
    "response",
    "socket",
    "topicEnd",
    "turn",
    "UNANSWERED_MAX",
    "unpack",
    "view",
    "wasSent",
];

/// The most bytes of the module as it is served.
const BYTES_MAX: usize = 8_192;

#[test]
fn client_js_is_served_in_its_short_form() {
    let source = fs::read_to_string(root().join("src/surface/client.js")).unwrap();
    let short = shortened(&source, NAMES);
    assert!(short.len() <= BYTES_MAX, "{} bytes", short.len());
    let path = root().join("src/surface/client.min.js");
    if env::var_os("RINGHUB_WRITE").is_some() {
        fs::write(&path, &short).unwrap();
    }
    let is_same = fs::read_to_string(path).unwrap() == short;
    assert!(is_same, "client.min.js is old: RINGHUB_WRITE=1 cargo test --test repository client_js");
}

#[test]
fn strings_stay_and_names_are_shortened() {
    let source = "// A comment.\nclass A {\n  #name = \"a  command\";\n\n  run(command, x) {\n    \
                  return /^[`'\" ]$/.test(command) ? `${x} ; ` : x in command.#name\n    x()\n  }\n}\n";
    let short = "class A{#a=\"a  command\";run(a,x){return/^[`'\" ]$/.test(a)?`${x} ; `:x in a.#a\nx()}}\n";
    assert_eq!(shortened(source, &["command"]), short);
}

/// Returns the short form of a module.
fn shortened(source: &str, names: &[&str]) -> String {
    let lines = source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    let lines: Vec<Vec<Token<'_>>> = lines.map(tokens).collect();
    let words =
        lines.iter().flatten().filter_map(|token| if let Token::Word(word) = token { Some(*word) } else { None });
    let words: BTreeSet<&str> = words.collect();
    let privates = words.iter().copied().filter(|word| word.starts_with('#'));
    let privates = privates.zip(LETTERS.chars().map(|letter| format!("#{letter}")));
    let free = LETTERS.chars().map(String::from).filter(|letter| !words.contains(letter.as_str()));
    let short: BTreeMap<&str, String> = privates.chain(names.iter().copied().zip(free)).collect();
    let mut out = String::new();
    for line in &lines {
        let mut text = String::new();
        for token in line {
            match token {
                Token::Word(word) => {
                    if text.ends_with(is_of_word) {
                        text.push(' ');
                    }
                    text.push_str(short.get(word).map_or(*word, String::as_str));
                }
                Token::Literal(literal) => {
                    let parts = literal.split("${").skip(1).filter_map(|part| part.split('}').next());
                    let used =
                        parts.flat_map(|part| part.split(|c| !is_of_word(c))).find(|word| short.contains_key(word));
                    assert_eq!(used, None, "{literal}");
                    text.push_str(literal);
                }
                Token::Sign(sign) => text.push(*sign),
            }
        }
        let goes_on = out.ends_with(['{', ';', ',', '(', '[']) || text.starts_with(['}', '?', ':', ')', '|', '&', '.']);
        if !out.is_empty() && !goes_on {
            out.push('\n');
        }
        out.push_str(&text);
    }
    out.push('\n');
    out
}

enum Token<'a> {
    Word(&'a str),
    Literal(&'a str),
    Sign(char),
}

fn tokens(line: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '`' => rest[1..].find(first).expect("a literal ends on its line") + 2,
            '/' if rest.starts_with("/^") => rest.find("$/").expect("a regular expression ends on its line") + 2,
            first if is_of_word(first) => rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        };
        let (text, after) = rest.split_at(length);
        match first {
            ' ' => {}
            '"' | '`' | '/' if length > 1 => tokens.push(Token::Literal(text)),
            first if is_of_word(first) => tokens.push(Token::Word(text)),
            first => tokens.push(Token::Sign(first)),
        }
        rest = after;
    }
    tokens
}

fn is_of_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || ['_', '$', '#'].contains(&character)
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
