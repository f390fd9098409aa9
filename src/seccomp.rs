//! `ringhub seccomp-profile`: prints a seccomp profile for containers, in Docker's format.

use std::{fmt, fs, io, path::PathBuf};

use ringhub::sys::system_calls::{IO_URING, SYSTEM_CALLS};
use serde_json::{Map, Value, json};

/// The profile to print.
#[derive(Debug, clap::Args)]
pub(crate) struct SeccompProfile {
    /// A profile to which the system calls of io_uring are added, such as Docker's default; the minimal profile is not
    /// printed then.
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
}

/// A profile that cannot be read or completed.
#[derive(Debug)]
pub(crate) struct BadBase {
    file: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Unreadable(io::Error),
    NoJson(serde_json::Error),
    /// The JSON is no profile: the place, and what is missing there.
    NoProfile(String),
}

impl fmt::Display for BadBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match &self.fault {
            Fault::Unreadable(error) => write!(f, "--base: {file} cannot be read: {error}"),
            Fault::NoJson(error) => write!(f, "--base: {file} is no JSON: {error}"),
            Fault::NoProfile(what) => write!(f, "--base: {file} is no seccomp profile: {what}"),
        }
    }
}

impl std::error::Error for BadBase {}

/// Returns the profile as JSON: the minimal one, or the base with the calls of io_uring.
///
/// # Errors
///
/// If the base cannot be read, or is no profile.
pub(crate) fn profile(arguments: SeccompProfile) -> Result<String, BadBase> {
    let profile = match arguments.base {
        None => minimal(),
        Some(file) => {
            let completed = fs::read(&file).map_err(Fault::Unreadable).and_then(|bytes| {
                let base = serde_json::from_slice(&bytes).map_err(Fault::NoJson)?;
                with_io_uring(base).map_err(Fault::NoProfile)
            });
            completed.map_err(|fault| BadBase { file, fault })?
        }
    };
    Ok(format!("{profile:#}"))
}

/// Returns the profile that allows the server's own system calls, and answers all others with EPERM. It names no
/// architecture: the runtime takes its own, and skips names that its architecture does not have.
fn minimal() -> Value {
    let rules = SYSTEM_CALLS.iter().map(|group| allow(&[group.names, group.of_x86_64].concat(), group.purpose));
    json!({ "defaultAction": ERRNO, "defaultErrnoRet": EPERM, "syscalls": rules.collect::<Vec<Value>>() })
}

/// Returns a rule that allows these calls.
fn allow(names: &[&str], comment: &str) -> Value {
    json!({ "names": names, "action": ALLOW, "comment": comment })
}

/// Completes a profile so that it allows the calls of io_uring. Rules that treat these calls otherwise lose their
/// names, since a runtime refuses two rules for one call.
fn with_io_uring(mut base: Value) -> Result<Value, String> {
    let profile = base.as_object_mut().ok_or("it is no object")?;
    let default = text(profile, "defaultAction").ok_or("defaultAction is no text")?;
    let allows_by_default = default == ALLOW;
    let rules = profile.get_mut("syscalls").and_then(Value::as_array_mut).ok_or("syscalls is no list")?;
    let mut missing = IO_URING.names.to_vec();
    for (at, rule) in rules.iter_mut().enumerate() {
        let rule = rule.as_object_mut().ok_or_else(|| format!("syscalls[{at}] is no object"))?;
        let action = text(rule, "action").ok_or_else(|| format!("syscalls[{at}].action is no text"))?;
        let is_plain = action == ALLOW && CONDITIONS.iter().all(|key| rule.get(*key).is_none_or(is_empty));
        let names = names(rule).ok_or_else(|| format!("syscalls[{at}].names is no list of names"))?;
        if is_plain {
            missing.retain(|name| !names.iter().any(|given| given == name));
        } else {
            names.retain(|given| !IO_URING.names.iter().any(|name| given == name));
        }
    }
    rules.retain(|rule| rule["names"] != json!([]));
    if !missing.is_empty() && !allows_by_default {
        rules.push(allow(&missing, IO_URING.purpose));
    }
    Ok(base)
}

/// Returns the names of a rule, also of one in the old form, which has a single `name`.
fn names(rule: &mut Map<String, Value>) -> Option<&mut Vec<Value>> {
    if !rule.contains_key("names")
        && let Some(name) = rule.remove("name")
    {
        rule.insert("names".into(), json!([name]));
    }
    let names = rule.get_mut("names")?.as_array_mut()?;
    names.iter().all(Value::is_string).then_some(names)
}

fn text(object: &Map<String, Value>, key: &str) -> Option<String> {
    object.get(key)?.as_str().map(Into::into)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

const ALLOW: &str = "SCMP_ACT_ALLOW";
const ERRNO: &str = "SCMP_ACT_ERRNO";
const EPERM: i32 = 1;

/// The keys by which a rule holds in some cases only.
const CONDITIONS: [&str; 3] = ["args", "includes", "excludes"];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(base: Value, expected: Value) {
        assert_eq!(with_io_uring(base), Ok(expected));
    }

    #[test]
    fn a_default_profile_gets_the_three_calls() {
        let kept = json!({ "names": ["ptrace"], "action": ALLOW, "includes": { "minKernel": "4.8" } });
        let base = |rules: Vec<Value>| json!({ "defaultAction": ERRNO, "archMap": [], "syscalls": rules });
        let added = allow(IO_URING.names, IO_URING.purpose);
        check(base(vec![kept.clone()]), base(vec![kept.clone(), added.clone()]));
        // A second time there is nothing to add.
        check(base(vec![kept.clone(), added.clone()]), base(vec![kept, added]));
    }

    #[test]
    fn rules_that_refuse_the_calls_give_way() {
        let base = |rules: &[Value]| json!({ "defaultAction": ERRNO, "syscalls": rules });
        let refused = json!({ "names": ["bdflush", "io_uring_setup"], "action": ERRNO, "errnoRet": 1 });
        let alone = json!({ "name": "io_uring_enter", "action": ERRNO });
        let of_root =
            json!({ "names": ["io_uring_enter"], "action": ALLOW, "includes": { "caps": ["CAP_SYS_ADMIN"] } });
        let allowed = json!({ "names": ["io_uring_register"], "action": ALLOW, "args": [], "includes": {} });
        let rest = json!({ "names": ["bdflush"], "action": ERRNO, "errnoRet": 1 });
        let added = allow(&["io_uring_setup", "io_uring_enter"], IO_URING.purpose);
        check(base(&[refused.clone(), alone, of_root, allowed.clone()]), base(&[rest.clone(), allowed, added]));
        // If the profile allows every call that no rule names, a further rule that allows a call is an error.
        let open = |rules: &[Value]| json!({ "defaultAction": ALLOW, "syscalls": rules });
        check(open(&[refused]), open(&[rest]));
    }

    #[test]
    fn a_file_that_is_no_profile_is_refused() {
        let check = |base: Value, expected: &str| assert_eq!(with_io_uring(base), Err(expected.into()));
        check(json!([]), "it is no object");
        check(json!({ "syscalls": [] }), "defaultAction is no text");
        check(json!({ "defaultAction": ERRNO }), "syscalls is no list");
        let rule = |rule: Value| json!({ "defaultAction": ERRNO, "syscalls": [allow(&["read"], ""), rule] });
        check(rule(json!("read")), "syscalls[1] is no object");
        check(rule(json!({ "names": ["read"] })), "syscalls[1].action is no text");
        check(rule(json!({ "action": ALLOW })), "syscalls[1].names is no list of names");
        check(rule(json!({ "names": [1], "action": ALLOW })), "syscalls[1].names is no list of names");
    }
}
