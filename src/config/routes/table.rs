//! Reads the table of a route.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem,
    sync::{Arc, LazyLock},
};

use toml::de::DeTable;

use super::{
    super::{
        issuers::GivenIssuers,
        quantities::{Size, Time},
        rates::{ByteRateLimit, RateLimit},
        ticks::ticks,
        toml::{Masks, in_order, line, toml_pair},
        value::one_of,
    },
    admission::{Admission, BASIC, BEARER, CALLBACK, JWT, NETWORK},
    config::{RouteHandler, SurfaceConfig},
    digest::RouteDigest,
    given::{GivenRoute, ROUTES},
    keys::{in_words, names, names_of_websockets, surface_key},
    reader::{Reader, Value},
};
use crate::{
    auth::{Authenticator, Bearer, Jwt, Origins, any_of, together},
    documents::Documents,
    endpoints::{RouteValue, RouteValues},
    error::{ConfigError, Origin},
    handler::{Pattern, RouteOptions, TOPIC, TopicSpace},
    surface::{KeyFault, KeyKind, SURFACES, Surface, SurfaceKey, TopicUse},
};

/// The values of a route's keys, each valid by itself.
#[derive(Default)]
struct Parts {
    pattern: Option<(Pattern, Origin)>,
    name: Option<(Name, Origin)>,
    documents: Option<(Documents, Origin)>,
    basic: Option<Arc<dyn Authenticator>>,
    bearer: Option<Bearer>,
    jwt: Option<Jwt>,
    network: Option<Arc<dyn Authenticator>>,
    /// The place of `callback = true`.
    callback: Option<Origin>,
    admit: Option<(bool, Origin)>,
    topics: Option<(TopicSpace, Origin)>,
    /// The values of keys that only some surfaces have.
    of_surfaces: Vec<(&'static SurfaceKey, RouteValue, Origin)>,
    options: RouteOptions,
    /// The places of the values of each key.
    origins: BTreeMap<&'static str, Vec<Origin>>,
    fingerprint: u64,
    shown: String,
    digest: RouteDigest,
}

/// A handler by its name in a file.
#[derive(Clone, Copy)]
enum Name {
    Surface(&'static Surface),
    Files,
    Page,
}

impl Name {
    /// Returns the names of all handlers.
    fn all() -> Vec<(&'static str, Name)> {
        let surfaces = SURFACES.iter().map(|surface| (surface.name, Name::Surface(surface)));
        surfaces.chain([("files", Name::Files), ("page", Name::Page)]).collect()
    }
}

impl Reader<'_> {
    /// Reads the table of a route, and notes all its errors.
    pub(super) fn route(mut self, keys: &DeTable<'_>, origin: Origin, issuers: &GivenIssuers) -> Option<GivenRoute> {
        let count = self.errors.len();
        let parts = self.take(keys, issuers);
        // Further errors would only repeat that a value is missing.
        if self.errors.len() > count {
            return None;
        }
        self.fit(parts, keys, origin)
    }

    /// Reads each key. A value that is valid by itself goes into the parts.
    fn take(&mut self, keys: &DeTable<'_>, issuers: &GivenIssuers) -> Parts {
        let mut parts = Parts::default();
        let mut fingerprint = DefaultHasher::new();
        for (key, value) in in_order(keys) {
            let earlier_files = self.file.values.count();
            let at = self.file.origin(value.span().start);
            match &**key.get_ref() {
                "match" => parts.pattern = self.pattern(value).map(|pattern| (pattern, at)),
                "handler" => parts.name = self.handler(value).map(|name| (name, at)),
                "documents" => parts.documents = self.documents(value).map(|documents| (documents, at)),
                "basic" => parts.basic = self.basic(value),
                "bearer" => parts.bearer = self.bearer(value),
                "jwt" => parts.jwt = self.jwt(value, issuers),
                "network" => parts.network = self.network(value),
                "callback" => parts.callback = self.boolean("routes.callback", value).filter(|asks| *asks).map(|_| at),
                "admit" => parts.admit = self.admit(value).map(|is_all| (is_all, at)),
                "topic_prefix" => parts.topics = self.topics(value).map(|topics| (topics, at)),
                "protocols" => parts.protocols(self.texts("routes.protocols", "a subprotocol in quotes", value)),
                "allowed_origins" => parts.options.gate.origins = self.origins(value),
                "max_message" => parts.options.max_message = self.size("routes.max_message", value),
                "max_frame" => parts.options.max_frame = self.size("routes.max_frame", value),
                "max_fragments" => {
                    parts.options.max_fragments = self.keep(self.file.value("routes.max_fragments", value));
                }
                "max_message_rate" => {
                    let rate = self.keep(self.file.value::<RateLimit>("routes.max_message_rate", value));
                    parts.options.max_message_rate = rate.map(|limit| limit.0);
                }
                "max_byte_rate" => {
                    let rate = self.keep(self.file.value::<ByteRateLimit>("routes.max_byte_rate", value));
                    parts.options.max_byte_rate = rate.map(|limit| limit.0);
                }
                "ping_interval" => parts.options.ping_interval = self.ticks("routes.ping_interval", value),
                "pong_timeout" => parts.options.pong_timeout = self.ticks("routes.pong_timeout", value),
                "ping_payload" => parts.options.ping_payload = self.ping_payload(value).unwrap_or_default(),
                "check_utf8" => parts.options.check_utf8 = self.boolean("routes.check_utf8", value),
                other => match surface_key(other) {
                    Some(key) => {
                        parts.of_surfaces.extend(self.value_of_surface(key, value).map(|value| (key, value, at)));
                    }
                    None => {
                        self.unknown(self.file.origin(key.span().start), ROUTES, "a route", other, &names());
                        continue;
                    }
                },
            }
            let whole = toml_pair(key.get_ref(), value.get_ref(), Masks::None);
            if ["basic", "bearer", "jwt", "network", "callback", "admit", "allowed_origins"].contains(&&**key.get_ref())
            {
                whole.hash(&mut fingerprint);
            }
            let mut digest = DefaultHasher::new();
            whole.hash(&mut digest);
            self.file.values.hash_since(earlier_files, &mut digest);
            let is_lasting =
                ["handler", "topic_prefix"].contains(&&**key.get_ref()) || surface_key(key.get_ref()).is_some();
            parts.digest.add(digest.finish(), is_lasting);
            let masks = match &**key.get_ref() {
                "basic" => Masks::Beside("realm"),
                "bearer" => Masks::All,
                other if surface_key(other).is_some_and(|key| key.kind == KeyKind::Secrets) => Masks::All,
                _ => Masks::None,
            };
            line(&mut parts.shown, &toml_pair(key.get_ref(), value.get_ref(), masks));
            let name = names().into_iter().find(|name| key.get_ref() == name);
            let name = name.expect("every key that is read is in the table of keys");
            parts.origins.entry(name).or_insert_with(|| vec![self.file.origin(value.span().start)]);
        }
        parts.fingerprint = fingerprint.finish();
        parts
    }

    /// Checks the values of a route that depend on each other.
    fn fit(&mut self, mut parts: Parts, keys: &DeTable<'_>, origin: Origin) -> Option<GivenRoute> {
        let Some((pattern, pattern_at)) = parts.pattern.take() else {
            return self.fail("routes.match", origin, "a route needs a path, such as match = \"/chat\"");
        };
        let handler = self.fit_handler(&mut parts, &origin)?;
        self.fit_pattern(&pattern, pattern_at, &handler, keys, &origin)?;
        let topics = match (handler.leads_to_topics(), parts.topics.take()) {
            (true, Some((topics, _))) => topics,
            (false, Some((_, at))) => {
                return self.fail("routes.topic_prefix", at, "only a route of the hub has topics");
            }
            (_, None) => TopicSpace::default(),
        };
        let admission = self.fit_authenticators(&mut parts)?;
        let Parts { options, origins, shown, digest, callback, .. } = parts;
        Some(GivenRoute { pattern, handler, topics, options, admission, callback, origin, origins, shown, digest })
    }

    /// Returns the handler, which `documents` may imply.
    fn fit_handler(&mut self, parts: &mut Parts, origin: &Origin) -> Option<RouteHandler> {
        let (name, at) = match (parts.name.take(), &parts.documents) {
            (Some(name), _) => name,
            (None, Some((_, at))) => (Name::Files, at.clone()),
            (None, None) => {
                let what = format!("a route needs a handler: {}", *HANDLERS_IN_QUOTES);
                return self.fail("routes.handler", origin.clone(), &what);
            }
        };
        Some(match (name, parts.documents.take()) {
            (Name::Files, Some((documents, _))) => RouteHandler::Files(documents),
            (Name::Files, None) => return self.fail("routes.documents", at, "a route of files needs a folder"),
            (_, Some((_, at))) => return self.fail("routes.documents", at, "only a route of files has a folder"),
            (Name::Surface(surface), None) => RouteHandler::Surface(self.fit_surface(surface, parts, origin)?),
            (Name::Page, None) => RouteHandler::Page,
        })
    }

    /// Returns a surface with the values of its keys, which it has checked.
    fn fit_surface(&mut self, surface: &'static Surface, parts: &mut Parts, origin: &Origin) -> Option<SurfaceConfig> {
        if let (Some(protocol), Some(at)) = (surface.protocol, parts.origins.get("protocols").and_then(|at| at.first()))
        {
            let what = format!("{:?} has one subprotocol, {protocol}; leave the key out", surface.name);
            return self.fail("routes.protocols", at.clone(), &what);
        }
        let mut values = RouteValues::default();
        let mut origins = Vec::new();
        for (key, value, at) in mem::take(&mut parts.of_surfaces) {
            if !surface.keys.iter().any(|own| own.name() == key.name()) {
                return self.fail(key.qualified, at, &format!("{:?} has no {}", surface.name, key.name()));
            }
            values.set(key.name(), value);
            origins.push((key, at));
        }
        match (surface.check)(&values) {
            Ok(()) => Some(SurfaceConfig { surface, values: Arc::new(values) }),
            Err(KeyFault { key, what }) => {
                let (qualified, at) = match origins.iter().find(|(given, _)| given.name() == key) {
                    Some((given, at)) => (given.qualified, at.clone()),
                    None => (surface_key(key).map_or(ROUTES, |key| key.qualified), origin.clone()),
                };
                self.fail(qualified, at, &what)
            }
        }
    }

    /// Checks that the pattern and the keys of a route suit its handler.
    fn fit_pattern(
        &mut self,
        pattern: &Pattern,
        pattern_at: Origin,
        handler: &RouteHandler,
        keys: &DeTable<'_>,
        origin: &Origin,
    ) -> Option<()> {
        let path = pattern.as_str();
        let (whose, place) = match handler {
            RouteHandler::Surface(SurfaceConfig { surface, .. }) => {
                if surface.topics == TopicUse::OfPath && !pattern.has_parameter(TOPIC) {
                    let what = format!("{path:?} has no {{topic}} or {{topic...}}, which says what to subscribe to");
                    return self.fail("routes.match", pattern_at, &what);
                }
                let fit = surface.patterns(pattern).map(drop);
                let fit = fit.map_err(|error| format!("{:?} has paths below {path:?}: {error}", surface.name));
                return self.keep(fit.map_err(|what| ConfigError::of("routes.match", what).from(pattern_at)));
            }
            RouteHandler::Page => ("the page", "the page is served at one path"),
            RouteHandler::Files(_) => ("files", "files are served at a path and below it"),
        };
        if path.contains('{') {
            return self.fail("routes.match", pattern_at, &format!("{path:?} has parameters; {place}"));
        }
        let is_given = |key: &&str| keys.keys().any(|given| given.get_ref() == key);
        if let Some(key) = names_of_websockets().find(is_given) {
            let what = format!("{key} concerns WebSockets, and a route of {whose} opens none");
            return self.fail(ROUTES, origin.clone(), &what);
        }
        Some(())
    }

    /// Combines the authenticators of the table into one, and describes them for warnings.
    fn fit_authenticators(&mut self, parts: &mut Parts) -> Option<Admission> {
        let issuers = parts.jwt.iter().flat_map(Jwt::names).map(String::from).collect();
        // The cheapest authenticator comes first; if all must admit, the identity of the last one counts.
        let (of_tokens, token): (&[&str], Option<Arc<dyn Authenticator>>) = match (&parts.bearer, parts.jwt.take()) {
            (Some(bearer), Some(jwt)) => (&[BEARER, JWT], Some(Arc::new(any_of(bearer.clone()).or(jwt)))),
            (Some(bearer), None) => (&[BEARER], Some(Arc::new(bearer.clone()))),
            (None, Some(jwt)) => (&[JWT], Some(Arc::new(jwt))),
            (None, None) => (&[], None),
        };
        let given = [(&[NETWORK][..], parts.network.take()), (&[BASIC], parts.basic.take()), (of_tokens, token)];
        let (mut keys, mut authenticators) = (Vec::new(), Vec::new());
        for (of_this, authenticator) in given.into_iter().filter(|(_, authenticator)| authenticator.is_some()) {
            keys.extend(of_this);
            authenticators.extend(authenticator);
        }
        // The callback of the server is added when the route is settled.
        keys.extend(parts.callback.as_ref().map(|_| CALLBACK));
        let count = authenticators.len() + usize::from(parts.callback.is_some());
        if let (Some((_, at)), ..2) = (&parts.admit, count) {
            let several = "several of basic, network, callback, and a token (bearer, jwt)";
            let what = &format!("there is nothing to choose: it is for {several}");
            return self.fail("routes.admit", at.clone(), what);
        }
        let is_all = parts.admit.as_ref().is_none_or(|(is_all, _)| *is_all);
        parts.options.gate.authenticator = together(authenticators, is_all);
        let bearer = parts.bearer.take();
        Some(Admission { fingerprint: parts.fingerprint, keys, is_all, bearer, issuers, asks_with_cookies: false })
    }

    fn pattern(&mut self, value: Value<'_, '_>) -> Option<Pattern> {
        let pattern = self.text("routes.match", "a path in quotes, such as \"/chat/{room}\",", value)?;
        self.checked("routes.match", value, || Pattern::new(&pattern).map_err(|error| error.to_string()))
    }

    fn topics(&mut self, value: Value<'_, '_>) -> Option<TopicSpace> {
        let prefix =
            self.text("routes.topic_prefix", "what topics begin with, in quotes, such as \"staff/\",", value)?;
        self.checked("routes.topic_prefix", value, || TopicSpace::new(&prefix))
    }

    fn handler(&mut self, value: Value<'_, '_>) -> Option<Name> {
        let name = self.text("routes.handler", &HANDLERS_IN_QUOTES, value)?;
        self.checked("routes.handler", value, || one_of(&name, &Name::all()))
    }

    /// Reads the value of a surface's own key.
    fn value_of_surface(&mut self, key: &SurfaceKey, value: Value<'_, '_>) -> Option<RouteValue> {
        Some(match key.kind {
            KeyKind::Text => RouteValue::Text(self.text(key.qualified, "text in quotes", value)?),
            KeyKind::Boolean => RouteValue::Boolean(self.boolean(key.qualified, value)?),
            KeyKind::Size => RouteValue::Size(self.size(key.qualified, value)?),
            KeyKind::Secrets => {
                let mut secrets = Vec::new();
                for (name, value) in in_order(self.table(key.qualified, value)?) {
                    let secret = self.text(key.qualified, "a secret in quotes", value)?;
                    secrets.push((name.get_ref().to_string(), secret));
                }
                RouteValue::Secrets(secrets)
            }
        })
    }

    /// Reads a folder, relative to the folder of the settings' file.
    fn documents(&mut self, value: Value<'_, '_>) -> Option<Documents> {
        let path = self.text("routes.documents", "a folder in quotes, such as \"./site\",", value)?;
        let folder = self.file.path.parent().map_or_else(|| path.clone().into(), |parent| parent.join(&path));
        self.checked("routes.documents", value, || Documents::new(folder).map_err(|error| error.to_string()))
    }

    fn origins(&mut self, value: Value<'_, '_>) -> Option<Origins> {
        let origins: Vec<String> = self.keep(self.file.value("routes.allowed_origins", value))?;
        self.checked("routes.allowed_origins", value, || Origins::new(origins))
    }

    pub(in crate::config) fn size(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<u64> {
        let size: Size = self.keep(self.file.value(key, value))?;
        Some(size.0)
    }

    fn ticks(&mut self, key: &'static str, value: Value<'_, '_>) -> Option<u32> {
        let time: Time = self.keep(self.file.value(key, value))?;
        let at = self.file.origin(value.span().start);
        self.keep(ticks(key, time).map_err(|error| error.from(at)))
    }

    fn ping_payload(&mut self, value: Value<'_, '_>) -> Option<Vec<u8>> {
        self.text("routes.ping_payload", "text in quotes", value).map(String::into_bytes)
    }
}

impl Parts {
    /// Keeps the subprotocols, each with its place.
    fn protocols(&mut self, given: Option<Vec<(String, Origin)>>) {
        let (protocols, origins) = given.unwrap_or_default().into_iter().unzip();
        self.options.protocols = protocols;
        self.origins.insert("protocols", origins);
    }
}

/// The names of all handlers, for errors.
static HANDLERS_IN_QUOTES: LazyLock<String> = LazyLock::new(|| {
    let names = Name::all();
    in_words(&names.iter().map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>(), "or")
});
