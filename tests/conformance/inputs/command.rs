//! Inputs of the target `command`: commands of `ringhub.v1`.

use crate::random::Random;

/// Makes a command, and mostly spoils it.
pub(crate) fn command(random: &mut Random) -> Vec<u8> {
    let names = ["subscribe", "unsubscribe", "publish", "publish", "refresh", "ping", "message", ""];
    let count = random.below(6);
    let members: Vec<String> = (0..count).map(|_| member(random)).collect();
    let mut text = format!("{{\"{}\":{{{}}}}}", random.pick(&names), members.join(random.pick(&[",", ", ", " ,\n"])));
    if random.once_in(10) {
        text = text.replacen('}', "},\"ping\":{}", 1);
    }
    let mut bytes = text.into_bytes();
    for _ in 0..random.pick(&[0, 0, 0, 1, 2]) {
        random.spoil(&mut bytes);
    }
    bytes
}

fn member(random: &mut Random) -> String {
    let names = ["id", "topic", "topic", "echo", "data", "data", "base64", "event", "key", "token", "x", "i\\u0064"];
    let values = [
        "1",
        "9007199254740991",
        "9007199254740992",
        "1.5",
        "-1",
        "1e999",
        "true",
        "false",
        "null",
        "\"\"",
        "\"news\"",
        "\"é\\\"\\n\\u0041\"",
        "\"\\ud800\"",
        "\"YQ==\"",
        "\"YQ\"",
        "[1, {\"a\": [ ]}]",
        "{\"a\":1,\"a\":2}",
    ];
    let value = match random.below(20) {
        0 => format!("\"{}\"", "k".repeat(250 + random.below(12))),
        1 => {
            let depth = 95 + random.below(10);
            format!("{}{}", "[".repeat(depth), "]".repeat(depth))
        }
        _ => random.pick(&values).to_owned(),
    };
    format!("\"{}\":{value}", random.pick(&names))
}
