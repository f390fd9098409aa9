//! Settings that are allowed, but mostly a mistake. The server and `check-config` warn of them.

use std::fs;

use super::{Scratch, check_config, check_failure, command, scratch_folder};
use crate::support::run_to_end;

/// The warning comes only for a hub that admits everybody.
#[test]
fn routes_that_admit_everybody_cause_a_warning() {
    let warns = |routes: &str| {
        let output = run_to_end(check_config(&Scratch::new(&format!("listen = \"0.0.0.0:0\"\n{routes}"))));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).contains("whoever reaches")
    };
    let hub = "[[routes]]\nmatch = \"/{topic}\"\nhandler = \"hub\"\n";
    assert!(warns("") && warns(hub));
    assert!(!warns(&format!("{hub}network = {{ allow = \"10.0.0.0/8\" }}")));
    assert!(!warns(&format!("{hub}allowed_origins = \"https://a.example\"")));
    assert!(!warns("[[routes]]\nmatch = \"/\"\nhandler = \"echo\""));
}

/// The warning names two routes that lead to the same topics and admit different clients.
#[test]
fn routes_to_the_same_topics_cause_a_warning() {
    let warnings = |text: &str| {
        let output = run_to_end(check_config(&Scratch::new(text)));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let hub = |path: &str, rules: &str| format!("[[routes]]\nmatch = \"{path}\"\nhandler = \"hub\"\n{rules}\n");
    let (bearer, basic) = ("bearer.tokens.a = \"word\"", "basic = { realm = \"r\", users = { a = \"hush\" } }");
    let told = warnings(&(hub("/t/{topic...}", "") + &hub("/t/admin/{topic...}", basic)));
    let words = ["warning: ", "\"/t/{topic...}\" (", ".toml:1)", "\"/t/admin/{topic...}\" (", ".toml:5)", "by both"];
    assert!(words.iter().all(|word| told.contains(word)) && !told.contains("hush"), "{told}");
    let prefix = |prefix: &str, rules: &str| format!("topic_prefix = \"{prefix}\"\n{rules}");
    for (first, second, is_told) in [
        ("", "", false),
        (bearer, bearer, false),
        (bearer, &bearer.replace("word", "other"), true),
        (bearer, &format!("{bearer}\nallowed_origins = \"https://a.example\""), true),
        ("", &prefix("staff/", bearer), true),
        (&prefix("public/", ""), &prefix("staff/", bearer), false),
        (&prefix("staff/a", basic), &prefix("staff/", bearer), true),
        (&prefix("staff/", bearer), &prefix("staff/", bearer), false),
    ] {
        let told = warnings(&(hub("/t/{topic}", first) + &hub("/s/{topic...}", second)));
        assert_eq!(told.contains("lead to the same topics"), is_told, "{first} {second}: {told}");
    }
    // The warning says what each route requires, and how to change them.
    let told = warnings(&(hub("/t/{topic...}", bearer) + &hub("/staff/{topic...}", &prefix("staff/", basic))));
    let asked = "\"/t/{topic...}\" requires bearer, \"/staff/{topic...}\" requires basic";
    let remedy = "give \"/t/{topic...}\", which has no topic_prefix, one too, or give both the same rules";
    assert!(told.contains(asked) && told.contains(remedy), "{told}");
    let pages = "allowed_origins = \"https://a.example\"";
    let told = warnings(&(hub("/s/{topic...}", &prefix("a/", pages)) + &hub("/t/{topic...}", &prefix("a/b", bearer))));
    let asked = "\"/s/{topic...}\" requires nothing (and, from web pages, an allowed origin), \
                 \"/t/{topic...}\" requires bearer";
    let remedy = "change \"/s/{topic...}\"'s topic_prefix so that \"/t/{topic...}\"'s no longer begins with it";
    assert!(told.contains(asked) && told.contains(remedy), "{told}");
    let told = warnings(&(hub("/s/{topic...}", "") + &hub("/t/{topic...}", bearer)));
    assert!(told.contains("give each a topic_prefix of its own"), "{told}");
    // An open route whose topics another route protects admits only that route's clients, so there is no warning.
    let opens = |text: &str| warnings(&format!("listen = \"0.0.0.0:0\"\n{text}")).contains("whoever reaches");
    let hubs = |first: &str, second: &str| hub("/t/{topic...}", first) + &hub("/s/{topic...}", second);
    assert!(opens(&hubs("", &prefix("staff/", bearer))) && opens(&hubs(&prefix("a/", ""), &prefix("b/", bearer))));
    assert!(!opens(&hubs("", bearer)) && !opens(&hubs(&prefix("staff/", ""), bearer)));
}

/// A browser sends its user's password or address with requests of any page, so such routes need allowed origins.
#[test]
fn routes_for_any_web_page_cause_a_warning() {
    fs::create_dir_all(scratch_folder().join("site")).unwrap();
    let (network, basic) = ("network.allow = \"10.0.0.0/8\"\n", "basic.users.a = \"hush\"\n");
    let (bearer, origins) = ("bearer.tokens.a = \"hush\"\n", "allowed_origins = \"https://a.example\"\n");
    let check = |settings: &str, handler: &str, rules: &[&str], is_told: bool| {
        let rules = rules.concat();
        let text = format!("{settings}[[routes]]\nmatch = \"/x\"\n{handler}\n{rules}");
        let text = if handler.contains("hub") { text.replace("/x", "/{topic}") } else { text };
        let output = run_to_end(check_config(&Scratch::new(&text)));
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !log.contains("hush"), "{log}");
        let words = ["the route \"/", "allowed_origins: any web page", "as allowed_origins"];
        assert_eq!(words.map(|word| log.contains(word)), [is_told; 3], "{text}: {log}");
    };
    let (hub, echo, page) = ("handler = \"hub\"", "handler = \"echo\"", "handler = \"page\"");
    let files = "documents = \"site\"";
    for handler in [hub, echo] {
        check("", handler, &[network], true);
        check("", handler, &[basic], true);
        check("", handler, &["admit = \"any\"\n", basic, bearer], true);
        check("", handler, &[basic, bearer], false);
        check("", handler, &[bearer], false);
        check("", handler, &[], false);
        check("", handler, &[network, origins], false);
        check(origins, handler, &[network], false);
    }
    check("", files, &[network], true);
    check("", files, &[network, origins], false);
    check("", files, &[basic], false);
    check("", page, &[network, basic], false);
}

/// A request shows one token, which must be in both lists.
#[test]
fn routes_with_useless_tokens_cause_a_warning() {
    let check = |settings: &str, rules: &str, told: &[&str]| {
        let text = format!("{settings}\n[[routes]]\nmatch = \"/{{topic}}\"\nhandler = \"hub\"\n{rules}");
        let output = run_to_end(check_config(&Scratch::new(&text)));
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !log.contains("hush"), "{log}");
        let expected = ["publish", "subscribe"].map(|what| told.contains(&what));
        let lists = ["publish_tokens have no token in common", "subscribe_tokens have no token in common"];
        assert_eq!(lists.map(|words| log.contains(words)), expected, "{text}: {log}");
        assert_eq!(["nobody can publish", "nobody can subscribe"].map(|words| log.contains(words)), expected, "{log}");
    };
    let bearer = "bearer.tokens = { a = [\"hush1\", \"hush2\"] }";
    check("publish_tokens = \"hush\"", bearer, &["publish"]);
    check("subscribe_tokens = \"hush\"\npublish_tokens = \"hush2\"", bearer, &["subscribe"]);
    check("subscribe_tokens = \"hush\"\npublish_tokens = \"hush3\"", bearer, &["publish", "subscribe"]);
    check("publish_tokens = [\"hush\", \"hush1\"]", bearer, &[]);
    check("", bearer, &[]);
    check("publish_tokens = \"hush\"", "", &[]);
    let other = "admit = \"any\"\nbasic.users.a = \"hush\"\n";
    check("publish_tokens = \"hush\"", &format!("{other}{bearer}"), &[]);
    check("publish_tokens = \"hush\"", &format!("{}{bearer}", other.replace("any", "all")), &["publish"]);
}

/// The warning says what to set, and comes before the server listens. The address is another machine's, so listening
/// fails.
#[test]
fn a_hub_that_is_open_to_the_world_warns() {
    let log = |flags: &[&str]| {
        let mut command = command(&["--listen", "192.0.2.1:6455"]);
        command.args(flags);
        let output = run_to_end(command);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let open = log(&[]);
    for word in ["WARN", "192.0.2.1:6455", "publish_tokens", "subscribe_tokens", "allowed_origins"] {
        assert!(open.contains(word), "{word} is not in: {open}");
    }
    assert!(!log(&["--publish-tokens", "a"]).contains("WARN"));
    let check = run_to_end(command(&["check-config", "--listen", "192.0.2.1:6455"]));
    assert!(check.status.success() && String::from_utf8_lossy(&check.stderr).contains("warning: whoever reaches"));
}

/// Returns what `check-config` says about a file that it takes.
fn warnings_of(text: &str) -> String {
    let output = run_to_end(check_config(&Scratch::new(text)));
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !log.contains("hush"), "{log}");
    log
}

const ISSUER: &str = "[[issuers]]\nname = \"app\"\nsecrets = \"hush-hush-hush-hush-hush-hush-hu\"\n";
const APPLICATION: &str = "callback_url = \"http://127.0.0.1:9/\"\ncallback_secrets = \"hush-hush-hush-hush\"\n";

/// With the first route in the file, issuers and the application count no more for the hub, unless the route says so.
#[test]
fn issuers_and_an_application_that_no_route_uses_cause_a_warning() {
    let hub = |rules: &str| format!("[[routes]]\nmatch = \"/t/{{topic...}}\"\nhandler = \"hub\"\n{rules}\n");
    let of_issuer = "no route takes the tokens of the issuer \"app\"";
    let of_application = "no route asks the application at callback_url";
    let open = "; \"/t/{topic...}\" lets everybody in";
    let check = |text: String, told: &[&str]| {
        let log = warnings_of(&text);
        for words in [of_issuer, of_application, open] {
            assert_eq!(log.contains(words), told.contains(&words), "{words}: {text}: {log}");
        }
    };
    check(ISSUER.into(), &[]);
    check(hub("jwt = \"app\"") + ISSUER, &[]);
    check(hub("") + ISSUER, &[of_issuer, open]);
    check(hub("bearer.tokens.a = \"hush\"") + ISSUER, &[of_issuer]);
    check(APPLICATION.into(), &[]);
    check(format!("{APPLICATION}{}", hub("callback = true")), &[]);
    check(format!("{APPLICATION}{}", hub("")), &[of_application, open]);
    check(format!("{APPLICATION}{}[[topics]]\nmatch = \"a\"\npublish = \"callback\"\n", hub("")), &[]);
}

/// The start and `check-config` refuse a rule that asks nobody, and name the setting.
#[test]
fn topics_that_ask_nobody_are_refused() {
    let rule = "[[topics]]\nmatch = \"o/*\"\npublish = \"callback\"\n";
    let file = Scratch::new(rule);
    let expected = format!("{}:1: topics: the rule of the topics \"o/*\" asks the application (callback)", file.name());
    let mut start = command(&["--listen", "127.0.0.1:0", "--config"]);
    start.arg(&file.0);
    for command in [check_config(&file), start] {
        check_failure(command, &[&expected, "callback_url does not say where it is"]);
    }
    warnings_of(&format!("{APPLICATION}{rule}"));
}

#[test]
fn an_application_without_which_everybody_is_let_in_causes_a_warning() {
    let warns = |on_error: &str| {
        let log = warnings_of(&format!("{APPLICATION}callback_on_error = \"{on_error}\"\n"));
        log.contains("callback_on_error is \"allow\": while the application does not answer, everybody is let in")
    };
    assert_eq!(["allow", "deny", "last"].map(warns), [true, false, false]);
}
