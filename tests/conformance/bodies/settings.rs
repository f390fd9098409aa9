//! Compares files of settings with the printed forms of their configurations.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use ringhub::{
    config::{Config, Flags, Given, ListenAddress, effective},
    error::{ConfigError, Origin},
};
use toml::de::{DeTable, DeValue};

/// Checks that any file gives a configuration, or errors that name a line of the file and its setting and show no
/// secret. The printed form of a configuration gives the same configuration.
///
/// Returns whether the file is valid.
pub(crate) fn settings(bytes: &[u8]) -> bool {
    let file = TempFile::new(bytes);
    let given = file.read();
    if given.settings.listen.iter().any(|address| matches!(address, ListenAddress::Name(..))) {
        // No test uses a name server.
        return false;
    }
    match given.config(DESCRIPTORS) {
        Ok(config) => {
            assert_eq!(given.check_sources(), Ok(()));
            check_printed(&given, &config);
            true
        }
        Err(errors) => {
            assert!(!errors.0.is_empty());
            errors.0.iter().for_each(|error| check_error(error, &file.0, bytes));
            false
        }
    }
}

fn check_printed(given: &Given, config: &Config) {
    let printed = effective(given, config);
    let file = TempFile::new(unmasked(&printed).as_bytes());
    let again = file.read();
    let config_again = again.config(DESCRIPTORS).unwrap_or_else(|errors| panic!("{errors}\n{printed}"));
    assert_eq!(shown(&config_again), shown(config), "{printed}");
    assert_eq!(without_origins(&effective(&again, &config_again)), without_origins(&printed));
}

/// Returns a printed configuration with a text in place of each secret's mask, since masks are not valid secrets.
fn unmasked(printed: &str) -> String {
    let parts = printed.split("***").enumerate();
    parts.map(|(at, part)| if at == 0 { part.into() } else { format!("secret-{at}{part}") }).collect()
}

/// Returns all values of a configuration in words.
fn shown(config: &Config) -> String {
    let routes = config.routes.iter().map(|route| format!("\n{} {:?}", route.handler, route.rules));
    format!("{config:?}{}", routes.collect::<String>())
}

/// Returns the lines of a printed configuration without the sources of the settings.
fn without_origins(printed: &str) -> Vec<&str> {
    printed.lines().map(|line| line.split("  # ").next().unwrap_or_default().trim_end()).collect()
}

fn check_error(error: &ConfigError, path: &Path, bytes: &[u8]) {
    let text = error.to_string();
    assert!(text.contains(&*path.to_string_lossy()), "every error comes from the file: {text}");
    if let Origin::File(named, line) = error.origin() {
        let lines = 1 + bytes.iter().filter(|&&byte| byte == b'\n').count();
        assert!(**named == *path && (1..=lines).contains(line), "{text}");
        assert!(text.starts_with(&format!("{}:{line}: ", path.display())), "{text}");
    }
    if let Some(setting) = error.setting() {
        assert!(text.contains(setting), "{text}");
    }
    let file = String::from_utf8_lossy(bytes);
    // Without lists, tables, escapes and multi-line texts, each setting is in one line.
    let has_short_values =
        !file.contains(['\\', '[', '{']) && !["\"\"\"", "'''"].iter().any(|quotes| file.contains(quotes));
    if let (Some(setting), Origin::File(_, line), true) = (error.setting(), error.origin(), has_short_values) {
        assert!(file.lines().nth(line - 1).is_some_and(|line| line.contains(setting)), "{text} in\n{file}");
    }
    // A text that is in the file more than once may be shown.
    for secret in secrets(&file).iter().filter(|secret| secret.len() > 5 && file.matches(&**secret).count() == 1) {
        assert!(!text.contains(&**secret), "the error shows a secret: {text}");
    }
}

/// Returns the tokens and passwords of a file if it is TOML.
fn secrets(file: &str) -> Vec<String> {
    let mut secrets = Vec::new();
    let Ok(table) = DeTable::parse(file) else { return secrets };
    for (key, value) in table.get_ref() {
        match (key.get_ref().as_ref(), value.get_ref()) {
            ("publish_tokens" | "subscribe_tokens" | "metrics_tokens", value) => texts(value, &mut secrets),
            ("routes", DeValue::Array(routes)) => {
                for route in routes {
                    for path in [["bearer", "tokens"], ["basic", "users"]] {
                        let inner = path
                            .iter()
                            .try_fold(route.get_ref(), |value, key| value.get(*key).map(|value| value.get_ref()));
                        inner.into_iter().for_each(|value| texts(value, &mut secrets));
                    }
                }
            }
            _ => {}
        }
    }
    secrets
}

/// Appends all texts in a value.
fn texts(value: &DeValue<'_>, all: &mut Vec<String>) {
    match value {
        DeValue::String(text) => all.push(text.to_string()),
        DeValue::Array(items) => items.iter().for_each(|item| texts(item.get_ref(), all)),
        DeValue::Table(table) => table.iter().for_each(|(_, value)| texts(value.get_ref(), all)),
        _ => {}
    }
}

/// A file that a drop removes.
struct TempFile(PathBuf);

impl TempFile {
    fn new(bytes: &[u8]) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("ringhub-{}-{}.toml", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = env::temp_dir().join(name);
        fs::write(&path, bytes).expect("the folder of temporary files can be written");
        TempFile(path)
    }

    fn read(&self) -> Given {
        let mut flags = Flags::default();
        flags.read_file(self.0.clone(), "FILE");
        Given::read(&flags, [])
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// A number of descriptors that exceeds the needs of the defaults on any machine.
const DESCRIPTORS: u64 = 20_000;
