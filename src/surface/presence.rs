//! The presence of a topic over plain HTTP: `GET /t/{topic}?view=presence` lists who is subscribed, and `?view=count`
//! says how many they are.

use std::fmt::Write as _;

use crate::{
    auth::TOKEN_KEY,
    endpoints::HttpRequest,
    handler::Response,
    hub::{Member, OrderEnd, Presence},
    proto::{Refusal, query_pairs},
};

/// What a reader wants to see of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Members,
    Count,
}

/// Reads the query of a request. Returns `None` if it has no view.
///
/// # Errors
///
/// 400 for a query with a view that is malformed, or has an unknown key, or a key twice, or an unknown view.
pub(super) fn read_view(query: Option<&str>) -> Result<Option<View>, Refusal> {
    let bad = |what: &str| Refusal::new(400, what);
    let is_view = |pair: &(Option<_>, Option<_>)| pair.0.as_deref() == Some("view");
    if !query_pairs(query).any(|pair| is_view(&pair)) {
        return Ok(None);
    }
    let mut view = None;
    for pair in query_pairs(query) {
        let (Some(key), Some(value)) = pair else { return Err(bad("the query is not percent-encoded UTF-8")) };
        let found = match (&*key, &*value) {
            // Read with the credentials.
            (TOKEN_KEY, _) => continue,
            ("view", "presence") => View::Members,
            ("view", "count") => View::Count,
            ("view", _) => return Err(bad(&format!("view is {value:?}, not presence or count"))),
            _ => return Err(bad(&format!("{key:?} is not known beside view; {TOKEN_KEY} is"))),
        };
        if view.replace(found).is_some() {
            return Err(bad("\"view\" is given twice"));
        }
    }
    Ok(view)
}

/// Answers a request for a view of the topic of its path.
pub(super) async fn answer_view(request: Box<HttpRequest>, view: View) -> Result<Response, Refusal> {
    let topic = request.topic.as_ref().map_or("", |topic| topic.as_str());
    let presence = request.read_presence(view == View::Members)?.await?;
    let presence = presence.ok_or_else(|| Refusal::new(404, no_presence(topic)))?;
    let mut text = String::from("{");
    put_presence(topic, &presence, view, &mut text);
    text.push_str("}\n");
    let body = request.commands.hold(text.into())?;
    Ok(Response::new(200, "application/json", body).header("Cache-Control", "no-store"))
}

/// Returns the reason for which a topic has no members.
pub(super) fn no_presence(topic: &str) -> String {
    format!("the topic {topic:?} keeps no presence; a rule of topics with presence = true would let it")
}

/// Appends the members of an object with a topic's presence.
pub(super) fn put_presence(topic: &str, presence: &Presence, view: View, out: &mut String) {
    let Presence { end, version, count, anonymous, members, .. } = presence;
    write!(out, "\"topic\":{}", quoted(topic)).expect(MEMORY);
    if let Some(OrderEnd { epoch, offset }) = end {
        write!(out, ",\"epoch\":\"{epoch}\",\"offset\":{offset}").expect(MEMORY);
    }
    write!(out, ",\"version\":{version},\"count\":{count},\"anonymous\":{anonymous}").expect(MEMORY);
    if view == View::Count {
        return;
    }
    write!(out, ",\"unlisted\":{},\"members\":[", presence.unlisted()).expect(MEMORY);
    for (number, Member { id, info, connections, .. }) in members.iter().enumerate() {
        let comma = if number > 0 { "," } else { "" };
        write!(out, "{comma}{{\"id\":{}", quoted(id)).expect(MEMORY);
        if let Some(info) = info {
            write!(out, ",\"info\":{info}").expect(MEMORY);
        }
        write!(out, ",\"connections\":{connections}}}").expect(MEMORY);
    }
    out.push(']');
}

/// Returns a text as a string of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

const MEMORY: &str = "memory takes all texts";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_are_read() {
        for (query, expected) in [
            ("", None),
            ("echo=true&nonsense", None),
            ("view=presence", Some(View::Members)),
            ("access_token=x&view=count", Some(View::Count)),
        ] {
            assert_eq!(read_view(Some(query)).map_err(|refusal| refusal.status), Ok(expected), "{query}");
        }
        for (query, expected) in [
            ("view=", "view is \"\", not presence or count"),
            ("view=Presence", "view is \"Presence\", not presence or count"),
            ("view=count&view=count", "\"view\" is given twice"),
            ("view=count&limit=3", "\"limit\" is not known beside view; access_token is"),
            ("view=count&since=%", "the query is not percent-encoded UTF-8"),
        ] {
            let refusal = read_view(Some(query)).unwrap_err();
            assert_eq!((refusal.status, &*refusal.error), (400, expected), "{query}");
        }
    }
}
