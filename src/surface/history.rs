//! The history of a topic over plain HTTP: `GET /t/{topic}` with `Accept: application/json` has a page of it, and
//! `DELETE /t/{topic}` forgets it.
//!
//! The query says which part a reader wants: `since=EPOCH.OFFSET` or `since=earliest`, or `last=N`; `limit=N`;
//! `reverse=true`. A position that is not known is answered with `"gap": true`, never as if nothing were missing.

use std::{borrow::Cow, fmt::Write as _};

use bytes::{BufMut as _, BytesMut};

use super::{
    resume::{digits, position},
    v1::encode::{put_payload, put_string},
};
use crate::{
    auth::TOKEN_KEY,
    endpoints::HttpRequest,
    handler::Response,
    hub::{HistoryFrom, HistoryPage, HistoryQuery, KeptMessage, OrderEnd},
    proto::{Refusal, RequestHead, query_pairs},
};

/// Returns whether a request asks for the history of a topic: it accepts JSON.
pub(super) fn is_for_history(head: &RequestHead) -> bool {
    head.headers().accepts("application/json")
}

/// Reads the query of a request for a history.
///
/// # Errors
///
/// 400 for a query that is malformed, or has an unknown key or value, or a key twice, or options that exclude each
/// other.
pub(super) fn read_query(query: Option<&str>) -> Result<HistoryQuery, Refusal> {
    let (mut since, mut last, mut limit, mut reverse) = (None, None, None, None);
    for pair in query_pairs(query) {
        let (Some(key), Some(value)) = pair else { return Err(bad("the query is not percent-encoded UTF-8")) };
        let slot: &mut Option<Cow<'_, str>> = match &*key {
            // Read with the credentials.
            TOKEN_KEY => continue,
            "since" => &mut since,
            "last" => &mut last,
            "limit" => &mut limit,
            "reverse" => &mut reverse,
            _ => return Err(bad(&format!("{key:?} is not known; since, last, limit, reverse and {TOKEN_KEY} are"))),
        };
        if slot.replace(value).is_some() {
            return Err(bad(&format!("{key:?} is given twice")));
        }
    }
    let is_reverse = match reverse.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(value) => return Err(bad(&format!("reverse is {value:?}, not true or false"))),
    };
    let from = match (since.as_deref(), last.as_deref()) {
        (Some(_), Some(_)) => return Err(bad("since and last exclude each other")),
        (None, Some(_)) if is_reverse => return Err(bad("last and reverse exclude each other: limit is for reverse")),
        (None, Some(last)) => HistoryFrom::Last(number("last", last, u64::MAX)?),
        (Some("earliest"), None) if is_reverse => {
            return Err(bad("since=earliest and reverse exclude each other: reverse begins at the newest message"));
        }
        (Some("earliest"), None) => HistoryFrom::Earliest,
        (Some(since), None) => {
            let position = position(since).ok_or_else(|| {
                bad(&format!("since is {since:?}, not EPOCH.OFFSET, such as 1763998000000.42, or earliest"))
            })?;
            if is_reverse { HistoryFrom::Before(position) } else { HistoryFrom::After(position) }
        }
        (None, None) if is_reverse => HistoryFrom::Newest,
        (None, None) => HistoryFrom::Earliest,
    };
    let limit = limit.as_deref().map_or(Ok(LIMIT), |limit| number("limit", limit, LIMIT_MAX))?;
    Ok(HistoryQuery { from, messages_max: limit as usize, bytes_max: PAGE_BYTES_MAX })
}

fn number(key: &str, text: &str, most: u64) -> Result<u64, Refusal> {
    let found = digits(text).filter(|number| *number <= most);
    let range = if most == u64::MAX { "a number".to_owned() } else { format!("a number from 0 to {most}") };
    found.ok_or_else(|| bad(&format!("{key} is {text:?}, not {range}")))
}

/// Answers a request for the history of the topic of its path.
pub(super) async fn answer_page(request: Box<HttpRequest>) -> Result<Response, Refusal> {
    let query = read_query(request.head.query())?;
    let page = request.read_history(query)?.await?;
    let topic = request.topic.as_ref().map_or("", |topic| topic.as_str());
    let (epoch, offset) = page.end.map_or((0, 0), |end| (end.epoch, end.offset));
    let start_ms = request.commands.wall_start_ms();
    // The page of one query changes with the end of the order, with what is kept, and when the wall clock is set.
    let tag = format!("\"{epoch}.{}.{offset}.{start_ms}\"", page.floor);
    let is_known = request.head.headers().get("if-none-match").is_some_and(|known| has_tag(known, &tag));
    let response = if is_known {
        Response::new(304, "application/json", "")
    } else {
        let page = page_as_json(topic, &page, start_ms);
        Response::new(200, "application/json", request.commands.hold(page.freeze())?)
    };
    Ok(response.header("ETag", &tag).header("Cache-Control", "no-cache").header("Vary", "Accept"))
}

/// Answers a request to forget the history of the topic of its path.
pub(super) async fn answer_forget(request: Box<HttpRequest>) -> Result<Response, Refusal> {
    let forgotten = request.forget_history()?.await?;
    Ok(Response::new(200, "application/json", format!("{{\"forgotten\":{forgotten}}}\n")))
}

/// Returns whether a list of entity tags has this one, or is an asterisk (RFC 9110 13.1.2).
fn has_tag(list: &[u8], tag: &str) -> bool {
    let mut tags = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    tags.any(|other| other == b"*" || other.strip_prefix(b"W/").unwrap_or(other) == tag.as_bytes())
}

/// Returns a page as JSON. `start_ms` is the time of the wall clock from which the times of messages count.
fn page_as_json(topic: &str, page: &HistoryPage, start_ms: u64) -> BytesMut {
    let HistoryPage { end, floor, has_gap, messages, has_more, .. } = page;
    let mut out = BytesMut::from(&b"{\"topic\":"[..]);
    put_string(topic, &mut out);
    if let Some(OrderEnd { epoch, offset }) = end {
        let first = floor + 1;
        write!(out, ",\"epoch\":\"{epoch}\",\"first\":{first},\"offset\":{offset}").expect(MEMORY);
    }
    write!(out, ",\"gap\":{has_gap},\"messages\":[").expect(MEMORY);
    for (number, message) in messages.iter().enumerate() {
        if number > 0 {
            out.put_u8(b',');
        }
        put_message(message, start_ms, &mut out);
    }
    out.put_u8(b']');
    if let (true, Some(last), Some(OrderEnd { epoch, .. })) = (has_more, messages.last(), end) {
        write!(out, ",\"next\":\"{epoch}.{}\"", last.offset).expect(MEMORY);
    }
    out.put_slice(b"}\n");
    out
}

fn put_message(KeptMessage { offset, publication, .. }: &KeptMessage, start_ms: u64, out: &mut BytesMut) {
    let time = start_ms.saturating_add(publication.time().0);
    write!(out, "{{\"offset\":{offset},\"time\":{time}").expect(MEMORY);
    let names = [("event", publication.event_name()), ("key", publication.key_name()), ("id", publication.id_name())];
    for (member, name) in names {
        if let Some(name) = name {
            write!(out, ",\"{member}\":").expect(MEMORY);
            put_string(name, out);
        }
    }
    put_payload(publication, out);
    out.put_u8(b'}');
}

const MEMORY: &str = "memory takes all bytes";

/// The messages of a page whose request names no limit.
const LIMIT: u64 = 100;

/// The most messages of a page.
const LIMIT_MAX: u64 = 1_000;

/// The most bytes of payloads and names of a page with several messages.
const PAGE_BYTES_MAX: u64 = 256 * 1_024;

fn bad(what: &str) -> Refusal {
    Refusal::new(400, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hub::Publication, proto::Millis};

    #[test]
    fn queries_are_read() {
        let of = |query: &str| read_query(Some(query)).map(|query| (query.from, query.messages_max));
        let at = OrderEnd { epoch: 17, offset: 42 };
        for (query, expected) in [
            ("", (HistoryFrom::Earliest, 100)),
            ("since=earliest&limit=0", (HistoryFrom::Earliest, 0)),
            ("since=17.42&access_token=x", (HistoryFrom::After(at), 100)),
            ("since=17%3A42&reverse=false", (HistoryFrom::After(at), 100)),
            ("since=17.42&reverse=true&limit=1000", (HistoryFrom::Before(at), 1_000)),
            ("reverse=true", (HistoryFrom::Newest, 100)),
            ("last=7", (HistoryFrom::Last(7), 100)),
        ] {
            assert_eq!(of(query).map_err(|refusal| refusal.status), Ok(expected), "{query}");
        }
        for (query, expected) in [
            ("since=", "since is \"\", not EPOCH.OFFSET"),
            ("since=17", "since is \"17\", not EPOCH.OFFSET"),
            ("since=%2B17.42", "since is \"+17.42\", not EPOCH.OFFSET"),
            ("since=17.18446744073709551616", "not EPOCH.OFFSET"),
            ("since=17.42&last=1", "since and last exclude each other"),
            ("last=1&reverse=true", "last and reverse exclude each other"),
            ("since=earliest&reverse=true", "since=earliest and reverse exclude each other"),
            ("last=-1", "last is \"-1\", not a number"),
            ("limit=1001", "limit is \"1001\", not a number from 0 to 1000"),
            ("limit=", "limit is \"\", not a number from 0 to 1000"),
            ("reverse=1", "reverse is \"1\", not true or false"),
            ("limit=1&limit=1", "\"limit\" is given twice"),
            ("echo=true", "\"echo\" is not known; since, last, limit, reverse and access_token are"),
            ("since=%", "the query is not percent-encoded UTF-8"),
        ] {
            let refusal = read_query(Some(query)).unwrap_err();
            let body = refusal.body().replace("\\\"", "\"");
            assert!(refusal.status == 400 && body.contains(expected), "{query}: {body}");
        }
    }

    #[test]
    fn a_page_is_json() {
        let stamped = |mut publication: Publication, ms| {
            publication.stamp(Millis(ms));
            publication
        };
        let publications = [
            Publication::json("{\"x\":1}").unwrap().event("e\"").key("k").unwrap(),
            Publication::text("a \"b\"\n").id("i"),
            Publication::binary(&[0, 1]),
        ];
        let kept = |(offset, publication)| {
            let publication = stamped(publication, offset * 10);
            KeptMessage { offset, source: None, publication }
        };
        let page = HistoryPage {
            end: Some(OrderEnd { epoch: 17, offset: 9 }),
            floor: 4,
            has_gap: true,
            messages: (5..).zip(publications).map(kept).collect(),
            has_more: true,
            is_kept: true,
        };
        let text = page_as_json("a/b", &page, 900);
        let expected = concat!(
            r#"{"topic":"a/b","epoch":"17","first":5,"offset":9,"gap":true,"messages":["#,
            r#"{"offset":5,"time":950,"event":"e\"","key":"k","data":{"x":1}},"#,
            r#"{"offset":6,"time":960,"id":"i","data":"a \"b\"\n"},"#,
            r#"{"offset":7,"time":970,"base64":"AAE="}],"next":"17.7"}"#,
            "\n"
        );
        assert_eq!(text, expected);
        let none = HistoryPage { end: None, messages: Vec::new(), has_more: false, has_gap: false, ..page };
        assert_eq!(page_as_json("a", &none, 0), "{\"topic\":\"a\",\"gap\":false,\"messages\":[]}\n");
    }

    #[test]
    fn tags_are_compared() {
        let has = |list: &str| has_tag(list.as_bytes(), "\"1.2.3\"");
        assert!(has("\"1.2.3\"") && has("W/\"1.2.3\"") && has("\"x\", \"1.2.3\"") && has("*"));
        assert!(!has("\"1.2\"") && !has("1.2.3") && !has(""));
    }
}
