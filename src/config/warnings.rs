//! Warns of settings that are allowed, but are mostly a mistake.

use super::{
    checked::Config,
    descriptors,
    quantities::Size,
    routes::{
        admission::NETWORK,
        config::{RouteConfig, RouteHandler},
    },
};
use crate::{
    auth::{Access, Jwt, OnError, Origins, Tokens},
    surface::largest_form,
};

impl Config {
    /// Returns the warnings about settings that are allowed, but are mostly a mistake.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let reachable = self.listen.iter().find(|address| !address.ip().is_loopback());
        let open = reachable.filter(|_| self.is_unguarded()).map(|address| {
            format!(
                "whoever reaches {address} may publish and subscribe: set publish_tokens and subscribe_tokens, for \
                 browsers also allowed_origins, or listen on 127.0.0.1 only"
            )
        });
        let few = self.few_descriptors.map(|limit| self.warn_of_descriptors(limit));
        let memory = self.warn_of_memory().into_iter().chain(self.warn_of_backlogs());
        let of_pages = self.routes.iter().filter_map(|route| route.warn_of_pages(&self.access.origins));
        let of_tokens = self.hubs().flat_map(|route| route.warn_of_tokens(&self.access));
        let everybody = self.trusted_proxies.include_everybody().then(|| {
            "trusted_proxies includes every address: whoever reaches the server takes any address by a header line; \
             name the addresses of the proxies alone"
                .into()
        });
        let of_jwt = self
            .jwt
            .iter()
            .filter(|_| self.routes.is_empty())
            .flat_map(|_| lists(&self.access).map(|list| warn_of_jwt("the hub at /t/{topic...}", list)));
        let warnings =
            few.into_iter().chain(memory).chain(open).chain(everybody).chain(self.shared_topics()).chain(of_pages);
        let warnings = warnings.chain(of_tokens).chain(of_jwt).chain(self.warn_of_pages());
        warnings.chain(self.warn_of_issuers()).chain(self.warn_of_unasked()).chain(self.warn_of_on_error()).collect()
    }

    /// Returns a warning for each issuer whose tokens no route takes.
    fn warn_of_issuers(&self) -> impl Iterator<Item = String> {
        let names = self.jwt.iter().filter(|_| !self.routes.is_empty()).flat_map(Jwt::names);
        let is_used =
            |name: &&str| self.routes.iter().any(|route| route.admission.issuers.iter().any(|own| own == name));
        names.filter(move |name| !is_used(name)).map(|name| {
            format!(
                "no route takes the tokens of the issuer {name:?}: where the file has routes, each names its issuers; \
                 add jwt = {name:?} to the routes that the tokens are for{}",
                self.open_hub()
            )
        })
    }

    /// Returns the warning about an application that nothing asks.
    fn warn_of_unasked(&self) -> Option<String> {
        let is_asked = self.routes.iter().any(|route| route.callback.is_some());
        let asks_about_topics = self.topics.iter().any(|topic| topic.rule.asks());
        let is_useless = self.callback.is_some() && !self.routes.is_empty() && !is_asked && !asks_about_topics;
        is_useless.then(|| {
            format!(
                "no route asks the application at callback_url, and no rule of topics does: where the file has routes, \
                 only those with callback = true ask; add it to them{}",
                self.open_hub()
            )
        })
    }

    /// Returns the end of a warning, if a route of the hub lets everybody in.
    fn open_hub(&self) -> String {
        let open = self.hubs().find(|route| route.is_open());
        open.map(|route| format!("; {:?} lets everybody in", route.pattern.as_str())).unwrap_or_default()
    }

    /// Returns the warning about an application without which everybody is let in.
    fn warn_of_on_error(&self) -> Option<String> {
        let allows = self.callback.as_ref().is_some_and(|callback| callback.on_error() == OnError::Allow);
        allows.then(|| {
            "callback_on_error is \"allow\": while the application does not answer, everybody is let in, and who can \
             make it slow gets in; deny or last keep others out"
                .into()
        })
    }

    /// Returns the warning about topics without routes in the file that any page in the browser of an admitted user can
    /// use.
    fn warn_of_pages(&self) -> Option<String> {
        let callback = self.callback_at_connect().filter(|_| self.routes.is_empty())?;
        (callback.sends_header("cookie") && self.access.origins.are_any()).then(|| {
            "callback_url lets people in by their cookies, and allowed_origins is not set: any web page that one of \
             them opens may use the hub in that person's name; set allowed_origins to the origins of your own pages, \
             or take cookie out of callback_headers"
                .into()
        })
    }

    /// Returns the warning about unfinished messages and bodies that may fill more than half of the server's memory.
    fn warn_of_memory(&self) -> Option<String> {
        let memory = self.limits.memory_bytes_max?;
        let (unfinished, bodies) = (self.limits.unfinished_bytes_max as u64, self.http.bodies_bytes_max as u64);
        (unfinished.saturating_add(bodies) > memory / 2).then(|| {
            format!(
                "messages and bodies that have not arrived whole may fill more than half of the memory of the server: \
                 max_unfinished is {}, max_bodies {}, and max_memory {}; lower max_unfinished, max_bodies, or \
                 max_message and max_backlog, from which their least values follow, or run fewer shards",
                Size(unfinished),
                Size(bodies),
                Size(memory)
            )
        })
    }

    /// Returns the warning about a backlog that has no room for two messages in their largest form.
    fn warn_of_backlogs(&self) -> Option<String> {
        let of_routes = self.routes.iter().map(|route| route.rules.limits.message_bytes_max);
        let message = u64::from(of_routes.fold(self.limits.message.message_bytes_max, u32::max));
        let (backlog, least) = (self.limits.backlog_bytes_max as u64, 2 * largest_form(message));
        (backlog < least).then(|| {
            format!(
                "max_backlog is {}: a subscriber of ringhub.v1 may be closed with two messages, which have up to {} \
                 as JSON if they are full of control characters; raise max_backlog, or lower max_message",
                Size(backlog),
                Size(least)
            )
        })
    }

    /// Returns the warning about a limit of open descriptors that leaves few for connections.
    fn warn_of_descriptors(&self, limit: u64) -> String {
        let reserved = descriptors::sum(&self.descriptors());
        let connections = self.limits.connections_max;
        format!(
            "only {connections} connections have room: the limit of open descriptors is {limit}, and the server's own \
             are {reserved}; {}; if so few are meant, set max_connections",
            descriptors::remedy(reserved, None)
        )
    }

    /// Returns a warning for each pair of the hub's routes that lead to the same topics and have different
    /// authenticators or origins in their tables.
    fn shared_topics(&self) -> Vec<String> {
        let hubs: Vec<&RouteConfig> = self.hubs().collect();
        let pairs =
            hubs.iter().enumerate().flat_map(|(at, second)| hubs[..at].iter().map(move |first| (first, second)));
        pairs.filter_map(|(first, second)| first.warn_of_shared_topics(second)).collect()
    }

    /// Returns whether every client that reaches the port may use the hub.
    fn is_unguarded(&self) -> bool {
        let hubs: Vec<&RouteConfig> = self.hubs().collect();
        let guards =
            |guard: &RouteConfig, route: &RouteConfig| !guard.is_open() && guard.topics.include_all(&route.topics);
        let is_unguarded = |route: &&&RouteConfig| !hubs.iter().any(|guard| guards(guard, route));
        let is_bare = self.routes.is_empty() && self.jwt.is_none() && self.callback_at_connect().is_none();
        self.access.is_open() && (is_bare || hubs.iter().find(is_unguarded).is_some())
    }

    /// Returns the routes of the hub.
    fn hubs(&self) -> impl Iterator<Item = &RouteConfig> {
        self.routes.iter().filter(|route| route.handler.leads_to_topics())
    }
}

impl RouteConfig {
    /// Returns the warning about two routes of the hub that lead to the same topics and have different authenticators
    /// or origins in their tables, with a remedy.
    fn warn_of_shared_topics(&self, other: &RouteConfig) -> Option<String> {
        if !self.is_at_odds_with(other) {
            return None;
        }
        let named = |route: &RouteConfig| format!("{:?} ({})", route.pattern.as_str(), route.origin);
        let (wide, narrow) = if self.topics.include_all(&other.topics) { (self, other) } else { (other, self) };
        let [wide_path, narrow_path] = [wide, narrow].map(|route| route.pattern.as_str());
        let remedy = match (wide.topics.is_everything(), wide.topics == narrow.topics) {
            (_, true) => "give each a topic_prefix of its own".into(),
            (true, false) => format!("give {wide_path:?}, which has no topic_prefix, one too"),
            (false, false) => {
                format!("change {wide_path:?}'s topic_prefix so that {narrow_path:?}'s no longer begins with it")
            }
        };
        let [first, second] = [named(self), named(other)];
        Some(format!(
            "the routes {first} and {second} let different people in and lead to the same topics: a request for one of \
             these topics must be let in by both, whichever path it takes, and {wide_path:?} requires {}, \
             {narrow_path:?} requires {}; {remedy}, or give both the same rules",
            wide.requirements(),
            narrow.requirements(),
        ))
    }

    /// Returns the credentials and the origin that the route requires, in words.
    fn requirements(&self) -> String {
        let pages = if self.rules.gate.origins.is_some() { " (and, from web pages, an allowed origin)" } else { "" };
        format!("{}{pages}", self.admission)
    }

    /// Returns the warning about a route that any page in the browser of an admitted user can use; `origins` are the
    /// server's.
    fn warn_of_pages(&self, origins: &Origins) -> Option<String> {
        let is_usable_by_pages = match self.handler {
            RouteHandler::Surface(_) => true,
            // A browser does not let a page of another origin read the answer to a request with a password unless a
            // list has that origin, so only `network` matters for files.
            RouteHandler::Files(_) => self.admission.keys.contains(&NETWORK),
            RouteHandler::Page => false,
        };
        let is_any = self.rules.gate.origins.as_ref().unwrap_or(origins).are_any();
        (is_usable_by_pages && is_any && self.admission.is_passed_by_browsers()).then(|| {
            format!(
                "the route {:?} ({}) lets people in by {} and has no allowed_origins: any web page that one of them \
                 opens may use it in that person's name; give it the origins of your own pages as allowed_origins",
                self.pattern.as_str(),
                self.origin,
                self.admission,
            )
        })
    }

    /// Returns a warning for each of the server's lists of tokens that has no token of the route's bearer.
    fn warn_of_tokens(&self, access: &Access) -> Vec<String> {
        if self.admission.needs_jwt() {
            let route = format!("the route {:?} ({})", self.pattern.as_str(), self.origin);
            return lists(access).map(|list| warn_of_jwt(&route, list)).collect();
        }
        let Some(bearer) = self.admission.needed_bearer() else { return Vec::new() };
        let disjoint = lists(access).filter(|(_, tokens, _)| !bearer.shares_one_with(tokens));
        let warning = |(setting, _, what)| {
            format!(
                "the route {:?} ({}) and {setting} have no token in common: a request shows one token, so nobody can \
                 {what} there; put a token of the route's bearer into {setting} too",
                self.pattern.as_str(),
                self.origin,
            )
        };
        disjoint.map(warning).collect()
    }

    /// Returns whether both routes lead to a common topic and have different authenticators or origins in their tables.
    fn is_at_odds_with(&self, other: &RouteConfig) -> bool {
        let overlap = self.topics.include_all(&other.topics) || other.topics.include_all(&self.topics);
        overlap && self.admission.fingerprint != other.admission.fingerprint
    }
}

/// Returns the server's lists of tokens that are required, with the setting of each, and what the tokens are for.
fn lists(access: &Access) -> impl Iterator<Item = (&'static str, &Tokens, &'static str)> {
    let lists = [("publish_tokens", &access.publish, "publish"), ("subscribe_tokens", &access.subscribe, "subscribe")];
    lists.into_iter().filter(|(_, tokens, _)| tokens.are_required())
}

/// Returns the warning about a list of tokens beside the tokens of issuers.
fn warn_of_jwt(whose: &str, (setting, _, what): (&str, &Tokens, &str)) -> String {
    format!(
        "{whose} takes tokens of issuers (JWT), and {setting} has others: a request shows one token, so nobody can \
         {what} there; leave {setting} out, and give the token of an issuer the topics"
    )
}
