//! The issuers of tokens in a file of settings: the errors of wrong ones, and what is shown of right ones.

use super::{Scratch, check_config, check_failure};
use crate::support::run_to_end;

const SECRET: &str = "hush-hush-hush-hush-hush-hush-hu";

/// Checks that a file is refused with this error, which shows no secret.
fn check(text: &str, expected: &str) {
    let file = Scratch::new(text);
    check_failure(check_config(&file), &[&format!("{}:{expected}", file.name())]);
    let log = String::from_utf8_lossy(&run_to_end(check_config(&file)).stderr).into_owned();
    assert!(!log.contains("hush"), "{log}");
}

#[test]
fn an_issuer_says_what_is_wrong_and_where() {
    // The text follows a name and a secret.
    let app = |text: &str, expected: &str| {
        check(&format!("[[issuers]]\nname = \"app\"\nsecrets = \"{SECRET}\"\n{text}"), expected);
    };
    check("issuers = 1", "1: issuers: tables are expected, each under [[issuers]], not this integer");
    check("issuers = [\n  1]", "2: issuers: a table is expected, not this integer");
    check("[[issuer]]", "1: unknown key \"issuer\"; did you mean \"issuers\"?");
    check("\n[[issuers]]", "2: issuers.name: an issuer needs a name");
    check("[[issuers]]\nname = \"app\"", "2: issuers.name: the issuer has no keys: secrets, public_keys, jwks");
    check("[[issuers]]\nname = 7", "2: issuers.name: a name in quotes is expected, not this integer");
    app("sercet = 1", "4: unknown key \"sercet\" of an issuer; did you mean \"secrets\"?");
    app("claims = { subject = \"x\" }", "4: unknown key \"subject\" of issuers.claims, which has sub, info");
    app("claims = { info = \"sub\" }", "4: issuers.claims: \"sub\" stands for two things");
    app("claims = 1", "4: issuers.claims: a table is expected");
    app("algorithms = [\"none\"]", "4: issuers.algorithms: \"none\" is no signature");
    app("algorithms = [\"HS25\"]", "4: issuers.algorithms: \"HS25\" is unknown; HS256, HS384");
    app("algorithms = \"ES256\"", "3: issuers.secrets: no algorithm of the issuer (ES256) is for a secret");
    app("leeway = \"2h\"", "4: issuers.leeway: more than an hour");
    app("leeway = \"soon\"", "4: issuers.leeway: \"soon\" is no time");
    app("require_exp = \"no\"", "4: issuers.require_exp: true or false is expected");
    app("cookie = \"a b\"", "4: issuers.cookie: \"a b\" is no name of a cookie");
    app("bare_tokens = \"some\"", "4: issuers.bare_tokens: \"some\" is none of none, all");
    app("audience = 7", "4: issuers.audience: a name in quotes, or a list of such, is expected");
    app("public_keys = \"hush\"", "4: issuers.public_keys: this is no public key in PEM");
    app("jwks = \"hush\"", "4: issuers.jwks: this is no JSON at line 1, column 1");
    app("jwks_url = \"ftp://a/\"", "4: issuers.jwks_url: the scheme \"ftp\" is not supported");
    app("jwks_url = \"https://a/\"", "4: issuers.jwks_url: the issuer has keys already");
    app("jwks_keep = \"1s\"", "4: issuers.jwks_keep: less than a minute");
    app("[issuers.public_keys]\na = 7", "5: issuers.public_keys: a public key in PEM, in quotes is expected");
    let two = format!("\"{SECRET}\\n{SECRET}\"");
    let app_with =
        |secrets: String, expected| check(&format!("[[issuers]]\nname = \"app\"\nsecrets = {secrets}"), expected);
    app_with(two.clone(), "3: issuers.secrets: a text has several lines, and each secret is a text of its own");
    app_with(format!("[\n  {two}]"), "4: issuers.secrets: a text has several lines");
    app_with(format!("{{ old = {two} }}"), "3: issuers.secrets: the key id \"old\" has several lines, and a key id is");
    check(
        "[[issuers]]\nname = \"app\"\nsecrets = [\"hush\"]",
        "3: issuers.secrets: the secret has 4 bytes, and HS256 needs 32 at least; `openssl rand -hex 32` makes one",
    );
    let same = format!("[[issuers]]\nname = \"b\"\nsecrets = {{ a = \"{SECRET}\" }}\n");
    app(&same, "1: issuers.iss: with several issuers each needs one");
    app(&format!("iss = \"i\"\n{same}iss = \"i\""), "5: issuers.iss: \"i\" is that of the issuer at ");
    app(&format!("iss = \"i\"\n{same}iss = \"j\"").replace("\"b\"", "\"app\""), "5: issuers.name: \"app\" is there");
}

/// Each line of a file is a secret, while a key in PEM has several lines.
#[test]
fn keys_of_issuers_stand_in_files() {
    let secrets = Scratch::new(&format!("{SECRET}\n\n{SECRET}, too\n"));
    let short = Scratch::new(&format!("{SECRET}\nhush\n"));
    let pem = Scratch::new(include_str!("../../jwt/keys/p256.pub.pem"));
    let outcome = |keys: String| {
        let file = Scratch::new(&format!("[[issuers]]\nname = \"app\"\n{keys}\n"));
        let output = run_to_end(check_config(&file));
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!log.contains("hush"), "{log}");
        if output.status.success() { Ok(()) } else { Err(log) }
    };
    let [two, short, pem] = [secrets.name(), short.name(), pem.name()].map(|path| format!("\"file:{path}\""));
    assert_eq!(outcome(format!("secrets = {two}")), Ok(()));
    assert_eq!(outcome(format!("secrets = [{two}, \"{SECRET}\"]")), Ok(()));
    assert_eq!(outcome(format!("public_keys = {pem}")), Ok(()));
    assert_eq!(outcome(format!("public_keys = [{pem}]")), Ok(()));
    assert_eq!(outcome(format!("public_keys = {{ a = {pem} }}")), Ok(()));
    for (keys, expected) in [
        (format!("secrets = {{ old = {two} }}"), "the key id \"old\" has several lines"),
        (format!("secrets = {short}"), "the secret has 4 bytes"),
        (format!("secrets = [{short}]"), "the secret has 4 bytes"),
        ("public_keys = []".into(), "the list is empty"),
    ] {
        let log = outcome(keys).expect_err(expected);
        assert!(log.contains(expected), "{log}");
    }
}

#[test]
fn routes_name_issuers_that_are_there() {
    let file = |issuers: &str, jwt: &str| {
        format!("[[routes]]\nmatch = \"/t/{{topic...}}\"\nhandler = \"hub\"\njwt = {jwt}\n{issuers}")
    };
    let issuer = format!("[[issuers]]\nname = \"app\"\nsecrets = \"{SECRET}\"\n");
    check(&file("", "\"app\""), "4: routes.jwt: there is no issuer \"app\", and no [[issuers]] at all");
    check(&file(&issuer, "[\"app\", \"ap\"]"), "4: routes.jwt: there is no issuer \"ap\"; there are app");
    check(&file(&issuer, "[\"app\", \"app\"]"), "4: routes.jwt: two issuers have the name \"app\"");
    check(&file(&issuer, "7"), "4: routes.jwt: the name of an issuer in quotes, or a list of such, is expected");
    // An issuer that is wrong has one error.
    let wrong = file(&issuer.replace("hush-", ""), "\"app\"");
    let file = Scratch::new(&wrong);
    let log = String::from_utf8_lossy(&run_to_end(check_config(&file)).stderr).into_owned();
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[test]
fn issuers_are_shown_without_their_secrets() {
    let key = include_str!("../../jwt/keys/p256.pub.pem");
    let text = format!(
        "[[issuers]]\nname = \"app\"\niss = \"https://app.example\"\naudience = [\"hub\", \"other\"]\n\
         cookie = \"token\"\nsecrets = {{ a = \"{SECRET}\", b = \"{SECRET}, too\" }}\nalgorithms = \"HS256, ES256\"\n\
         leeway = \"10s\"\npublic_keys = '''\n{key}'''\nbare_tokens = \"all\"\n\
         require_exp = false\nclaims = {{ sub = \"user\" }}\n"
    );
    let file = Scratch::new(&text);
    let output = run_to_end(check_config(&file));
    let (shown, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    for line in
        ["[[issuers]]", "secrets = { a = \"***\", b = \"***\" }", "claims = { sub = \"user\" }", "leeway = \"10s\""]
    {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    assert!(!shown.contains("hush"), "{shown}");
}

/// Keys that come unencrypted can be replaced on their way.
#[test]
fn keys_that_come_unencrypted_are_warned_of() {
    let warned = |url: &str| {
        let file = Scratch::new(&format!("[[issuers]]\nname = \"app\"\njwks_url = \"{url}\"\n"));
        let output = run_to_end(check_config(&file));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).contains("come unencrypted, from http://keys.internal")
    };
    assert!(warned("http://keys.internal/jwks") && warned("http://keys.internal:8080?a=b"));
    assert!(!warned("https://keys.internal/jwks") && !warned("http://localhost/") && !warned("http://[::1]:1/"));
}

/// A request shows one token, so tokens of issuers and a list of static ones keep each other out.
#[test]
fn lists_of_tokens_beside_issuers_are_warned_of() {
    let issuer = format!("[[issuers]]\nname = \"app\"\nsecrets = \"{SECRET}\"\n");
    let route =
        |keys: &str| format!("[[routes]]\nmatch = \"/t/{{topic...}}\"\nhandler = \"hub\"\njwt = \"app\"\n{keys}\n");
    let warned = |text: &str| {
        let file = Scratch::new(text);
        let output = run_to_end(check_config(&file));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).contains("takes tokens of issuers (JWT), and publish_tokens has others")
    };
    let list = "publish_tokens = \"word\"\n";
    assert!(!warned(&issuer) && !warned(&format!("{}{issuer}", route(""))));
    assert!(warned(&format!("{list}{issuer}")));
    assert!(warned(&format!("{list}{}{issuer}", route(""))));
    assert!(!warned(&format!("{list}{}{issuer}", route("bearer.tokens = { ci = \"word\" }"))));
    assert!(!warned(&format!("{list}{}{issuer}", route("admit = \"any\"\nnetwork.allow = [\"::1\"]"))));
}
