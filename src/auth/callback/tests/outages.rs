//! Callbacks to applications that do not answer, or not all questions, and clients with many questions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{
    super::{Callback, OnError, breaker::Breaker, core::ASKING_MAX},
    ask_from, let_in, name_from, with,
};
use crate::outbound::{
    OutboundLimits,
    testing::{Act, Application},
};

/// A dead application does not make every request wait.
#[test]
fn a_dead_application_is_asked_seldom() {
    let count = Arc::new(AtomicUsize::new(0));
    let dead = Arc::clone(&count);
    let application =
        Application::start(move |_| if dead.fetch_add(1, Ordering::Relaxed) < 6 { Act::Nothing } else { let_in("") });
    let timeout = Duration::from_millis(100);
    with(
        &application.url("/"),
        |options| options.timeout(timeout),
        async |callback| {
            for client in 1..=Breaker::FAILURES_MAX as u8 {
                assert_eq!(name_from(&callback, client, "ann").await, Err(503));
            }
            let begin = Instant::now();
            for client in 0..100 {
                assert_eq!(name_from(&callback, client, "ben").await, Err(503));
            }
            assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
            assert_eq!(count.load(Ordering::Relaxed), Breaker::FAILURES_MAX as usize);
            // One question in each pause: the first one is not answered, and the second one is.
            tokio::time::sleep(Breaker::PAUSE).await;
            assert_eq!(name_from(&callback, 101, "ann").await, Err(503));
            assert_eq!(count.load(Ordering::Relaxed), Breaker::FAILURES_MAX as usize + 1);
            tokio::time::sleep(Breaker::PAUSE).await;
            assert_eq!(name_from(&callback, 101, "ann").await, Err(503), "another client comes first");
            assert_eq!(name_from(&callback, 102, "ann").await, Ok("42".into()));
            assert_eq!(name_from(&callback, 101, "ann").await, Ok("42".into()));
        },
    );
}

/// A client at whose questions the application fails gets neither an earlier answer nor in as `unverified`, and stops
/// only its own questions.
#[test]
fn a_client_at_whose_questions_the_application_fails() {
    for on_error in [OnError::Allow, OnError::Last, OnError::Deny] {
        for status in ["408 No", "429 No", "500 No", "503 No"] {
            let is_thrown_out = Arc::new(AtomicBool::new(false));
            let thrown_out = Arc::clone(&is_thrown_out);
            let application = Application::start(move |request| {
                match request.contains("\"cookie\":\"eve\"") && thrown_out.load(Ordering::Relaxed) {
                    true => Act::Answer(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")),
                    false => let_in(""),
                }
            });
            with(
                &application.url("/"),
                |options| options.on_error(on_error),
                async |callback| {
                    assert_eq!(name_from(&callback, 66, "eve").await, Ok("42".into()));
                    is_thrown_out.store(true, Ordering::Relaxed);
                    for _ in 0..20 {
                        assert_eq!(name_from(&callback, 66, "eve").await, Err(503), "{on_error:?} {status}");
                    }
                    assert_eq!(name_from(&callback, 7, "ann").await, Ok("42".into()), "{on_error:?} {status}");
                    // The others show that the application is well, and the pause of the client goes on.
                    assert_eq!(name_from(&callback, 66, "eve").await, Err(503));
                },
            );
            assert_eq!(application.heard().len(), 2 + Breaker::FAILURES_MAX as usize, "{on_error:?} {status}");
        }
    }
}

/// However many clients ask questions at which the application fails, they neither get in, nor stop the questions of
/// others.
#[test]
fn bad_questions_of_many_clients() {
    for on_error in [OnError::Allow, OnError::Last, OnError::Deny] {
        let application = Application::start(|request| match request.contains("\"cookie\":\"bad\"") {
            true => Act::Answer("HTTP/1.1 429 No\r\nContent-Length: 0\r\n\r\n".into()),
            false => let_in(""),
        });
        with(
            &application.url("/"),
            |options| options.on_error(on_error),
            async |callback| {
                for client in 1..20 {
                    assert_eq!(name_from(&callback, client, "bad").await, Err(503), "{on_error:?}");
                }
                assert_eq!(name_from(&callback, 100, "ann").await, Ok("42".into()), "{on_error:?}");
            },
        );
        assert_eq!(application.heard().len(), 20);
    }
}

/// An application that says that it has failed can be reached: the outage is over.
#[test]
fn a_failure_ends_an_outage() {
    let count = AtomicUsize::new(0);
    let application = Application::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        number if number < Breaker::FAILURES_MAX as usize => Act::Nothing,
        number if number == Breaker::FAILURES_MAX as usize => {
            Act::Answer("HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n".into())
        }
        _ => let_in(""),
    });
    with(
        &application.url("/"),
        |options| options.on_error(OnError::Allow).timeout(Duration::from_millis(100)),
        async |callback| {
            for client in 1..=Breaker::FAILURES_MAX as u8 {
                assert_eq!(name_from(&callback, client, "ann").await, Ok("unverified".into()));
            }
            tokio::time::sleep(Breaker::PAUSE).await;
            assert_eq!(name_from(&callback, 99, "ann").await, Err(503));
            assert_eq!(name_from(&callback, 100, "ann").await, Ok("42".into()));
        },
    );
}

/// Asks as many questions of one client as may be under way, and returns when they have been asked.
async fn ask_much(callback: &Callback) -> JoinSet<Result<String, u16>> {
    let mut asked = JoinSet::new();
    for number in 0..ASKING_MAX {
        let callback = callback.clone();
        asked.spawn(async move { name_from(&callback, 66, &number.to_string()).await });
    }
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    asked
}

/// A client with many questions does not make the question of another one wait out its time, and none that waits in
/// vain lets its client in.
#[test]
fn a_client_with_many_questions_holds_up_no_other() {
    let application = Application::start(|_| {
        std::thread::sleep(Duration::from_millis(600));
        let_in("")
    });
    with(
        &application.url("/"),
        |options| options.on_error(OnError::Allow).timeout(Duration::from_secs(2)),
        async |callback| {
            let mut asked = ask_much(&callback).await;
            assert_eq!(name_from(&callback, 7, "ann").await, Ok("42".into()));
            let mut refused = 0;
            while let Some(outcome) = asked.join_next().await {
                match outcome.unwrap() {
                    Err(503) => refused += 1,
                    outcome => assert_eq!(outcome, Ok("42".into()), "it was asked"),
                }
            }
            assert!(refused > 0, "too many questions for the time");
        },
    );
}

/// While the application does not answer a client, `callback_on_error` also decides about a question of this client
/// that has waited in vain. For another client nothing says that the application does not answer.
#[test]
fn a_question_that_waits_in_vain_in_an_outage() {
    let application = Application::start(|_| Act::Nothing);
    with(
        &application.url("/"),
        |options| options.on_error(OnError::Allow).timeout(Duration::from_secs(1)),
        async |callback| {
            let places = OutboundLimits::IN_FLIGHT_MAX - OutboundLimits::OF_KEYS_MAX;
            let mut asked = JoinSet::new();
            let mut ask = |client: u8, cookie: &str| {
                let (callback, cookie) = (callback.clone(), cookie.to_string());
                asked.spawn(async move { (client, cookie.clone(), name_from(&callback, client, &cookie).await) });
            };
            // Two clients alone do not begin an outage. Their questions take all places for a second.
            for number in 0..places {
                let client = if number < Breaker::FAILURES_MAX as usize { 66 } else { 67 };
                ask(client, &number.to_string());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            // Those of many clients take the places after them.
            (100..110 + places as u8).for_each(|client| ask(client, "next"));
            tokio::time::sleep(Duration::from_millis(300)).await;
            [66, 7].into_iter().for_each(|client| ask(client, "late"));
            let mut late = Vec::new();
            while let Some(outcome) = asked.join_next().await {
                let (client, cookie, name) = outcome.unwrap();
                if cookie == "late" {
                    late.push((client, name));
                }
            }
            late.sort();
            assert_eq!(late, [(7, Err(503)), (66, Ok("unverified".into()))]);
        },
    );
}

/// A client takes no more than its part of the room for questions.
#[test]
fn a_client_asks_so_many_questions_at_the_same_time() {
    let application = Application::start(|_| Act::Nothing);
    with(
        &application.url("/"),
        |options| options.on_error(OnError::Allow).timeout(Duration::from_secs(3)),
        async |callback| {
            let mut asked = ask_much(&callback).await;
            let refusal = ask_from(&callback, 66, "one more").await.unwrap_err();
            assert_eq!((refusal.status, &*refusal.headers), (429, &[("Retry-After".to_string(), "1".to_string())][..]));
            // A question that is being asked already takes no more room.
            let same = tokio::time::timeout(Duration::from_millis(50), name_from(&callback, 66, "0"));
            assert!(same.await.is_err(), "it waits for the answer");
            let other = tokio::time::timeout(Duration::from_millis(50), name_from(&callback, 7, "ann"));
            assert!(other.await.is_err(), "another client's question is asked");
            let mut unverified = 0;
            while let Some(outcome) = asked.join_next().await {
                match outcome.unwrap() {
                    Ok(name) if name == "unverified" => unverified += 1,
                    // It has found no place among those that are under way.
                    outcome => assert_eq!(outcome, Err(503)),
                }
            }
            assert!(unverified >= OutboundLimits::IN_FLIGHT_MAX - OutboundLimits::OF_KEYS_MAX, "{unverified}");
            assert_ne!(name_from(&callback, 66, "one more").await, Err(429), "there is room again");
        },
    );
}
