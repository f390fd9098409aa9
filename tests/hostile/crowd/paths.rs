//! The paths of a server with private places: spellings of private paths, and a simple table of forbidden ones.

use super::Random;

/// Targets of private topics and files, topics more often than files.
const PRIVATE: &[&str] = &[
    "/private/plan",
    "/private/plan",
    "/all/private/plan",
    "/rooms/private%2Fplan",
    "/private/plan",
    "/all/private/plan",
    "/rooms/private%2Fplan",
    "/site/secret/plan.txt",
    "/site/secret",
    "/site/secret/",
    "/site/.hidden",
    "/site/sub/.hidden",
    "/site/out/plan.txt",
];

/// Draws a target that a careless reader takes for a private one.
pub(super) fn spelling(random: &mut Random) -> String {
    let mut path = random.pick(PRIVATE).to_owned();
    for _ in 0..random.below(4) {
        path = respell(&path, random);
    }
    let origin = random.pick(&["", "", "", "", "http://hub.example", "http://a:1", "HTTP://hub.example", "ws://a"]);
    let query = random.pick(&["", "", "?mode=sub", "?mode=pub", "?echo=true", "?access_token=", "?access_token=wrong"]);
    format!("{origin}{path}{query}")
}

fn respell(path: &str, random: &mut Random) -> String {
    let at = 1 + random.below(path.len() - 1);
    let (begin, end) = path.split_at(at);
    let slashes: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
    let slash = slashes.get(random.below(slashes.len())).copied().unwrap_or_default();
    let (before, after) = path.split_at(slash);
    match random.below(18) {
        0..=8 => {
            let octet = path.as_bytes()[at];
            let escape = if random.once_in(2) { format!("%{octet:02x}") } else { format!("%{octet:02X}") };
            format!("{begin}{escape}{}", &end[1..])
        }
        9 => format!("{before}/{after}"),
        10 => format!("{before}%2F{}", &after[1..]),
        11 => format!("{before}{}{}", random.pick(&["/.", "/%2e", "/%2E", "/./."]), after),
        12 => format!("{before}{}{after}", random.pick(&["/x/..", "/x/%2e%2e", "/x/.%2E", "/..", "/x/../../t"])),
        13 => format!("{before}{}{}", random.pick(&["\\", "%5c", "%5C", "%c0%af", "%252f", "%25%32%66"]), &after[1..]),
        14 => format!(
            "{path}{}",
            random.pick(&["/", "//", "/.", "%00", "%0a", "%20", ";x=1", "#x", "%", "%2", "%zz", "~"])
        ),
        15 => path.to_uppercase(),
        16 => format!("{begin}{}{end}", random.pick(&["%00", "%ff", "%e2%80%8b", "%7f", "+", "*", "."])),
        _ => format!("{}{path}", random.pick(&["/t/..", "/t/../..", "/%2e%2e", "/t", "/all", "/."])),
    }
}

/// Returns whether a request with this target, and without the right token, must not be answered 101 or 2xx. It follows
/// docs/routes.md literally: a path is split at its slashes, then each segment is decoded once.
pub(super) fn is_forbidden(target: &str) -> bool {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let path = match path.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => path,
    };
    let Some(rest) = path.strip_prefix('/') else { return true };
    let parts: Vec<&str> = rest.split('/').collect();
    let decoded: Option<Vec<String>> = parts.iter().map(|part| decode(part)).collect();
    let Some(segments) = decoded else { return true };
    let is_odd = segments.iter().any(|segment| segment == "." || segment == ".." || segment.contains(char::is_control));
    let has_gap = segments[..segments.len() - 1].iter().any(String::is_empty);
    let below = segments[1..].join("/");
    let is_private = match (&*segments[0], segments.len()) {
        ("private", 2..) => true,
        ("all", 2..) => below.starts_with("private/"),
        ("rooms", 2) => below.starts_with("private/"),
        ("site", _) => {
            below == "secret" || below.starts_with("secret/") || below.split('/').any(|name| name.starts_with('.'))
        }
        _ => false,
    };
    is_odd || has_gap || is_private
}

fn decode(part: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), part.as_bytes());
    while let [octet, behind @ ..] = rest {
        if *octet != b'%' {
            bytes.push(*octet);
            rest = behind;
            continue;
        }
        let digits = behind.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &behind[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_plainly() {
        for forbidden in [
            "/private/plan",
            "/%70rivate/plan?mode=sub",
            "/all/private/plan",
            "/all/private%2fplan",
            "/rooms/private%2Fplan",
            "http://a/private/plan",
            "/site/secret",
            "/site/secret%2Fplan.txt",
            "/site/.hidden",
            "/t/../private/plan",
            "/t//x",
            "/t/%",
            "/t/%ff",
            "/t/a%00",
        ] {
            assert!(is_forbidden(forbidden), "{forbidden}");
        }
        for allowed in
            ["/t/private/plan", "/PRIVATE/plan", "/private", "/rooms/plan", "/all/t/x", "/t/%2570", "/t/", "/t/a%2F..b"]
        {
            assert!(!is_forbidden(allowed), "{allowed}");
        }
    }

    /// Many spellings still lead to a private place, and many do not.
    #[test]
    fn spellings_are_of_both_kinds() {
        let mut random = Random::new(1);
        let forbidden = (0..1_000).filter(|_| is_forbidden(&spelling(&mut random))).count();
        assert!((500..950).contains(&forbidden), "{forbidden} of 1000");
    }
}
