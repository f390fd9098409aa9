//! The body of a fuzz target: it takes any bytes and panics on a broken invariant. Tests run it too.

use std::{cmp::Reverse, sync::Arc};

use percent_encoding::percent_decode_str;

use super::{Endpoint, Endpoints, Mount, NewPath, OPERATIONS, ServedRoute};
use crate::{
    auth::{Access, Gate},
    documents::Documents,
    handler::{Handler, Pattern, Route, Rules, TOPIC, Typed},
    hub::TopicName,
    proto::RequestHead,
};

/// Checks that the table resolves any target as a plain search through its entries does, and cannot be made if two
/// entries have the same paths. Each line is an entry (`route PATTERN`, `path PATTERN` for a further path of the last
/// route, `page PATTERN`, `files PATH`, `page`, `operations`) or a target.
pub fn resolution(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (mut plain, mut targets) = (Plain::default(), Vec::new());
    let (mut routes, mut pages, mut mounts) = (Vec::new(), Vec::new(), Vec::new());
    let (mut has_page, mut has_operations) = (false, false);
    for line in text.lines().take(LINES_MAX) {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("page", "") => has_page = true,
            ("operations", "") => has_operations = true,
            ("route", path) => routes.extend(Pattern::new(path).ok().map(|pattern| vec![pattern])),
            ("path", path) => {
                if let (Some(route), Ok(pattern)) = (routes.last_mut(), Pattern::new(path)) {
                    route.push(pattern);
                }
            }
            ("page", path) => pages.extend(Pattern::new(path).ok()),
            ("files", path) => mounts.extend(Mount::new(path, documents(), Gate::default()).map(|mount| (path, mount))),
            _ => targets.push(line),
        }
    }
    if has_operations {
        OPERATIONS.iter().for_each(|(path, own)| plain.add(path, format!("{own:?}")));
    }
    if has_page {
        plain.add("/", "Page".into());
    }
    routes.iter().flatten().for_each(|pattern| plain.add(pattern.as_str(), format!("route {pattern}")));
    pages.iter().for_each(|pattern| plain.add(pattern.as_str(), "Page".into()));
    mounts.iter().for_each(|(path, _)| plain.add_files(path, format!("files /{}", path.trim_matches('/'))));
    let table = Endpoints::new(
        routes.into_iter().map(route).collect(),
        mounts.into_iter().map(|(_, mount)| mount).collect(),
        pages.into_iter().map(|pattern| (pattern, Gate::default())).collect(),
        has_page,
        has_operations,
        Access::default(),
    );
    assert_eq!(table.is_err(), plain.has_clash(), "{text}");
    let Ok(table) = table else { return };
    for target in targets {
        let head = RequestHead::decode(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes());
        if let Ok(Some((head, _))) = head {
            assert_eq!(found(&table, &head), plain.find(head.path()), "{target} in\n{text}");
        }
    }
}

/// Returns the endpoint of a request in words, with the values of its pattern's parameters.
fn found(table: &Endpoints, head: &RequestHead) -> String {
    let of_path = |number: usize| {
        let values = table.parameters(number, head).into_iter().map(|(name, value)| format!(" {name}={value:?}"));
        format!("route {}{}", table.served_paths()[number].pattern, values.collect::<String>())
    };
    match table.resolve(head) {
        Ok(Endpoint::Path { path, topic: Some(topic) }) => format!("{} to {topic}", of_path(path)),
        Ok(Endpoint::Path { path, topic: None }) => of_path(path),
        Ok(Endpoint::Files { mount, below }) => format!("files {} {below:?}", table.mounts()[mount].pattern),
        Ok(Endpoint::Page { .. }) => "Page".into(),
        Ok(own) => format!("{own:?}"),
        Err(refusal) => refusal.status.to_string(),
    }
}

/// The model: every entry with its segments. Of two equally precise entries the first one has a path.
#[derive(Default)]
struct Plain {
    entries: Vec<(Vec<Part>, String)>,
    /// The paths of the folders themselves. They clash with no entry, and come after all entries.
    folders: Vec<(Vec<Part>, String)>,
}

/// A segment of a pattern, the least precise first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Rest(String),
    One(String),
    Fixed(String),
}

impl Plain {
    fn add(&mut self, pattern: &str, name: String) {
        let part = |text: &str| match text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
            Some(name) if name.ends_with("...") => Part::Rest(name.trim_end_matches('.').into()),
            Some(name) => Part::One(name.into()),
            None => Part::Fixed(decoded(text).expect("the pattern is valid")),
        };
        self.entries.push((pattern[1..].split('/').map(part).collect(), name));
    }

    fn add_files(&mut self, path: &str, name: String) {
        let segments = path.split('/').filter(|segment| !segment.is_empty());
        let segments: Vec<Part> = segments.map(|text| Part::Fixed(decoded(text).expect("a path"))).collect();
        if !segments.is_empty() {
            self.folders.push((segments.clone(), name.clone()));
        }
        self.entries.push(([segments, vec![Part::Rest(String::new())]].concat(), name));
    }

    /// Returns whether two entries differ in nothing but the names of their parameters.
    fn has_clash(&self) -> bool {
        let nameless = |part: &Part| match part {
            Part::Rest(_) => Part::Rest(String::new()),
            Part::One(_) => Part::One(String::new()),
            fixed @ Part::Fixed(_) => fixed.clone(),
        };
        let mut shapes: Vec<Vec<Part>> =
            self.entries.iter().map(|(parts, _)| parts.iter().map(nameless).collect()).collect();
        shapes.sort();
        shapes.windows(2).any(|two| two[0] == two[1])
    }

    /// Returns the entry that has a path, in the words of [`found`].
    fn find(&self, path: &str) -> String {
        let Some(inner) = path.strip_prefix('/') else { return "Nothing".into() };
        let Some(texts) = inner.split('/').map(decoded).collect::<Option<Vec<String>>>() else { return "400".into() };
        let is_bad = |text: &String| [".", ".."].contains(&&**text) || text.contains(char::is_control);
        if texts.iter().any(is_bad) || texts[..texts.len() - 1].iter().any(String::is_empty) {
            return "400".into();
        }
        let matching =
            self.entries.iter().chain(&self.folders).filter_map(|entry| Some((entry, values(&entry.0, &texts)?)));
        let best = matching.min_by_key(|((parts, _), _)| Reverse(parts.iter().map(rank).collect::<Vec<_>>()));
        let Some(((parts, name), values)) = best else { return "Nothing".into() };
        match name.split_once(' ') {
            Some(("files", _)) => {
                let fixed = parts.iter().filter(|part| matches!(part, Part::Fixed(_))).count();
                format!("{name} {:?}", &texts[fixed..])
            }
            Some(("route", _)) => {
                let in_words = values.iter().map(|(name, value)| format!(" {name}={value:?}")).collect::<String>();
                match values.iter().find(|(name, _)| *name == TOPIC) {
                    None => format!("{name}{in_words}"),
                    Some((_, topic)) if TopicName::new(topic).is_ok() => format!("{name}{in_words} to {topic}"),
                    Some(_) => "400".into(),
                }
            }
            _ => name.clone(),
        }
    }
}

/// Returns the values of the parameters of a pattern that matches a path.
fn values<'a>(parts: &'a [Part], texts: &[String]) -> Option<Vec<(&'a str, String)>> {
    let mut values = Vec::new();
    for (at, part) in parts.iter().enumerate() {
        match (part, texts.get(at)?) {
            (Part::Rest(name), _) => {
                values.push((&**name, texts[at..].join("/")));
                return Some(values);
            }
            (Part::One(name), text) if !text.is_empty() => values.push((name, text.clone())),
            (Part::Fixed(fixed), text) if fixed == text => {}
            _ => return None,
        }
    }
    (parts.len() == texts.len()).then_some(values)
}

fn rank(part: &Part) -> u8 {
    match part {
        Part::Rest(_) => 0,
        Part::One(_) => 1,
        Part::Fixed(_) => 2,
    }
}

/// Returns a segment decoded; `None` if it is not percent-encoded UTF-8.
fn decoded(segment: &str) -> Option<String> {
    let is_escape =
        |at: usize| segment.get(at + 1..at + 3).is_some_and(|it| it.bytes().all(|it| it.is_ascii_hexdigit()));
    let is_whole = segment.match_indices('%').all(|(at, _)| is_escape(at));
    String::from_utf8(percent_decode_str(segment).collect()).ok().filter(|_| is_whole)
}

/// Returns a route with paths of these patterns. It leads to topics if a pattern names one.
fn route(patterns: Vec<Pattern>) -> ServedRoute {
    let topics = patterns.iter().any(|pattern| pattern.has_parameter(TOPIC)).then(Default::default);
    let pattern = patterns[0].clone();
    let factory = Arc::new(Typed(Arc::new(Nobody)));
    let mut served = ServedRoute::from(Route { pattern, rules: Rules::default(), topics, factory });
    let further = patterns.into_iter().skip(1);
    served.paths.extend(further.map(|pattern| NewPath { pattern, openings: None, endpoints: &[] }));
    served
}

fn documents() -> Documents {
    Documents::new(".").expect("the folder of the process can be read")
}

struct Nobody;

impl Handler for Nobody {
    type State = ();
}

/// More entries and targets make a run longer and find no further faults.
const LINES_MAX: usize = 40;
