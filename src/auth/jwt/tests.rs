//! Tests of the authenticator: where tokens come from, what they become, and keys that an issuer publishes.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{rand::SystemRandom, signature};

use super::{
    super::{Authenticator, Credentials, Gate, Grants, Identity, Later, Origins, Stopped},
    BareTokens, Jwt, JwtIssuer,
    remote::{Done, Fetch, Fetched, Need, RemoteKeys, Times},
};
use crate::{
    auth::testing::judge,
    proto::{Refusal, RequestHead},
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Returns a token with a signature by HS256.
fn signed(claims: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), URL_SAFE_NO_PAD.encode(claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = ring::hmac::sign(&key, text.as_bytes());
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn claims(sub: &str) -> String {
    format!(r#"{{"sub":"{sub}","exp":4102444800,"jti":"t1","subscribe":["news/*"]}}"#)
}

fn head(lines: &[String]) -> RequestHead {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let head = format!("GET / HTTP/1.1\r\nHost: hub.example\r\n{lines}\r\n");
    RequestHead::decode(head.as_bytes()).unwrap().unwrap().0
}

fn show(jwt: &Jwt, token: &str) -> Result<Identity, Refusal> {
    jwt.authenticate(&Credentials::new(&head(&[format!("Authorization: Bearer {token}")]), None))
}

#[test]
fn a_token_makes_an_identity() {
    let jwt = Jwt::new([JwtIssuer::new("app").secret(SECRET)]).unwrap();
    let identity = show(&jwt, &signed(&claims("ann"))).unwrap();
    assert_eq!(identity.name, "ann");
    assert_eq!(identity.token_id.as_deref(), Some("t1"));
    // The leeway counts for the end of the connection too: else a token could be accepted after its end.
    assert_eq!(identity.expires, Some(UNIX_EPOCH + Duration::from_secs(4_102_444_805)));
    assert_eq!(
        format!("{jwt:?} {:?}", JwtIssuer::new("a").secret(SECRET)),
        r#"["app"] JwtIssuer { name: "a", iss: None, .. }"#
    );
}

#[test]
fn a_request_without_a_token_is_told_to_have_one() {
    let jwt = Jwt::new([JwtIssuer::new("app").secret(SECRET)]).unwrap();
    for lines in [&[][..], &["Authorization: Basic eA=="], &["Cookie: token=x"]] {
        assert_eq!(judge(&jwt, "/", lines, None), Err((401, vec!["Bearer".into()])), "{lines:?}");
    }
}

#[test]
fn a_token_comes_by_each_way() {
    let jwt = Jwt::new([JwtIssuer::new("app").secret(SECRET).cookie("session")]).unwrap();
    let token = signed(&claims("ann"));
    let check = |target: &str, line: &str| {
        let line = line.replace("TOKEN", &token);
        assert_eq!(judge(&jwt, &target.replace("TOKEN", &token), &[&line], None), Ok("ann".into()), "{line}");
    };
    check("/", "Authorization: Bearer TOKEN");
    check("/?access_token=TOKEN", "X: y");
    check("/", "Sec-WebSocket-Protocol: v1.chat, access_token, TOKEN");
    check("/", "Cookie: session=TOKEN\r\nSec-Fetch-Site: same-origin");
}

/// Each issuer has a cookie of its own, or none.
#[test]
fn a_cookie_is_for_its_own_issuer() {
    let of = |name: &str| JwtIssuer::new(name).iss(name).secret(SECRET);
    let jwt = Jwt::new([of("a").cookie("a"), of("b").cookie("b"), of("c")]).unwrap();
    let shown = |cookie: &str, iss: &str| {
        let token = signed(&format!(r#"{{"sub":"ann","exp":4102444800,"iss":"{iss}"}}"#));
        judge(&jwt, "/", &[&format!("Cookie: {cookie}={token}"), "Sec-Fetch-Site: same-origin"], None).is_ok()
    };
    assert!(shown("a", "a") && shown("b", "b"));
    assert!(!shown("a", "b") && !shown("b", "a") && !shown("a", "c") && !shown("c", "c"));
}

/// Cross-site WebSocket hijacking, with the origins of the gate.
#[test]
fn a_cookie_of_a_foreign_page_is_refused() {
    let gate = |origins: Option<Origins>| Gate {
        origins,
        authenticator: Some(Arc::new(Jwt::new([JwtIssuer::new("app").secret(SECRET).cookie("session")]).unwrap())),
    };
    let lines = |origin: &str| [format!("Cookie: session={}", signed(&claims("ann"))), format!("Origin: {origin}")];
    let admitted = |gate: &Gate, origin: &str| {
        let admitted = gate.admit(&Origins::default(), &Credentials::new(&head(&lines(origin)), None));
        admitted.map(Option::unwrap).map_err(|stopped| match stopped {
            Stopped::Refused(refusal) => refusal,
            Stopped::Waits(_) => panic!("the keys are there"),
        })
    };
    let open = gate(None);
    assert_eq!(admitted(&open, "https://hub.example").unwrap().name, "ann");
    let refusal = admitted(&open, "https://evil.example").unwrap_err();
    assert!(refusal.status == 401 && refusal.error.contains("allowed_origins"), "{refusal:?}");
    let listed = gate(Some(Origins::new(vec!["https://app.example".into()]).unwrap()));
    assert_eq!(admitted(&listed, "https://app.example").unwrap().name, "ann");
    assert_eq!(admitted(&listed, "https://evil.example").unwrap_err().status, 403);
}

#[test]
fn settings_that_are_wrong() {
    let check = |issuers: &[JwtIssuer], expected: &str| {
        let error = Jwt::new(issuers.iter().cloned()).unwrap_err();
        assert!(error.contains(expected) && !error.contains("0123"), "{error}");
    };
    let app = || JwtIssuer::new("app");
    let good = || app().secret(SECRET);
    check(&[], "without issuers");
    check(&[app()], "the issuer \"app\": name: the issuer has no keys");
    check(&[JwtIssuer::new("").secret(SECRET)], "name: the name is empty");
    check(&[good().leeway(Duration::from_secs(3_601))], "leeway: more than an hour");
    check(&[good().jwks_keep(Duration::from_secs(59))], "jwks_keep: less than a minute");
    check(&[good().cookie("a b")], "cookie: \"a b\" is no name");
    check(&[good().algorithms([""; 0])], "algorithms: the list is empty");
    check(&[good().algorithms(["none"])], "\"none\" is no signature");
    check(&[good().algorithms(["HS255"])], "\"HS255\" is unknown; HS256, ");
    check(&[good().algorithms(["RS256"])], "secrets: no algorithm of the issuer (RS256) is for a secret");
    check(&[app().public_key(SECRET)], "public_keys: this is no public key in PEM");
    check(&[app().jwks("{}")], "jwks: this is neither");
    check(&[app().secret("0123")], "secrets: the secret has 4 bytes");
    check(&[good().info_claim("")], "claims: the name of a claim is empty");
    check(&[good().info_claim("sub")], "claims: \"sub\" stands for two things");
    check(&[good(), JwtIssuer::new("b").secret(SECRET).iss("b")], "the issuer \"app\" needs an iss");
    check(&[good().iss("a"), good().iss("b")], "two issuers have the name \"app\"");
    check(&[good().iss("a"), JwtIssuer::new("b").secret(SECRET).iss("a")], "two issuers have the iss \"a\"");
    check(&[good().source(Issuing::new()).clone()], "jwks_url: the issuer has keys already");
}

#[test]
fn a_token_without_topics() {
    let grants = |issuer: JwtIssuer| {
        show(&Jwt::new([issuer]).unwrap(), &signed(r#"{"sub":"ann","exp":4102444800}"#)).unwrap().grants
    };
    let app = || JwtIssuer::new("app").secret(SECRET);
    assert_eq!(grants(app()).as_deref(), Some(&Grants::default()));
    assert_eq!(grants(app().bare_tokens(BareTokens::All)), None);
}

/// The leeway of `exp` and `nbf`, with the clock of this machine.
#[test]
fn times_have_leeway() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let jwt = Jwt::new([JwtIssuer::new("app").secret(SECRET).leeway(Duration::from_secs(60))]).unwrap();
    let check = |exp: i64, nbf: i64, expected: &str| {
        let claims = format!(r#"{{"sub":"a","exp":{},"nbf":{}}}"#, now + exp, now + nbf);
        let told = show(&jwt, &signed(&claims)).err().map(|refusal| refusal.error).unwrap_or_default();
        assert_eq!(told.is_empty(), expected.is_empty(), "{told}");
        assert!(told.contains(expected), "{told}");
    };
    check(30, -30, "");
    check(-30, 30, "");
    check(-90, 0, "it has expired");
    check(30, 90, "it is not valid yet");
}

/// An issuer that publishes its keys, and can be asked for them. A test ends each fetch.
#[derive(Default)]
struct Issuing {
    begun: AtomicUsize,
    waiting: Mutex<Vec<Done>>,
}

impl Fetch for Issuing {
    fn start(&self, done: Done) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().unwrap().push(done);
    }
}

impl Issuing {
    fn new() -> Arc<Issuing> {
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
        let issuing = Issuing::new();
        let issuer = JwtIssuer::new("app").source(Arc::clone(&issuing) as Arc<dyn Fetch>).times(times);
        World { jwt: Jwt::new([issuer]).unwrap(), issuing }
    }

    /// Returns what a token has to wait for.
    fn prepare(&self, token: &str) -> Option<Later> {
        self.jwt.prepare(&Credentials::new(&head(&[format!("Authorization: Bearer {token}")]), None))
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
    let mut later = world.prepare(&key.token()).unwrap();
    world.issuing.end(Err("no route to host".into()));
    assert!(is_over(&mut later));
    assert!(world.prepare(&key.token()).is_none());
    assert_eq!((world.status(&key.token()), world.issuing.begun()), (503, 1));
    std::thread::sleep(times.pause);
    let mut later = world.prepare(&key.token()).unwrap();
    world.issuing.answer(&[&key]);
    assert!(is_over(&mut later));
    assert_eq!((world.status(&key.token()), world.issuing.begun()), (200, 2));
}

/// A rotation between two tokens: the token of the new key waits for the new set.
#[test]
fn a_new_key_is_fetched_once_for_all_that_name_it() {
    let (world, old, new) = (World::new(eager()), Signer::new("old"), Signer::new("new"));
    drop(world.prepare(&old.token()));
    world.issuing.answer(&[&old]);
    let mut waiting: Vec<Later> = (0..10).map(|_| world.prepare(&new.token()).unwrap()).collect();
    // Meanwhile tokens of the old key are not held up.
    assert!(world.prepare(&old.token()).is_none());
    assert_eq!((world.status(&old.token()), world.issuing.begun()), (200, 2));
    world.issuing.answer(&[&old, &new]);
    assert!(waiting.iter_mut().all(is_over));
    assert_eq!((world.status(&new.token()), world.issuing.begun()), (200, 2));
    // The issuer has taken the old key back.
    drop(world.prepare(&Signer::new("newer").token()));
    world.issuing.answer(&[&new]);
    assert_eq!((world.status(&old.token()), world.status(&new.token())), (401, 200));
}

#[test]
fn invented_key_ids_cause_one_fetch_in_a_while() {
    let (world, key) = (World::new(Times::default()), Signer::new("a"));
    drop(world.prepare(&key.token()));
    world.issuing.answer(&[&key]);
    for id in ["b", "c", "../a", "http://127.0.0.1:9/"] {
        let token = Signer::new(id).token();
        assert!(world.prepare(&token).is_none(), "{id}");
        assert_eq!((world.status(&token), world.issuing.begun()), (401, 1), "{id}");
    }
}

#[test]
fn keys_that_are_not_fresh_are_used_while_others_are_fetched() {
    let times = Times { fresh: Duration::from_millis(200), ..eager() };
    let (world, key) = (World::new(times), Signer::new("a"));
    drop(world.prepare(&key.token()));
    world.issuing.answer(&[&key]);
    assert_eq!((world.status(&key.token()), world.issuing.begun()), (200, 1));
    std::thread::sleep(Duration::from_millis(210));
    assert!(world.prepare(&key.token()).is_none());
    assert_eq!((world.status(&key.token()), world.issuing.begun()), (200, 2));
    // The issuer is down: the last keys stay, and a token that finds them old waits for the next fetch.
    world.issuing.end(Err("connection refused".into()));
    std::thread::sleep(Duration::from_millis(210));
    let mut later = world.prepare(&key.token()).unwrap();
    assert_eq!(world.issuing.begun(), 3);
    world.issuing.end(Ok(Fetched { body: b"<html>".to_vec(), cache_control: None }));
    assert!(is_over(&mut later));
    assert_eq!(world.status(&key.token()), 200);
}

#[test]
fn the_last_keys_are_not_kept_for_ever() {
    let (issuing, times) = (Issuing::new(), Times { kept: Duration::from_millis(20), ..Times::default() });
    let keys = RemoteKeys::new("app", Arc::clone(&issuing) as Arc<dyn Fetch>, None, times);
    drop(keys.renewed(Need::Any, Instant::now()));
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
        drop(world.prepare(&key.token()));
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

/// A failure that is told at once, on the thread that asks.
#[test]
fn a_fetch_may_fail_at_once() {
    struct Down;
    impl Fetch for Down {
        fn start(&self, done: Done) {
            done(Err("the server has not started".into()));
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
    drop(world.prepare(&key.token()));
    for _ in 0..100 {
        assert_eq!(world.status(&key.token()), 503);
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}
