//! Tests of keys that an issuer publishes.

use std::{
    io,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{rand::SystemRandom, signature};

use super::{
    super::{
        super::{Answers, Authenticator, Credentials, Later, Network, any_of},
        Jwt, JwtIssuer,
        remote::{Done, Fetch, Fetched, Need, RemoteKeys, Times},
    },
    claims, head, show,
};

mod waits;

/// An issuer that publishes its keys, and can be asked for them. A test ends each fetch.
#[derive(Default)]
pub(super) struct Issuing {
    begun: AtomicUsize,
    waiting: Mutex<Vec<Done>>,
    url: Mutex<String>,
}

impl Fetch for Issuing {
    fn start(&self, done: Done) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().unwrap().push(done);
    }

    fn url(&self) -> String {
        self.url.lock().unwrap().clone()
    }
}

impl Issuing {
    pub(super) fn new() -> Arc<Issuing> {
        Arc::default()
    }

    /// Ends the fetch that is under way. The test fails if there is none, or more than one.
    fn end(&self, outcome: Result<Fetched, String>) {
        let mut waiting: Vec<Done> = std::mem::take(&mut self.waiting.lock().unwrap());
        assert_eq!(waiting.len(), 1, "one fetch at a time");
        waiting.pop().unwrap()(outcome);
    }

    fn answer(&self, keys: &[&Signer]) {
        self.end(Ok(Fetched { body: set(keys).into_bytes(), cache_control: None }));
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }
}

/// A key of the issuer.
struct Signer {
    id: &'static str,
    pair: signature::Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Signer {
        let document = signature::Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer { id, pair: signature::Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap() }
    }

    fn token(&self) -> String {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, self.id));
        let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims("ann")));
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes())))
    }
}

fn set(keys: &[&Signer]) -> String {
    let keys = keys.iter().map(|key| {
        use signature::KeyPair as _;
        let x = URL_SAFE_NO_PAD.encode(key.pair.public_key());
        format!(r#"{{"kid":"{}","kty":"OKP","crv":"Ed25519","x":"{x}"}}"#, key.id)
    });
    format!(r#"{{"keys":[{}]}}"#, keys.collect::<Vec<_>>().join(","))
}

/// An authenticator with the keys of an issuer that publishes them.
struct World {
    jwt: Jwt,
    issuing: Arc<Issuing>,
}

impl World {
    fn new(times: Times) -> World {
        World::with(times, |issuer| issuer)
    }

    fn with(times: Times, change: impl FnOnce(JwtIssuer) -> JwtIssuer) -> World {
        let issuing = Issuing::new();
        let issuer = JwtIssuer::new("app").source(Arc::clone(&issuing) as Arc<dyn Fetch>).times(times);
        World { jwt: Jwt::new([change(issuer)]).unwrap(), issuing }
    }

    /// Returns a world whose issuer has this key.
    fn with_key(key: &Signer) -> World {
        let world = World::new(Times::default());
        drop(world.wait(&key.token()));
        world.issuing.answer(&[key]);
        world
    }

    /// Returns what a token has to wait for.
    fn prepare(&self, token: &str) -> Option<Later> {
        self.jwt.prepare(&Credentials::new(&head(&[format!("Authorization: Bearer {token}")]), None))
    }

    /// Lets a token begin to wait.
    #[track_caller]
    fn wait(&self, token: &str) -> Later {
        let mut later = self.prepare(token).expect("the token has to wait");
        assert!(!is_over(&mut later));
        later
    }

    fn status(&self, token: &str) -> u16 {
        show(&self.jwt, token).map_or_else(|refusal| refusal.status, |_| 200)
    }
}

fn is_over(later: &mut Later) -> bool {
    pin!(later).as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

/// Without pauses, keys that are fresh for an hour.
fn eager() -> Times {
    Times { pause: Duration::ZERO, ..Times::default() }
}

#[test]
fn the_first_tokens_wait_for_one_fetch() {
    let (world, key) = (World::new(Times::default()), Signer::new("a"));
    let mut first = world.prepare(&key.token()).unwrap();
    let mut second = world.prepare(&key.token()).unwrap();
    assert_eq!(world.issuing.begun(), 0, "nobody waits yet");
    assert!(!is_over(&mut first) && !is_over(&mut second));
    // A caller that cannot wait.
    assert_eq!(world.status(&key.token()), 503);
    world.issuing.answer(&[&key]);
    assert!(is_over(&mut first) && is_over(&mut second));
    assert!(world.prepare(&key.token()).is_none());
    assert_eq!((world.status(&key.token()), world.issuing.begun()), (200, 1));
}

#[test]
fn an_issuer_that_is_down_at_first_is_asked_again_after_a_pause() {
    let times = Times { pause: Duration::from_millis(50), ..Times::default() };
    let (world, key) = (World::new(times), Signer::new("a"));
    let mut later = world.wait(&key.token());
    world.issuing.end(Err("no route to host".into()));
    assert!(is_over(&mut later));
    assert!(world.prepare(&key.token()).is_none());
    assert_eq!((world.status(&key.token()), world.issuing.begun()), (503, 1));
    std::thread::sleep(times.pause);
    let mut later = world.wait(&key.token());
    world.issuing.answer(&[&key]);
    assert!(is_over(&mut later));
    assert_eq!((world.status(&key.token()), world.issuing.begun()), (200, 2));
}

/// A rotation between two tokens: the token of the new key waits for the new set.
#[test]
fn a_new_key_is_fetched_once_for_all_that_name_it() {
    let (world, old, new) = (World::new(eager()), Signer::new("old"), Signer::new("new"));
    drop(world.wait(&old.token()));
    world.issuing.answer(&[&old]);
    let mut waiting: Vec<Later> = (0..10).map(|_| world.wait(&new.token())).collect();
    // Meanwhile tokens of the old key are not held up.
    assert!(world.prepare(&old.token()).is_none());
    assert_eq!((world.status(&old.token()), world.issuing.begun()), (200, 2));
    world.issuing.answer(&[&old, &new]);
    assert!(waiting.iter_mut().all(is_over));
    assert_eq!((world.status(&new.token()), world.issuing.begun()), (200, 2));
    // The issuer has taken the old key back.
    drop(world.wait(&Signer::new("newer").token()));
    world.issuing.answer(&[&new]);
    assert_eq!((world.status(&old.token()), world.status(&new.token())), (401, 200));
}

#[test]
fn invented_key_ids_cause_one_fetch_in_a_while() {
    let (world, key) = (World::new(Times::default()), Signer::new("a"));
    drop(world.wait(&key.token()));
    world.issuing.answer(&[&key]);
    for id in ["b", "c", "../a", "http://127.0.0.1:9/"] {
        let token = Signer::new(id).token();
        assert!(world.prepare(&token).is_none(), "{id}");
        assert_eq!((world.status(&token), world.issuing.begun()), (401, 1), "{id}");
    }
}

/// A token names a key that is not there. It is wrong only if a fetch since the token came has not brought the key.
#[test]
fn a_key_that_may_be_new_is_no_wrong_one() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let head = head(&[format!("Authorization: Bearer {}", new.token())]);
    // Returns the status, whether the credentials are wrong, and whether the token would wait again.
    let judged = |times: Times, end: &dyn Fn(&Issuing)| {
        let (world, answers) = (World::new(times), Answers::default());
        drop(world.wait(&old.token()));
        world.issuing.answer(&[&old]);
        let credentials = Credentials::new(&head, None).with_answers(&answers);
        if let Some(mut later) = world.jwt.prepare(&credentials) {
            assert!(!is_over(&mut later));
            end(&world.issuing);
            assert!(is_over(&mut later));
        }
        let outcome = world.jwt.authenticate(&credentials);
        let (status, is_wrong) = outcome.map_or_else(|no| (no.status, no.is_for_wrong_credentials()), |_| (200, false));
        (status, is_wrong, world.jwt.prepare(&credentials).is_some())
    };
    assert_eq!(judged(eager(), &|issuing| issuing.answer(&[&old, &new])), (200, false, false));
    assert_eq!(judged(eager(), &|issuing| issuing.answer(&[&old])), (401, true, false));
    assert_eq!(judged(eager(), &|issuing| issuing.end(Err("connection refused".into()))), (503, false, false));
    assert_eq!(judged(Times::default(), &|_| panic!("no fetch in the pause")), (503, false, false));
    // The first fetch of all has not brought the key.
    let (world, answers) = (World::new(Times::default()), Answers::default());
    let credentials = Credentials::new(&head, None).with_answers(&answers);
    let mut later = world.jwt.prepare(&credentials).unwrap();
    assert!(!is_over(&mut later));
    world.issuing.answer(&[&old]);
    assert!(is_over(&mut later) && world.jwt.prepare(&credentials).is_none());
    assert_eq!(world.jwt.authenticate(&credentials).unwrap_err().status, 401);
}

#[test]
fn keys_that_are_not_fresh_are_used_while_others_are_fetched() {
    let times = Times { fresh: Duration::from_millis(200), ..eager() };
    let (world, key) = (World::new(times), Signer::new("a"));
    drop(world.wait(&key.token()));
    world.issuing.answer(&[&key]);
    assert_eq!((world.status(&key.token()), world.issuing.begun()), (200, 1));
    std::thread::sleep(Duration::from_millis(210));
    assert!(world.prepare(&key.token()).is_none());
    assert_eq!((world.status(&key.token()), world.issuing.begun()), (200, 2));
    // The issuer is down: the last keys stay, and a token that finds them old waits for the next fetch.
    world.issuing.end(Err("connection refused".into()));
    std::thread::sleep(Duration::from_millis(210));
    let mut later = world.wait(&key.token());
    assert_eq!(world.issuing.begun(), 3);
    world.issuing.end(Ok(Fetched { body: b"<html>".to_vec(), cache_control: None }));
    assert!(is_over(&mut later));
    assert_eq!(world.status(&key.token()), 200);
}

#[test]
fn the_last_keys_are_not_kept_for_ever() {
    let (issuing, times) = (Issuing::new(), Times { kept: Duration::from_millis(20), ..Times::default() });
    let keys = RemoteKeys::new("app", Arc::clone(&issuing) as Arc<dyn Fetch>, None, times);
    assert!(!is_over(&mut keys.renewed(Need::Any, Instant::now()).unwrap()));
    issuing.answer(&[&Signer::new("a")]);
    assert!(keys.keys(Instant::now()).is_some());
    assert!(keys.keys(Instant::now() + times.kept).is_none());
}

/// RFC 9111 5.2.2.
#[test]
fn an_answer_says_how_long_it_is_fresh_within_bounds() {
    let times = Times { fresh_min: Duration::from_millis(50), fresh_max: Duration::from_secs(7_200), ..eager() };
    let check = |cache_control: Option<&str>, is_fresh: bool| {
        let (world, key) = (World::new(times), Signer::new("a"));
        drop(world.wait(&key.token()));
        let body = set(&[&key]).into_bytes();
        world.issuing.end(Ok(Fetched { body, cache_control: cache_control.map(String::from) }));
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(world.status(&key.token()), 200);
        assert_eq!(world.issuing.begun() == 1, is_fresh, "{cache_control:?}");
    };
    check(None, true);
    check(Some("public, max-age=3600"), true);
    check(Some("max-age=\"3600\""), true);
    check(Some("max-age=soon"), true);
    check(Some("max-age=0"), false);
    check(Some("No-Cache"), false);
    check(Some("private, no-store"), false);
}

/// A fetch that ends before a token waits for it is enough for the token.
#[test]
fn a_token_that_waits_late_begins_no_second_fetch() {
    let (world, key) = (World::new(eager()), Signer::new("a"));
    let mut late = world.prepare(&key.token()).unwrap();
    drop(world.wait(&key.token()));
    world.issuing.answer(&[&key]);
    assert!(is_over(&mut late));
    assert_eq!(world.issuing.begun(), 1);
}

/// Where another authenticator admits, the issuer is not asked.
#[test]
fn keys_that_nobody_needs_are_not_fetched() {
    let (World { jwt, issuing }, key) = (World::new(eager()), Signer::new("a"));
    let inside = Network::new(&["10.0.0.0/8"], &[]).unwrap();
    let any = any_of(inside).or(jwt);
    let head = head(&[format!("Authorization: Bearer {}", key.token())]);
    let credentials = |peer: &str| Credentials::new(&head, peer.parse().ok());
    assert!(any.prepare(&credentials("10.0.0.1:9")).is_none());
    assert_eq!(any.authenticate(&credentials("10.0.0.1:9")).unwrap().name, "10.0.0.0/8");
    assert_eq!(issuing.begun(), 0);
    assert!(!is_over(&mut any.prepare(&credentials("192.0.2.1:9")).unwrap()));
    assert_eq!(issuing.begun(), 1);
}

/// The log says what becomes of the tokens: keys are used no longer than `kept`, however often a fetch fails.
#[test]
fn the_log_tells_whether_the_last_keys_stay_in_use() {
    let failure_after = |age: Duration| {
        let (issuing, times) = (Issuing::new(), Times { kept: Duration::from_secs(1), ..eager() });
        let keys = RemoteKeys::new("app", Arc::clone(&issuing) as Arc<dyn Fetch>, None, times);
        let begin = || assert!(!is_over(&mut keys.renewed(Need::Another, Instant::now()).unwrap()));
        begin();
        issuing.answer(&[&Signer::new("a")]);
        std::thread::sleep(age);
        begin();
        let log = logged(|| issuing.end(Err("connection refused".into())));
        (keys.usable(Instant::now()).is_some(), log)
    };
    let (is_used, log) = failure_after(Duration::ZERO);
    assert!(is_used && log.contains("cannot be fetched: the last keys stay in use"), "{log}");
    let (is_used, log) = failure_after(Duration::from_millis(1_010));
    assert!(!is_used && log.contains("cannot be fetched: the issuer's tokens are answered 503"), "{log}");
}

/// A reload while the issuer is down: the new authenticator has the keys of the earlier one, once a fetch has failed.
#[test]
fn keys_outlast_a_reload() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let (before, after) = (World::with_key(&old), World::new(Times::default()));
    after.jwt.take_over_keys(&before.jwt);
    let (mut first, mut second) = (after.wait(&old.token()), after.wait(&old.token()));
    // A caller that cannot wait.
    assert_eq!((after.status(&old.token()), after.issuing.begun()), (200, 1));
    after.issuing.end(Err("connection refused".into()));
    assert!(is_over(&mut first) && is_over(&mut second));
    assert!(after.prepare(&old.token()).is_none());
    assert_eq!((after.status(&old.token()), after.issuing.begun()), (200, 1));
    // A fetch after the reload counts more than the earlier keys, whenever these are taken over.
    let (before, after) = (World::with_key(&old), World::with_key(&new));
    after.jwt.take_over_keys(&before.jwt);
    assert_eq!((after.status(&old.token()), after.status(&new.token())), (401, 200));
    after.jwt.take_over_keys(&after.jwt);
    assert_eq!(after.status(&new.token()), 200);
}

/// A reload flushes a key that the issuer has withdrawn: no token is admitted by it before the issuer has answered.
#[test]
fn a_reload_flushes_a_withdrawn_key() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let (before, after) = (World::with_key(&old), World::new(eager()));
    after.jwt.take_over_keys(&before.jwt);
    let mut later = after.wait(&old.token());
    after.issuing.answer(&[&new]);
    assert!(is_over(&mut later));
    assert_eq!((after.status(&old.token()), after.status(&new.token())), (401, 200));
}

#[test]
fn keys_of_another_issuer_are_not_taken_over() {
    let key = Signer::new("a");
    let status = |after: &World, before: &World| {
        after.jwt.take_over_keys(&before.jwt);
        after.status(&key.token())
    };
    let before = World::with_key(&key);
    let other_url = World::new(Times::default());
    "https://elsewhere.example/".clone_into(&mut other_url.issuing.url.lock().unwrap());
    assert_eq!(status(&other_url, &before), 503);
    let other_name = World::with(Times::default(), |issuer| JwtIssuer { name: "b".into(), ..issuer });
    assert_eq!(status(&other_name, &before), 503);
    // The new settings allow no key of the set.
    let other_algorithm = World::with(Times::default(), |issuer| issuer.algorithms(["ES256"]));
    assert_eq!(status(&other_algorithm, &before), 503);
    let other_settings = World::with(Times::default(), |issuer| issuer.algorithms(["ES256", "EdDSA"]).cookie("c"));
    assert_eq!(status(&other_settings, &before), 200);
}

/// Keys that are taken over are used no longer than they would have been.
#[test]
fn a_reload_makes_keys_no_younger() {
    let (issuing, times) = (Issuing::new(), Times { kept: Duration::from_millis(20), ..Times::default() });
    let of = || RemoteKeys::new("app", Arc::clone(&issuing) as Arc<dyn Fetch>, None, times);
    let (before, after) = (of(), of());
    let fetched = Instant::now();
    assert!(!is_over(&mut before.renewed(Need::Any, fetched).unwrap()));
    issuing.answer(&[&Signer::new("a")]);
    std::thread::sleep(times.kept);
    after.take_over(&before);
    assert!(after.usable(fetched).is_some() && after.usable(Instant::now()).is_none());
}

/// Returns what `act` logs on this thread.
fn logged(act: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, act);
    let bytes = log.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// A failure that is told at once, on the thread that asks.
#[test]
fn a_fetch_may_fail_at_once() {
    struct Down;
    impl Fetch for Down {
        fn start(&self, done: Done) {
            done(Err("the server has not started".into()));
        }

        fn url(&self) -> String {
            "https://login.example/keys".into()
        }
    }
    let issuer = JwtIssuer::new("app").source(Arc::new(Down) as Arc<dyn Fetch>);
    let (jwt, key) = (Jwt::new([issuer]).unwrap(), Signer::new("a"));
    let line = [format!("Authorization: Bearer {}", key.token())];
    let mut later = jwt.prepare(&Credentials::new(&head(&line), None));
    assert!(later.as_mut().is_none_or(is_over));
    assert_eq!(show(&jwt, &key.token()).unwrap_err().status, 503);
}

/// Nothing that a thread could wait for holds a lock.
#[test]
fn a_token_never_waits_on_a_shard() {
    let (world, key) = (World::new(Times::default()), Signer::new("a"));
    let begun = Instant::now();
    drop(world.wait(&key.token()));
    for _ in 0..100 {
        assert_eq!(world.status(&key.token()), 503);
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}
