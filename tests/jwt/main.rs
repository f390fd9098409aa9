//! Tokens of other libraries against the authenticator of tokens: a table says which ones are accepted, and why the
//! others are not.
//!
//! `make` has made the tokens of tokens.json from cases.json, by PyJWT, jose and openssl. `tests/tokens` makes them
//! anew, around the present time, and runs this test on them (`RINGHUB_TOKENS`).

use std::{collections::BTreeMap, env, fs};

use ringhub::{
    TopicName,
    auth::{Authenticator, Credentials, Identity, Jwt, JwtIssuer, TopicRight},
    proto::{Refusal, RequestHead},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Table {
    secrets: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    by: String,
    /// The settings of the server, see [`jwt`].
    at: String,
    /// The name of the identity that the token has.
    accepts: Option<String>,
    /// A part of the refusal.
    refuses: Option<String>,
}

#[test]
fn tokens_of_other_libraries() {
    let table = table();
    let path = env::var("RINGHUB_TOKENS").unwrap_or_else(|_| format!("{FOLDER}/tokens.json"));
    let tokens: BTreeMap<String, String> = read(&path);
    let mut failures = Vec::new();
    for Case { name, at, accepts, refuses, .. } in &table.cases {
        let token = tokens.get(name).unwrap_or_else(|| panic!("{path} has no token of {name:?}"));
        let outcome = show(&jwt(at, &table.secrets), token);
        let is_right = match (&outcome, accepts, refuses) {
            (Ok(identity), Some(accepts), None) => identity.name == *accepts && may_subscribe(identity),
            (Err(refusal), None, Some(refuses)) => {
                check_refusal(refusal, token);
                refusal.error.contains(refuses)
            }
            _ => false,
        };
        if !is_right {
            failures.push(format!("{name}, at {at}: {outcome:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The table has what it is for: many cases, of each library, with one name each.
#[test]
fn the_table_is_whole() {
    let cases = table().cases;
    let names: BTreeMap<&str, &str> = cases.iter().map(|case| (&*case.name, &*case.by)).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    for library in ["pyjwt", "jose", "openssl"] {
        let accepted = cases.iter().filter(|case| case.by == library && case.accepts.is_some()).count();
        let refused = cases.iter().filter(|case| case.by == library && case.refuses.is_some()).count();
        assert!(accepted >= 8 && refused >= 15, "{library}: {accepted} {refused}");
    }
    let tokens: BTreeMap<String, String> = read(&format!("{FOLDER}/tokens.json"));
    assert!(tokens.keys().eq(names.keys()), "tokens.json is not up to date: run tests/jwt/make");
}

/// Returns an authenticator with these settings.
fn jwt(at: &str, secrets: &BTreeMap<String, String>) -> Jwt {
    let key = |name: &str| fs::read_to_string(format!("{FOLDER}/keys/{name}.pub.pem")).unwrap();
    let set = || fs::read_to_string(format!("{FOLDER}/keys/jwks.json")).unwrap();
    let app = || JwtIssuer::new("app");
    let with_secret = || app().secret(&*secrets["short"]);
    let issuers = match at {
        "secret" => vec![with_secret()],
        "long secret" => vec![app().secret(&*secrets["long"]).algorithms(["HS256", "HS384", "HS512"])],
        "rsa" | "p256" | "p384" | "ed25519" => vec![app().public_key(key(at))],
        "rsa of both kinds" => vec![app().public_key(key("rsa")).algorithms(["RS256", "PS256", "RS512"])],
        "set" => vec![app().jwks(set())],
        "every key" => vec![app().jwks(set()).secret(&*secrets["short"])],
        "many keys" => vec![(0..64).fold(app(), |app, at| app.public_key_with_id(at.to_string(), key("p256")))],
        "audience" => vec![with_secret().audience("ringhub").audience("hub")],
        "issuer" => vec![with_secret().iss("https://app.example")],
        "two issuers" => {
            let other = JwtIssuer::new("other").public_key(key("p256"));
            vec![with_secret().iss("https://app.example"), other.iss("https://other.example")]
        }
        "no end" => vec![with_secret().accept_without_exp()],
        "other names" => vec![with_secret().subject_claim("https://app.example/user")],
        other => panic!("{other:?} are no settings"),
    };
    Jwt::new(issuers).unwrap_or_else(|error| panic!("{at}: {error}"))
}

fn show(jwt: &Jwt, token: &str) -> Result<Identity, Refusal> {
    let request = format!("GET / HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n");
    let (head, _) = RequestHead::decode(request.as_bytes()).expect("a head").expect("a whole head");
    jwt.authenticate(&Credentials::new(&head, None))
}

/// All accepted tokens of the table have the same topics.
fn may_subscribe(identity: &Identity) -> bool {
    let grants = identity.grants.as_ref().expect("grants");
    let has = |right, topic| grants.has(right, &TopicName::new(topic).unwrap());
    has(TopicRight::Subscribe, "news/today")
        && !has(TopicRight::Subscribe, "news/today/local")
        && !has(TopicRight::Publish, "news/today")
}

/// A refusal is a 401 with a challenge, and repeats nothing of the token.
fn check_refusal(refusal: &Refusal, token: &str) {
    assert_eq!(refusal.status, 401, "{refusal:?}");
    let [(name, challenge)] = &refusal.headers[..] else { panic!("{refusal:?}") };
    assert_eq!(name, "WWW-Authenticate");
    let description = challenge.strip_prefix("Bearer error=\"invalid_token\", error_description=\"");
    let description = description.and_then(|rest| rest.strip_suffix('"')).unwrap_or_else(|| panic!("{challenge}"));
    assert!(!description.contains(['"', '\\']) && description.is_ascii(), "{challenge}");
    for part in token.split('.').filter(|part| part.len() > 4) {
        assert!(!refusal.error.contains(part) && !challenge.contains(part), "{refusal:?}");
    }
}

fn table() -> Table {
    read(&format!("{FOLDER}/cases.json"))
}

fn read<T: serde::de::DeserializeOwned>(path: &str) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jwt");
