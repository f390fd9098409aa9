//! The command line as a report shows it: without secrets.

/// Returns the words of a command without their secrets: the user information of URLs, the values of headers, and the
/// values of flags, of a query's parameters and of the fields of JSON whose name says that they hold a secret.
pub fn without_secrets(words: &[String]) -> Vec<String> {
    let mut shown: Vec<String> = Vec::with_capacity(words.len());
    let mut flag_before = None;
    for word in words {
        let (flag, value) = match word.strip_prefix("--").map(|rest| rest.split_once('=').unwrap_or((rest, ""))) {
            Some((flag, value)) => (Some(flag), value),
            None => (flag_before, word.as_str()),
        };
        let is_flag = word.starts_with("--");
        let masked = masked(flag.unwrap_or_default(), value);
        shown.push(match flag {
            Some(flag) if is_flag && word.contains('=') => format!("--{flag}={masked}"),
            _ if is_flag => word.clone(),
            _ => masked,
        });
        flag_before = flag.filter(|_| is_flag && !word.contains('='));
    }
    shown
}

/// Returns the words as one line for a shell.
pub(crate) fn quoted(words: &[String]) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=,@%+".contains(letter);
    let words = words.iter().map(|word| match !word.is_empty() && word.chars().all(is_plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Returns the value of a flag without its secret.
pub(crate) fn masked(flag: &str, value: &str) -> String {
    if flag.contains("header") {
        return match value.split_once(':') {
            Some((name, _)) => format!("{name}: {MASK}"),
            None => value.to_owned(),
        };
    }
    // Browsers send tokens as subprotocols, since they cannot set headers.
    let is_long_subprotocol = flag == "subprotocol" && value.len() > SUBPROTOCOL_SHOWN_MAX;
    if is_secret(flag) || is_long_subprotocol {
        return MASK.to_owned();
    }
    // Texts for a server may say anything; what is JSON is shown without its secrets, and else only their placeholders.
    if let ("set", Some((name, _))) = (flag, value.split_once('=')) {
        return if is_secret(name) { format!("{name}={MASK}") } else { value.to_owned() };
    }
    if TEXT_FLAGS.contains(&flag) && !value.contains('"') {
        return placeholders(value);
    }
    if value.contains('"') {
        return masked_json(value);
    }
    let value = match value.split_once("://") {
        // What stands before the host, up to the path.
        Some((scheme, rest)) => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            match rest[..end].rsplit_once('@') {
                Some((_, host)) => format!("{scheme}://{MASK}@{host}{}", &rest[end..]),
                None => value.to_owned(),
            }
        }
        None => value.to_owned(),
    };
    // The start of the query, or of a query alone.
    let query = value.find('?').map_or(if value.contains('=') { 0 } else { value.len() }, |place| place + 1);
    let parameters = value[query..].split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={MASK}"),
        _ => parameter.to_owned(),
    });
    format!("{}{}", &value[..query], parameters.collect::<Vec<_>>().join("&"))
}

/// Returns a text for a server with `***` for all that is no placeholder, if it has more than a few bytes of that.
fn placeholders(text: &str) -> String {
    let (step, text) = ["send:", "await:"]
        .into_iter()
        .find_map(|step| text.strip_prefix(step).map(|rest| (step, rest)))
        .unwrap_or(("", text));
    let mut shown = step.to_owned();
    let mut rest = text;
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.find([' ', ';', ',', '&']).unwrap_or(rest.len()));
        let is_plain =
            word.len() < SECRET_MIN || word.contains('{') || !word.chars().any(|letter| letter.is_ascii_digit());
        shown += if is_plain { word } else { MASK };
        let separator = after.chars().next().map_or(0, char::len_utf8);
        shown += &after[..separator];
        rest = &after[separator..];
        // What follows a word such as AUTH is the secret.
        if is_secret(word) && !rest.is_empty() {
            shown += MASK;
            break;
        }
    }
    shown
}

/// Returns a text with JSON in it without the secrets among its strings.
fn masked_json(text: &str) -> String {
    let mut shown = String::new();
    // Every second part stands between quotes, as long as no string contains one.
    let parts: Vec<&str> = text.split('"').collect();
    for (place, part) in parts.iter().enumerate() {
        let is_value = place >= 3 && place % 2 == 1 && parts[place - 1].trim() == ":";
        let is_hidden = is_value && is_secret(parts[place - 2]) && place + 1 < parts.len();
        shown += if is_hidden { MASK } else { part };
        if place + 1 < parts.len() {
            shown.push('"');
        }
    }
    shown
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let has_word = |part: &&str| name.split(['-', '_', '.']).any(|word| word == *part);
    ["token", "password", "secret", "signature"].iter().any(|part| name.contains(part))
        || ["apikey", "accesskey", "credential", "bearer"].iter().any(|part| name.contains(part))
        || ["authorization", "auth", "cookie", "key", "user", "pass", "pwd", "jwt"].iter().any(has_word)
        || ["sig", "sid", "session", "ticket", "code"].iter().any(has_word)
}

const MASK: &str = "***";

/// The flags whose values are texts for a server.
const TEXT_FLAGS: [&str; 4] = ["hello", "subscribe-message", "publish-body", "publish-message"];

/// A word with digits that is shorter is no secret.
const SECRET_MIN: usize = 8;

/// A longer subprotocol is taken for a token.
const SUBPROTOCOL_SHOWN_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> String {
        without_secrets(&line.split(' ').map(str::to_owned).collect::<Vec<_>>()).join(" ")
    }

    #[test]
    fn secrets_are_masked() {
        for (line, expected) in [
            ("x --header Authorization:Bearer-1 --rate 5", "x --header Authorization: *** --rate 5"),
            ("x --publish-header=X:1", "x --publish-header=X: ***"),
            ("x --token abc --rate 5", "x --token *** --rate 5"),
            ("x --password=abc", "x --password=***"),
            ("x --url ws://me:pw@host/p?a=1&access_token=b", "x --url ws://***@host/p?a=1&access_token=***"),
            ("x --url=ws://host/a@b?token=b", "x --url=ws://host/a@b?token=***"),
            ("x --sub-query token=a&mode=sub", "x --sub-query token=***&mode=sub"),
            ("x --subscribe-path /t?api_key=1", "x --subscribe-path /t?api_key=***"),
            ("x --url wss://h/live/{topic}?access_token=S", "x --url wss://h/live/{topic}?access_token=***"),
            ("x --sub-query token=S&room={topic}", "x --sub-query token=***&room={topic}"),
            ("x --publish-http https://h/p/{topic}?apikey=S", "x --publish-http https://h/p/{topic}?apikey=***"),
            ("x --set secret=a{b", "x --set secret=***"),
            ("x --publish-body {payload}", "x --publish-body {payload}"),
            (
                r#"x --hello {"connect":{"accessToken":"a.b","name":"js"}}"#,
                r#"x --hello {"connect":{"accessToken":"***","name":"js"}}"#,
            ),
            (r#"x --hello {"pass":"1","user":"#, r#"x --hello {"pass":"***","user":"#),
            (
                "x --subprotocol access_token --subprotocol eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.x",
                "x --subprotocol access_token --subprotocol ***",
            ),
        ] {
            assert_eq!(shown(line), expected);
        }
    }

    #[test]
    fn texts_for_a_server_show_no_secret() {
        let shown = |text: &str| without_secrets(&["--hello".to_owned(), text.to_owned()]).remove(1);
        assert_eq!(shown("send:AUTH s3cret"), "send:AUTH ***");
        assert_eq!(shown("send:LOGIN me 8f3a9c2b17de"), "send:LOGIN me ***");
        assert_eq!(shown("await:INFO {any}"), "await:INFO {any}");
    }

    #[test]
    fn other_words_stay() {
        let line = "x fanout --rate 5 --url ws://127.0.0.1:1/t/x?mode=sub --json --assert p99<5ms -o a=b";
        assert_eq!(shown(line), line);
    }

    #[test]
    fn a_shell_reads_the_line_again() {
        let words = ["x", "--assert", "p99<5ms", "it's", "", "ws://h:1/t"].map(str::to_owned);
        assert_eq!(quoted(&words), r"x --assert 'p99<5ms' 'it'\''s' '' ws://h:1/t");
    }
}
