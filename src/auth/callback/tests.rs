//! Callbacks to scripted applications, over real sockets.

mod outages;

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use super::{
    super::{
        Answers, Authenticator, Credentials, Identity, Network, PermissionSource, TopicQuestion, TopicRight, all_of,
        any_of,
    },
    Callback, CallbackOptions, OnError,
};
use crate::{
    hub::TopicName,
    outbound::{
        Authorities, Outbound,
        testing::{Act, Application, json, served},
    },
    proto::{Refusal, RefusalCause, RequestHead},
};

/// Asks about a request with this cookie, as the server does: waits for the work, and asks again.
async fn ask(callback: &Callback, cookie: &str) -> Result<Identity, Refusal> {
    ask_from(callback, 7, cookie).await
}

/// Asks about a request of the client with this number.
async fn ask_from(callback: &Callback, client: u8, cookie: &str) -> Result<Identity, Refusal> {
    let head = format!("GET /t/orders/42 HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n");
    let head = RequestHead::decode(head.as_bytes()).unwrap().unwrap().0;
    let answers = Answers::default();
    let credentials = Credentials::new(&head, Some(([192, 0, 2, client], 9).into())).with_answers(&answers);
    let mut rounds = 0;
    while let Some(later) = Authenticator::prepare(callback, &credentials) {
        later.await;
        rounds += 1;
    }
    assert!(rounds <= 1, "{rounds}");
    callback.authenticate(&credentials)
}

/// Returns the name of the identity, or the status of the refusal.
async fn name(callback: &Callback, cookie: &str) -> Result<String, u16> {
    ask(callback, cookie).await.map(|identity| identity.name).map_err(|refusal| refusal.status)
}

/// Returns the name of the identity of a client's request, or the status of the refusal.
async fn name_from(callback: &Callback, client: u8, cookie: &str) -> Result<String, u16> {
    ask_from(callback, client, cookie).await.map(|identity| identity.name).map_err(|refusal| refusal.status)
}

/// Runs a test with the callback to a URL.
fn with<T, F: Future<Output = T>>(
    url: &str,
    change: impl FnOnce(CallbackOptions) -> CallbackOptions,
    test: impl FnOnce(Callback) -> F,
) -> T {
    let outbound = Outbound::default();
    let options = CallbackOptions::new(["a-secret-of-16-characters"]).timeout(Duration::from_secs(5));
    let callback = Callback::new(outbound.target(url).unwrap(), change(options)).unwrap();
    served(&outbound, &Authorities::default(), async { test(callback).await })
}

/// Returns an answer that lets everybody in.
fn let_in(rest: &str) -> Act {
    json(&format!("{{\"allow\":true,\"identity\":\"42\"{rest}}}"))
}

#[test]
fn the_application_decides() {
    let application = Application::start(|request| match request {
        ann if ann.contains("\"cookie\":\"ann\"") => {
            let_in(r#","info":[1],"grants":{"subscribe":["a"]},"expires_in":60"#)
        }
        ben if ben.contains("\"cookie\":\"ben\"") => json(r#"{"allow":false,"status":402,"reason":"pay first"}"#),
        cat if cat.contains("\"cookie\":\"cat\"") => json(r#"{"allow":false,"status":401}"#),
        dan if dan.contains("\"cookie\":\"dan\"") => Act::Answer("HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n".into()),
        _ => panic!("{request}"),
    });
    with(
        &application.url("/hook"),
        |options| options.on_error(OnError::Allow),
        async |callback| {
            let ann = ask(&callback, "ann").await.unwrap();
            assert_eq!((&*ann.name, ann.info.as_deref()), ("42", Some("[1]")));
            assert!(ann.grants.is_some() && ann.expires.is_some());
            let ben = ask(&callback, "ben").await.unwrap_err();
            assert_eq!((ben.status, &*ben.error), (402, "pay first"));
            let cat = ask(&callback, "cat").await.unwrap_err();
            assert_eq!(cat.headers, [("WWW-Authenticate".to_string(), "Bearer".to_string())]);
            assert_eq!(name(&callback, "dan").await, Err(403));
        },
    );
    let heard = &application.heard()[0];
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    assert!(head.starts_with("post /hook http/1.1") && head.contains("content-type: application/json"), "{head}");
    let signature = head.lines().find_map(|line| line.strip_prefix("x-ringhub-signature: t=")).unwrap();
    let (time, signature) = signature.split_once(",v1=").unwrap();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"a-secret-of-16-characters");
    let octets: Vec<u8> =
        (0..64).step_by(2).map(|at| u8::from_str_radix(&signature[at..at + 2], 16).unwrap()).collect();
    ring::hmac::verify(&key, format!("{time}.{body}").as_bytes(), &octets).unwrap();
    assert!(body.starts_with(r#"{"kind":"connect","method":"GET","path":"/t/orders/42","#), "{body}");
}

/// Without a place for answers, a request cannot wait. It is refused, unless the answer is kept.
#[test]
fn a_request_that_cannot_wait() {
    let application = Application::start(|_| let_in(r#","cache_for":60"#));
    with(
        &application.url("/"),
        |options| options,
        async |callback| {
            let head = b"GET /t/orders/42 HTTP/1.1\r\nHost: a\r\nCookie: ann\r\n\r\n";
            let head = RequestHead::decode(head).unwrap().unwrap().0;
            let credentials = Credentials::new(&head, "192.0.2.7:9".parse().ok());
            assert!(Authenticator::prepare(&callback, &credentials).is_none());
            assert_eq!(callback.authenticate(&credentials).unwrap_err().status, 503);
            assert_eq!(name(&callback, "ann").await, Ok("42".into()));
            assert_eq!(callback.authenticate(&credentials).unwrap().name, "42");
        },
    );
}

/// Where another authenticator decides, the application is not asked. Nor is it by work that is dropped before it has
/// been polled.
#[test]
fn a_question_whose_answer_nobody_needs_is_not_asked() {
    let application = Application::start(|_| let_in(""));
    with(
        &application.url("/"),
        |options| options,
        async |callback| {
            let network = || Network::new(&["10.0.0.0/8"], &[]).unwrap();
            let (any, all) = (any_of(network()).or(callback.clone()), all_of(network()).and(callback.clone()));
            let head = RequestHead::decode(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap().0;
            let answers = Answers::default();
            let credentials = |peer: &str| Credentials::new(&head, peer.parse().ok()).with_answers(&answers);
            let (inside, outside) = (credentials("10.0.0.1:9"), credentials("192.0.2.1:9"));
            assert!(any.prepare(&inside).is_none() && all.prepare(&outside).is_none());
            assert_eq!(any.authenticate(&inside).unwrap().name, "10.0.0.0/8");
            assert_eq!(all.authenticate(&outside).unwrap_err().status, 403);
            let topic = TopicName::new("orders/42").unwrap();
            let (identity, right) = (None, TopicRight::Publish);
            let question = TopicQuestion { credentials: outside, identity, right, topic: &topic };
            drop(PermissionSource::prepare(&callback, &question).unwrap());
            any.prepare(&outside).unwrap().await;
            assert_eq!(any.authenticate(&outside).unwrap().name, "42");
        },
    );
    let heard = application.heard();
    assert!(heard.len() == 1 && heard[0].contains("192.0.2.1"), "{heard:?}");
}

/// An answer that is not understood refuses, even where a failure would let in.
#[test]
fn answers_that_are_not_understood() {
    let answer = |status: &str, kind: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let allowed = r#"{"allow":true,"identity":"42"}"#;
    for answer in [
        answer("200 OK", "application/json", "{}"),
        answer("200 OK", "application/json", r#"{"allow":true,"identity":"42","grant":{}}"#),
        answer("200 OK", "application/json", &format!("[{}1]", "1,".repeat(40_000))),
        answer("200 OK", "text/html", allowed),
        answer("302 Found\r\nLocation: /elsewhere", "application/json", allowed),
        answer("201 Created", "application/json", allowed),
        answer("404 Not Found", "application/json", allowed),
    ] {
        let application = Application::start(move |_| Act::Answer(answer.clone()));
        with(
            &application.url("/"),
            |options| options.on_error(OnError::Allow),
            async |callback| {
                let refusal = ask(&callback, "ann").await.unwrap_err();
                assert_eq!((refusal.status, &*refusal.error), (503, "the application's answer is not understood"));
                assert_eq!(refusal.cause, RefusalCause::Undecided);
            },
        );
        assert_eq!(application.heard().len(), 1, "no redirect is followed");
    }
}

/// What becomes of a request while the application does not answer, for each way in which it does not.
#[test]
fn an_application_that_does_not_answer() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = Application::start(|_| Act::Nothing);
    let cut = Application::start(|_| Act::AnswerAndClose("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".into()));
    let stranger = Application::start_secure(|_| let_in(""));
    let urls = [&silent, &cut, &stranger].map(|application| application.url("/"));
    for url in [format!("http://{closed}/"), "http://ringhub.invalid/".into()].iter().chain(&urls) {
        for (on_error, expected) in
            [(OnError::Deny, Err(503)), (OnError::Last, Err(503)), (OnError::Allow, Ok("unverified".into()))]
        {
            let change = |options: CallbackOptions| options.on_error(on_error).timeout(Duration::from_millis(300));
            let outcome = with(url, change, async |callback| name(&callback, "ann").await);
            assert_eq!(outcome, expected, "{url} {on_error:?}");
        }
    }
}

/// Serves an application that lets everybody in until it is down.
fn until_down(rest: &'static str) -> (Application, Arc<AtomicBool>) {
    let is_down = Arc::new(AtomicBool::new(false));
    let down = Arc::clone(&is_down);
    let application = Application::start(move |_| match down.load(Ordering::Relaxed) {
        true => Act::Nothing,
        false => let_in(rest),
    });
    (application, is_down)
}

#[test]
fn the_last_answer_holds_while_the_application_is_down() {
    let (application, is_down) = until_down("");
    with(
        &application.url("/"),
        |options| options.on_error(OnError::Last).timeout(Duration::from_millis(300)),
        async |callback| {
            assert_eq!(name(&callback, "ann").await, Ok("42".into()));
            is_down.store(true, Ordering::Relaxed);
            assert_eq!(name(&callback, "ann").await, Ok("42".into()));
            assert_eq!(name(&callback, "ben").await, Err(503), "there is no answer about ben");
        },
    );
    assert_eq!(application.heard().len(), 3);
    // An identity that has expired does not come back.
    let (application, is_down) = until_down(r#","expires_in":2"#);
    with(
        &application.url("/"),
        |options| options.on_error(OnError::Last).timeout(Duration::from_millis(300)),
        async |callback| {
            assert_eq!(name(&callback, "ann").await, Ok("42".into()));
            is_down.store(true, Ordering::Relaxed);
            assert_eq!(name(&callback, "ann").await, Ok("42".into()));
            tokio::time::sleep(Duration::from_millis(2_100)).await;
            assert_eq!(name(&callback, "ann").await, Err(503));
        },
    );
    let (application, is_down) = until_down("");
    with(
        &application.url("/"),
        |options| options.on_error(OnError::Deny).timeout(Duration::from_millis(300)),
        async |callback| {
            assert_eq!(name(&callback, "ann").await, Ok("42".into()));
            is_down.store(true, Ordering::Relaxed);
            assert_eq!(name(&callback, "ann").await, Err(503));
        },
    );
}

#[test]
fn an_answer_is_kept_for_as_long_as_it_says() {
    let check = |rest: &'static str, change: fn(CallbackOptions) -> CallbackOptions, heard: usize| {
        let application = Application::start(move |_| let_in(rest));
        with(&application.url("/"), change, async |callback| {
            for _ in 0..3 {
                assert_eq!(name(&callback, "ann").await, Ok("42".into()));
            }
            // Everything that is sent tells questions apart.
            assert_eq!(name(&callback, "ben").await, Ok("42".into()));
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            assert_eq!(name(&callback, "ann").await, Ok("42".into()));
        });
        assert_eq!(application.heard().len(), heard, "{rest}");
    };
    check("", |options| options, 5);
    check(r#","cache_for":60"#, |options| options, 2);
    check(r#","cache_for":1"#, |options| options, 3);
    check(r#","cache_for":60,"expires_in":1"#, |options| options, 3);
    check(r#","cache_for":60"#, |options| options.cache_time(Duration::ZERO), 5);
    check(r#","cache_for":60"#, |options| options.cache_time(Duration::from_secs(1)), 3);
    check(r#","cache_for":60"#, |options| options.cache_bytes_max(0), 5);
    check(r#","cache_for":60"#, |options| options.headers(["x-none"]), 1);
}

/// A thousand requests that ask the same at the same time are one question, and others are questions of their own.
#[test]
fn the_same_question_is_asked_once() {
    let are_all_asking = Arc::new(AtomicBool::new(false));
    let may_answer = Arc::clone(&are_all_asking);
    let application = Application::start(move |request| {
        while !may_answer.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let who = if request.contains("\"cookie\":\"ann\"") { "ann" } else { "another" };
        json(&format!("{{\"allow\":true,\"identity\":\"{who}\"}}"))
    });
    with(
        &application.url("/"),
        |options| options,
        async |callback| {
            let mut asked = JoinSet::new();
            for number in 0..1_050 {
                let callback = callback.clone();
                let cookie = if number < 1_000 { "ann".to_string() } else { number.to_string() };
                asked.spawn(async move { (name(&callback, &cookie).await, cookie) });
            }
            // The tasks share this thread: each of them asks in one of its next turns.
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            are_all_asking.store(true, Ordering::Relaxed);
            while let Some(outcome) = asked.join_next().await {
                let (name, cookie) = outcome.unwrap();
                assert_eq!(name.as_deref(), Ok(if cookie == "ann" { "ann" } else { "another" }));
            }
        },
    );
    assert_eq!(application.heard().len(), 51);
}

#[test]
fn options_are_checked_and_hide_secrets() {
    let outbound = Outbound::default();
    let check = |options: CallbackOptions, expected: &str| {
        let target = outbound.target("https://app.example/hook?token=hush").unwrap();
        let error = Callback::new(target, options).unwrap_err();
        assert!(error.contains(expected) && !error.contains("hush"), "{error}");
    };
    let secret = "hush, a long secret";
    check(CallbackOptions::new([""; 0]), "a secret is needed");
    check(CallbackOptions::new([secret, "hush"]), "secret 2 has less than 16 characters");
    check(CallbackOptions::new([secret]).headers(["cookie", "a b"]), "\"a b\" is no name of a header line");
    let options = CallbackOptions::new([secret]);
    assert!(!format!("{options:?}").contains("hush"));
    let callback = Callback::new(outbound.target("https://app.example/hook?token=hush").unwrap(), options).unwrap();
    assert_eq!(format!("{callback:?}"), "Callback(https://app.example)");
}

/// The application decides about topics, and is asked for each identity, right and topic.
#[test]
fn the_application_decides_about_topics() {
    let application = Application::start(|request| match request {
        mine if mine.contains(r#""topic":"orders/42","identity":"42""#) => json(r#"{"allow":true,"cache_for":60}"#),
        _ => json(r#"{"allow":false,"reason":"not yours","cache_for":60}"#),
    });
    with(
        &application.url("/"),
        |options| options,
        async |callback| {
            let head = RequestHead::decode(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap().0;
            let may = async |name: &str, topic: &str, right| {
                let (identity, topic, answers) =
                    (Identity::new(name), TopicName::new(topic).unwrap(), Answers::default());
                let credentials = Credentials::new(&head, None).with_answers(&answers);
                let question = TopicQuestion { credentials, identity: Some(&identity), right, topic: &topic };
                if let Some(later) = PermissionSource::prepare(&callback, &question) {
                    later.await;
                }
                callback.decide(&question).map_err(|refusal| (refusal.status, refusal.error))
            };
            let refused = Err((403, "not yours".to_string()));
            for _ in 0..2 {
                assert_eq!(may("42", "orders/42", TopicRight::Subscribe).await, Ok(()));
                assert_eq!(may("42", "orders/42", TopicRight::Publish).await, Ok(()));
                assert_eq!(may("42", "orders/43", TopicRight::Subscribe).await, refused);
                assert_eq!(may("43", "orders/42", TopicRight::Subscribe).await, refused);
            }
        },
    );
    assert_eq!(application.heard().len(), 4);
}
