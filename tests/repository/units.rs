//! Checks the units of systemd: their directives, and that their numbers agree with compose.yaml and the settings.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ringhub::{config::Settings, sys::system_calls::SYSTEM_CALLS};

use crate::files::root;

/// The directives of a unit, in order: section, key, value.
struct Unit(Vec<(String, String, String)>);

impl Unit {
    fn read(name: &str) -> Unit {
        let (mut section, mut directives) = (String::new(), Vec::new());
        for line in fs::read_to_string(path(name)).unwrap().lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').into();
            } else if !line.is_empty() && !line.starts_with('#') {
                let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
                directives.push((section.clone(), key.into(), value.into()));
            }
        }
        Unit(directives)
    }

    fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter(|(_, own, _)| own == key).map(|(_, _, value)| &**value).collect()
    }

    fn one(&self, key: &str) -> &str {
        let [value] = self.all(key)[..] else { panic!("{key} stands {} times", self.all(key).len()) };
        value
    }

    fn number(&self, key: &str) -> u64 {
        self.one(key).parse().unwrap()
    }
}

fn path(name: &str) -> PathBuf {
    root().join("deploy").join(name)
}

#[test]
fn the_service_has_its_notifications_watchdog_and_times() {
    let service = Unit::read("ringhub.service");
    assert_eq!((service.one("Type"), service.one("KillMode")), ("notify", "mixed"));
    assert_eq!(service.one("ExecReload"), "/usr/bin/ringhub reload --pid $MAINPID");
    assert!(service.number("WatchdogSec") >= 5);
    let drain = Settings::default().drain_timeout.0.as_secs();
    assert!(service.number("TimeoutStopSec") > drain);
    let compose = fs::read_to_string(root().join("compose.yaml")).unwrap();
    assert!(compose.contains(&format!("stop_grace_period: {}s", service.number("TimeoutStopSec"))));
    let descriptors = service.number("LimitNOFILE");
    for place in [format!("soft: {descriptors}"), format!("hard: {descriptors}")] {
        assert!(compose.contains(&place), "compose.yaml has not {place}");
    }
}

#[test]
fn the_socket_is_that_of_the_settings() {
    let socket = Unit::read("ringhub.socket");
    assert_eq!(socket.all("ListenStream"), [Settings::default().listen[0].to_string()]);
    // Connections are accepted by the server, and not by systemd.
    assert!(socket.all("Accept").is_empty());
    let service = Unit::read("ringhub.service");
    assert_eq!((service.one("Requires"), service.one("Also")), ("ringhub.socket", "ringhub.socket"));
}

/// The service has every directive of the hardening.
#[test]
fn the_service_is_hardened() {
    let service = Unit::read("ringhub.service");
    let on = [
        "DynamicUser",
        "NoNewPrivileges",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectClock",
        "ProtectHostname",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
        "LockPersonality",
        "MemoryDenyWriteExecute",
    ];
    for key in on {
        assert_eq!(service.one(key), "yes", "{key}");
    }
    let pairs = [
        ("ProtectSystem", "strict"),
        ("CapabilityBoundingSet", ""),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("SystemCallArchitectures", "native"),
        ("UMask", "0077"),
    ];
    for (key, value) in pairs {
        assert_eq!(service.one(key), value, "{key}");
    }
}

/// The package contains both units and the repository's other files for it, and all of them exist.
#[test]
fn the_package_has_files_that_are_there() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, package) = manifest.split_once("[package.metadata.deb]").unwrap();
    let script = fs::read_to_string(path("deb")).unwrap();
    let assets: Vec<&str> =
        package.lines().filter_map(|line| line.trim().strip_prefix("[\"")?.split('"').next()).collect();
    assert!(assets.len() >= 10, "{assets:?}");
    for asset in assets {
        if let Some(made) = asset.strip_prefix("target/deb/") {
            let file = made.replace("*.1", "$name.1").replace("_*", "_$name").replace("*.fish", "$name.fish");
            let file = file.replace("**/*", "$crate").replace("ringhub-loadgen", "ringhub");
            let file = file.replace("ringhub.bash", "$name.bash");
            assert!(script.contains(&format!("\"$made/{file}")), "{asset}");
        } else if let Some(folder) = asset.strip_suffix("/*.md") {
            assert!(root().join(folder).is_dir(), "{asset}");
        } else if !["target/release/ringhub", "target/release/ringhub-loadgen"].contains(&asset) {
            assert!(root().join(asset).is_file(), "{asset}");
        }
    }
    assert!(package.contains("unit-scripts = \"deploy\", unit-name = \"ringhub\""));
}

/// Copies of both units in a temporary folder, whose program exists.
struct Copies(PathBuf);

impl Copies {
    fn new() -> Copies {
        let folder = std::env::temp_dir().join(format!("ringhub-units-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in ["ringhub.service", "ringhub.socket"] {
            let unit = fs::read_to_string(path(name)).unwrap();
            fs::write(folder.join(name), unit.replace("/usr/bin/ringhub", "/bin/true")).unwrap();
        }
        Copies(folder)
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Runs systemd-analyze, and returns whether it succeeded, and its output; `None` if it is not installed.
fn analyze(folder: &Path, arguments: &[&str]) -> Option<(bool, String)> {
    let output = Command::new("systemd-analyze").args(arguments).current_dir(folder).output();
    let Ok(output) = output else {
        println!("systemd-analyze is not installed");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Some((output.status.success(), text.into()))
}

/// If systemd is installed, it accepts the units without a warning, and rates their exposure low.
#[test]
fn systemd_accepts_the_units() {
    let copies = Copies::new();
    let verify = ["verify", "--man=no", "./ringhub.service", "./ringhub.socket"];
    let Some((is_good, told)) = analyze(&copies.0, &verify) else { return };
    let about_ours: Vec<&str> = told.lines().filter(|line| line.contains("ringhub")).collect();
    assert!(is_good && about_ours.is_empty(), "{told}");
    // The threshold of the exposure, where 100 is the worst.
    let security = ["security", "--offline=yes", "--threshold=20", "--no-pager", "./ringhub.service"];
    let (is_good, told) = analyze(&copies.0, &security).unwrap();
    assert!(is_good, "{told}");
}

/// If systemd is installed, the service may make every system call of the server's table, and those of io_uring.
#[test]
fn the_service_may_make_the_calls_that_it_needs() {
    let Some((_, groups)) = analyze(&root(), &["syscall-filter", "--no-pager"]) else { return };
    let mut allowed = BTreeSet::new();
    for filter in Unit::read("ringhub.service").all("SystemCallFilter") {
        let (is_denied, names) = match filter.strip_prefix('~') {
            Some(names) => (true, names),
            None => (false, filter),
        };
        for call in names.split(' ').flat_map(|name| members(&groups, name)) {
            if is_denied {
                allowed.remove(&call);
            } else {
                allowed.insert(call);
            }
        }
    }
    // The last group is for container runtimes, so it is left out.
    let own = SYSTEM_CALLS.iter().rev().skip(1).flat_map(|group| group.names.iter().chain(group.of_x86_64));
    let missing: Vec<&&str> = own.filter(|call| !allowed.contains(**call)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for call in ["ptrace", "mount", "reboot", "setuid"] {
        assert!(!allowed.contains(call), "{call}");
    }
}

/// Returns the system calls of a group; a name that is no group is a call.
fn members(groups: &str, name: &str) -> Vec<String> {
    if !name.starts_with('@') {
        return vec![name.into()];
    }
    let mut lines = groups.lines().skip_while(|line| *line != name).skip(1);
    let mut members = Vec::new();
    for line in lines.by_ref().take_while(|line| line.starts_with(' ')) {
        let line = line.trim();
        if !line.starts_with('#') {
            members.extend(self::members(groups, line));
        }
    }
    assert!(!members.is_empty(), "no group {name}");
    members
}
