//! The handler of `ringhub.v1`: acts on the commands of clients.
//!
//! Commands take effect in the order in which they come. If the judge has to wait before it decides about a command,
//! the later commands wait behind it; only pings are answered at once. Answers may come in another order: a message has
//! its place, and a subscription is live, when the home of the topic says so.

use std::{
    cell::Cell,
    future::{Future, ready},
    rc::Rc,
    time::Instant,
};

use super::{
    super::presence::{View, no_presence, put_presence},
    command::{Command, Fault, Request, parse},
    encode::{AS_BINARY, AS_JSON, Answer, OfId, Unsubscribed},
    error::ErrorCode,
    options::{Names, PATTERN, TalkOptions},
    talk::{REFRESH_INTERVAL, Stage, Talk},
};
use crate::{
    endpoints::{Judge, PublishGrant},
    handler::{
        Accept, Connection, Handler, HeldPublication, OpeningRequest, RenewError, RenewedToken, Response,
        SubscribeError, owner_of,
    },
    hub::{Encodings, Format, Publication, PublishError, PublishOutcome, Resume, Scope, SubscribeOptions, TopicName},
    proto::{Message, MessageType, Refusal, State},
};

/// Speaks `ringhub.v1` with clients.
#[derive(Debug, Clone)]
pub(super) struct Speaker {
    pub(super) judge: Judge,
    as_json: Format,
    as_binary: Format,
}

pub(super) type Client<'a> = Connection<'a, Talk>;

impl Handler for Speaker {
    type State = Talk;

    fn opening(&self, request: &OpeningRequest) -> impl Future<Output = Result<Accept<Talk>, Response>> {
        ready(self.accept(request).map_err(Response::from))
    }

    fn on_message(&self, connection: &mut Client<'_>, message: Message<'_>) {
        let Some(text) = message.as_text() else {
            let (code, reason) = match message.message_type() {
                MessageType::Binary => (ErrorCode::NotText, "commands are text, not binary"),
                // The route does not check the UTF-8 of messages.
                MessageType::Text => (ErrorCode::NotJson, "the message is not UTF-8"),
            };
            return send(connection, &Answer::from(&Fault { id: None, code, reason: reason.into() }));
        };
        let begun = parse(text).and_then(|request| match request.command {
            Command::Ping => Ok(request),
            _ => connection.state_mut().begin(&request).map(|()| request),
        });
        match begun {
            Ok(Request { id, command: Command::Ping }) => send(connection, &Answer::Pong(OfId { id })),
            Ok(Request { id, .. }) if connection.state().has_to_wait => self.keep(connection, id, text),
            Ok(request) => self.act(connection, request),
            Err(fault) => send(connection, &Answer::from(&fault)),
        }
    }

    /// Answers the command that has subscribed. A connection is also subscribed by the path of its opening request, and
    /// by the server's own code.
    fn on_subscribed(&self, connection: &mut Client<'_>, topic: &TopicName) {
        let stage = connection.state_mut().topics.get_mut(topic).map(|stage| std::mem::replace(stage, Stage::Live));
        let id = match stage {
            Some(Stage::Joining(id)) => {
                connection.state_mut().end(id);
                id
            }
            Some(Stage::Live) | None => None,
        };
        let is_without_history = connection.state_mut().take_without_history(topic);
        let (end, recovered) = (connection.order_end(), connection.is_recovered());
        let recovered = recovered.or(is_without_history.then_some(false));
        send(connection, &Answer::subscribed(id, topic.as_str(), end, recovered));
    }

    /// Tells the client of a subscription that the program has ended.
    fn on_unsubscribed(&self, connection: &mut Client<'_>, topic: &TopicName) {
        let reason = format!("the server has ended the subscription to {topic}");
        self.end_subscription(connection, topic, &Fault { id: None, code: ErrorCode::Ended, reason });
    }
}

impl Speaker {
    /// Returns the handler of a route. `encodings` are those of the server.
    pub(super) fn new(judge: Judge, encodings: &Encodings) -> Speaker {
        let format = |name| encodings.format(name).expect("the surface has registered it");
        Speaker { judge, as_json: format(AS_JSON), as_binary: format(AS_BINARY) }
    }

    fn accept(&self, request: &OpeningRequest) -> Result<Accept<Talk>, Refusal> {
        let names = if request.topic().is_some() { Names::Topic } else { Names::NoTopic };
        let TalkOptions { is_binary, has_echo, resume } = TalkOptions::read(request.raw_query(), names)?;
        let format = if is_binary { self.as_binary } else { self.as_json };
        let Some(topic) = request.topic() else { return Ok(Accept::default().format(format)) };
        let accept = Accept::with(Talk::at(topic.clone())).format(format);
        Ok(accept.subscribe(topic.clone(), options(has_echo, resume)))
    }

    /// Keeps a command that waits behind another.
    fn keep(&self, connection: &mut Client<'_>, id: Option<u64>, text: &str) {
        if !connection.wait_behind(text) {
            let reason = "the commands of this connection that wait for a decision have no room left".into();
            self.fail(connection, Fault { id, code: ErrorCode::TooManyCommands, reason });
        }
    }

    /// Carries out the commands that have waited behind another, while the connection is open.
    fn catch_up(&self, connection: &mut Client<'_>) {
        if std::mem::replace(&mut connection.state_mut().is_catching_up, true) {
            return;
        }
        while connection.websocket_state() == State::Open
            && !connection.state().has_to_wait
            && let Some(text) = connection.next_waiting()
        {
            self.act(connection, parse(&text).expect("the command has been read before"));
        }
        connection.state_mut().is_catching_up = false;
    }

    fn act(&self, connection: &mut Client<'_>, Request { id, command }: Request<'_>) {
        let done = match command {
            Command::Subscribe { topic, has_echo, has_presence, resume } => {
                let options = SubscribeOptions { has_presence, ..options(has_echo, resume) };
                self.subscribe(connection, id, &topic, options)
            }
            Command::Unsubscribe { topic } => self.unsubscribe(connection, id, &topic),
            Command::Publish { topic, publication } => self.publish(connection, id, &topic, publication),
            Command::Presence { topic } => self.presence(connection, id, &topic),
            Command::Refresh { token } => self.refresh(connection, id, &token.0),
            Command::Ping => unreachable!("pings are answered before"),
        };
        if let Err(fault) = done {
            self.fail(connection, fault);
        }
    }

    /// Answers a command that has failed.
    pub(super) fn fail(&self, connection: &mut Client<'_>, fault: Fault) {
        connection.state_mut().end(fault.id);
        send(connection, &Answer::from(&fault));
    }

    /// Returns the topic that a command names. Where the path names a topic, the client may use this topic alone, so
    /// that a proxy which admits by the path knows which topics it admits to.
    fn topic(&self, connection: &Client<'_>, id: Option<u64>, name: &str) -> Result<TopicName, Fault> {
        let topic = self.judge.topic(connection, name).map_err(|refusal| refused(id, &refusal))?;
        match &connection.state().of_path {
            Some(own) if *own != topic => {
                let reason = format!(
                    "this connection may use {own} alone, the topic of its path; connections at {PATTERN} may use \
                     other topics"
                );
                Err(Fault { id, code: ErrorCode::Forbidden, reason })
            }
            _ => Ok(topic),
        }
    }

    fn subscribe(
        &self,
        connection: &mut Client<'_>,
        id: Option<u64>,
        name: &str,
        options: SubscribeOptions,
    ) -> Result<(), Fault> {
        let topic = self.topic(connection, id, name)?;
        if connection.is_subscribed(&topic) {
            return Err(not_subscribed(id, SubscribeError::Already));
        }
        connection.state_mut().has_to_wait = true;
        let (speaker, name) = (self.clone(), topic.clone());
        let act = move |connection: &mut Client<'_>, decided: Result<(), Refusal>| match decided {
            Ok(()) if options.resume.is_some() => speaker.judge_resume(connection, id, name, options),
            decided => speaker.subscribe_judged(connection, id, name, options, decided),
        };
        if options.has_presence {
            self.judge.may_see_presence(connection, &topic, act);
        } else {
            self.judge.may_subscribe(connection, &topic, act);
        }
        Ok(())
    }

    /// Judges whether a client that may subscribe may also begin in the history. If not, the topic is for this client
    /// one without a history.
    fn judge_resume(&self, connection: &mut Client<'_>, id: Option<u64>, name: TopicName, options: SubscribeOptions) {
        let (speaker, topic) = (self.clone(), name.clone());
        self.judge.may_resume(connection, &topic, move |connection, decided| match decided {
            Err(refusal) if ErrorCode::of_refusal(&refusal) == ErrorCode::Forbidden => {
                connection.state_mut().note_without_history(&name);
                let options = SubscribeOptions { resume: None, ..options };
                speaker.subscribe_judged(connection, id, name, options, Ok(()));
            }
            decided => speaker.subscribe_judged(connection, id, name, options, decided),
        });
    }

    /// Asks for the members of a topic. Later commands wait for the answer, so that a connection makes one list at a
    /// time.
    fn presence(&self, connection: &mut Client<'_>, id: Option<u64>, name: &str) -> Result<(), Fault> {
        let topic = self.topic(connection, id, name)?;
        let (speaker, name) = (self.clone(), topic.clone());
        connection.state_mut().has_to_wait = true;
        self.judge.may_see_presence(connection, &topic, move |connection, decided| {
            if let Err(refusal) = decided {
                speaker.fail(connection, refused(id, &refusal));
                return speaker.go_on(connection);
            }
            let topic = name.clone();
            connection.ask_presence(&name, move |connection, presence| {
                match presence {
                    Some(presence) => {
                        connection.state_mut().end(id);
                        let mut text = String::from("{\"presence\":{");
                        id.iter().for_each(|id| text.push_str(&format!("\"id\":{id},")));
                        put_presence(topic.as_str(), &presence, View::Members, &mut text);
                        text.push_str("}}");
                        _ = connection.send_text(&text);
                    }
                    None => speaker.fail(connection, no_presence_of(id, &topic)),
                }
                speaker.go_on(connection);
            });
        });
        Ok(())
    }

    /// Ends the subscriptions whose joins and leaves a fresh token does not let the client see.
    pub(super) fn judge_watched(&self, connection: &mut Client<'_>) {
        let watched: Vec<TopicName> = connection.state().watched.iter().cloned().collect();
        for topic in watched {
            let (speaker, name) = (self.clone(), topic.clone());
            self.judge.may_see_presence(connection, &topic, move |connection, decided| {
                let fault = decided.err().map(|refusal| refused(None, &refusal));
                if let Some(fault) = fault.filter(|fault| !fault.code.is_temporary())
                    && connection.state().watched.contains(&name)
                {
                    speaker.end_subscription(connection, &name, &fault);
                }
            });
        }
    }

    /// Subscribes as the judge has decided.
    fn subscribe_judged(
        &self,
        connection: &mut Client<'_>,
        id: Option<u64>,
        name: TopicName,
        options: SubscribeOptions,
        decided: Result<(), Refusal>,
    ) {
        let subscribed = decided.map_err(|refusal| refused(id, &refusal)).and_then(|()| {
            if options.has_presence && connection.topic_rules(&name).members.is_none() {
                return Err(no_presence_of(id, &name));
            }
            connection.subscribe(&name, options).map_err(|error| not_subscribed(id, error))
        });
        match subscribed {
            // The answer follows when the subscription is live.
            Ok(()) => {
                if options.has_presence {
                    connection.state_mut().watched.insert(name.clone());
                }
                connection.state_mut().topics.insert(name, Stage::Joining(id));
            }
            Err(fault) => {
                connection.state_mut().take_without_history(&name);
                self.fail(connection, fault);
            }
        }
        self.go_on(connection);
    }

    /// Ends the wait for a decision.
    pub(super) fn go_on(&self, connection: &mut Client<'_>) {
        connection.state_mut().has_to_wait = false;
        connection.hold(None, 0);
        self.catch_up(connection);
    }

    fn unsubscribe(&self, connection: &mut Client<'_>, id: Option<u64>, name: &str) -> Result<(), Fault> {
        let topic = self.topic(connection, id, name)?;
        if let Some(Stage::Joining(id)) = connection.state_mut().remove(&topic) {
            let reason = "the subscription was cancelled before it was live".into();
            self.fail(connection, Fault { id, code: ErrorCode::Cancelled, reason });
        }
        if !connection.unsubscribe(&topic) {
            let reason = format!("the connection is no subscriber of {topic}");
            return Err(Fault { id, code: ErrorCode::NotSubscribed, reason });
        }
        connection.state_mut().end(id);
        send(connection, &Answer::Unsubscribed(Unsubscribed { id, topic: topic.as_str(), because: None }));
        Ok(())
    }

    fn publish(
        &self,
        connection: &mut Client<'_>,
        id: Option<u64>,
        name: &str,
        publication: Publication,
    ) -> Result<(), Fault> {
        let topic = self.topic(connection, id, name)?;
        let (speaker, name) = (self.clone(), topic.clone());
        connection.state_mut().has_to_wait = true;
        let names = [publication.event_name(), publication.key_name(), publication.id_name()];
        let names: usize = names.into_iter().flatten().map(str::len).sum();
        let bytes = size_of::<Publication>() + publication.payload().len() + names;
        let held = HeldPublication::new(Cell::new(Some(publication)));
        let taken = Rc::clone(&held);
        self.judge.may_publish(connection, &topic, move |connection, decided| {
            // A connection that is closing has given its messages up.
            let Some(publication) = taken.take() else { return };
            let granted = decided.and_then(|grant: PublishGrant| grant.check(publication));
            match granted {
                Ok(publication) => speaker.publish_granted(connection, id, &name, publication),
                Err(refusal) => speaker.fail(connection, refused(id, &refusal)),
            }
            speaker.go_on(connection);
        });
        if connection.state().has_to_wait {
            connection.hold(Some(held), bytes);
        }
        Ok(())
    }

    /// Publishes a message that the judge has permitted.
    fn publish_granted(
        &self,
        connection: &mut Client<'_>,
        id: Option<u64>,
        topic: &TopicName,
        publication: Publication,
    ) {
        // A publication with an idempotency key may be refused, which its client is told even if it has no number.
        if id.is_none() && publication.id_name().is_none() {
            connection.publish(topic, publication, Scope::Server);
            return connection.state_mut().end(None);
        }
        let publication = publication.owned_by(owner_of(connection.identity(), connection.peer()));
        let name = topic.clone();
        let answer = move |connection: &mut Client<'_>, outcome: PublishOutcome| {
            connection.state_mut().end(id);
            match (outcome, id) {
                (Ok(published), Some(number)) => send(connection, &Answer::published(number, name.as_str(), published)),
                (Ok(_), None) => {}
                (Err(error), _) => send(connection, &Answer::from(&not_published(id, error))),
            }
        };
        if let Some(outcome) = connection.publish_asking(topic, publication, answer.clone()) {
            answer(connection, outcome);
        }
    }

    fn refresh(&self, connection: &mut Client<'_>, id: Option<u64>, token: &str) -> Result<(), Fault> {
        if connection.renewed_token().is_some_and(|renewed| renewed.as_str() == token) {
            self.refreshed(connection, id);
            return Ok(());
        }
        if !connection.state_mut().may_refresh(Instant::now()) {
            let reason = format!("a connection may refresh its token once in {} s", REFRESH_INTERVAL.as_secs());
            return Err(Fault { id, code: ErrorCode::TooManyCommands, reason });
        }
        self.judge.may_show_token(connection).map_err(|refusal| refused(id, &refusal))?;
        connection.state_mut().has_to_wait = true;
        connection.hold(None, size_of::<RenewedToken>() + token.len());
        let speaker = self.clone();
        match connection.accept_token(token) {
            Err(RenewError::MustWait) => {
                let token = token.to_owned();
                let is_begun = connection.spawn(async move |handle| {
                    let accepted = handle.accept_token(token).await;
                    // The connection may have ended.
                    _ = handle.with(move |connection| speaker.begin_refresh(connection, id, accepted)).await;
                });
                if !is_begun {
                    let reason = "too much work of this connection waits for decisions".into();
                    self.fail(connection, Fault { id, code: ErrorCode::TooManyCommands, reason });
                    self.go_on(connection);
                }
            }
            accepted => {
                if matches!(accepted, Err(RenewError::NoAuthenticator)) {
                    connection.state_mut().note_unasked();
                }
                self.begin_refresh(connection, id, accepted);
            }
        }
        Ok(())
    }

    /// Answers a token that has taken the place of the earlier one.
    pub(super) fn refreshed(&self, connection: &mut Client<'_>, id: Option<u64>) {
        connection.state_mut().end(id);
        if id.is_some() {
            send(connection, &Answer::Refreshed(OfId { id }));
        }
    }

    /// Ends a subscription that the client may not have any more, and tells the client. A command that waits for the
    /// subscription to be live fails.
    pub(super) fn end_subscription(&self, connection: &mut Client<'_>, topic: &TopicName, fault: &Fault) {
        let stage = connection.state_mut().remove(topic);
        connection.unsubscribe(topic);
        match stage {
            Some(Stage::Joining(Some(id))) => self.fail(connection, Fault { id: Some(id), ..fault.clone() }),
            stage => {
                if stage.is_some_and(|stage| stage != Stage::Live) {
                    connection.state_mut().end(None);
                }
                let because = Some(fault.into());
                send(connection, &Answer::Unsubscribed(Unsubscribed { id: None, topic: topic.as_str(), because }));
            }
        }
    }
}

/// Sends an answer. A client that does not take its answers is a slow consumer, which the server closes.
fn send(connection: &mut Client<'_>, answer: &Answer<'_>) {
    _ = connection.send_text(answer.text());
}

/// Returns the options of a subscription.
fn options(has_echo: bool, resume: Option<Resume>) -> SubscribeOptions {
    SubscribeOptions { has_echo, resume, accepts_unrecovered: true, ..SubscribeOptions::default() }
}

/// Returns the error for a refusal of the judge.
pub(super) fn refused(id: Option<u64>, refusal: &Refusal) -> Fault {
    Fault { id, code: ErrorCode::of_refusal(refusal), reason: refusal.error.clone() }
}

/// Returns the error for a message that the home of its topic has refused.
fn not_published(id: Option<u64>, error: PublishError) -> Fault {
    let code = match error {
        PublishError::OtherContents => ErrorCode::OtherContents,
        PublishError::IdsFull { .. } => ErrorCode::KeysFull,
    };
    Fault { id, code, reason: error.to_string() }
}

fn no_presence_of(id: Option<u64>, topic: &TopicName) -> Fault {
    Fault { id, code: ErrorCode::NoPresence, reason: no_presence(topic.as_str()) }
}

fn not_subscribed(id: Option<u64>, error: SubscribeError) -> Fault {
    let code = match error {
        SubscribeError::Already => ErrorCode::AlreadySubscribed,
        SubscribeError::TooMany => ErrorCode::TooManyTopics,
        // The client does not get this answer any more.
        SubscribeError::NotOpen => ErrorCode::Cancelled,
    };
    Fault { id, code, reason: error.to_string() }
}

/// Returns the error for a token that has not taken the place of the earlier one.
pub(super) fn not_renewed(id: Option<u64>, error: &RenewError) -> Fault {
    let code = match error {
        RenewError::Refused(refusal) => match ErrorCode::of_refusal(refusal) {
            ErrorCode::BadTopic | ErrorCode::TooLarge => ErrorCode::Unauthorized,
            code => code,
        },
        RenewError::OtherIdentity => ErrorCode::OtherIdentity,
        RenewError::NoAuthenticator | RenewError::RequestForgotten => ErrorCode::NoAuthenticator,
        RenewError::NotOpen | RenewError::MustWait | RenewError::Undecided => ErrorCode::Unavailable,
    };
    Fault { id, code, reason: error.to_string() }
}
