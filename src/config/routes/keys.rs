//! The table of all keys of a route, except those of surfaces. The keys that the reader knows and docs/routes.md follow
//! from this table and from the keys of surfaces.

use crate::surface::{SURFACES, Surface, SurfaceKey, TopicUse};

/// One row of the table.
pub(in crate::config) struct RouteKey {
    /// The key. A key of a table within the route has the table's name before it: `basic.users`.
    pub(in crate::config) name: &'static str,
    pub(in crate::config) routes: Routes,
    /// The type of the key's value, in words. `{handlers}` stands for the names of all handlers.
    pub(in crate::config) value: &'static str,
    /// The default, in words.
    pub(in crate::config) preset: &'static str,
    pub(in crate::config) help: &'static str,
}

/// The routes that a key is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::config) enum Routes {
    All,
    /// Those that open WebSockets.
    WebSockets,
    /// Those that lead to topics.
    Topics,
    Files,
}

impl Routes {
    /// Returns the handlers of the routes, in words.
    pub(in crate::config) fn words(self) -> String {
        let surfaces = |is: &dyn Fn(&Surface) -> bool| {
            let names = SURFACES.iter().filter(|surface| is(surface)).map(|surface| format!("`{}`", surface.name));
            names.collect::<Vec<_>>().join(", ")
        };
        match self {
            Routes::All => "all".into(),
            Routes::WebSockets => surfaces(&|_| true),
            Routes::Topics => surfaces(&|surface| surface.topics != TopicUse::Nothing),
            Routes::Files => "`files`".into(),
        }
    }
}

impl RouteKey {
    /// Returns the name at the route's own level: `basic` of `basic.users`.
    fn top(&self) -> &'static str {
        self.name.split('.').next().unwrap_or_default()
    }

    /// Returns whether a route that opens no WebSockets cannot have the key.
    fn is_of_websockets(&self) -> bool {
        matches!(self.routes, Routes::WebSockets | Routes::Topics)
    }
}

/// Returns the keys of a route itself: those of every route in the order of the table, then those of surfaces.
pub(super) fn names() -> Vec<&'static str> {
    let mut names: Vec<&str> = KEYS.iter().map(RouteKey::top).collect();
    names.dedup();
    names.extend(of_surfaces().map(|(_, key)| key.name()));
    names
}

/// Returns the keys of all surfaces.
pub(in crate::config) fn of_surfaces() -> impl Iterator<Item = (&'static Surface, &'static SurfaceKey)> {
    SURFACES.iter().flat_map(|surface| surface.keys.iter().map(move |key| (*surface, key)))
}

/// Returns the key of that name, if a surface has it.
pub(super) fn surface_key(name: &str) -> Option<&'static SurfaceKey> {
    of_surfaces().map(|(_, key)| key).find(|key| key.name() == name)
}

/// Returns the names of all handlers of routes, in words.
pub(in crate::config) fn handlers_in_words() -> String {
    let names = SURFACES.iter().map(|surface| surface.name).chain(["files", "page"]);
    in_words(&names.map(|name| format!("`{name}`")).collect::<Vec<_>>(), "or")
}

/// Returns the names of all surfaces, in words.
pub(in crate::config) fn surfaces_in_words() -> String {
    in_words(&SURFACES.iter().map(|surface| format!("`{}`", surface.name)).collect::<Vec<_>>(), "and")
}

/// Returns words as a list: `a, b or c`.
pub(super) fn in_words(words: &[String], conjunction: &str) -> String {
    match words {
        [] => String::new(),
        [word] => word.clone(),
        [words @ .., last] => format!("{} {conjunction} {last}", words.join(", ")),
    }
}

/// Returns the keys of a table within a route, in the order of the table.
pub(super) fn names_below(table: &str) -> Vec<&'static str> {
    let below = KEYS.iter().filter(|key| key.top() == table);
    below.filter_map(|key| key.name.split_once('.').map(|(_, name)| name)).collect()
}

/// Returns the keys that concern WebSockets only.
pub(super) fn names_of_websockets() -> impl Iterator<Item = &'static str> {
    let of_routes = KEYS.iter().filter(|key| key.is_of_websockets()).map(|key| key.name);
    of_routes.chain(of_surfaces().map(|(_, key)| key.name()))
}

/// `key: routes, "value", "default", "help";`
macro_rules! keys {
    ($($name:literal: $routes:ident, $value:literal, $preset:literal, $help:literal;)+) => {
        /// Every key; the keys of one table stand together.
        pub(in crate::config) const KEYS: &[RouteKey] = &[$(RouteKey {
            name: $name,
            routes: Routes::$routes,
            value: $value,
            preset: $preset,
            help: $help,
        },)+];
    };
}

keys! {
    "match": All, "path", "required",
        "Path of the route. `{name}` stands for one segment, `{name...}` for the rest; a `hub` needs `{topic}` or \
         `{topic...}`, and `files` and `page` have no parameters.";
    "handler": All, "{handlers}", "`files` if there are `documents`, else required",
        "Handler of the route.";
    "documents": Files, "folder", "required", "Folder to serve, relative to the file of settings.";
    "basic.realm": All, "text", "`ringhub`", "Name that a browser shows when it asks for a password (RFC 7617).";
    "basic.users": All, "table: a password for each user", "required in `basic`",
        "Passwords, or their SHA-256 as `sha256:` and 64 hexadecimal digits.";
    "bearer.tokens": All, "table: a token, or a list of tokens, for each name", "required in `bearer`",
        "Tokens (RFC 6750), by the names of their owners.";
    "jwt": All, "name of an issuer, or list of names", "none",
        "Issuers whose tokens (JWT) are admitted: names of `[[issuers]]`. Beside `bearer` a token of either kind is \
         enough.";
    "network.allow": All, "list of networks", "all that are not denied",
        "Addresses that are admitted, such as `10.0.0.0/8`, `fd00::/8` or `192.0.2.1`.";
    "network.deny": All, "list of networks", "none", "Addresses that are not admitted, even if `allow` has them.";
    "callback": All, "`true` or `false`", "`false`",
        "Whether the application is asked about each request at the route (`callback_url`, see \
         [callbacks.md](callbacks.md)).";
    "admit": All, "`all` or `any`", "`all`",
        "Of several authenticators (`basic`, `network`, `callback`, and a token of `bearer` or `jwt`) all must admit, \
         or any one of them.";
    "allowed_origins": All, "list of origins", "the server's `allowed_origins`",
        "Origins whose pages may use the route. Others are answered 403.";
    "protocols": WebSockets, "list of subprotocols", "none",
        "Subprotocols that the route speaks (RFC 6455 section 1.9), the best first. `*`, as the last one, accepts the \
         first that a client offers.";
    "topic_prefix": Topics, "text", "none",
        "Beginning of the names of the route's topics. It stands before the topic of the path.";
    "max_message": WebSockets, "size, 1 to half of `max_backlog`", "the server's `max_message`",
        "Largest message from a client, and for a `hub` the largest body. `max_gathered` must have room for one \
         message; for a `hub`, so must `max_bodies`. Beyond it: close 1009, or 413.";
    "max_frame": WebSockets, "size, 1 to `max_message`", "the server's `max_frame`",
        "Largest frame from a client. Beyond it: close 1009.";
    "max_fragments": WebSockets, "count, 1 or more", "the server's `max_fragments`",
        "Fragments of one message. Beyond it: close 1009.";
    "max_message_rate": WebSockets, "rate or `off`", "the server's `max_message_rate`",
        "Messages of one connection, such as `100/s` or `30/m burst 5`. Beyond it: the connection is not read until \
         the rate allows it.";
    "max_byte_rate": WebSockets, "rate or `off`", "the server's `max_byte_rate`",
        "Bytes of one connection, such as `64KiB/s burst 1MiB`. Beyond it: the same.";
    "ping_interval": WebSockets, "time, 0 to 8784h", "the server's `ping_interval`",
        "Silence of a client after which it is pinged; 0 never pings.";
    "pong_timeout": WebSockets, "time, 0 to 8784h", "the server's `pong_timeout`",
        "Longest time from a ping to the next bytes of the client; 0 waits forever.";
    "ping_payload": WebSockets, "text, to 125 bytes", "empty", "Payload of pings.";
    "check_utf8": WebSockets, "`true` or `false`", "`true`",
        "Whether a text that is not UTF-8 closes the connection with 1007.";
}
