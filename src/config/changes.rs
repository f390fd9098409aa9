//! Compares the settings of a reload with those in force, and merges them.

use std::fmt;

use super::{
    checked::Config,
    routes::config::RouteConfig,
    settings::{Reloads, SETTINGS, Setting, Settings},
    topics::config::TopicRuleConfig,
};
use crate::{
    auth::{IssuerChange, Jwt},
    error::ConfigErrors,
    hub::{PresenceRules, TopicRules},
};

/// A setting, a route, an issuer of tokens, or the rules of topics, where the new value differs from the value in
/// force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingChange {
    /// The key of a setting, such as `max_message`; `route` with the pattern of a route; `issuer` with the name of an
    /// issuer; or `topics` for the rules of topics.
    pub key: String,
    /// The value in force. Secrets are masked.
    pub from: String,
    /// The new value. Secrets are masked.
    pub to: String,
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SettingChange { key, from, to } = self;
        write!(f, "{key}: {from} -> {to}")
    }
}

/// The outcome of a reload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReloadReport {
    /// The values that the reload has put in force.
    pub applied: Vec<SettingChange>,
    /// The new values for which a restart is needed. The old values stay in force.
    pub pending: Vec<SettingChange>,
}

impl Config {
    /// Returns the settings that are in force after a reload: the new ones, and the running ones where a reload
    /// changes nothing.
    ///
    /// # Errors
    ///
    /// If the settings together do not fit each other. The settings of `new` alone do.
    pub(crate) fn reload(&self, new: &Config) -> Result<(Config, ReloadReport), ConfigErrors> {
        let (settings, mut report) = merge(&self.settings.0, &new.settings.0);
        let mut config = Config::again(&settings, self)?;
        config.routes = self.reload_routes(new, &config, &mut report)?;
        self.reload_issuers(new, &mut config, &mut report);
        self.reload_topics(new, &mut config, &mut report);
        Ok((config, report))
    }

    /// Takes the new issuers of tokens, and notes which of them differ. Their keys are secrets, and are not shown.
    fn reload_issuers(&self, new: &Config, config: &mut Config, report: &mut ReloadReport) {
        // The running outbound service fetches the keys of the new issuers: `Given::config_for` has called
        // `Outbound::join`.
        config.jwt.clone_from(&new.jwt);
        if let (Some(new), Some(running)) = (&new.jwt, &self.jwt) {
            new.take_over_keys(running);
        }
        report.applied.extend(Jwt::changes(self.jwt.as_ref(), new.jwt.as_ref()).into_iter().map(|(name, change)| {
            let (from, to) = match change {
                IssuerChange::Added => (NO_ISSUER, "new keys and settings"),
                IssuerChange::Removed => ("earlier keys and settings", NO_ISSUER),
                IssuerChange::Keys => ("earlier keys", "new keys"),
                IssuerChange::Settings => ("earlier settings", "new settings"),
                IssuerChange::KeysAndSettings => ("earlier keys and settings", "new keys and settings"),
            };
            SettingChange { key: format!("issuer {name}"), from: from.into(), to: to.into() }
        }));
    }

    /// Takes the new rules of topics, and notes whether they differ.
    fn reload_topics(&self, new: &Config, config: &mut Config, report: &mut ReloadReport) {
        config.topics.clone_from(&new.topics);
        let (from, to) = (rules_in_words(&self.topics), rules_in_words(&new.topics));
        if from != to {
            report.applied.push(SettingChange { key: "topics".into(), from, to });
        }
    }

    /// Returns the settings of a reload as they are in force after it.
    pub(super) fn merged(&self, new: &Settings) -> Settings {
        merge(&self.settings.0, new).0
    }

    /// Returns the routes after a reload: the running ones, in their order, with the rules of the new ones.
    fn reload_routes(
        &self,
        new: &Config,
        base: &Config,
        report: &mut ReloadReport,
    ) -> Result<Vec<RouteConfig>, ConfigErrors> {
        let (mut routes, mut errors) = (Vec::new(), Vec::new());
        for old in &self.routes {
            let found = new.routes.iter().find(|route| route.pattern == old.pattern);
            match found {
                Some(route) if route.is_same_handler(old) => {
                    if route.digest != old.digest {
                        report.applied.push(between_routes(old, route));
                    }
                    routes.push(route.clone());
                    continue;
                }
                Some(route) => report.pending.push(between_routes(old, route)),
                None => report.pending.push(SettingChange { to: NO_ROUTE.into(), ..of_route(old) }),
            }
            match old.settle_again(&base.base_of_routes()) {
                Ok(route) => routes.push(route),
                Err(faults) => errors.extend(faults),
            }
        }
        let added = new.routes.iter().filter(|route| !self.routes.iter().any(|old| old.pattern == route.pattern));
        report.pending.extend(added.map(|route| {
            let SettingChange { key, from, .. } = of_route(route);
            SettingChange { key, from: NO_ROUTE.into(), to: from }
        }));
        if errors.is_empty() { Ok(routes) } else { Err(ConfigErrors(errors)) }
    }
}

/// Returns the new settings, with the running values where a reload changes nothing, and the differences.
fn merge(running: &Settings, new: &Settings) -> (Settings, ReloadReport) {
    let (mut merged, mut report) = (new.clone(), ReloadReport::default());
    for setting in SETTINGS.iter().filter(|setting| !(setting.is_same)(running, new)) {
        let change = SettingChange { key: setting.key.into(), from: shown(setting, running), to: shown(setting, new) };
        if takes_effect(setting, running, new) {
            report.applied.push(change);
        } else {
            (setting.keep)(&mut merged, running);
            report.pending.push(change);
        }
    }
    (merged, report)
}

/// Returns whether a reload puts the new value in force.
fn takes_effect(setting: &Setting, running: &Settings, new: &Settings) -> bool {
    let is_zero = |settings: &Settings| (setting.items)(settings) == ["0"];
    match setting.reloads {
        Reloads::Yes => true,
        Reloads::UnlessZero => !is_zero(running) && !is_zero(new),
        Reloads::No => false,
    }
}

/// Returns the value of a setting as TOML, or the word for no value.
fn shown(setting: &Setting, settings: &Settings) -> String {
    let items = (setting.items)(settings);
    if items.is_empty() { format!("unset ({})", setting.preset.words()) } else { setting.toml(&items) }
}

/// Returns a change of this route whose `to` is still empty.
fn of_route(route: &RouteConfig) -> SettingChange {
    let key = format!("route {}", route.pattern);
    SettingChange { key, from: format!("handler {}", route.handler), to: String::new() }
}

/// Returns rules of topics in one line.
fn rules_in_words(rules: &[TopicRuleConfig]) -> String {
    let in_words = |TopicRuleConfig { rule, .. }: &TopicRuleConfig| {
        let patterns = rule.patterns().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let TopicRules {
            tags: _,
            subscribe,
            publish,
            presence,
            history,
            slow,
            delivery_interval_ms,
            kernel,
            key,
            kept,
            members,
        } = rule.rules();
        let columns = format!("subscribe {subscribe:?}, publish {publish:?}, history {history:?}");
        let members = members.map_or(String::new(), |members| {
            let PresenceRules { leave_delay_ms, members_max, events_members_max, .. } = members;
            format!(
                ", presence {} (leave_delay {leave_delay_ms}ms, presence_max_members {members_max}, \
                 presence_events_max_members {events_members_max})",
                format!("{presence:?}").to_ascii_lowercase()
            )
        });
        let key = key.as_ref().map_or(String::new(), |key| format!(", key {}", key.as_str()));
        let limits = [("bytes", slow.bytes_max), ("messages", slow.messages_max), ("age", slow.age_max_ms)];
        let limits = limits.iter().filter_map(|(of, most)| most.map(|most| format!(", backlog_{of} {most}")));
        let ms = if slow.age_max_ms.is_some() { "ms" } else { "" };
        let limits = limits.collect::<String>() + ms;
        let interval = delivery_interval_ms.map_or(String::new(), |ms| format!(", delivery_interval {ms}ms"));
        let kept_limits = [
            kept.messages_max.map(|most| format!(", history_messages {most}")),
            kept.bytes_max.map(|most| format!(", history_bytes {most}")),
            kept.age_max_ms.map(|most| format!(", history_age {most}ms")),
            kept.retains_last.then(|| ", retain".to_owned()),
        ];
        let kept: String = kept_limits.into_iter().flatten().collect();
        let kernel = [("send_buffer", kernel.send_buffer_bytes), ("unsent_low_water", kernel.unsent_low_water_bytes)];
        let kernel = kernel.iter().filter_map(|(of, bytes)| bytes.map(|bytes| format!(", {of} {bytes}")));
        let kernel = kernel.collect::<String>();
        format!(
            "{patterns}: {}, slow {}{limits}{key}{interval}{kernel}{kept}{members}",
            columns.to_ascii_lowercase(),
            slow.overflow.name()
        )
    };
    if rules.is_empty() { "no rules".into() } else { rules.iter().map(in_words).collect::<Vec<_>>().join("; ") }
}

/// Returns the difference of two routes at the same paths: the lines that only one of them has.
fn between_routes(old: &RouteConfig, new: &RouteConfig) -> SettingChange {
    let only = |one: &RouteConfig, other: &RouteConfig| {
        let lines = one.shown.lines().filter(|line| !other.shown.lines().any(|theirs| theirs == *line));
        lines.collect::<Vec<_>>().join(", ")
    };
    let or_nothing = |lines: String| if lines.is_empty() { "nothing".into() } else { lines };
    let (from, to) = match (only(old, new), only(new, old)) {
        (from, to) if from.is_empty() && to.is_empty() => ("\"***\"".into(), "\"***\"".into()),
        (from, to) => (or_nothing(from), or_nothing(to)),
    };
    SettingChange { from, to, ..of_route(old) }
}

const NO_ROUTE: &str = "no route";
const NO_ISSUER: &str = "no issuer";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Given, IoChoice, ListenAddress, Pin, Secrets, Size, Time};

    fn tokens(tokens: &[&str]) -> Option<Secrets> {
        Some(Secrets(tokens.iter().map(ToString::to_string).collect()))
    }

    fn texts(changes: &[SettingChange]) -> Vec<String> {
        changes.iter().map(ToString::to_string).collect()
    }

    /// Returns the settings of a file with this text.
    fn config(text: &str) -> Config {
        let path = std::env::temp_dir().join(format!("ringhub-changes-{}-{text:p}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let mut flags = Flags::default();
        flags.read_file(path.clone(), "--config");
        let config = Given::read(&flags, []).config(20_000);
        std::fs::remove_file(path).unwrap();
        config.unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_a_reload_can_change_is_changed_and_the_rest_stays() {
        let running = Settings { shards: Some(2), publish_tokens: tokens(&["old"]), ..Settings::default() };
        let new = Settings {
            shards: Some(1),
            pin: Pin::Off,
            io: IoChoice::Epoll,
            listen: vec![ListenAddress::Socket("127.0.0.1:1".parse().unwrap())],
            publish_tokens: tokens(&["hush", "hush2"]),
            max_message: Size(1 << 10),
            max_frame: Some(Size(100)),
            ping_interval: Time(std::time::Duration::ZERO),
            ..Settings::default()
        };
        let (merged, report) = merge(&running, &new);
        let applied = [
            "publish_tokens: [\"***\"] -> [\"***\", \"***\"]",
            "max_message: \"1MiB\" -> \"1KiB\"",
            "max_frame: unset (largest message) -> 100",
            "ping_interval: \"30s\" -> 0",
        ];
        assert_eq!(texts(&report.applied), applied);
        let keys: Vec<&str> = report.pending.iter().map(|change| &*change.key).collect();
        assert_eq!(keys, ["listen", "shards", "pin", "io"]);
        let expected = Settings { publish_tokens: new.publish_tokens.clone(), ..running.clone() };
        let expected = Settings { max_message: Size(1 << 10), max_frame: Some(Size(100)), ..expected };
        assert_eq!(merged, Settings { ping_interval: new.ping_interval, ..expected });
        assert_eq!(merge(&running, &running), (running.clone(), ReloadReport::default()));
    }

    /// Sockets are counted by address only where their number is limited, so a reload cannot begin or end that.
    #[test]
    fn a_limit_that_begins_or_ends_needs_a_restart() {
        let of = |count| Settings { max_connections_per_address: count, ..Settings::default() };
        let check = |from, to, is_applied: bool| {
            let (merged, report) = merge(&of(from), &of(to));
            assert_eq!(merged.max_connections_per_address, if is_applied { to } else { from });
            assert_eq!((report.applied.len(), report.pending.len()), if is_applied { (1, 0) } else { (0, 1) });
        };
        check(5, 6, true);
        check(0, 6, false);
        check(5, 0, false);
    }

    /// Secrets that change are a change, though all that is shown of them is the same.
    #[test]
    fn masked_values_are_compared_as_they_are() {
        let of = |token| Settings { metrics_tokens: tokens(&[token]), ..Settings::default() };
        let (merged, report) = merge(&of("hush"), &of("hush2"));
        assert_eq!(texts(&report.applied), ["metrics_tokens: [\"***\"] -> [\"***\"]"]);
        assert_eq!(merged.metrics_tokens, tokens(&["hush2"]));
        assert!(!format!("{report:?}").contains("hush"));
    }

    #[test]
    fn routes_keep_their_order_and_get_new_rules() {
        let route = |path: &str, rest: &str| format!("[[routes]]\nmatch = \"{path}\"\n{rest}\n");
        let (a, b) = ("handler = \"hub\"\n", "handler = \"echo\"\n");
        let running = config(&(route("/a/{topic}", a) + &route("/b", b)));
        let new = config(
            &(route("/b", &format!("{b}max_message = \"1KiB\"")) + &route("/a/{topic}", &format!("{a}max_frame = 5"))),
        );
        let (merged, report) = running.reload(&new).unwrap();
        let patterns: Vec<&str> = merged.routes.iter().map(|route| route.pattern.as_str()).collect();
        assert_eq!(patterns, ["/a/{topic}", "/b"]);
        assert_eq!(merged.routes[1].rules.limits.message_bytes_max, 1 << 10);
        assert_eq!(
            texts(&report.applied),
            ["route /a/{topic}: nothing -> max_frame = 5", "route /b: nothing -> max_message = \"1KiB\""]
        );
        assert!(report.pending.is_empty());
    }

    #[test]
    fn other_routes_and_other_handlers_need_a_restart() {
        let route = |path: &str, handler: &str| format!("[[routes]]\nmatch = \"{path}\"\nhandler = \"{handler}\"\n");
        let running = config(&(route("/a/{topic}", "hub") + &route("/b", "echo") + &route("/c", "echo")));
        let prefixed = route("/a/{topic}", "hub") + "topic_prefix = \"x/\"\n";
        let new =
            config(&("max_message = \"2KiB\"\n".to_owned() + &prefixed + &route("/d", "echo") + &route("/b", "page")));
        let (merged, report) = running.reload(&new).unwrap();
        assert_eq!(texts(&report.applied), ["max_message: \"1MiB\" -> \"2KiB\""]);
        let pending = [
            "route /a/{topic}: nothing -> topic_prefix = \"x/\"",
            "route /b: handler = \"echo\" -> handler = \"page\"",
            "route /c: handler echo -> no route",
            "route /d: no route -> handler echo",
        ];
        assert_eq!(texts(&report.pending), pending);
        // The rules of a route that stays follow the server's new ones.
        let limits: Vec<u32> = merged.routes.iter().map(|route| route.rules.limits.message_bytes_max).collect();
        assert_eq!(limits, [2 << 10; 3]);
    }

    /// A route that stays has to fit the new limits, or nothing changes.
    #[test]
    fn a_route_that_stays_must_fit_the_new_settings() {
        let running = config("[[routes]]\nmatch = \"/a\"\nhandler = \"echo\"\nmax_message = \"2MiB\"\n");
        let new = config("max_message = \"1KiB\"\nmax_backlog = \"1MiB\"\n");
        let error = running.reload(&new).unwrap_err().to_string();
        assert!(error.contains("routes.max_message: 2MiB needs a max_backlog of 4MiB, which is 1MiB"), "{error}");
    }

    #[test]
    fn issuers_that_change_are_named_without_their_secrets() {
        let secret = |text: &str| format!("secrets = \"{text}0123456789abcdef0123456789abcdef\"\n");
        let issuer = |name: &str, keys: &str| format!("[[issuers]]\nname = \"{name}\"\niss = \"{name}\"\n{keys}");
        let url = |path: &str| format!("jwks_url = \"https://login.example/{path}\"\n");
        let before = issuer("app", &secret("hush"))
            + &issuer("login", &url("hush"))
            + &issuer("gone", &secret("hush"))
            + &issuer("same", &secret("hush"));
        let after = issuer("same", &secret("hush"))
            + &issuer("app", &(secret("hush2") + "leeway = \"1s\"\n"))
            + &issuer("login", &url("hush2"))
            + &issuer("new", &(secret("hush") + "cookie = \"c\"\n"));
        let (merged, report) = config(&before).reload(&config(&after)).unwrap();
        let changes = [
            "issuer app: earlier keys and settings -> new keys and settings",
            "issuer gone: earlier keys and settings -> no issuer",
            "issuer login: earlier keys -> new keys",
            "issuer new: no issuer -> new keys and settings",
        ];
        assert_eq!(texts(&report.applied), changes);
        assert!(report.pending.is_empty());
        assert_eq!(format!("{:?}", merged.jwt.unwrap()), r#"["same", "app", "login", "new"]"#);
        let (_, report) = config(&after).reload(&config(&after)).unwrap();
        assert_eq!(report, ReloadReport::default());
    }

    #[test]
    fn secrets_of_a_route_are_masked() {
        let text = |token: &str| {
            format!("[[routes]]\nmatch = \"/b\"\nhandler = \"echo\"\n[routes.bearer]\ntokens = {{ a = \"{token}\" }}\n")
        };
        let (merged, report) = config(&text("hush")).reload(&config(&text("hush2"))).unwrap();
        assert_eq!(texts(&report.applied), ["route /b: \"***\" -> \"***\""]);
        assert_eq!(merged.routes[0].digest, config(&text("hush2")).routes[0].digest);
    }
}
