//! Tests of the authenticator: where tokens come from, and what they become.

mod published;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use self::published::Issuing;
use super::{
    super::{Authenticator, Credentials, Gate, Grants, Identity, Origins, Stopped},
    BareTokens, Jwt, JwtIssuer,
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

/// A token with the issuer's signature is no guess, whatever else is wrong with it. Nor is a cookie of a foreign page,
/// since its token is not looked at.
#[test]
fn a_signed_token_is_no_guess() {
    let issuer = JwtIssuer::new("app").secret(SECRET).iss("app").audience("hub").cookie("session");
    let jwt = Jwt::new([issuer]).unwrap();
    let is_guess = |line: String| {
        let refusal = jwt.authenticate(&Credentials::new(&head(&[line]), None)).unwrap_err();
        assert_eq!(refusal.status, 401);
        refusal.is_for_wrong_credentials()
    };
    let shown = |token: &str| is_guess(format!("Authorization: Bearer {token}"));
    let of = |claims: &str| signed(&format!(r#"{{"iss":"app",{claims}}}"#));
    let good = of(r#""sub":"ann","exp":4102444800,"aud":"hub""#);
    for claims in [
        r#""sub":"ann","exp":1,"aud":"hub""#,
        r#""sub":"ann","exp":4102444800,"nbf":4102444800,"aud":"hub""#,
        r#""sub":"ann","exp":4102444800,"aud":"other""#,
        r#""sub":"ann","exp":4102444800"#,
        r#""sub":"ann","aud":"hub""#,
        r#""sub":"","exp":4102444800,"aud":"hub""#,
        r#""sub":"ann","exp":4102444800,"aud":"hub","subscribe":"news""#,
    ] {
        assert!(!shown(&of(claims)), "{claims}");
    }
    let (text, signature) = good.rsplit_once('.').unwrap();
    let other = signature.chars().rev().collect::<String>();
    for guess in [&*format!("{text}.{other}"), &format!("{text}."), "guess", &good.replacen('.', "..", 1)] {
        assert!(shown(guess), "{guess}");
    }
    assert!(!is_guess("X: y".into()) && !is_guess(format!("Cookie: session={good}")));
    assert!(!is_guess("Cookie: session=a; session=b".into()));
    assert!(is_guess("Cookie: session=guess\r\nSec-Fetch-Site: same-origin".into()));
    let sees = |line: &str| jwt.sees_credentials(&Credentials::new(&head(&[line.into()]), None));
    assert!(sees("Authorization: Bearer x") && sees("Cookie: session=x") && sees("Cookie: session=x; session=y"));
    assert!(!sees("Authorization: Basic x") && !sees("Cookie: theirs=x"));
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
