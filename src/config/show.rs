//! Prints settings: a file with every setting, and the values of a configuration.

use std::fmt::Write as _;

use super::{
    checked::Config,
    descriptors::{self, DescriptorPart},
    given::Given,
    memory::{MemoryPart, mib},
    settings::{Preset, SETTINGS, Setting},
    toml::line,
};
use crate::sys::memory::{self as machine, Available};

/// Returns a file of TOML with every setting and its help, commented out.
///
/// A line that begins with `#` and no space is a setting; without the `#` it is in force.
#[must_use]
pub fn example() -> String {
    let mut text = String::from(EXAMPLE_HEAD);
    by_heading(&mut text, |text, setting| {
        text.push('\n');
        comment(text, setting.help());
        let given = match setting.preset {
            Preset::Value(value) => value,
            Preset::Otherwise { words, example, .. } => {
                comment(text, &format!("Default: {words}."));
                example
            }
        };
        line(text, &format!("#{} = {}", setting.key, setting.toml(&setting.split(given))));
    });
    text + EXAMPLE_ROUTES + EXAMPLE_ISSUERS
}

/// Returns the values of the settings as TOML, with the source of each, and the memory and the descriptors that follow
/// from them. Tokens are masked.
#[must_use]
pub fn effective(given: &Given, config: &Config) -> String {
    let mut text = String::new();
    by_heading(&mut text, |text, setting| {
        let Setting { key, preset, .. } = setting;
        let mut items = (setting.items)(&given.settings);
        let mut from = given.origin(key).to_string();
        if let (true, Preset::Otherwise { words, effective, .. }) = (items.is_empty(), preset) {
            items = effective(config);
            write!(from, ": {words}").expect("writing to memory never fails");
        }
        let what = if items.is_empty() { format!("#{key} =") } else { format!("{key} = {}", setting.toml(&items)) };
        line(text, &format!("{what:<EFFECTIVE_WIDTH$}  # {from}"));
    });
    line(&mut text, "\n# ---- Routes ----");
    if given.routes.is_empty() {
        line(
            &mut text,
            &format!("{:<EFFECTIVE_WIDTH$}  # default: the hub at /t/{{topic...}}, its page at /", "#[[routes]]"),
        );
    }
    for route in &given.routes {
        line(&mut text, &format!("{:<EFFECTIVE_WIDTH$}  # {}", "[[routes]]", route.origin()));
        text.push_str(&route.shown);
    }
    for rule in &given.topics {
        line(&mut text, &format!("{:<EFFECTIVE_WIDTH$}  # {}", "[[topics]]", rule.origin));
        text.push_str(&rule.shown);
    }
    for (origin, shown) in given.issuers.shown() {
        line(&mut text, &format!("{:<EFFECTIVE_WIDTH$}  # {origin}", "[[issuers]]"));
        text.push_str(shown);
    }
    line(&mut text, "\n# ---- Memory at worst ----");
    text += &memory(config, machine::available());
    line(&mut text, "\n# ---- Descriptors beside those of connections ----");
    text + &descriptors_reserved(config)
}

/// Returns the descriptors that are not for connections, part by part and as a sum, as comments of TOML.
fn descriptors_reserved(config: &Config) -> String {
    let mut text = String::new();
    let parts = config.descriptors();
    for DescriptorPart { name, count } in parts.iter().filter(|part| part.count > 0) {
        line(&mut text, &format!("# {count:>10}  {name}"));
    }
    line(&mut text, &format!("# {:>10}  in all", descriptors::sum(&parts)));
    text
}

/// Returns the worst case of memory, part by part and as a sum, as comments of TOML. A warning follows if the sum is
/// more than the machine has, as is usual for a server with as many connections as descriptors.
fn memory(config: &Config, available: Option<Available>) -> String {
    let mut text = String::new();
    line(&mut text, "# An upper bound, with every limit reached at the same time; the real figure is far below it.");
    let parts = config.memory();
    for MemoryPart { name, bytes, follows_from } in &parts {
        line(&mut text, &format!("# {:>10.1} MiB  {name}: {follows_from}", mib(*bytes)));
    }
    let sum: u64 = parts.iter().map(|part| part.bytes).sum();
    let all = "in all, beside the kernel's socket buffers (send_buffer)";
    line(&mut text, &format!("# {:>10.1} MiB  {all}", mib(sum)));
    if let Some(available) = available.filter(|available| available.bytes < sum) {
        line(&mut text, &format!("# Warning: that is more than the {:.1} MiB that {available}.", mib(available.bytes)));
        match config.limits.memory_bytes_max {
            Some(bytes) if bytes < available.bytes => {
                line(
                    &mut text,
                    &format!("# Above {:.1} MiB (max_memory) the server takes no new connections, and", mib(bytes)),
                );
                line(&mut text, "# closes those that hold the most.");
            }
            Some(_) => line(&mut text, "# max_memory is not below it: set a lower one."),
            None => {
                line(&mut text, "# There is no max_memory, above which the server would close who holds most: set one.")
            }
        }
    }
    text
}

fn by_heading(text: &mut String, show: impl Fn(&mut String, &Setting)) {
    for (at, setting) in SETTINGS.iter().enumerate() {
        if at == 0 || SETTINGS[at - 1].heading != setting.heading {
            if !text.is_empty() {
                text.push('\n');
            }
            line(text, &format!("# ---- {} ----", setting.heading));
        }
        show(text, setting);
    }
}

/// Appends a comment, in as many lines as its words need.
fn comment(text: &mut String, words: &str) {
    let mut width = 0;
    for word in words.split(' ') {
        if width == 0 || width + 1 + word.len() > COMMENT_WIDTH {
            text.push_str(if width == 0 { "#" } else { "\n#" });
            width = 1;
        }
        text.push(' ');
        text.push_str(word);
        width += 1 + word.len();
    }
    text.push('\n');
}

const EXAMPLE_HEAD: &str = "\
# All settings of ringhub, each with its default, or with an example if the default has no fixed
# value. `ringhub example-config` prints this file. Remove the # in front of what you change, name
# the file by --config FILE or RINGHUB_CONFIG, and check it by `ringhub check-config FILE`.
#
# A flag (--max-message) wins over its variable (RINGHUB_MAX_MESSAGE), and the variable wins over
# the key in this file (max_message).
#
# Sizes are bytes: 65536, \"64KiB\", \"32MiB\", \"1GiB\", or \"64kB\", \"32MB\", \"1GB\" in powers of ten.
# Times have a unit: \"500ms\", \"10s\", \"2m\", \"1h\". A list of one value needs no brackets.
";

const EXAMPLE_ROUTES: &str = r#"
# ---- Routes ----

# The paths of the server. Routes stand at the end of the file, and have no flags and no variables.
# Without routes, the hub is at /t/{topic...}, ringhub.v1 at /ws, and the page at /. With routes,
# the server has only their paths, /healthz, /readyz and /metrics. If a hub is at /t/{topic...}, and
# no route has the page or is at /, the page is still at /.
#
# match is a path: {name} stands for one segment of it, {name...} for the rest. handler is "hub"
# (the topic is {topic} or {topic...}, after topic_prefix if there is one), "ringhub.v1" (one
# connection for many topics), "echo", "page" (which watches the topics at /t/), or "files" with the
# folder that documents names, relative to this file; files are served at the path and below it.
#
# basic (users and passwords), bearer and jwt (tokens), network (addresses) and callback (the
# application at callback_url decides) are authenticators. All that are given must admit a request;
# with admit = "any" one of them is enough. A password may be given as its SHA-256: "sha256:" and 64
# hexadecimal digits. Where several routes of the hub lead to one topic, all of them must admit a
# request, whichever path it takes. With basic or network, any page in the browser of an admitted
# person may use the route, unless allowed_origins names the origins of your own pages.
#
# allowed_origins, max_message, max_frame, max_fragments, max_message_rate, max_byte_rate,
# ping_interval and pong_timeout are those above where they are not given. protocols are
# subprotocols, the best first; ping_payload is the payload of pings, at most 125 bytes; with
# check_utf8 = false, texts need not be UTF-8.
#[[routes]]
#match = "/t/{topic...}"
#handler = "hub"
#topic_prefix = "news/"
#[routes.bearer.tokens]
#billing = "a-long-random-word"

#[[routes]]
#match = "/app/{topic...}"
#handler = "hub"
#topic_prefix = "app/"
#jwt = ["app"]

#[[routes]]
#match = "/ws"
#handler = "ringhub.v1"
#topic_prefix = "app/"
#jwt = ["app"]

#[[routes]]
#match = "/publish"
#handler = "publish"
#topic_prefix = "app/"
#jwt = ["app"]

#[[routes]]
#match = "/echo"
#handler = "echo"
#protocols = ["v1.echo"]
#allowed_origins = ["https://example.org"]
#max_message = "64KiB"
#max_frame = "16KiB"
#max_fragments = 16
#max_message_rate = "30/m burst 5"
#max_byte_rate = "64KiB/s"
#ping_interval = "5s"
#pong_timeout = "5s"
#ping_payload = "are you there"
#check_utf8 = false

#[[routes]]
#match = "/orders/{topic...}"
#handler = "hub"
#topic_prefix = "orders/"
#callback = true
#allowed_origins = ["https://example.org"]

#[[routes]]
#match = "/watch"
#handler = "page"

#[[routes]]
#match = "/"
#handler = "files"
#documents = "./site"
#allowed_origins = ["https://example.org"]
#admit = "any"
#[routes.basic]
#realm = "staff"
#users = { alice = "a long password" }
#[routes.network]
#allow = ["10.0.0.0/8", "fd00::/8"]
#deny = ["10.66.0.0/16"]

# ---- Rules of topics ----

# Who may use topics. These tables stand at the end of the file, as routes do. match is a topic's
# name, "a/*" (a segment more), "a/**" (anything more), or a list of these; the most precise one
# that has a topic holds alone. subscribe, publish and history, its earlier messages, are:
# "admitted", whoever the routes admit, as far as the sender's grants go; "granted", only a sender
# whose grants have the topic; "anyone", whoever the routes admit, whatever the grants; "callback",
# whoever the application admits when it is asked; "nobody". Grants are the topics in the claims of
# a token, or in the application's answer about the request.
#[[topics]]
#match = ["orders/*", "invoices/*"]
#subscribe = "granted"
#publish = "granted"
#history = "granted"
# What becomes of subscribers that do not keep up: slow is "close", "drop_oldest", "drop_newest",
# "replay", which reads what has waited from the history, or "latest", the newest message of each
# key; key is a JSON pointer to the key of a message that has none. backlog_bytes, backlog_messages
# and backlog_age are what may wait for a subscriber. Messages are delivered at most once in a
# delivery_interval; with "latest", only the newest of each key is. send_buffer and unsent_low_water
# limit what the kernel keeps, where no policy can drop it.
#[[topics]]
#match = "prices/*"
#slow = "latest"
#key = "/symbol"
#backlog_bytes = "1MiB"
#backlog_messages = 1000
#backlog_age = "10s"
#delivery_interval = "20ms"
#send_buffer = "64KiB"
#unsent_low_water = "16KiB"
# What is kept of a topic's messages, for readers of GET with Accept: application/json, and for
# subscribers that resume. The limits hold together; retain keeps the newest message beyond
# history_age. See also history_memory.
#[[topics]]
#match = "chat/*"
#history_messages = 100
#history_bytes = "256KiB"
#history_age = "1h"
#retain = true
# Who is subscribed, for readers of GET with view=presence, and for those who ask for joins and
# leaves. presence is true, or who may see that: "granted", for example. See also presence_memory.
#[[topics]]
#match = "rooms/*"
#presence = true
#leave_delay = "3s"
#presence_max_members = 10000
#presence_events_max_members = 1000
"#;

const EXAMPLE_ISSUERS: &str = r##"
# ---- Issuers of tokens ----

# Who signs the tokens (JWT) of your users: your application, or an identity provider. A token's
# claims name its user and the user's topics. Without routes, the issuers' tokens are for the hub at
# /t/{topic...}; with routes, each route names its issuers: jwt = ["app"].
#
# An issuer has secrets, public_keys or jwks, or publishes its keys at jwks_url. Several texts, or a
# table with a key id for each, serve while a new key replaces an old one.
#[[issuers]]
#name = "app"
#iss = "https://app.example"
#secrets = "a random text of 32 bytes, or more"
#audience = "hub"
#leeway = "5s"
#require_exp = true
#cookie = "__Host-token"
#bare_tokens = "none"
#[issuers.claims]
#sub = "sub"
#info = "info"
#subscribe = "subscribe"
#publish = "publish"
#presence = "presence"
#history = "history"

#[[issuers]]
#name = "other"
#iss = "https://other.example"
#algorithms = ["EdDSA", "ES256"]
#public_keys = """
#-----BEGIN PUBLIC KEY-----
#MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
#-----END PUBLIC KEY-----
#"""
#jwks = '''{"keys": [{"kid": "a", "kty": "EC", "crv": "P-256",
#"x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
#"y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}'''

#[[issuers]]
#name = "login"
#iss = "https://login.example"
#audience = "hub"
#bare_tokens = "all"
#jwks_url = "https://login.example/.well-known/jwks.json"
#jwks_keep = "24h"
"##;

const COMMENT_WIDTH: usize = 98;
const EFFECTIVE_WIDTH: usize = 36;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Settings;

    /// `ringhub example-config > ringhub.example.toml` writes it anew.
    #[test]
    fn the_committed_example_is_this_one() {
        assert!(include_str!("../../ringhub.example.toml") == example(), "ringhub.example.toml is not up to date");
    }

    #[test]
    fn with_everything_uncommented_it_holds() {
        let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
        let example = example();
        let (settings, routes) = example.split_at(example.find("#[[routes]]").unwrap());
        let lines: Vec<&str> = settings.lines().filter(is_setting).map(|line| &line[1..]).collect();
        let table = toml::de::DeTable::parse(&lines.join("\n")).map(|table| table.get_ref().len());
        assert_eq!(table, Ok(SETTINGS.len()));
        let keys: BTreeSet<&str> = lines.iter().filter_map(|line| line.split(" = ").next()).collect();
        assert_eq!(keys, SETTINGS.iter().map(|setting| setting.key).collect());
        let routes: Vec<&str> = routes.lines().filter(is_setting).map(|line| &line[1..]).collect();
        assert!(toml::de::DeTable::parse(&routes.join("\n")).is_ok());
        assert!(example.lines().all(|line| line.chars().count() <= 100), "{example}");
    }

    #[test]
    fn more_memory_than_there_is_is_told() {
        let config = Config::new(&Default::default(), 1_000).unwrap();
        let sum: u64 = config.memory().iter().map(|part| part.bytes).sum();
        let told = |bytes: u64, is_cgroup| memory(&config, Some(Available { bytes, is_cgroup }));
        assert!(told(sum - 1, true).contains("MiB that this container or cgroup may have.\n"));
        assert!(told(1 << 20, false).contains("# Warning: that is more than the 1.0 MiB that this machine has.\n"));
        let limited = |max_memory: &str| {
            let settings = Settings { max_memory: Some(max_memory.parse().unwrap()), ..Settings::default() };
            memory(&Config::new(&settings, 1_000).unwrap(), Some(Available { bytes: 1 << 30, is_cgroup: true }))
        };
        assert!(
            limited("off")
                .ends_with("# There is no max_memory, above which the server would close who holds most: set one.\n")
        );
        assert!(limited("2GiB").ends_with("# max_memory is not below it: set a lower one.\n"));
        let enough = limited("700MiB");
        assert!(enough.contains("# Above 700.0 MiB (max_memory) the server") && enough.ends_with("hold the most.\n"));
        for enough in [told(sum, false), memory(&config, None)] {
            assert!(
                enough.starts_with("# An upper bound, with every limit") && !enough.contains("Warning"),
                "{enough}"
            );
        }
    }

    #[test]
    fn effective_settings_are_shown_with_their_origin() {
        let given = Given::read(
            &Default::default(),
            [("RINGHUB_PUBLISH_TOKENS".into(), "hush,hush2".into()), ("RINGHUB_SHARDS".into(), "1".into())],
        );
        let config = Config::new(&given.settings, 1_000).unwrap();
        let text = effective(&given, &config);
        let shown: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once("  # ")).collect();
        let check = |what: &str, from: &str| {
            assert!(shown.iter().any(|shown| (shown.0.trim_end(), shown.1) == (what, from)), "{what} {from}:\n{text}");
        };
        check("listen = [\"127.0.0.1:6455\"]", "default");
        check("publish_tokens = [\"***\", \"***\"]", "RINGHUB_PUBLISH_TOKENS");
        let connections = config.limits.connections_max;
        check(&format!("max_connections = {connections}"), "default: from the descriptor limit");
        check("#send_buffer =", "default: the kernel's tuning");
        assert!(!text.contains("hush") && toml::de::DeTable::parse(&text).is_ok(), "{text}");
    }
}
