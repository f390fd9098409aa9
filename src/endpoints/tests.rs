//! Tests of the table of endpoints.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::handler::{Handler, Rules, Typed};

struct Nobody;

impl Handler for Nobody {
    type State = ();
}

/// Returns a route of a pattern, which is the hub's if the pattern has `{topic}`.
fn of_pattern(pattern: &str) -> ServedRoute {
    let pattern = Pattern::new(pattern).unwrap();
    let topics = pattern.has_parameter(TOPIC).then(Default::default);
    Route { pattern, rules: Rules::default(), topics, factory: Arc::new(Typed(Arc::new(Nobody))) }.into()
}

/// Returns a table of these patterns, of which those with `{topic}` are the hub's, and of folders at these paths.
fn table(patterns: &[&str], folders: &[&str], has_page: bool) -> Result<Endpoints, Conflict> {
    let documents = || Documents::new(env!("CARGO_MANIFEST_DIR")).unwrap();
    let mounts = folders.iter().map(|folder| Mount::new(folder, documents(), Gate::default()).unwrap());
    Endpoints::new(
        patterns.iter().copied().map(of_pattern).collect(),
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
        Ok(Endpoint::Path { path, topic: Some(topic) }) => format!("{} {topic}", table.served_paths()[path].pattern),
        Ok(Endpoint::Path { path, topic: None }) => table.served_paths()[path].pattern.to_string(),
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
    for (target, expected) in [("/", "/ [\"\"]"), ("/a/b", "/ [\"a\", \"b\"]"), ("/metrics", "Metrics"), ("//a", "400")]
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

/// The model of the table: one line for each endpoint that can be at a path, without patterns.
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
    let topic = |pattern: &str, name: String| if name.is_empty() { "400".into() } else { format!("{pattern} {name}") };
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

/// Targets of pieces that paths consist of, and of pieces that readers of HTTP understand differently.
fn odd_target() -> impl Strategy<Value = String> {
    let pieces = [
        "/", "//", "t", "a", "e", "s", "p", "healthz", "readyz", "metrics", "%74", "%2F", "%2f", "%2e", ".", "..", "%",
        "%4", "%zz", "%ff", "%00", "%C3%BC", "%C3", "`", "<", ">", "\"", "\\", "{", "|", "%5C", "?", "?x=`", ":", "@",
        "+",
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

/// Each method of a path has one answer.
#[test]
fn no_two_endpoints_have_a_method() {
    const GET: HttpEndpoint = HttpEndpoint {
        methods: &["GET", "DELETE"],
        intent: |_| Ok(Intent::Use),
        body: BodyLimit::Nothing,
        page_headers: &[],
        answer: |_| Box::pin(async { Err(Refusal::new(404, "nothing is here")) }),
    };
    const POST: HttpEndpoint = HttpEndpoint { methods: &["POST"], ..GET };
    const OPTIONS: HttpEndpoint = HttpEndpoint { methods: &["OPTIONS"], ..GET };
    const DELETE: HttpEndpoint = HttpEndpoint { methods: &["DELETE"], ..GET };
    let check = |endpoints: &'static [HttpEndpoint], expected: Option<&'static str>| {
        let mut served = of_pattern("/a");
        served.paths[0].endpoints = endpoints;
        let made = Endpoints::new(vec![served], Vec::new(), Vec::new(), false, true, Access::default());
        let conflict = expected.map(|method| Conflict::Method(Pattern::new("/a").unwrap(), method));
        assert_eq!(made.err(), conflict);
    };
    check(&[GET, POST], None);
    check(&[GET, POST, DELETE], Some("DELETE"));
    check(&[GET, OPTIONS], Some("OPTIONS"));
}
