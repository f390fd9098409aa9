//! The endpoints by their paths: one table for all threads.
//!
//! A request is resolved to its [`Endpoint`] first, by the segments of its path alone, and then answered: by a shard,
//! or by the control thread. No other code interprets a path.
//!
//! If the patterns of several endpoints match a path, the endpoint with the most precise pattern has the path. Patterns
//! are compared segment by segment from the front: a fixed segment is more precise than `{name}`, and that than
//! `{name...}`. The server's own endpoints (`/healthz`, `/readyz`, `/metrics`, and its page at `/`) have patterns of
//! fixed segments. Files at `/site` have the paths that `/site/{name...}` matches, and `/site` itself unless a route
//! has exactly that path.

#![forbid(unsafe_code)]

mod authorize;
#[doc(hidden)]
pub mod fuzz;

pub(crate) use authorize::{Denied, Intent};

use crate::{
    auth::{Access, Gate},
    documents::Documents,
    handler::{Parameters, Pattern, Route, TOPIC},
    hub::TopicName,
    proto::{Refusal, RequestHead, RequestPath},
};

/// The endpoint of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// A topic of the hub, by WebSocket and by POST.
    Topic { route: usize, topic: TopicName },
    /// Any other handler's WebSockets.
    WebSocket { route: usize },
    /// Files: the number of the folder, and the segments below it; no segments for the folder without a slash behind
    /// it.
    Files { mount: usize, below: Vec<String> },
    /// The page that watches topics: the number of a route's page, or `None` for the server's own.
    Page { page: Option<usize> },
    /// `/healthz`: whether the server is alive.
    Health,
    /// `/readyz`: whether the server takes traffic.
    Ready,
    /// `/metrics`: the counters of the server.
    Metrics,
    /// A path without an endpoint.
    Nothing,
}

impl Endpoint {
    /// Returns the answer about the server's health, for every thread: a text, or a refusal. `None` if the endpoint is
    /// neither health nor readiness.
    pub(crate) fn health(&self, method: &str, is_leaving: bool) -> Option<Result<&'static str, Refusal>> {
        let text = match self {
            Endpoint::Health => "alive\n",
            Endpoint::Ready => "ready\n",
            _ => return None,
        };
        Some(match method {
            "GET" | "HEAD" if is_leaving && *self == Endpoint::Ready => Err(Refusal::leaving()),
            "GET" | "HEAD" => Ok(text),
            _ => Err(Refusal::not_allowed("GET, HEAD")),
        })
    }
}

/// A folder of files at a path.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    /// The path, of fixed segments.
    pattern: Pattern,
    /// The segments below the folder's path.
    below: Pattern,
    pub(crate) documents: Documents,
    pub(crate) gate: Gate,
}

impl Mount {
    /// Returns a folder at a path such as `/site` or `/`; a slash at the end of the path makes no difference. `None`
    /// for a malformed path.
    pub(crate) fn new(path: &str, documents: Documents, gate: Gate) -> Option<Mount> {
        let pattern = Pattern::new(&format!("/{}", path.trim_matches('/'))).ok()?;
        let below = pattern.below()?;
        Some(Mount { pattern, below, documents, gate })
    }

    /// Returns whether both are at the same path.
    pub(crate) fn is_where(&self, other: &Mount) -> bool {
        self.below.clashes_with(&other.below)
    }

    /// Returns whether the folder is at `/`.
    pub(crate) fn is_root(&self) -> bool {
        self.below.segment_count() == 1
    }
}

/// The table of all endpoints.
#[derive(Debug)]
pub(crate) struct Endpoints {
    /// The most precise first.
    rows: Vec<(Pattern, Target)>,
    routes: Vec<Route>,
    mounts: Vec<Mount>,
    /// The gates of the routes' pages.
    pages: Vec<Gate>,
    /// The server's own origins and tokens.
    access: Access,
    /// Whether any endpoint is for pages of certain origins only.
    restricts_origins: bool,
}

/// The owner of the paths of a pattern. Of two equally precise patterns, a route's has a path before a folder's.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Own(Endpoint),
    Route(usize),
    Page(usize),
    Folder(usize),
    Below(usize),
}

/// The reason for which a table cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Two patterns are for the same paths.
    Clash(Pattern, Pattern),
    /// A pattern is for a path of the server's own.
    Own(Pattern),
}

impl Endpoints {
    /// Makes the table of these routes, folders and pages, with the server's own page at `/` if `has_page`, with
    /// health, readiness and metrics if `has_operations`. `access` holds where an endpoint has no rules of its own.
    ///
    /// # Errors
    ///
    /// [`Conflict::Clash`] if two patterns match the same paths, [`Conflict::Own`] if one matches a path of the
    /// server's own.
    pub(crate) fn new(
        mut routes: Vec<Route>,
        mounts: Vec<Mount>,
        pages: Vec<(Pattern, Gate)>,
        has_page: bool,
        has_operations: bool,
        access: Access,
    ) -> Result<Endpoints, Conflict> {
        routes.sort_by_key(|route| std::cmp::Reverse(route.pattern.precision()));
        let mut rows: Vec<(Pattern, Target)> = Vec::new();
        let operations = OPERATIONS.into_iter().filter(|_| has_operations);
        let page = has_page.then_some(("/", Endpoint::Page { page: None }));
        for (path, endpoint) in operations.chain(page) {
            rows.push((Pattern::new(path).expect("a path"), Target::Own(endpoint)));
        }
        rows.extend(routes.iter().enumerate().map(|(at, route)| (route.pattern.clone(), Target::Route(at))));
        rows.extend(pages.iter().enumerate().map(|(at, (pattern, _))| (pattern.clone(), Target::Page(at))));
        rows.extend(mounts.iter().enumerate().map(|(at, mount)| (mount.below.clone(), Target::Below(at))));
        for (at, (pattern, _)) in rows.iter().enumerate() {
            if let Some((other, target)) = rows[..at].iter().find(|(other, _)| other.clashes_with(pattern)) {
                return Err(match target {
                    Target::Own(_) => Conflict::Own(pattern.clone()),
                    _ => Conflict::Clash(other.clone(), pattern.clone()),
                });
            }
        }
        let folders = mounts.iter().enumerate().filter(|(_, mount)| !mount.is_root());
        rows.extend(folders.map(|(at, mount)| (mount.pattern.clone(), Target::Folder(at))));
        // The sort is stable. Of two equally precise patterns for a path, one is a route and the other a folder itself:
        // the route was added first, so it has the path.
        rows.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.precision()));
        let pages: Vec<Gate> = pages.into_iter().map(|(_, gate)| gate).collect();
        let is_restricted = |gate: &Gate| gate.origins.as_ref().is_some_and(|origins| !origins.are_any());
        let restricts_origins = !access.origins.are_any()
            || routes.iter().any(|route| is_restricted(&route.rules.gate))
            || mounts.iter().any(|mount| is_restricted(&mount.gate))
            || pages.iter().any(is_restricted);
        Ok(Endpoints { rows, routes, mounts, pages, access, restricts_origins })
    }

    /// Returns the endpoint of a request by the segments of its path alone.
    ///
    /// # Errors
    ///
    /// 400 for a path that two readers could understand differently, or a malformed name of a topic.
    pub(crate) fn resolve(&self, head: &RequestHead) -> Result<Endpoint, Refusal> {
        let path = head.segments().map_err(|error| Refusal::new(400, error.to_string()))?;
        let row = self.rows.iter().find(|(pattern, _)| pattern.matches(path));
        row.map_or(Ok(Endpoint::Nothing), |(pattern, target)| self.endpoint(pattern, target, path))
    }

    fn endpoint(&self, pattern: &Pattern, target: &Target, path: &RequestPath) -> Result<Endpoint, Refusal> {
        let below = |mount: usize| {
            let depth = self.mounts[mount].below.segment_count() - 1;
            Endpoint::Files { mount, below: path.segments().skip(depth).map(Into::into).collect() }
        };
        match *target {
            Target::Own(ref endpoint) => Ok(endpoint.clone()),
            Target::Page(page) => Ok(Endpoint::Page { page: Some(page) }),
            Target::Folder(mount) | Target::Below(mount) => Ok(below(mount)),
            Target::Route(route) => {
                let Some(topics) = &self.routes[route].topics else { return Ok(Endpoint::WebSocket { route }) };
                let topic = topics.topic(&pattern.parameter_of(TOPIC, path));
                let topic = topic.map_err(|error| Refusal::new(400, error.to_string()))?;
                Ok(Endpoint::Topic { route, topic })
            }
        }
    }

    /// Returns the values of a route's parameters in the path of a request that was resolved to the route.
    pub(crate) fn parameters(&self, route: usize, head: &RequestHead) -> Parameters {
        head.segments().map_or_else(|_| Parameters::new(), |path| self.routes[route].pattern.parameters_of(path))
    }

    /// Returns the most bytes of a message to an endpoint; 0 for an endpoint without messages. For a topic it is the
    /// smallest limit of all routes whose topics include the topic, whatever path the request has.
    pub(crate) fn message_bytes_max(&self, endpoint: &Endpoint) -> u32 {
        match endpoint {
            Endpoint::Topic { topic, .. } => {
                let leading = self.routes.iter().filter(|route| route.leads_to(topic));
                leading.map(|route| route.rules.limits.message_bytes_max).min().unwrap_or_default()
            }
            Endpoint::WebSocket { route } => self.routes[*route].rules.limits.message_bytes_max,
            _ => 0,
        }
    }

    /// Returns the routes, by their numbers.
    pub(crate) fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Returns the folders, by their numbers.
    pub(crate) fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// Returns the refusal of a WebSocket at a path without one.
    pub(crate) fn no_websocket_at(&self, path: &str) -> Refusal {
        let patterns: Vec<&str> = self.routes.iter().take(NAMED_MAX).map(|route| route.pattern.as_str()).collect();
        let elsewhere = match self.routes.len() - patterns.len() {
            _ if patterns.is_empty() => "nowhere".into(),
            0 => patterns.join(", "),
            more => format!("{} and {more} more", patterns.join(", ")),
        };
        Refusal::new(404, format!("no WebSocket is at {path:?}; there are some at {elsewhere}"))
    }

    /// Returns the refusal of any other request at a path without an endpoint.
    pub(crate) fn nothing_at(&self, path: &str) -> Refusal {
        match self.routes.iter().find(|route| route.topics.is_some()) {
            Some(hub) => Refusal::new(404, format!("nothing is at {path:?}; topics are at {}", hub.pattern)),
            None => Refusal::new(404, format!("nothing is at {path:?}")),
        }
    }
}

/// The endpoints for the operator of the server.
pub(crate) const OPERATIONS: [(&str, Endpoint); 3] =
    [("/healthz", Endpoint::Health), ("/readyz", Endpoint::Ready), ("/metrics", Endpoint::Metrics)];

/// The most patterns that a refusal names.
const NAMED_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::handler::{Handler, Rules, Typed};

    struct Nobody;

    impl Handler for Nobody {
        type State = ();
    }

    /// Returns a table of these patterns, of which those with `{topic}` are the hub's, and of folders at these paths.
    fn table(patterns: &[&str], folders: &[&str], has_page: bool) -> Result<Endpoints, Conflict> {
        let route = |pattern: &&str| {
            let pattern = Pattern::new(pattern).unwrap();
            let topics = pattern.has_parameter(TOPIC).then(Default::default);
            Route { pattern, rules: Rules::default(), topics, factory: Arc::new(Typed(Arc::new(Nobody))) }
        };
        let documents = || Documents::new(env!("CARGO_MANIFEST_DIR")).unwrap();
        let mounts = folders.iter().map(|folder| Mount::new(folder, documents(), Gate::default()).unwrap());
        Endpoints::new(
            patterns.iter().map(route).collect(),
            mounts.collect(),
            Vec::new(),
            has_page,
            true,
            Access::default(),
        )
    }

    #[test]
    fn a_refusal_names_few_patterns() {
        let patterns: Vec<String> = (0..1_000).map(|number| format!("/inner-{number:04}/{{topic}}")).collect();
        let patterns: Vec<&str> = patterns.iter().map(|pattern| &**pattern).collect();
        let text = |patterns: &[&str]| table(patterns, &[], true).unwrap().no_websocket_at("/x").error;
        let many = text(&patterns);
        assert!(many.ends_with(", /inner-0002/{topic} and 997 more") && many.len() < 200, "{many}");
        assert!(text(&patterns[..2]).ends_with(" at /inner-0000/{topic}, /inner-0001/{topic}"));
        assert!(text(&[]).ends_with(" at nowhere"));
        let nothing = table(&patterns, &[], true).unwrap().nothing_at("/x").error;
        assert_eq!(nothing.matches("/inner-").count(), 1, "{nothing}");
    }

    fn head(target: &str) -> Option<RequestHead> {
        let head = RequestHead::decode(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        head.ok().map(|head| head.expect("it is whole").0)
    }

    /// Returns the endpoint of a target as text: the pattern and its topic, the folder and the segments below it, or
    /// the server's own; and the status of a refusal.
    fn found(table: &Endpoints, target: &str) -> String {
        let Some(head) = head(target) else { return "400".into() };
        match table.resolve(&head) {
            Ok(Endpoint::Topic { route, topic, .. }) => format!("{} {topic}", table.routes()[route].pattern),
            Ok(Endpoint::WebSocket { route, .. }) => table.routes()[route].pattern.to_string(),
            Ok(Endpoint::Files { mount, below }) => format!("{} {below:?}", table.mounts()[mount].pattern),
            Ok(Endpoint::Page { .. }) => "Page".into(),
            Ok(own) => format!("{own:?}"),
            Err(refusal) => refusal.status.to_string(),
        }
    }

    #[test]
    fn the_most_precise_has_the_path() {
        let patterns =
            ["/{rest...}", "/a/{x}", "/a/b", "/{x}/b", "/t/{topic...}", "/t/admin/{topic...}", "/site", "/t/echo"];
        let all = table(&patterns, &["/site", "/site/deep/", "/t/files"], true).unwrap();
        for (target, expected) in [
            ("/a/b", "/a/b"),
            ("/a/c", "/a/{x}"),
            ("/c/b", "/{x}/b"),
            ("/c/d", "/{rest...}"),
            ("/", "Page"),
            ("http://a?b", "Page"),
            ("/healthz", "Health"),
            ("/%68ealthz", "Health"),
            ("/healthz/", "/{rest...}"),
            ("/readyz?x", "Ready"),
            ("/metrics", "Metrics"),
            ("/t/a/b", "/t/{topic...} a/b"),
            ("/t/admin/x", "/t/admin/{topic...} x"),
            ("/t/admin%2Fx", "/t/{topic...} admin/x"),
            ("/t/echo", "/t/echo"),
            ("/t/echo/", "/t/{topic...} echo/"),
            ("/t/files/x", "/t/files [\"x\"]"),
            ("/t/filesx", "/t/{topic...} filesx"),
            ("/site", "/site"),
            ("/site/", "/site [\"\"]"),
            ("/site/a", "/site [\"a\"]"),
            ("/site/deep", "/site/deep []"),
            ("/%73ite/deep/%78/", "/site/deep [\"x\", \"\"]"),
            ("/site//deep/x", "400"),
            ("*", "Nothing"),
            ("a:80", "Nothing"),
        ] {
            assert_eq!(found(&all, target), expected, "{target}");
        }
        let few = table(&[], &["/"], false).unwrap();
        for (target, expected) in
            [("/", "/ [\"\"]"), ("/a/b", "/ [\"a\", \"b\"]"), ("/metrics", "Metrics"), ("//a", "400")]
        {
            assert_eq!(found(&few, target), expected, "{target}");
        }
    }

    #[test]
    fn topics() {
        let hub = table(&["/t/{topic...}", "/rooms/{topic}"], &[], false).unwrap();
        let longest = "x".repeat(255);
        for (target, topic) in [
            ("/t/news", "/t/{topic...} news"),
            ("/t/a/b", "/t/{topic...} a/b"),
            ("/t/a%2Fb%20%C3%BC", "/t/{topic...} a/b ü"),
            ("/t/a+b", "/t/{topic...} a+b"),
            ("/rooms/a%2Fb", "/rooms/{topic} a/b"),
            (&format!("/t/{longest}"), &format!("/t/{{topic...}} {longest}")),
        ] {
            assert_eq!(found(&hub, target), topic);
        }
        let too_long = format!("/t/{longest}x");
        for bad in
            ["/t/", "/t/%", "/t/%4", "/t/%+1", "/t/%zz", "/t/%ff", "/t/%00", "/t/a%0Ab", "/t/a//b", "/t/..", &too_long]
        {
            assert_eq!(found(&hub, bad), "400", "{bad}");
        }
        for nothing in ["/t", "/", "/topic", "/T/a", "/rooms/", "/rooms/a/b"] {
            assert_eq!(found(&hub, nothing), "Nothing", "{nothing}");
        }
    }

    #[test]
    fn no_two_have_the_same_paths() {
        for clash in [["/a/{x}", "/a/{y}"], ["/", "/"], ["/{a...}", "/{b...}"], ["/a", "/%61"]] {
            assert!(matches!(table(&clash, &[], false), Err(Conflict::Clash(..))), "{clash:?}");
        }
        assert!(matches!(table(&["/site/{a...}"], &["/site"], false), Err(Conflict::Clash(..))));
        assert!(matches!(table(&[], &["/site", "/s%69te/"], false), Err(Conflict::Clash(..))));
        for own in ["/healthz", "/metrics", "/%72eadyz", "/"] {
            assert!(matches!(table(&[own], &[], true), Err(Conflict::Own(_))), "{own}");
        }
        assert!(table(&["/", "/site"], &["/site", "/"], false).is_ok());
    }

    /// The table again, in one line for each thing that can be at a path, without patterns.
    fn plainly(target: &str) -> String {
        if target.contains(['<', '>', '"']) || target.split('?').next().unwrap().contains('`') {
            return "400".into();
        }
        let path = target.split('?').next().unwrap();
        let path = path.strip_prefix("http://a").unwrap_or(path);
        let path = if path.is_empty() { "/" } else { path };
        let mut decoded = Vec::new();
        for part in path[1..].split('/') {
            let bytes: Vec<u8> = percent_encoding::percent_decode_str(part).collect();
            // A remaining `%` is broken.
            let broken = part.match_indices('%').any(|(at, _)| {
                !part.get(at + 1..at + 3).is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            });
            match String::from_utf8(bytes) {
                Ok(text) if !broken && !text.contains(char::is_control) && text != "." && text != ".." => {
                    decoded.push(text)
                }
                _ => return "400".into(),
            }
        }
        if decoded[..decoded.len() - 1].iter().any(String::is_empty) {
            return "400".into();
        }
        let parts: Vec<&str> = decoded.iter().map(|part| &**part).collect();
        let topic =
            |pattern: &str, name: String| if name.is_empty() { "400".into() } else { format!("{pattern} {name}") };
        match &parts[..] {
            [""] => "Page".into(),
            ["healthz"] => "Health".into(),
            ["readyz"] => "Ready".into(),
            ["metrics"] => "Metrics".into(),
            ["t", "e"] => "/t/e".into(),
            ["t", "a", rest @ ..] if !rest.is_empty() => topic("/t/a/{topic...}", rest.join("/")),
            ["t", rest @ ..] if !rest.is_empty() => topic("/t/{topic...}", rest.join("/")),
            ["s", "p", rest @ ..] => format!("/s/p {rest:?}"),
            ["s", rest @ ..] => format!("/s {rest:?}"),
            [one, "e"] if !one.is_empty() => "/{x}/e".into(),
            _ => "Nothing".into(),
        }
    }

    /// Of pieces that paths are made of, and that readers have differed about.
    fn odd_target() -> impl Strategy<Value = String> {
        let pieces = [
            "/", "//", "t", "a", "e", "s", "p", "healthz", "readyz", "metrics", "%74", "%2F", "%2f", "%2e", ".", "..",
            "%", "%4", "%zz", "%ff", "%00", "%C3%BC", "%C3", "`", "<", ">", "\"", "\\", "{", "|", "%5C", "?", "?x=`",
            ":", "@", "+",
        ];
        let path = prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..8)
            .prop_map(|pieces| "/".to_owned() + &pieces.concat());
        (prop::bool::weighted(0.2), path)
            .prop_map(|(is_absolute, path)| if is_absolute { "http://a".to_owned() + &path } else { path })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]

        #[test]
        fn the_table_agrees_with_a_plain_model(target in odd_target()) {
            let patterns = ["/t/{topic...}", "/t/a/{topic...}", "/t/e", "/{x}/e"];
            let all = table(&patterns, &["/s", "/s/p"], true).unwrap();
            prop_assert_eq!(found(&all, &target), plainly(&target), "{}", target);
        }

        /// hyper takes every target that a head may have for a URI with the same path and query, so no target is
        /// refused on one surface and accepted on another.
        #[test]
        fn hyper_reads_every_target_that_is_one(odd in odd_target(), any in "[!-~]{1,12}", host in "[!-~]{1,8}") {
            for target in [odd, any.clone(), format!("http://{host}/{any}"), format!("{any}://{host}"), host] {
                let Some(head) = head(&target) else { continue };
                let uri = target.parse::<hyper::Uri>();
                let uri = uri.map_err(|error| TestCaseError::fail(format!("{target}: {error}")))?;
                prop_assert_eq!(uri.query(), head.query());
                if target.starts_with('/') || target.contains("://") {
                    prop_assert_eq!(uri.path(), head.path());
                }
            }
        }
    }
}
