//! Batches: several messages to any topics in one request.
//!
//! `POST /publish` has an array of JSON, with an object for each message. Each message is judged, counted and published
//! as the body of a request to its topic would be, and has its own answer. Messages to one topic keep their order.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt, mem,
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use serde::{
    Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    receipt::ReceiptJson,
    surface::{PathRow, Surface, TopicUse, any_values},
    v1::read_item,
};
use crate::{
    auth::Identities,
    endpoints::{BodyLimit, HttpEndpoint, HttpRequest, Intent, PublishGrant},
    handler::{Accept, BodyRoom, Handler, OpeningRequest, Response, Typed},
    hub::{Place, Publication, Published, TopicName},
    proto::Refusal,
};

/// The surface of batches.
pub(crate) const BATCHES: Surface = Surface {
    name: "publish",
    effect: "publishes a batch of messages to any topics by one `POST`, see [topics.md](topics.md#batches)",
    topics: TopicUse::OfMessages,
    keys: &[],
    check: any_values,
    forgets_request: true,
    skips_broadcasts: true,
    paths: &[PathRow { below: "", openings: None, endpoints: &[PUBLISH] }],
    protocol: None,
    beside: &[],
    handler: |_| Arc::new(Typed(Arc::new(NoOpenings))),
    encodings: &[],
};

/// The usual path of batches.
pub(crate) const BATCH_PATTERN: &str = "/publish";

const PUBLISH: HttpEndpoint = HttpEndpoint {
    methods: &["POST"],
    intent: |head| match head.query() {
        Some(query) if !query.is_empty() => only_token(query).map(|()| Intent::Use),
        _ => Ok(Intent::Use),
    },
    body: BodyLimit::Message,
    page_headers: &[],
    answer: |request| Box::pin(publish(request)),
};

/// The handler of a route that opens no WebSocket.
struct NoOpenings;

impl Handler for NoOpenings {
    type State = ();

    const PUBLISHES: bool = false;

    async fn opening(&self, _: &OpeningRequest) -> Result<Accept<()>, Response> {
        Err(Response::error(404, "no WebSocket opens at this path"))
    }
}

/// Checks a query, which may have the token alone.
fn only_token(query: &str) -> Result<(), Refusal> {
    for (key, _) in crate::proto::query_pairs(Some(query)) {
        if key.as_deref() != Some(crate::auth::TOKEN_KEY) {
            return Err(bad("the query of a batch has the token alone; options stand in its messages"));
        }
    }
    Ok(())
}

/// Publishes the messages of a batch.
async fn publish(mut request: Box<HttpRequest>) -> Result<Response, Refusal> {
    let body = mem::take(&mut request.body);
    let text = simdutf8::compat::from_utf8(&body).map_err(|_| bad("the body is not UTF-8"))?;
    let items = read_array(text)?;
    let room = request.commands.take_room(bytes_of(items.len(), text.len()))?;
    let mut answers: Vec<Option<Answer>> = Vec::with_capacity(items.len());
    let (mut messages, owner) = (Vec::new(), request.owner());
    let mut judged = Judged { decisions: HashMap::new(), ends_by: Instant::now() + request.commands.wait_max() };
    for (number, item) in items.into_iter().enumerate() {
        if number % ITEMS_PER_STEP == ITEMS_PER_STEP - 1 {
            // The thread has other requests too.
            tokio::task::yield_now().await;
        }
        match judged.read(&request, item).await {
            Ok((grant, publication)) => {
                messages.push((number, grant.topic().clone(), (grant, publication.owned_by(owner))));
                answers.push(None);
            }
            Err(refusal) => answers.push(Some(Answer::refused(&refusal))),
        }
    }
    drop(body);
    let (places, messages): (Vec<_>, Vec<_>) = messages.into_iter().map(|(at, topic, own)| ((at, topic), own)).unzip();
    let outcomes = request.commands.publish_all(messages).await;
    for ((at, topic), outcome) in places.into_iter().zip(outcomes) {
        answers[at] = Some(match outcome {
            Ok(published) => Answer::published(&topic, published),
            Err(refusal) => Answer::refused(&refusal),
        });
    }
    let mut text = serde_json::to_vec(&answers).expect("names and numbers can be encoded");
    text.push(b'\n');
    Ok(Response::new(200, "application/json", Bytes::from_owner(HeldAnswer { text, _room: room })))
}

/// The answer to a batch, whose room ends when the last byte has left.
struct HeldAnswer {
    text: Vec<u8>,
    _room: Box<dyn BodyRoom>,
}

impl AsRef<[u8]> for HeldAnswer {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

/// Returns the bytes of memory of so many messages beside their batch, whose text has `length` bytes, and of their
/// answers, which repeat the names of the topics.
fn bytes_of(messages: usize, length: usize) -> usize {
    messages * ITEM_BYTES + length.min(messages * NAME_BYTES_MAX)
}

/// The decisions of the judge about the topics of a batch.
struct Judged {
    decisions: HashMap<TopicName, Result<(PublishGrant, Identities), Refusal>>,
    /// When the wait for the judge ends, over all topics.
    ends_by: Instant,
}

impl Judged {
    /// Reads a message, judges its topic unless the batch has named the topic before, and counts the message.
    async fn read(&mut self, request: &HttpRequest, item: &RawValue) -> Result<(PublishGrant, Publication), Refusal> {
        let (name, publication) = read_item(item.get()).map_err(|reason| bad(&reason))?;
        let topic = request.topic_named(&name)?;
        let decision = match self.decisions.entry(topic) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let decision = if Instant::now() < self.ends_by {
                    request.judge_publish(new.key()).await
                } else {
                    Err(Refusal::undecided())
                };
                new.insert(decision)
            }
        };
        let (grant, others) = decision.as_ref().map_err(Clone::clone)?;
        request.count_publish(others)?;
        Ok((grant.clone(), publication))
    }
}

/// Returns the elements of an array.
fn read_array(text: &str) -> Result<Vec<&RawValue>, Refusal> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = (&mut deserializer).deserialize_seq(Elements).and_then(|items| deserializer.end().map(|()| items));
    let items = read.map_err(|error| bad(&format!("the body is no array of JSON: {error}")))?;
    items.ok_or_else(|| Refusal::new(413, format!("a batch has at most {BATCH_MAX} messages")))
}

/// Reads an array of at most [`BATCH_MAX`] elements; `None` if there are more.
struct Elements;

impl<'de> Visitor<'de> for Elements {
    type Value = Option<Vec<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let (mut items, mut count) = (Vec::new(), 0);
        while let Some(item) = elements.next_element()? {
            count += 1;
            if count <= BATCH_MAX {
                items.push(item);
            }
        }
        Ok((count <= BATCH_MAX).then_some(items))
    }
}

/// The answer to a message of a batch.
#[derive(Debug, Serialize)]
struct Answer {
    status: u16,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Outcome {
    Published {
        topic: String,
        epoch: u64,
        offset: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        receipt: Option<ReceiptJson>,
    },
    Refused {
        error: String,
        /// The seconds of `Retry-After`.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    },
}

impl Answer {
    fn published(topic: &TopicName, Published { place: Place { epoch, offset, .. }, receipt }: Published) -> Answer {
        let (topic, receipt) = (topic.as_str().to_owned(), receipt.map(ReceiptJson::from));
        Answer { status: 202, outcome: Outcome::Published { topic, epoch, offset, receipt } }
    }

    fn refused(refusal: &Refusal) -> Answer {
        let mut lines = refusal.headers.iter();
        let retry_after = lines.find(|(name, _)| name.eq_ignore_ascii_case("retry-after"));
        let retry_after = retry_after.and_then(|(_, seconds)| seconds.parse().ok());
        Answer { status: refusal.status, outcome: Outcome::Refused { error: refusal.error.clone(), retry_after } }
    }
}

fn bad(what: &str) -> Refusal {
    Refusal::new(400, what)
}

/// The most messages of a batch.
const BATCH_MAX: usize = 1_000;

/// Bytes of memory of a message of a batch: what is known about it until it is answered, and its answer without the
/// name of its topic.
const ITEM_BYTES: usize = 640;

/// Bytes of the longest name of a topic as JSON.
const NAME_BYTES_MAX: usize = 2 * 255;

const _: () = assert!(size_of::<(TopicName, PublishGrant, Publication, Option<Answer>)>() < ITEM_BYTES / 2);

/// The messages of a batch that are read and judged before other requests of the thread have a turn.
const ITEMS_PER_STEP: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_an_array_of_bounded_length() {
        let status = |text: &str| read_array(text).map(|items| items.len()).map_err(|refusal| refusal.status);
        assert_eq!(status("[]"), Ok(0));
        assert_eq!(status(r#" [1, {"a": [2]}, "x"] "#), Ok(3), "each element is read later");
        for text in ["", "{}", "[", "[1,]", "[1] 2", "null", "[1 2]"] {
            assert_eq!(status(text), Err(400), "{text}");
        }
        let of = |count| format!("[{}]", vec!["0"; count].join(","));
        assert_eq!(status(&of(BATCH_MAX)), Ok(BATCH_MAX));
        assert_eq!(status(&of(BATCH_MAX + 1)), Err(413));
    }

    #[test]
    fn messages_have_the_members_of_a_publish() {
        let of = |text: &str| {
            read_item(text).map(|(topic, publication)| {
                let names = [publication.event_name(), publication.key_name(), publication.id_name()];
                (topic.into_owned(), publication.payload().to_vec(), names.map(|name| name.map(str::to_owned)))
            })
        };
        let plain = of(r#"{"topic":"a","data":"x"}"#).unwrap();
        assert_eq!(plain, ("a".into(), b"x".to_vec(), [None, None, None]));
        let named = of(r#"{"data":{"b":1},"topic":"a","event":"e","key":"k","id":"i","receipt":true}"#).unwrap();
        assert_eq!(named.1, br#"{"b":1}"#);
        assert_eq!(named.2, [Some("e".into()), Some("k".into()), Some("i".into())]);
        assert_eq!(of(r#"{"topic":"a","base64":"/w=="}"#).unwrap().1, [255]);
        for (text, reason) in [
            ("7", "a message is an object"),
            ("{\"data\":1}", "needs \"topic\""),
            ("{\"topic\":\"a\"}", "needs \"data\" or \"base64\""),
            ("{\"topic\":\"a\",\"data\":1,\"data\":2}", "is there twice"),
            ("{\"topic\":\"a\",\"data\":1,\"x\":2}", "has no member \"x\""),
            ("{\"topic\":\"a\",\"data\":1,\"id\":2}", "\"id\" is no string"),
            ("{\"topic\":\"a\",\"data\":1,\"receipt\":2}", "\"receipt\" is neither true nor false"),
        ] {
            let found = of(text).unwrap_err();
            assert!(found.contains(reason), "{text}: {found}");
        }
    }
}
