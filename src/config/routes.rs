//! Routes: the tables of a file that say what is served where.

use std::{fmt, fmt::Write as _, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Config, Limits, Setting, Time,
    file::{TomlFile, in_order},
    given::nearest_key,
    settings::quoted,
    size_within, ticks,
    values::{Shape, Size, one_of},
};
use crate::{
    auth::{Authenticator, Basic, Bearer, Network, Origins, all_of, any_of},
    documents::Documents,
    error::{ConfigError, Origin},
    proto::KeepAlive,
};

/// What is served at a path, and under which rules. What is not set is as the server has it.
#[derive(Clone)]
pub struct RouteConfig {
    /// The paths: fixed segments, `{name}` for one segment, `{name...}` for the rest. Files are served at it and below.
    pub pattern: String,
    /// Who answers.
    pub handler: RouteHandler,
    /// Whom to let in; everybody if there is none.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Origins whose pages may open it.
    pub origins: Option<Origins>,
    /// Sub-protocols, the best first (RFC 6455 1.9).
    pub protocols: Vec<String>,
    /// The largest message in bytes: 1 to [`Limits::MESSAGE_BYTES_MAX`], and half of the server's backlog at most.
    pub max_message: Option<u32>,
    /// The largest frame in bytes: 1 to the largest message.
    pub max_frame: Option<u32>,
    /// Fragments of one message: at least 1.
    pub max_fragments: Option<u32>,
    /// Whether text is checked to be UTF-8 (RFC 6455 8.1).
    pub check_utf8: Option<bool>,
    /// When silent clients are pinged and given up, if either differs from the server's.
    pub keep_alive: Option<KeepAlive>,
    /// What pings carry: at most 125 bytes (RFC 6455 5.5).
    pub ping_payload: Vec<u8>,
    /// Where it stands.
    pub origin: Origin,
}

/// Who answers at a route.
#[derive(Debug, Clone)]
pub enum RouteHandler {
    /// The hub: the topic is the pattern's `{topic}` or `{topic...}`.
    Hub,
    /// Every message goes back to who has sent it.
    Echo,
    /// The files of a folder, to plain HTTP.
    Files(Documents),
}

impl RouteConfig {
    /// May everybody who reaches it open it?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.authenticator.is_none() && self.origins.as_ref().is_none_or(Origins::are_any)
    }
}

impl fmt::Debug for RouteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteConfig")
            .field("pattern", &self.pattern)
            .field("handler", &self.handler)
            .field("is_authenticated", &self.authenticator.is_some())
            .finish_non_exhaustive()
    }
}

/// The key of a file that has the routes.
pub(super) const ROUTES: &str = "routes";

/// A route as the file gives it, each value right in itself.
#[derive(Debug)]
pub(super) struct GivenRoute {
    config: RouteConfig,
    max_message: Option<(Size, Origin)>,
    max_frame: Option<(Size, Origin)>,
    ping_interval: Option<u32>,
    pong_timeout: Option<u32>,
    /// For people: its keys and values, those of secrets masked.
    pub(super) shown: String,
}

impl GivenRoute {
    /// Checks it against the server's own limits, whose settings come from there.
    pub(super) fn settle(&self, config: &Config, from: impl Fn(&str) -> Origin) -> Result<RouteConfig, ConfigError> {
        let mut route = self.config.clone();
        let mut message = u64::from(config.limits.message.message_bytes_max);
        if let Some((size, origin)) = &self.max_message {
            message = size.0;
            let room = [
                ("max_backlog", config.limits.backlog_bytes_max as u64, 2),
                ("max_gathered", config.limits.gathered_bytes_max as u64, 1),
            ];
            if let Some((setting, bytes, times)) = room.into_iter().find(|(_, bytes, times)| times * message > *bytes) {
                let what = format!("{size} needs a {setting} of {}, which is {}", Size(times * message), Size(bytes));
                let error = ConfigError::of("routes.max_message", what).from(origin.clone());
                return Err(error.against_one(setting, from(setting)));
            }
            route.max_message = Some(message as u32);
        }
        if let Some((size, origin)) = &self.max_frame {
            if size.0 > message {
                let what = format!("{size} is more than the route's largest message, {}", Size(message));
                let error = ConfigError::of("routes.max_frame", what).from(origin.clone());
                return Err(error.against_one("max_message", from("max_message")));
            }
            route.max_frame = Some(size.0 as u32);
        }
        if self.ping_interval.is_some() || self.pong_timeout.is_some() {
            let server = config.keep_alive;
            route.keep_alive = Some(KeepAlive {
                ping_interval: self.ping_interval.unwrap_or(server.ping_interval),
                pong_timeout: self.pong_timeout.unwrap_or(server.pong_timeout),
                ..server
            });
        }
        Ok(route)
    }

    /// What is given of it, and where.
    pub(super) fn origin(&self) -> &Origin {
        &self.config.origin
    }
}

/// Reads the routes of a file.
pub(super) fn read(file: &TomlFile, value: &Spanned<DeValue<'_>>, errors: &mut Vec<ConfigError>) -> Vec<GivenRoute> {
    let tables = match value.get_ref() {
        DeValue::Array(tables) => &tables[..],
        other => {
            let what = format!("tables are expected, each under [[{ROUTES}]], not this {}", other.type_str());
            errors.push(ConfigError::of(ROUTES, what).from(file.origin(value.span().start)));
            return Vec::new();
        }
    };
    let mut routes: Vec<GivenRoute> = Vec::new();
    for table in tables {
        let origin = file.origin(table.span().start);
        let DeValue::Table(keys) = table.get_ref() else {
            let what = format!("a table is expected, not this {}", table.get_ref().type_str());
            errors.push(ConfigError::of(ROUTES, what).from(origin));
            continue;
        };
        let Some(route) = Reader { file, errors }.route(keys, origin) else { continue };
        if let Some(same) = routes.iter().find(|other| other.config.pattern == route.config.pattern) {
            let what = format!("{:?} is there already, at {}", route.config.pattern, same.origin());
            errors.push(ConfigError::of("routes.match", what).from(route.config.origin.clone()));
        }
        routes.push(route);
    }
    routes
}

/// The keys of a route, and those that concern WebSockets only.
const KEYS: &[&str] = &[
    "match",
    "handler",
    "documents",
    "basic",
    "bearer",
    "network",
    "admit",
    "protocols",
    "allowed_origins",
    "max_message",
    "max_frame",
    "max_fragments",
    "ping_interval",
    "pong_timeout",
    "ping_payload",
    "check_utf8",
];
const WEBSOCKET_KEYS: &[&str] = KEYS.split_at(7).1;

struct Reader<'a> {
    file: &'a TomlFile,
    errors: &'a mut Vec<ConfigError>,
}

type Value<'a, 'i> = &'a Spanned<DeValue<'i>>;

/// What a file calls a handler.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Hub,
    Echo,
    Files,
}

impl Reader<'_> {
    /// Whatever is wrong becomes an error; what is returned then is used for nothing.
    fn route(mut self, keys: &DeTable<'_>, origin: Origin) -> Option<GivenRoute> {
        let count = self.errors.len();
        let config = RouteConfig {
            pattern: String::new(),
            handler: RouteHandler::Hub,
            authenticator: None,
            origins: None,
            protocols: Vec::new(),
            max_message: None,
            max_frame: None,
            max_fragments: None,
            check_utf8: None,
            keep_alive: None,
            ping_payload: Vec::new(),
            origin: origin.clone(),
        };
        let shown = String::new();
        let (max_message, max_frame, ping_interval, pong_timeout) = (None, None, None, None);
        let mut route = GivenRoute { config, max_message, max_frame, ping_interval, pong_timeout, shown };
        let (mut pattern, mut name, mut documents, mut admit) = (None, None, None, None);
        let (mut basic, mut bearer, mut network) = (None, None, None);
        for (key, value) in in_order(keys) {
            let at = self.file.origin(value.span().start);
            match &**key.get_ref() {
                "match" => pattern = self.pattern(value).map(|pattern| (pattern, at)),
                "handler" => name = self.handler(value).map(|name| (name, at)),
                "documents" => documents = self.documents(value).map(|documents| (documents, at)),
                "basic" => basic = self.basic(value),
                "bearer" => bearer = self.bearer(value),
                "network" => network = self.network(value),
                "admit" => admit = self.admit(value).map(|is_all| (is_all, at)),
                "protocols" => route.config.protocols = self.protocols(value).unwrap_or_default(),
                "allowed_origins" => route.config.origins = self.origins(value),
                "max_message" => route.max_message = self.size("routes.max_message", value).map(|size| (size, at)),
                "max_frame" => route.max_frame = self.size("routes.max_frame", value).map(|size| (size, at)),
                "max_fragments" => route.config.max_fragments = self.fragments(value),
                "ping_interval" => route.ping_interval = self.ticks("routes.ping_interval", value),
                "pong_timeout" => route.pong_timeout = self.ticks("routes.pong_timeout", value),
                "ping_payload" => route.config.ping_payload = self.ping_payload(value).unwrap_or_default(),
                "check_utf8" => route.config.check_utf8 = self.boolean("routes.check_utf8", value),
                other => {
                    self.unknown(self.file.origin(key.span().start), "a route", other, KEYS);
                    continue;
                }
            }
            show(&mut route.shown, key.get_ref(), value.get_ref());
        }
        // What follows would only repeat that something is missing.
        if self.errors.len() > count {
            return None;
        }
        let Some((pattern, pattern_at)) = pattern else {
            return self.fail("routes.match", origin, "a route needs a path, such as match = \"/chat\"");
        };
        let name = match (name, &documents) {
            (Some(name), _) => name,
            (None, Some((_, at))) => (Name::Files, at.clone()),
            (None, None) => {
                return self.fail("routes.handler", origin, "a route needs a handler: \"hub\", \"echo\" or \"files\"");
            }
        };
        route.config.handler = match (name, documents) {
            ((Name::Files, _), Some((documents, _))) => RouteHandler::Files(documents),
            ((Name::Files, at), None) => return self.fail("routes.documents", at, "a route of files needs a folder"),
            (_, Some((_, at))) => return self.fail("routes.documents", at, "only a route of files has a folder"),
            ((Name::Hub, _), None) => RouteHandler::Hub,
            ((Name::Echo, _), None) => RouteHandler::Echo,
        };
        let has_topic = pattern.split('/').any(|segment| ["{topic}", "{topic...}"].contains(&segment));
        match route.config.handler {
            RouteHandler::Hub if !has_topic => {
                let what = format!("{pattern:?} has no {{topic}} or {{topic...}}, which says what to subscribe to");
                return self.fail("routes.match", pattern_at, &what);
            }
            RouteHandler::Files(_) => {
                if pattern.contains('{') {
                    let what = format!("{pattern:?} has parameters; files are served at a path and below it");
                    return self.fail("routes.match", pattern_at, &what);
                }
                let is_given = |key: &&&str| keys.keys().any(|given| given.get_ref() == **key);
                if let Some(key) = WEBSOCKET_KEYS.iter().find(is_given) {
                    let what = format!("{key} concerns WebSockets, and a route of files opens none");
                    return self.fail(ROUTES, origin, &what);
                }
            }
            RouteHandler::Hub | RouteHandler::Echo => {}
        }
        route.config.pattern = pattern;
        // The cheapest first, and by name last.
        let authenticators: Vec<_> = [network, basic, bearer].into_iter().flatten().collect();
        if let (Some((_, at)), ..2) = (&admit, authenticators.len()) {
            let what = "there is nothing to choose: it is for several of basic, bearer and network";
            return self.fail("routes.admit", at.clone(), what);
        }
        route.config.authenticator = together(authenticators, admit.is_none_or(|(is_all, _)| is_all));
        Some(route)
    }

    fn keep<T>(&mut self, result: Result<T, ConfigError>) -> Option<T> {
        result.map_err(|error| self.errors.push(error)).ok()
    }

    fn fail<T>(&mut self, key: &'static str, at: Origin, what: &str) -> Option<T> {
        self.keep(Err(ConfigError::of(key, what.into()).from(at)))
    }

    fn unknown(&mut self, at: Origin, whose: &str, key: &str, known: &'static [&'static str]) {
        let what = match nearest_key(key, known.iter().copied()) {
            _ if Setting::by_key(key).is_some() => {
                format!("{key:?} is no key of {whose} but of the server: it has to stand before the first [[{ROUTES}]]")
            }
            Some(nearest) => format!("unknown key {key:?} of {whose}; did you mean {nearest:?}?"),
            None => format!("unknown key {key:?} of {whose}, which has {}", known.join(", ")),
        };
        self.errors.push(ConfigError::at(at, what));
    }

    /// A value that is checked by a function.
    fn checked<T>(
        &mut self,
        key: &'static str,
        value: Value<'_, '_>,
        check: impl FnOnce() -> Result<T, String>,
    ) -> Option<T> {
        let at = self.file.origin(value.span().start);
        self.keep(check().map_err(|what| ConfigError::of(key, what).from(at)))
    }

    fn text(&mut self, key: &'static str, expected: &'static str, value: Value<'_, '_>) -> Option<String> {
        let shape = Shape { key, is_list: false, takes_integers: false, expected };
        let items = self.keep(self.file.items(shape, value))?;
        items.into_iter().next().map(|(text, _)| text)
    }

    /// Each item with where it stands; one may do without brackets.
    fn texts(
        &mut self,
        key: &'static str,
        expected: &'static str,
        value: Value<'_, '_>,
    ) -> Option<Vec<(String, Origin)>> {
        let shape = Shape { key, is_list: true, takes_integers: false, expected };
        self.keep(self.file.items(shape, value))
    }

    fn boolean(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<bool> {
        match value.get_ref() {
            DeValue::Boolean(is_so) => Some(*is_so),
            other => {
                let what = format!("true or false is expected, not this {}", other.type_str());
                self.fail(key, self.file.origin(value.span().start), &what)
            }
        }
    }

    fn table<'a, 'i>(&mut self, key: &'static str, value: Value<'a, 'i>) -> Option<&'a DeTable<'i>> {
        match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                let what = format!("a table is expected, not this {}", other.type_str());
                self.fail(key, self.file.origin(value.span().start), &what)
            }
        }
    }

    fn pattern(&mut self, value: Value<'_, '_>) -> Option<String> {
        let pattern = self.text("routes.match", "a path in quotes, such as \"/chat/{room}\",", value)?;
        self.checked("routes.match", value, || {
            let is_path = pattern.starts_with('/')
                && pattern.bytes().all(|octet| octet.is_ascii_graphic() && !b"?#".contains(&octet));
            if is_path {
                Ok(pattern)
            } else {
                Err(format!("{pattern:?} is no path; it begins with / and has no spaces, ? or #"))
            }
        })
    }

    fn handler(&mut self, value: Value<'_, '_>) -> Option<Name> {
        let name = self.text("routes.handler", "\"hub\", \"echo\" or \"files\"", value)?;
        let names = [("hub", Name::Hub), ("echo", Name::Echo), ("files", Name::Files)];
        self.checked("routes.handler", value, || one_of(&name, &names))
    }

    /// Relative to the folder that the settings' file is in.
    fn documents(&mut self, value: Value<'_, '_>) -> Option<Documents> {
        let path = self.text("routes.documents", "a folder in quotes, such as \"./site\",", value)?;
        let folder = self.file.path.parent().map_or_else(|| path.clone().into(), |parent| parent.join(&path));
        self.checked("routes.documents", value, || Documents::new(folder).map_err(|error| error.to_string()))
    }

    /// RFC 6455 4.1: tokens, each once.
    fn protocols(&mut self, value: Value<'_, '_>) -> Option<Vec<String>> {
        const KEY: &str = "routes.protocols";
        let mut protocols = Vec::new();
        for (protocol, at) in self.texts(KEY, "a sub-protocol in quotes", value)? {
            let is_token = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet);
            if protocol.is_empty() || !protocol.bytes().all(is_token) {
                return self.fail(
                    KEY,
                    at,
                    &format!("{protocol:?} is no sub-protocol: letters, digits and !#$%&'*+-.^_`|~"),
                );
            }
            if protocols.contains(&protocol) {
                return self.fail(KEY, at, &format!("{protocol:?} is there twice"));
            }
            protocols.push(protocol);
        }
        Some(protocols)
    }

    fn origins(&mut self, value: Value<'_, '_>) -> Option<Origins> {
        let origins: Vec<String> = self.keep(self.file.value("routes.allowed_origins", value))?;
        self.checked("routes.allowed_origins", value, || Origins::new(origins))
    }

    fn size(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<Size> {
        let size = self.keep(self.file.value(key, value))?;
        let checked = size_within(key, size, 1, Limits::MESSAGE_BYTES_MAX).map(|_| size);
        let at = self.file.origin(value.span().start);
        self.keep(checked.map_err(|error| error.from(at)))
    }

    fn fragments(&mut self, value: Value<'_, '_>) -> Option<u32> {
        let count: u32 = self.keep(self.file.value("routes.max_fragments", value))?;
        let check = || if count > 0 { Ok(count) } else { Err("a message has at least one frame".into()) };
        self.checked("routes.max_fragments", value, check)
    }

    fn ticks(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<u32> {
        let time: Time = self.keep(self.file.value(key, value))?;
        let at = self.file.origin(value.span().start);
        self.keep(ticks(key, time).map_err(|error| error.from(at)))
    }

    /// RFC 6455 5.5.
    fn ping_payload(&mut self, value: Value<'_, '_>) -> Option<Vec<u8>> {
        let payload = self.text("routes.ping_payload", "text in quotes", value)?;
        self.checked("routes.ping_payload", value, || match payload.len() {
            ..=125 => Ok(payload.into_bytes()),
            count => Err(format!("{count} bytes are more than a ping carries, 125")),
        })
    }

    fn basic(&mut self, value: Value<'_, '_>) -> Option<Arc<dyn Authenticator>> {
        let (mut realm, mut users, mut whole) = (String::from("ringhub"), Vec::new(), true);
        for (key, value) in in_order(self.table("routes.basic", value)?) {
            match &**key.get_ref() {
                "realm" => match self.text("routes.basic.realm", "a name in quotes", value) {
                    Some(given) => realm = given,
                    None => whole = false,
                },
                "users" => {
                    for (user, value) in in_order(self.table("routes.basic.users", value)?) {
                        match self.text("routes.basic.users", "a password in quotes", value) {
                            Some(password) => users.push((user.get_ref().to_string(), password)),
                            None => whole = false,
                        }
                    }
                }
                other => self.unknown(self.file.origin(key.span().start), "routes.basic", other, &["realm", "users"]),
            }
        }
        let basic = whole.then(|| self.checked("routes.basic", value, || Basic::new(&realm, users)))?;
        basic.map(|basic| Arc::new(basic) as _)
    }

    fn bearer(&mut self, value: Value<'_, '_>) -> Option<Arc<dyn Authenticator>> {
        let (mut tokens, mut whole) = (Vec::new(), true);
        for (key, value) in in_order(self.table("routes.bearer", value)?) {
            if key.get_ref() != "tokens" {
                self.unknown(self.file.origin(key.span().start), "routes.bearer", key.get_ref(), &["tokens"]);
                continue;
            }
            for (name, value) in in_order(self.table("routes.bearer.tokens", value)?) {
                match self.texts("routes.bearer.tokens", "a token in quotes", value) {
                    Some(given) => {
                        tokens.extend(given.into_iter().map(|(token, _)| (name.get_ref().to_string(), token)))
                    }
                    None => whole = false,
                }
            }
        }
        let bearer = whole.then(|| self.checked("routes.bearer", value, || Bearer::new(tokens)))?;
        bearer.map(|bearer| Arc::new(bearer) as _)
    }

    fn network(&mut self, value: Value<'_, '_>) -> Option<Arc<dyn Authenticator>> {
        let (mut allow, mut deny) = (Vec::new(), Vec::new());
        for (key, value) in in_order(self.table("routes.network", value)?) {
            match &**key.get_ref() {
                "allow" => allow = self.networks("routes.network.allow", value)?,
                "deny" => deny = self.networks("routes.network.deny", value)?,
                other => self.unknown(self.file.origin(key.span().start), "routes.network", other, &["allow", "deny"]),
            }
        }
        let lists = [&allow, &deny].map(|list| list.iter().map(|text| &**text).collect::<Vec<&str>>());
        let network = self.checked("routes.network", value, || Network::new(&lists[0], &lists[1]))?;
        Some(Arc::new(network))
    }

    fn networks(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<Vec<String>> {
        let networks = self.texts(key, "a network in quotes, such as \"10.0.0.0/8\"", value)?;
        for (network, at) in &networks {
            let checked = Network::new(&[network], &[]).map_err(|what| ConfigError::of(key, what).from(at.clone()));
            self.keep(checked)?;
        }
        Some(networks.into_iter().map(|(network, _)| network).collect())
    }

    /// Must all of them admit?
    fn admit(&mut self, value: Value<'_, '_>) -> Option<bool> {
        let admit = self.text("routes.admit", "\"all\" or \"any\"", value)?;
        self.checked("routes.admit", value, || one_of(&admit, &[("all", true), ("any", false)]))
    }
}

fn together(authenticators: Vec<Arc<dyn Authenticator>>, is_all: bool) -> Option<Arc<dyn Authenticator>> {
    let mut each = authenticators.into_iter();
    let first = each.next()?;
    Some(match each.len() {
        0 => first,
        _ if is_all => Arc::new(each.fold(all_of(first), |all, other| all.and(other))),
        _ => Arc::new(each.fold(any_of(first), |any, other| any.or(other))),
    })
}

/// A line of TOML. What may be a secret is masked.
fn show(text: &mut String, key: &str, value: &DeValue<'_>) {
    let is_secret = ["basic", "bearer"].contains(&key);
    writeln!(text, "{} = {}", bare_or_quoted(key), toml(value, is_secret, false))
        .expect("writing to memory never fails");
}

/// Within a table of secrets all texts but the realm are.
fn toml(value: &DeValue<'_>, has_secrets: bool, is_secret: bool) -> String {
    match value {
        DeValue::String(_) if is_secret => "\"***\"".into(),
        DeValue::String(text) => quoted(text),
        DeValue::Boolean(is_so) => is_so.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| toml(item.get_ref(), has_secrets, is_secret)).collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(table) => {
            let pair = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let key: &std::borrow::Cow<'_, str> = key.get_ref();
                let is_secret = is_secret || (has_secrets && key != "realm");
                format!("{} = {}", bare_or_quoted(key), toml(value.get_ref(), has_secrets, is_secret))
            };
            format!("{{ {} }}", in_order(table).into_iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    }
}

fn bare_or_quoted(key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c));
    if is_bare { key.into() } else { quoted(key) }
}
