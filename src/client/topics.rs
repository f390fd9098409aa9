//! `TopicClient`: a client that speaks `ringhub.v1`, with many topics on one connection.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{Semaphore, oneshot},
    time::sleep_until,
};

use super::{
    builder::ClientBuilder,
    error::{ClientBuildError, ConnectError, SendError},
    event::{ClientEvent, Events},
    handle::Client,
    open::random,
    opened::Opened,
    send_queue::SendQueue,
    topic_book::{AGAIN_AFTER_MAX, Again, Answer, Outcome, TopicBook, Unsubscribing},
    topic_error::TopicError,
    topic_event::{Payload, Placed, TopicEvent, TopicPlace, TopicPublished},
    topic_publish::PublishOptions,
    topic_subscribe::{Start, TopicOptions, TopicSubscribed},
};
use crate::proto::MessageLimits;

/// A client that speaks the subprotocol `ringhub.v1` (docs/protocol.md): it subscribes to any number of topics on one
/// connection, and publishes to them. Clones are handles to the same client, and the drop of the last one closes the
/// connection.
///
/// Answers to commands come with the events: while a command waits, some task has to read [`TopicEvents`]. With
/// [`ClientBuilder::reconnect`] the client subscribes again to its topics after each reconnect, and so it does after a
/// further [`TopicClient::connect`]. It goes on after the last message of each topic: if the server keeps the topic's
/// history, what was published in between follows, each message once. Topics that it then does not get end with
/// [`TopicEvent::Unsubscribed`]; those that the server cannot decide about at the moment are tried again. At most 127
/// commands of the caller wait for their answers at a time; further calls wait for a place.
///
/// ```no_run
/// use ringhub::client::{Client, Payload, TopicClient, TopicEvent};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (client, mut events) = TopicClient::new(Client::builder().url("ws://127.0.0.1:6455/ws"))?;
/// client.connect().await?;
/// tokio::spawn(async move {
///     while let Some(event) = events.next().await {
///         if let TopicEvent::Message(message) = event {
///             println!("{}: {:?}", message.topic, message.payload);
///         }
///     }
/// });
/// client.subscribe("news").await?;
/// let place = client.publish("orders/7", &Payload::Text("paid".into())).await?;
/// println!("offset {}", place.offset);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TopicClient(Arc<Wiring>);

/// The client, its topics, and the commands that wait for their answers.
struct Wiring {
    client: Client,
    book: Mutex<Book>,
    /// Held while a command is entered in the book and sent, so that commands are sent in the order of the book.
    order: tokio::sync::Mutex<()>,
    /// A permit for each command of the caller that has no answer.
    places: Semaphore,
}

type Book = TopicBook<oneshot::Sender<Answer>>;

/// The events of a [`TopicClient`], which also bring the answers to its commands.
pub struct TopicEvents {
    events: Events,
    /// Events that come before the next of `events`.
    ready: VecDeque<TopicEvent>,
    wiring: Weak<Wiring>,
}

/// A command, as it is sent.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Command<'a> {
    Subscribe(OfTopic<'a>),
    Unsubscribe(OfTopic<'a>),
    Publish(Publish<'a>),
    Refresh { id: u64, token: &'a str },
    Ping { id: u64 },
}

#[derive(Serialize, Default)]
struct OfTopic<'a> {
    id: u64,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
}

#[derive(Serialize)]
struct Publish<'a> {
    id: u64,
    topic: &'a str,
    #[serde(flatten)]
    data: Data<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receipt: Option<bool>,
}

/// The member of a command that has the payload.
#[derive(Serialize)]
enum Data<'a> {
    #[serde(rename = "data")]
    Text(&'a str),
    #[serde(rename = "data")]
    Json(&'a RawValue),
    #[serde(rename = "base64")]
    Binary(String),
}

impl TopicClient {
    /// Builds a client that speaks `ringhub.v1`. The URL is that of a route that speaks it, such as
    /// `ws://127.0.0.1:6455/ws`, without `binary=true`. Unless the builder has other limits of messages than the
    /// default, the client takes each message of a server with the default `max_message`: frames of 6 MiB and 4 KiB.
    ///
    /// # Errors
    ///
    /// The first setting that is not valid.
    pub fn new(builder: ClientBuilder) -> Result<(TopicClient, TopicEvents), ClientBuildError> {
        let (client, events) = builder.subprotocol(PROTOCOL).preset_message_bytes(MESSAGE_BYTES_MAX).build()?;
        let places = Semaphore::new(COMMANDS_MAX);
        let wiring = Arc::new(Wiring { client, book: Mutex::default(), order: tokio::sync::Mutex::default(), places });
        let events = TopicEvents { events, ready: VecDeque::new(), wiring: Arc::downgrade(&wiring) };
        Ok((TopicClient(wiring), events))
    }

    /// Opens a connection, as [`Client::connect`] does, and subscribes to the topics that an earlier connection had.
    ///
    /// # Errors
    ///
    /// As of [`Client::connect`].
    pub async fn connect(&self) -> Result<Opened, ConnectError> {
        let opened = self.0.client.connect().await?;
        self.0.note_connection(Some(opened.connection_id));
        self.0.subscribe_again();
        Ok(opened)
    }

    /// Returns the client below, for pings, closes and its counters.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Subscribes to a topic, without the client's own messages. Returns the place of the last message before the
    /// subscription, if the server knows it.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn subscribe(&self, topic: &str) -> Result<Option<TopicPlace>, TopicError> {
        Ok(self.subscribe_with(topic, TopicOptions::new()).await?.place)
    }

    /// Subscribes to a topic, with the client's own messages, as [`TopicClient::subscribe`] does.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn subscribe_with_echo(&self, topic: &str) -> Result<Option<TopicPlace>, TopicError> {
        Ok(self.subscribe_with(topic, TopicOptions::new().echo(true)).await?.place)
    }

    /// Subscribes to a topic, as the options say: perhaps beginning in the topic's history.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    ///
    /// ```
    /// use ringhub::client::{TopicClient, TopicError, TopicOptions};
    ///
    /// # async fn example(client: TopicClient) -> Result<(), TopicError> {
    /// let subscribed = client.subscribe_with("chat/1", TopicOptions::new().last(20)).await?;
    /// if subscribed.recovered == Some(false) {
    ///     println!("the server keeps no history of chat/1");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn subscribe_with(&self, topic: &str, options: TopicOptions) -> Result<TopicSubscribed, TopicError> {
        let TopicOptions { has_echo, start } = options;
        let enter = |book: &mut Book, connection, waiter| {
            let id = book.subscribe(connection, topic, has_echo, waiter)?;
            Ok((id, Command::Subscribe(subscription(id, topic, has_echo, start))))
        };
        let Placed { place, recovered, .. } = self.ask_by(enter).await?.unwrap_or_default();
        Ok(TopicSubscribed { place, recovered })
    }

    /// Ends a subscription. The messages of the topic that were sent before come first. Without a connection the client
    /// forgets the topic.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn unsubscribe(&self, topic: &str) -> Result<(), TopicError> {
        let (answer, answered) = oneshot::channel();
        let _place = self.0.place().await;
        let order = self.0.order.lock().await;
        let queue = self.0.client.send_queue().ok();
        let begun = self.0.book().unsubscribe(queue.as_ref().map(|queue| queue.connection_id()), topic, answer);
        match (begun, queue) {
            (Unsubscribing::Send(id), Some(queue)) => {
                let command = Command::Unsubscribe(OfTopic { id, topic, ..OfTopic::default() });
                let sent = self.0.send(&queue, id, &command).await;
                drop(order);
                match sent {
                    // The subscription has ended with its connection.
                    Err(SendError::NotOpen) => Ok(()),
                    Err(error) => Err(TopicError::Send(error)),
                    Ok(()) => answered.await.unwrap_or(Err(TopicError::Lost)).map(drop),
                }
            }
            (Unsubscribing::Done(_), _) => Ok(()),
            (Unsubscribing::NotOpen | Unsubscribing::Send(_), _) => Err(TopicError::Send(SendError::NotOpen)),
        }
    }

    /// Publishes a message to a topic, and returns its place. The client itself gets the message only if it has
    /// subscribed with echo.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn publish(&self, topic: &str, payload: &Payload) -> Result<TopicPlace, TopicError> {
        Ok(self.publish_with(topic, payload, &PublishOptions::new()).await?.place)
    }

    /// Publishes a message as [`TopicClient::publish`] does, with what the options say about it.
    ///
    /// # Errors
    ///
    /// See [`TopicError`]. The message is published whether or not there is a receipt.
    ///
    /// ```
    /// use ringhub::client::{Payload, PublishOptions, TopicClient, TopicError};
    ///
    /// # async fn example(client: TopicClient) -> Result<(), TopicError> {
    /// let paid = Payload::Text("paid".into());
    /// let options = PublishOptions::new().id("8e03978e-40d5-43dd").receipt(true);
    /// let placed = match client.publish_with("orders/17", &paid, &options).await {
    ///     // The connection broke before the answer. The id keeps the message from being published twice.
    ///     Err(TopicError::Lost) => client.publish_with("orders/17", &paid, &options).await?,
    ///     answer => answer?,
    /// };
    /// if let Some(Ok(receipt)) = placed.receipt {
    ///     println!("offset {}: {} of {} have it", placed.place.offset, receipt.sent, receipt.matched);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn publish_with(
        &self,
        topic: &str,
        payload: &Payload,
        options: &PublishOptions<'_>,
    ) -> Result<TopicPublished, TopicError> {
        let data = match payload {
            Payload::Text(text) => Data::Text(text),
            Payload::Json(json) => Data::Json(json),
            Payload::Binary(bytes) => Data::Binary(STANDARD.encode(bytes)),
        };
        let &PublishOptions { event, key, id: idempotency_key, has_receipt } = options;
        let receipt = has_receipt.then_some(true);
        let publish = |id| Publish { id, topic, data, event, key, idempotency_key, receipt };
        let placed = self.ask(|id| Command::Publish(publish(id))).await?;
        let published =
            placed.and_then(|Placed { place, receipt, .. }| Some(TopicPublished { place: place?, receipt }));
        published.ok_or(TopicError::Lost)
    }

    /// Replaces the token of the connection by a fresh one of the same identity.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn refresh(&self, token: &str) -> Result<(), TopicError> {
        self.ask(|id| Command::Refresh { id, token }).await.map(drop)
    }

    /// Asks the server for an answer.
    ///
    /// # Errors
    ///
    /// See [`TopicError`].
    pub async fn ping(&self) -> Result<(), TopicError> {
        self.ask(|id| Command::Ping { id }).await.map(drop)
    }

    /// Sends a command, and waits for its answer.
    async fn ask<'a>(&self, command: impl FnOnce(u64) -> Command<'a>) -> Answer {
        self.ask_by(|book, connection, waiter| {
            let id = book.command(connection, waiter);
            Ok((id, command(id)))
        })
        .await
    }

    /// Enters a command in the book, sends it, and waits for its answer.
    async fn ask_by<'a>(
        &self,
        enter: impl FnOnce(&mut Book, u64, oneshot::Sender<Answer>) -> Result<(u64, Command<'a>), TopicError>,
    ) -> Answer {
        let (answer, answered) = oneshot::channel();
        let _place = self.0.place().await;
        let order = self.0.order.lock().await;
        let queue = self.0.client.send_queue().map_err(TopicError::Send)?;
        let (id, command) = enter(&mut self.0.book(), queue.connection_id(), answer)?;
        self.0.send(&queue, id, &command).await.map_err(TopicError::Send)?;
        drop(order);
        answered.await.unwrap_or(Err(TopicError::Lost))
    }
}

impl fmt::Debug for TopicClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicClient").field("url", &self.0.client.url()).finish_non_exhaustive()
    }
}

impl fmt::Debug for TopicEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicEvents").finish_non_exhaustive()
    }
}

impl Wiring {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the place of a command.
    async fn place(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.places.acquire().await.expect("the semaphore is never closed")
    }

    /// Sends a command of the book. A call that is dropped before the command is queued takes the command out again.
    async fn send(&self, queue: &SendQueue, id: u64, command: &Command<'_>) -> Result<(), SendError> {
        let unsent = Unsent { wiring: self, id };
        self.client.send_text_by(queue, text(command)).await?;
        std::mem::forget(unsent);
        Ok(())
    }

    /// Notes which connection is open: commands and subscriptions of others have ended.
    fn note_connection(&self, open: Option<u64>) {
        for (waiter, answer) in self.book().moved(open) {
            // The caller may wait no more.
            _ = waiter.send(answer);
        }
    }

    /// Subscribes again to topics that an earlier connection had. Returns when to go on, if some of them wait. Events
    /// tell the answers.
    fn subscribe_again(&self) -> Option<tokio::time::Instant> {
        let Ok(queue) = self.client.send_queue() else { return None };
        // The lock is held while commands are queued, so that no command of the caller comes between.
        let mut book = self.book();
        while let Some(Again { id, topic, has_echo, since }) = book.due(queue.connection_id(), Instant::now()) {
            let command = text(&Command::Subscribe(subscription(id, &topic, has_echo, since.map(Start::After))));
            if let Err(error) = self.client.try_send_text_by(&queue, command) {
                book.unsent(id);
                // A queue that is full has room soon. After a loss of the connection an event follows.
                let waits = matches!(error, SendError::QueueFull);
                return waits.then(|| tokio::time::Instant::now() + QUEUE_FULL);
            }
        }
        book.next_due().map(tokio::time::Instant::from_std)
    }
}

/// A command in the book that has not been sent.
struct Unsent<'a> {
    wiring: &'a Wiring,
    id: u64,
}

impl Drop for Unsent<'_> {
    fn drop(&mut self) {
        self.wiring.book().unsent(self.id);
    }
}

impl TopicEvents {
    /// Returns the next event; `None` after the last. Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<TopicEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let due = self.wiring.upgrade().and_then(|wiring| wiring.subscribe_again());
            let event = match due {
                Some(due) => tokio::select! {
                    biased;
                    event = self.events.next() => event?,
                    () = sleep_until(due) => continue,
                },
                None => self.events.next().await?,
            };
            if let Some(event) = self.take(event) {
                return Some(event);
            }
        }
    }

    /// Takes an event of the connection. Returns the event that the caller gets of it.
    fn take(&mut self, event: ClientEvent) -> Option<TopicEvent> {
        let wiring = self.wiring.upgrade();
        match event {
            ClientEvent::Text(text) => {
                let frame = match serde_json::from_str(&text) {
                    Ok(frame) => frame,
                    // A frame of a later version of the server.
                    Err(_) => return Some(TopicEvent::Unknown(text)),
                };
                let again = || Instant::now() + AGAIN_AFTER_MAX.mul_f64(f64::from(u32::from_ne_bytes(random())) / MOST);
                let outcome = match &wiring {
                    Some(wiring) => wiring.book().take(frame, text, again),
                    // The last client is dropped, and nobody waits any more.
                    None => Book::default().take(frame, text, again),
                };
                match outcome {
                    Outcome::Nothing => None,
                    Outcome::Event(event) => Some(event),
                    Outcome::Answer { waiter, answer, event } => match waiter.send(answer) {
                        Ok(()) => None,
                        Err(_) => event,
                    },
                }
            }
            ClientEvent::Reconnected(_) | ClientEvent::Lost(_) | ClientEvent::Closed(_) => {
                if let Some(wiring) = &wiring {
                    wiring.note_connection(wiring.client.connection_id());
                }
                Some(TopicEvent::Connection(event))
            }
            other => Some(TopicEvent::Connection(other)),
        }
    }
}

impl Drop for TopicEvents {
    /// Nobody gets an answer any more.
    fn drop(&mut self) {
        if let Some(wiring) = self.wiring.upgrade() {
            wiring.book().forget_waiters();
        }
    }
}

fn subscription(id: u64, topic: &str, has_echo: bool, start: Option<Start>) -> OfTopic<'_> {
    let (since, last) = Start::members(start);
    OfTopic { id, topic, echo: has_echo.then_some(true), since, last }
}

fn text(command: &Command<'_>) -> String {
    serde_json::to_string(command).expect("strings and numbers can be encoded")
}

/// The name of the subprotocol.
const PROTOCOL: &str = "ringhub.v1";

/// The largest frame of a server with the default `max_message`: a character may have six bytes in JSON.
const MESSAGE_BYTES_MAX: u32 = 6 * MessageLimits::DEFAULT.message_bytes_max + 4 * 1_024;

/// The most commands of the caller without an answer. The server takes 256 of a connection; the others subscribe again.
const COMMANDS_MAX: usize = 127;

/// The time after which a queue that was full is tried again.
const QUEUE_FULL: Duration = Duration::from_millis(100);

/// The largest random number.
const MOST: f64 = u32::MAX as f64;
