//! Requests of a server to scripted servers, over real sockets.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{
    Authorities, Outbound, OutboundError, OutboundRequest, Service,
    limits::OutboundLimits,
    testing::{Act, Application, json, served},
};
use crate::rates::AddressBlock;

/// Sends a request without TLS to an application.
fn ask(application: &Application, request: OutboundRequest) -> Result<super::OutboundAnswer, OutboundError> {
    let outbound = Outbound::default();
    let target = outbound.target(&application.url("/hook?site=1")).unwrap();
    served(&outbound, &Authorities::default(), async { target.send(request).await })
}

#[test]
fn a_request_and_its_answer() {
    let application = Application::start(|_| json("{}"));
    let answer = ask(&application, OutboundRequest::post("hello").header("x-mark", "1")).unwrap();
    assert_eq!((answer.status, &*answer.body), (200, &b"{}"[..]));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let heard = application.heard().concat().to_lowercase();
    let host = format!("host: localhost:{}", application.address.port());
    for part in ["post /hook?site=1 http/1.1\r\n", "x-mark: 1", "content-length: 5", &host, "user-agent: ringhub/"] {
        assert!(heard.contains(part), "{part} in {heard}");
    }
    assert!(heard.ends_with("\r\n\r\nhello"), "{heard}");
}

#[test]
fn connections_are_kept_and_replaced() {
    // Every third request is met by the end of the connection.
    let count = AtomicUsize::new(0);
    let application = Application::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        2 => Act::AnswerAndClose(String::new()),
        _ => json("1"),
    });
    let outbound = Outbound::default();
    let target = outbound.target(&application.url("/")).unwrap();
    served(&outbound, &Authorities::default(), async {
        for _ in 0..4 {
            assert_eq!(target.send(OutboundRequest::get()).await.unwrap().status, 200);
            // The connection is kept a moment after its answer.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    // The third request was made twice, the second time on a new connection.
    assert_eq!((application.heard().len(), application.connections()), (5, 2));
}

#[test]
fn a_redirect_is_an_answer() {
    let application =
        Application::start(|_| Act::Answer("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".into()));
    assert_eq!(ask(&application, OutboundRequest::get()).unwrap().status, 302);
    assert_eq!(application.heard().len(), 1);
}

#[test]
fn answers_that_are_none() {
    let check = |answer: &'static str, expected: &str| {
        let application = Application::start(move |_| Act::AnswerAndClose(answer.into()));
        let error = ask(&application, OutboundRequest::get().answer_bytes_max(4)).unwrap_err().to_string();
        assert!(error.contains(expected), "{answer:?}: {error}");
    };
    check("", "the exchange has failed");
    check("SSH-2.0-OpenSSH\r\n", "the exchange has failed");
    check("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", "the exchange has failed");
    check("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "the answer has more than 4 bytes");
    check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", "more than 4 bytes");
    let long = Application::start(|_| Act::Answer(format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(100 << 10))));
    assert!(matches!(ask(&long, OutboundRequest::get()), Err(OutboundError::Exchange(_))));
}

#[test]
fn a_silent_server_takes_the_time_of_the_request() {
    let time = Duration::from_millis(200);
    let begin = Instant::now();
    let slow_body = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab";
    for answer in [None, Some(slow_body)] {
        let application = Application::start(move |_| answer.map_or(Act::Nothing, |answer| Act::Answer(answer.into())));
        let outcome = ask(&application, OutboundRequest::get().timeout(time)).unwrap_err();
        assert_eq!(outcome, OutboundError::Timeout(time));
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn nobody_listens() {
    let outbound = Outbound::default();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = outbound.target(&format!("http://127.0.0.1:{port}/")).unwrap();
    let unknown = outbound.target("http://ringhub.invalid/").unwrap();
    served(&outbound, &Authorities::default(), async {
        assert!(matches!(refused.send(OutboundRequest::get()).await, Err(OutboundError::Connect(_))));
        assert!(matches!(unknown.send(OutboundRequest::get()).await, Err(OutboundError::Name(_))));
    });
    // The service has ended.
    let after = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(after.block_on(refused.send(OutboundRequest::get())).unwrap_err(), OutboundError::NotServing);
}

#[test]
fn certificates_are_checked() {
    let application = Application::start_secure(|_| json("1"));
    let trusted = Authorities::from_pem(application.certificate.as_ref().unwrap().as_bytes()).unwrap();
    let other = Application::start_secure(|_| json("2"));
    let outbound = Outbound::default();
    let target = outbound.target(&application.url("/")).unwrap();
    let stranger = outbound.target(&other.url("/")).unwrap();
    // The certificate is for a name, and not for the address.
    let by_address = outbound.target(&format!("https://127.0.0.1:{}/", application.address.port())).unwrap();
    let plain = outbound.target(&format!("http://localhost:{}/", application.address.port())).unwrap();
    let not_tls = Application::start(|_| json("3"));
    let not_tls = outbound.target(&format!("https://localhost:{}/", not_tls.address.port())).unwrap();
    served(&outbound, &trusted, async {
        assert_eq!(target.send(OutboundRequest::get()).await.unwrap().status, 200);
        assert!(matches!(stranger.send(OutboundRequest::get()).await, Err(OutboundError::Tls(_))));
        assert!(matches!(by_address.send(OutboundRequest::get()).await, Err(OutboundError::Tls(_))));
        assert!(plain.send(OutboundRequest::get()).await.is_err());
        let request = OutboundRequest::get().timeout(Duration::from_secs(2));
        assert!(not_tls.send(request).await.is_err());
    });
}

/// A request beyond the limit of all fails at once, and a bounded number is under way.
#[test]
fn requests_have_a_limit() {
    let application = Application::start(|_| Act::Nothing);
    let outbound = Outbound::default();
    let target = outbound.target(&format!("http://{}/", application.address)).unwrap();
    served(&outbound, &Authorities::default(), async {
        let mut asked = JoinSet::new();
        let kept = OutboundLimits::OF_KEYS_MAX;
        for _ in 0..=OutboundLimits::REQUESTS_MAX - kept {
            asked.spawn(target.send(OutboundRequest::get().timeout(Duration::from_secs(4))));
        }
        let begin = Instant::now();
        let first = asked.join_next().await.unwrap().unwrap();
        assert_eq!(first.unwrap_err(), OutboundError::Limit);
        assert!(begin.elapsed() < Duration::from_secs(2));
        while application.heard().len() < OutboundLimits::IN_FLIGHT_MAX - kept {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(application.connections(), OutboundLimits::IN_FLIGHT_MAX - kept, "the others wait");
        // Fetches of keys have places of their own, and no more than that.
        let keys = Application::start(|_| json("1"));
        let of_keys = outbound.target(&keys.url("/")).unwrap();
        assert_eq!(of_keys.send(OutboundRequest::get().for_keys()).await.map(|answer| answer.status), Ok(200));
        // The place is free again once the connection is kept.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let for_keys = || OutboundRequest::get().for_keys().timeout(Duration::from_secs(1));
        let waiting: Vec<_> = (0..kept).map(|_| target.send(for_keys())).collect();
        assert_eq!(of_keys.send(for_keys()).await.unwrap_err(), OutboundError::Limit);
        assert_eq!(of_keys.send(OutboundRequest::get()).await.unwrap_err(), OutboundError::Limit);
        for outcome in waiting {
            assert!(matches!(outcome.await, Err(OutboundError::Timeout(_))));
        }
        while let Some(outcome) = asked.join_next().await {
            assert!(matches!(outcome.unwrap(), Err(OutboundError::Timeout(_) | OutboundError::Limit)));
        }
    });
}

/// A request that was never sent says so, and does not say that its server has not answered in time.
#[test]
fn the_wait_for_a_place_is_not_the_time_of_a_server() {
    let application = Application::start(|_| Act::Nothing);
    let outbound = Outbound::default();
    let target = outbound.target(&format!("http://{}/", application.address)).unwrap();
    served(&outbound, &Authorities::default(), async {
        let common = OutboundLimits::IN_FLIGHT_MAX - OutboundLimits::OF_KEYS_MAX;
        let request = |time: u64| OutboundRequest::get().timeout(Duration::from_millis(time));
        let mut under_way = JoinSet::new();
        (0..common).for_each(|_| drop(under_way.spawn(target.send(request(1_500)))));
        while application.heard().len() < common {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let begin = Instant::now();
        let late = target.send(request(4_000));
        assert_eq!(target.send(request(100)).await.unwrap_err(), OutboundError::Limit);
        assert!(begin.elapsed() >= Duration::from_millis(100));
        while let Some(outcome) = under_way.join_next().await {
            assert!(matches!(outcome.unwrap(), Err(OutboundError::Timeout(_))));
        }
        // Its time begins when it has its place.
        assert_eq!(late.await.unwrap_err(), OutboundError::Timeout(Duration::from_secs(4)));
        assert!(begin.elapsed() >= Duration::from_secs(5));
    });
}

/// A client with many requests that wait does not hold up the request of another one.
#[test]
fn clients_take_turns() {
    let application = Application::start(|_| {
        std::thread::sleep(Duration::from_millis(100));
        json("1")
    });
    let outbound = Outbound::default();
    let target = outbound.target(&format!("http://{}/", application.address)).unwrap();
    served(&outbound, &Authorities::default(), async {
        let request = |client: u8, mark: &str| {
            let client = AddressBlock::of([192, 0, 2, client].into());
            OutboundRequest::post(mark.to_string()).for_client(Some(client)).timeout(Duration::from_secs(60))
        };
        let mut asked = JoinSet::new();
        (0..256).for_each(|_| drop(asked.spawn(target.send(request(66, "many")))));
        asked.spawn(target.send(request(7, "alone")));
        while let Some(outcome) = asked.join_next().await {
            assert_eq!(outcome.unwrap().unwrap().status, 200);
        }
    });
    let place = application.heard().iter().position(|heard| heard.ends_with("alone")).unwrap();
    assert!(place < 2 * OutboundLimits::IN_FLIGHT_MAX, "{place}");
}

/// Settings may be used for two servers, one after the other or at the same time.
#[test]
fn a_handle_outlives_a_server() {
    let application = Application::start(|_| json("1"));
    let outbound = Outbound::default();
    let target = outbound.target(&application.url("/")).unwrap();
    assert!(Service::new(&[&Outbound::default()], &Authorities::default()).unwrap().is_none());
    for _ in 0..2 {
        served(&outbound, &Authorities::default(), async {
            assert_eq!(target.send(OutboundRequest::get()).await.unwrap().status, 200);
            // The handle of other settings for the same server.
            let reloaded = Outbound::default();
            let target = reloaded.target(&application.url("/")).unwrap();
            assert_eq!(target.send(OutboundRequest::get()).await.unwrap_err(), OutboundError::NotServing);
            reloaded.join(&outbound);
            assert_eq!(target.send(OutboundRequest::get()).await.unwrap().status, 200);
        });
    }
}

/// A caller that no longer waits, and one whose server ends.
#[test]
fn callers_and_servers_that_go() {
    let application = Application::start(|_| Act::Nothing);
    let outbound = Outbound::default();
    let target = outbound.target(&application.url("/")).unwrap();
    let told = Arc::new(AtomicUsize::new(0));
    served(&outbound, &Authorities::default(), async {
        drop(target.send(OutboundRequest::get()));
        let told = Arc::clone(&told);
        target.start(OutboundRequest::get(), move |outcome| {
            assert_eq!(outcome.unwrap_err(), OutboundError::NotServing);
            told.fetch_add(1, Ordering::Relaxed);
        });
        while application.heard().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(told.load(Ordering::Relaxed), 1);
}
