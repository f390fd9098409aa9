//! Tests over real sockets who may use which topic, by the rules of topics and the grants of tokens, for every way to a
//! topic; and the end of tokens.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    BuildError, Running, Server,
    judging::{HUB, LINES, ask, builder, config, end, open, status},
    testing::{Client, Manner},
};
use crate::{
    auth::{
        Authenticator, Credentials, Grants, Identity, Later, OTHERS_MAX, PermissionSource, TopicQuestion, TopicRight,
    },
    hub::{Permission, TopicName, TopicRule},
    metrics::Counter,
    proto::{CloseCode, Refusal},
};

/// An authenticator that believes whatever a token says, such as `ann|sub=own/1,own/2|pub=own/1|until=MILLIS`. A
/// request without a token is that of a guest.
#[derive(Debug, Default)]
struct Believing {
    asked: AtomicUsize,
}

impl Authenticator for Believing {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let Some(token) = credentials.token() else { return Ok(Identity::new("guest")) };
        let token = String::from_utf8_lossy(&token).into_owned();
        let mut parts = token.split('|');
        let mut identity = Identity::new(parts.next().unwrap());
        if identity.name == "nobody" {
            return Err(Refusal::new(401, "nobody is nobody"));
        }
        for part in parts {
            let (key, value) = part.split_once('=').unwrap();
            let grant = |right| {
                let grants = identity.grants.as_deref().cloned().unwrap_or_default();
                grants.allow(right, value.split(',').map(|pattern| pattern.parse().unwrap()))
            };
            let grants: Grants = match key {
                "sub" => grant(TopicRight::Subscribe),
                "pub" => grant(TopicRight::Publish),
                _ => {
                    let until = UNIX_EPOCH + Duration::from_millis(value.parse().unwrap());
                    identity = identity.with_expiry(until);
                    continue;
                }
            };
            identity = identity.with_grants(grants);
        }
        Ok(identity)
    }
}

/// Returns a part of a token that expires after so many milliseconds.
fn until(millis: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("|until={}", now.as_millis() as u64 + millis)
}

/// A source that waits once for each question, and lets ann subscribe.
#[derive(Debug, Default)]
struct Application(Arc<Mutex<Vec<String>>>);

impl PermissionSource for Application {
    fn decide(&self, question: &TopicQuestion<'_>) -> Result<(), Refusal> {
        let TopicQuestion { identity, right, topic, .. } = question;
        let name = identity.map_or("nobody", |identity| &identity.name);
        let answer = question.credentials.answers().and_then(|answers| answers.get::<bool>(&format!("{right:?}")));
        assert_eq!(answer.as_deref(), Some(&true), "the question is asked before its answer is there");
        self.0.lock().unwrap().push(format!("{name} {right:?} {topic}"));
        match (name, right) {
            ("ann", TopicRight::Subscribe) => Ok(()),
            _ => Err(Refusal::new(403, "the application says no")),
        }
    }

    fn prepare(&self, question: &TopicQuestion<'_>) -> Option<Later> {
        let (answers, key) = (question.credentials.answers()?.clone(), format!("{:?}", question.right));
        answers.get::<bool>(&key).is_none().then(|| {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                answers.put(key, true);
            }) as Later
        })
    }
}

/// A source that waits until it is let go, and then permits what the grants of the sender have.
#[derive(Debug, Default)]
struct Held {
    is_let_go: Arc<AtomicBool>,
    /// The number of waits that have begun.
    waits: Arc<AtomicUsize>,
}

impl PermissionSource for Held {
    fn decide(&self, question: &TopicQuestion<'_>) -> Result<(), Refusal> {
        let grants = question.identity.and_then(|identity| identity.grants.as_deref());
        let is_granted = grants.is_some_and(|grants| grants.has(question.right, question.topic));
        if is_granted { Ok(()) } else { Err(Refusal::new(403, "the grants do not have it")) }
    }

    fn prepare(&self, question: &TopicQuestion<'_>) -> Option<Later> {
        let (answers, is_let_go) = (question.credentials.answers()?.clone(), Arc::clone(&self.is_let_go));
        let waits = Arc::clone(&self.waits);
        answers.get::<()>("held").is_none().then(|| {
            Box::pin(async move {
                waits.fetch_add(1, Ordering::SeqCst);
                while !is_let_go.load(Ordering::SeqCst) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                answers.put("held", ());
            }) as Later
        })
    }
}

const RULES: &str = "\
[[topics]]\nmatch = \"read/*\"\npublish = \"nobody\"\n\
[[topics]]\nmatch = \"own/*\"\nsubscribe = \"granted\"\npublish = \"granted\"\n\
[[topics]]\nmatch = [\"free\", \"free/**\"]\nsubscribe = \"anyone\"\npublish = \"anyone\"\n\
[[topics]]\nmatch = \"ask/*\"\nsubscribe = \"callback\"\npublish = \"callback\"\n\
[[topics]]\nmatch = \"own/shut\"\nsubscribe = \"nobody\"\npublish = \"nobody\"\n";

/// Serves these routes, whose last one has an authenticator that believes everything.
fn serve(routes: &[&str]) -> (Running, Arc<Believing>, Arc<Mutex<Vec<String>>>) {
    let (gate, application) = (Arc::<Believing>::default(), Application::default());
    let asked = Arc::clone(&application.0);
    let builder = builder(RULES, routes, &gate).permission_source(application);
    (builder.build().unwrap().start().unwrap(), gate, asked)
}

fn authorization(token: &str) -> String {
    if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") }
}

/// The rules of a topic hold for each way to it: an opening in each mode, the look at what an opening would be
/// answered, a POST, a body that names the topic, and messages.
#[test]
fn rules_and_grants_hold_for_every_way_to_a_topic() {
    let (server, ..) = serve(&[LINES, HUB]);
    let address = server.local_addr();
    let (ann, all) = ("ann|sub=own/1,read/*", "ann|sub=**|pub=**");
    for (token, topic, may_subscribe, may_publish) in [
        ("", "plain", true, true),
        ("", "read/1", true, false),
        ("", "own/1", false, false),
        ("", "free", true, true),
        ("", "ask/1", false, false),
        ("ann", "own/1", false, false),
        ("ann", "ask/1", true, false),
        ("ben", "ask/1", false, false),
        (ann, "plain", false, false),
        (ann, "read/1", true, false),
        (ann, "own/1", true, false),
        (ann, "own/2", false, false),
        (ann, "free/1/2", true, true),
        ("ann|pub=own/1", "own/1", false, true),
        (all, "plain", true, true),
        (all, "read/1", true, false),
        (all, "own/1", true, true),
        (all, "own/shut", false, false),
        (all, "ask/1", true, false),
    ] {
        let context = format!("{token:?} at {topic}");
        let lines = authorization(token);
        let line = format!("Bearer {token}");
        let headers = [("Authorization", &*line)];
        let headers = if token.is_empty() { &[][..] } else { &headers };
        let opened = |mode: &str| {
            let target = format!("/t/{topic}?mode={mode}");
            Client::try_open(address, &target, headers, Manner::default()).map(drop)
        };
        let outcome = |is_permitted| if is_permitted { Ok(()) } else { Err(403) };
        assert_eq!(opened("sub"), outcome(may_subscribe), "{context}");
        assert_eq!(opened("pub"), outcome(may_publish), "{context}");
        assert_eq!(opened("both"), outcome(may_subscribe && may_publish), "{context}");
        let looked = status(&ask(address, &format!("GET /t/{topic}?mode=sub"), &lines, ""));
        assert_eq!(looked, if may_subscribe { 426 } else { 403 }, "{context}");
        let posted = status(&ask(address, &format!("POST /t/{topic}"), &lines, "x"));
        assert_eq!(posted, if may_publish { 202 } else { 403 }, "{context}");
        let named = format!("{{\"topic\":\"{topic}\",\"payload\":\"x\"}}");
        let named = status(&ask(address, "POST /l/publish", &lines, &named));
        assert_eq!(named, if may_publish { 200 } else { 403 }, "{context}");
        // The route of the lines has no authenticator: the grants are those that the gate of the other route finds.
        let mut peer = open(address, "/l/open", token);
        peer.say(&format!("subscribe {topic}"));
        let answer = peer.text();
        assert_eq!(answer.starts_with(&format!(":subscribed {topic}")), may_subscribe, "{context}: {answer}");
        assert_eq!(answer.starts_with(":refused 403 "), !may_subscribe, "{context}: {answer}");
        peer.say(&format!("publish {topic} x"));
        peer.say("unsubscribe the-end");
        let is_refused = peer.text().starts_with(":refused 403 ");
        // A command that does not wait overtakes one that waits for the application.
        assert!(topic.starts_with("ask/") || is_refused != may_publish, "{context}");
    }
    end(server);
}

/// The application is asked with the identity that was found, and only where nothing else decides.
#[test]
fn the_application_is_asked() {
    let (server, _, asked) = serve(&[LINES, HUB]);
    let address = server.local_addr();
    drop(open(address, "/t/ask/1?mode=sub", "ann"));
    assert_eq!(status(&ask(address, "POST /t/ask/2", &authorization("ben"), "x")), 403);
    assert_eq!(status(&ask(address, "POST /t/own/1", &authorization("ben"), "x")), 403);
    let mut peer = open(address, "/l/open", "ann");
    for _ in 0..2 {
        // The judge keeps no answers of the application.
        peer.say("publish ask/3 x");
        assert!(peer.text().starts_with(":refused 403 the application says no"));
    }
    drop(peer);
    end(server);
    let expected = ["ann Subscribe ask/1", "ben Publish ask/2", "ann Publish ask/3", "ann Publish ask/3"];
    assert_eq!(*asked.lock().unwrap(), expected);
}

/// The identities that gates have found for a topic in a message count as memory of the connection at once.
#[test]
fn identities_for_topics_of_messages_weigh_what_they_take() {
    let (server, ..) = serve(&[LINES, HUB]);
    let mut peer = open(server.local_addr(), "/l/open", "ann");
    // The number is that of the last tick in which the shard ran.
    let told = |peer: &mut Client| {
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(250));
            peer.say("unsubscribe the-end");
            peer.text();
        }
        server.counters().iter().map(|counters| counters.get(Counter::MemoryConnections)).sum::<u64>()
    };
    let before = told(&mut peer);
    peer.say("subscribe ask/1");
    assert_eq!(peer.text(), ":subscribed ask/1");
    assert_eq!(told(&mut peer), before + Identity::new("ann").bytes() as u64);
    drop(peer);
    end(server);
}

/// A connection that publishes to one topic again and again is judged once, until the rules change.
#[test]
fn the_judge_is_asked_once_for_each_topic() {
    let gate = Arc::<Believing>::default();
    let server = builder("", &[LINES, HUB], &gate).build().unwrap().start().unwrap();
    let mut peer = open(server.local_addr(), "/l/open", "");
    let mut asked = 0;
    let mut say = |line: &str, expected: &str| {
        peer.say(line);
        let answer = peer.text();
        assert!(answer.starts_with(expected), "{line}: {answer}");
        let before = std::mem::replace(&mut asked, gate.asked.load(Ordering::SeqCst));
        asked - before
    };
    assert_eq!(say("subscribe news", ":subscribed"), 1);
    assert_eq!(say("publish news 1", "1"), 1);
    assert_eq!(say("publish news 2", "2"), 0);

    let closed = "[[topics]]\nmatch = \"news\"\npublish = \"nobody\"\n";
    server.reload(|_| Ok(config(closed, &[LINES, HUB], &gate))).unwrap();
    assert_eq!(say("publish news 4", ":refused 403 nobody may publish"), 1);
    server.reload(|_| Ok(config("", &[LINES, HUB], &gate))).unwrap();
    assert_eq!(say("publish news 5", "5"), 1);
    assert_eq!(say("publish news 6", "6"), 0);
    drop(peer);
    end(server);
}

/// A request that waits while the settings are reloaded is judged to its end by the gates and the rules that were in
/// force when it began: the gates of one file and the rules of another are no judge.
#[test]
fn a_reload_does_not_change_the_rules_for_a_request_under_way() {
    /// Admits everybody, and lets nobody in before it is let go.
    #[derive(Default)]
    struct Slow {
        begun: AtomicUsize,
        is_let_go: Arc<AtomicBool>,
    }

    impl Authenticator for Slow {
        fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, Refusal> {
            Ok(Identity::new("guest"))
        }

        fn prepare(&self, _: &Credentials<'_>) -> Option<Later> {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let is_let_go = Arc::clone(&self.is_let_go);
            (!is_let_go.load(Ordering::SeqCst)).then(|| {
                Box::pin(async move {
                    while !is_let_go.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }) as Later
            })
        }
    }

    let gate = Arc::<Slow>::default();
    let closed = "[[topics]]\nmatch = \"secret/**\"\nsubscribe = \"nobody\"\npublish = \"nobody\"\n";
    let server = builder(closed, &[HUB], &gate).build().unwrap().start().unwrap();
    let address = server.local_addr();
    let open = move || Client::try_open(address, "/t/secret/x", &[], Manner::default()).map(drop);
    let post = move || status(&ask(address, "POST /t/secret/x", "", "x"));
    let (opening, posting) = (thread::spawn(open), thread::spawn(post));
    while gate.begun.load(Ordering::SeqCst) < 2 {
        thread::sleep(Duration::from_millis(5));
    }
    server.reload(|_| Ok(config("", &[HUB], &gate))).unwrap();
    gate.is_let_go.store(true, Ordering::SeqCst);
    assert_eq!((opening.join().unwrap(), posting.join().unwrap()), (Err(403), 403));
    assert_eq!((open(), post()), (Ok(()), 202), "the new rules hold for later requests");
    end(server);
}

/// A fresh token replaces the grants of a connection. It is that of the same identity, and subscriptions that it does
/// not grant end.
#[test]
fn a_fresh_token_replaces_the_grants() {
    let (server, ..) = serve(&[HUB, LINES]);
    let address = server.local_addr();
    let mut peer = open(address, "/l/open", "ann|sub=own/*|pub=own/1,own/2");
    let mut say = |line: &str, expected: &str| {
        peer.say(line);
        let answer = peer.text();
        assert!(answer.starts_with(expected), "{line}: {answer}");
    };
    say("subscribe own/1", ":subscribed own/1");
    say("subscribe own/2", ":subscribed own/2");
    say("publish own/1 one", "one");
    say("renew ben|sub=**", ":refused 403 the token is that of another identity");
    say("renew nobody", ":refused 403 nobody is nobody");
    say(&format!("renew ann{}", until(0)), ":refused 403 the token has expired");
    say("publish own/1 two", "two");
    say("renew ann|sub=own/2|pub=own/2", ":renewed 1");
    say("publish own/1 three", ":refused 403 this sender's grants do not let it publish to the topic \"own/1\"");
    say("publish own/2 four", "four");
    say("subscribe own/1", ":refused 403 ");
    // The connection has left the topic.
    assert_eq!(status(&ask(address, "POST /t/own/1", &authorization("ann|pub=own/1"), "five")), 202);
    assert_eq!(status(&ask(address, "POST /t/own/2", &authorization("ann|pub=own/2"), "six")), 202);
    assert_eq!(peer.text(), "six");
    drop(peer);
    end(server);
}

/// A renewal overtakes a question about a topic, which waits: the decision is about the fresh token.
#[test]
fn a_question_that_waits_is_about_the_fresh_token() {
    let held = Held::default();
    let is_let_go = Arc::clone(&held.is_let_go);
    let builder = builder(RULES, &[HUB, LINES], &Arc::<Believing>::default()).permission_source(held);
    let server = builder.build().unwrap().start().unwrap();
    let mut peer = open(server.local_addr(), "/l/open", "ann|sub=ask/1");
    peer.say("subscribe ask/1");
    peer.say("renew ann|sub=ask/2");
    assert_eq!(peer.text(), ":renewed 0");
    is_let_go.store(true, Ordering::SeqCst);
    let answer = peer.text();
    assert!(answer.starts_with(":refused 403 the grants do not have it"), "{answer}");
    peer.say("subscribe ask/2");
    assert_eq!(peer.text(), ":subscribed ask/2");
    drop(peer);
    end(server);
}

/// A handler that chooses an identity only names the connection: the grants of the token that admitted it go on to
/// hold for the topics of its messages, and so do those of a fresh token.
#[test]
fn a_chosen_identity_takes_no_grants_away() {
    let (server, ..) = serve(&[HUB, LINES]);
    let address = server.local_addr();
    let known_by = |name: &str, token: &str| {
        let headers = [("Authorization", &*format!("Bearer {token}")), ("X-Name", name)];
        Client::try_open(address, "/l/open", &headers, Manner::default()).unwrap()
    };
    let say = |peer: &mut Client, line: &str, expected: &str| {
        peer.say(line);
        let answer = peer.text();
        assert!(answer.starts_with(expected), "{line}: {answer}");
    };
    let denied = ":refused 403 this sender's grants do not let it";
    let mut bob = known_by("bob", "ann|sub=a/1|pub=a/1");
    say(&mut bob, "subscribe a/1", ":subscribed a/1");
    say(&mut bob, "subscribe a/2", denied);
    say(&mut bob, "publish a/2 x", denied);
    say(&mut bob, "publish a/1 x", "x");
    let mut ann = known_by("ann", "ann|sub=own/1,own/2");
    say(&mut ann, "subscribe own/1", ":subscribed own/1");
    say(&mut ann, "renew ann|sub=own/2", ":renewed 1");
    drop((bob, ann));
    end(server);
}

/// An identity that is revoked while the judge waits for the application publishes nothing more, though the
/// application permits it.
#[test]
fn a_sender_is_checked_again_after_a_wait() {
    let held = Held::default();
    let (is_let_go, waits) = (Arc::clone(&held.is_let_go), Arc::clone(&held.waits));
    let settings = format!("admin_tokens = [\"boss\"]\n{RULES}");
    let builder = builder(&settings, &[HUB, LINES], &Arc::<Believing>::default()).permission_source(held);
    let server = builder.build().unwrap().start().unwrap();
    let address = server.local_addr();
    let publish = |name: &str| {
        let lines = authorization(&format!("{name}|pub=ask/1"));
        thread::spawn(move || ask(address, "POST /l/publish", &lines, "{\"topic\":\"ask/1\",\"payload\":\"x\"}"))
    };
    let [ann, ben] = ["ann", "ben"].map(publish);
    while waits.load(Ordering::SeqCst) < 2 {
        thread::sleep(Duration::from_millis(5));
    }
    let lines = "Authorization: Bearer boss\r\nContent-Type: application/json\r\n";
    assert_eq!(status(&ask(address, "POST /revocations", lines, "{\"identity\":\"ann\",\"for\":60}")), 200);
    is_let_go.store(true, Ordering::SeqCst);
    let refused = ann.join().unwrap();
    assert!(status(&refused) == 403 && refused.contains("has been revoked"), "{refused}");
    assert_eq!(status(&ben.join().unwrap()), 200);
    end(server);
}

/// A connection ends with its token, unless a fresh token has come.
#[test]
fn a_connection_ends_with_its_token() {
    let (server, ..) = serve(&[HUB, LINES]);
    let address = server.local_addr();
    let (soon, later) = (until(3_000), until(600_000));
    // Raw topics below the prefix of the gated route: the gate finds the token's end, whichever route is taken.
    let mut raw = open(address, "/t/raw", &format!("ann{soon}"));
    let mut ends = open(address, "/l/open", &format!("ann{soon}"));
    let mut goes_on = open(address, "/l/open", &format!("ann{soon}"));
    goes_on.say(&format!("renew ann{later}"));
    assert_eq!(goes_on.text(), ":renewed 0");
    let begun = SystemTime::now();
    assert_eq!(ends.rest(), (Vec::new(), Some(CloseCode(4401))));
    assert_eq!(raw.rest(), (Vec::new(), Some(CloseCode(4401))));
    assert!(begun.elapsed().unwrap() < Duration::from_secs(50));
    thread::sleep(Duration::from_millis(500));
    goes_on.say("subscribe x");
    assert_eq!(goes_on.text(), ":subscribed x");
    let expired = authorization(&format!("ann{soon}"));
    for line in ["POST /t/raw", "GET /l/facts/a/b"] {
        let answer = ask(address, line, &expired, "");
        assert!(status(&answer) == 401 && answer.contains("the token has expired"), "{line}: {answer}");
    }
    let metrics = ask(address, "GET /metrics", "", "");
    let closed: u64 = (metrics.lines().filter(|line| line.starts_with("ringhub_token_expired_total")))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    assert_eq!(closed, 2);
    drop(goes_on);
    end(server);
}

/// A token that only the gate of another route looks at ends the connection too: the topic of a message was permitted
/// because of it.
#[test]
fn the_token_of_another_route_ends_a_connection() {
    let gated = "match = \"/g\"\nhandler = \"lines\"\ntopic_prefix = \"in/\"\n";
    let (server, ..) = serve(&[LINES, gated]);
    let mut peer = open(server.local_addr(), "/l/open", &format!("ann{}", until(3_000)));
    peer.say("subscribe in/x");
    assert_eq!(peer.text(), ":subscribed in/x");
    assert_eq!(peer.rest(), (Vec::new(), Some(CloseCode(4401))));
    end(server);
}

/// The identities that the gates of other routes find for the topics of messages belong to the connection: there are
/// few of them, and the revocation of each closes the connection.
#[test]
fn topics_in_messages_need_few_identities() {
    let of_topics = |number: usize| {
        format!(
            "match = \"/g{number}/{{topic...}}\"\nhandler = \"hub\"\ntopic_prefix = \"p{number}/\"\n\
             bearer.tokens = {{ user{number} = \"word\" }}\n"
        )
    };
    let routes: Vec<String> = (0..=OTHERS_MAX).map(of_topics).chain([LINES.into()]).collect();
    let routes: Vec<&str> = routes.iter().map(|route| &**route).collect();
    let settings = "admin_tokens = [\"boss\"]\n";
    let server = builder(settings, &routes, &Arc::<Believing>::default()).build().unwrap().start().unwrap();
    let address = server.local_addr();
    let mut peer = open(address, "/l/open", "word");
    let mut say = |line: &str, expected: &str| {
        peer.say(line);
        let answer = peer.text();
        assert!(answer.starts_with(expected), "{line}: {answer}");
    };
    (0..OTHERS_MAX).for_each(|number| say(&format!("subscribe p{number}/x"), ":subscribed "));
    let refused = ":refused 429 the topics of this connection have needed more than 16 identities";
    say(&format!("subscribe p{OTHERS_MAX}/x"), refused);
    say("subscribe p3/y", ":subscribed p3/y");
    let lines = "Authorization: Bearer boss\r\nContent-Type: application/json\r\n";
    let answer = ask(address, "POST /revocations", lines, "{\"identity\":\"user3\",\"for\":60}");
    assert!(answer.contains("\"closed\":1"), "{answer}");
    assert_eq!(peer.rest(), (Vec::new(), Some(CloseCode::POLICY_VIOLATION)));
    end(server);
}

/// Rules that cannot hold are found before the server listens, with the places of both.
#[test]
fn rules_that_clash_are_found_when_a_server_is_built() {
    let rule = |pattern: &str| TopicRule::new([pattern.parse().unwrap()]);
    let error = Server::builder().topic_rule(rule("a/*")).topic_rule(rule("a/*")).build().unwrap_err();
    assert!(matches!(error, BuildError::TopicRules(..)));
    let text = error.to_string();
    assert!(
        text.matches("permissions.rs:").count() == 2 && text.contains("the topics \"a/*\" have a rule already"),
        "{text}"
    );
    let gate = Arc::<Believing>::default();
    let from_file = "[[topics]]\nmatch = \"a/*\"\n";
    let error = builder(from_file, &[HUB], &gate).topic_rule(rule("a/*")).build().unwrap_err().to_string();
    assert!(error.contains("permissions.rs:") && error.contains(".toml:"), "{error}");
    let asks = || rule("b").publish(Permission::Callback);
    let error = Server::builder().topic_rule(asks()).build().unwrap_err();
    assert!(matches!(error, BuildError::NoPermissionSource(..)));
    assert!(error.to_string().contains("the rule of the topics \"b\" asks the application"), "{error}");
    let listens = Server::builder().listen(["127.0.0.1:0".parse().unwrap()]);
    assert!(listens.topic_rule(asks()).permission_source(Application::default()).build().is_ok());
}

/// A client may open its connection without a topic. An authenticator whose decision depends on the topic is asked
/// again about each topic that the client names, unless its grants name the topics.
#[test]
fn an_authenticator_by_topic_is_asked_about_each_topic() {
    /// Admits everybody without a topic, and to all topics but those below `closed/`.
    #[derive(Default)]
    struct ByTopic {
        asked: Mutex<Vec<String>>,
        ignores_topics: bool,
    }

    impl Authenticator for ByTopic {
        fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
            let topic = credentials.topic().map_or("none", TopicName::as_str);
            self.asked.lock().unwrap().push(topic.into());
            if topic.starts_with("closed/") {
                return Err(Refusal::new(403, "this topic is closed"));
            }
            let identity = Identity::new("ann");
            Ok(match credentials.token().as_deref() {
                Some(b"granted") => {
                    identity.with_grants(Grants::default().allow(TopicRight::Subscribe, ["**".parse().unwrap()]))
                }
                _ => identity,
            })
        }

        fn depends_on_topic(&self) -> bool {
            !self.ignores_topics
        }
    }

    let talk = |by_topic: &Arc<ByTopic>, token: &str| {
        let server = builder("", &[LINES], by_topic).build().unwrap().start().unwrap();
        let mut peer = open(server.local_addr(), "/l/open", token);
        let answers = ["open/x", "closed/x", "open/x"].map(|topic| {
            peer.say(&format!("subscribe {topic}"));
            peer.text()
        });
        drop(peer);
        let posted = ask(server.local_addr(), "POST /l/publish", "", "{\"topic\":\"closed/y\",\"payload\":\"x\"}");
        end(server);
        (answers, status(&posted), by_topic.asked.lock().unwrap().join(" "))
    };
    let (answers, posted, asked) = talk(&Arc::default(), "any");
    assert_eq!((&*answers[0], &*answers[1]), (":subscribed open/x", ":refused 403 this topic is closed"));
    assert!(answers[2].starts_with(":"), "{answers:?}");
    assert_eq!((posted, &*asked), (403, "none open/x closed/x none closed/y"));
    let (answers, _, asked) = talk(&Arc::default(), "granted");
    assert_eq!((&*answers[1], &*asked), (":subscribed closed/x", "none none closed/y"));
    let ignoring = Arc::new(ByTopic { ignores_topics: true, ..ByTopic::default() });
    let (answers, posted, asked) = talk(&ignoring, "any");
    assert_eq!((&*answers[1], posted, &*asked), (":subscribed closed/x", 200, "none none"));
}
