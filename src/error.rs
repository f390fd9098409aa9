//! The errors for operators and embedders. The errors for peers stand in `proto`.

use std::{fmt, io, net::SocketAddr, path::Path, sync::Arc};

use crate::sys::{
    sandbox::SandboxError,
    uring::{cause::RefusalCause, probe::ProbeError},
};

/// An error of the settings: the setting, the fault, and the source of the value.
///
/// The error's text never repeats a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    setting: Option<&'static str>,
    what: Box<str>,
    origin: Origin,
    /// Another setting that the value contradicts, and the source of the other value.
    against: Option<(&'static str, Origin)>,
    /// Whether the machine is at fault, and the text leaves out the setting, which nobody has given.
    is_of_default: bool,
}

impl ConfigError {
    /// Returns the error of a setting, by its key, whose value cannot be used.
    pub(crate) fn of(setting: &'static str, what: String) -> Self {
        ConfigError {
            setting: Some(setting),
            what: what.into(),
            origin: Origin::Default,
            against: None,
            is_of_default: false,
        }
    }

    /// Returns the error of a setting that is not given, and whose default this machine does not allow.
    pub(crate) fn of_default(setting: &'static str, what: String) -> Self {
        ConfigError { is_of_default: true, ..ConfigError::of(setting, what) }
    }

    /// Returns the error of a place in a source that is not a setting.
    pub(crate) fn at(origin: Origin, what: String) -> Self {
        ConfigError { setting: None, what: what.into(), origin, against: None, is_of_default: false }
    }

    pub(crate) fn from(self, origin: Origin) -> Self {
        ConfigError { origin, ..self }
    }

    pub(crate) fn against(self, setting: &'static str) -> Self {
        ConfigError { against: Some((setting, Origin::Default)), ..self }
    }

    /// Adds the setting that the value contradicts, and its source.
    pub(crate) fn against_one(self, setting: &'static str, origin: Origin) -> Self {
        ConfigError { against: Some((setting, origin)), ..self }
    }

    /// Adds the sources of the error's settings.
    pub(crate) fn located(self, origin: impl Fn(&str) -> Origin) -> Self {
        let against = self.against.map(|(setting, _)| (setting, origin(setting)));
        let own = self.setting.map_or(self.origin, &origin);
        ConfigError { origin: own, against, ..self }
    }

    /// Returns the setting's key, such as `max_message`; `None` for an entry that is not a setting.
    #[must_use]
    pub fn setting(&self) -> Option<&'static str> {
        self.setting
    }

    /// Returns the source of the value.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns the setting and the setting that it contradicts.
    pub(crate) fn settings(&self) -> impl Iterator<Item = &'static str> {
        self.setting.into_iter().chain(self.against.iter().map(|(setting, _)| *setting))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, self.setting) {
            (Origin::Default, _) if self.is_of_default => f.write_str(&self.what)?,
            (Origin::Default, Some(setting)) => write!(f, "{setting}: {}", self.what)?,
            (Origin::File(..), Some(setting)) => write!(f, "{}: {setting}: {}", self.origin, self.what)?,
            // The names of flags and variables name the setting.
            (origin, _) => write!(f, "{origin}: {}", self.what)?,
        }
        match &self.against {
            Some((_, Origin::Default)) | None => Ok(()),
            Some((setting, origin)) => write!(f, " ({setting} is from {origin})"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// All errors of the settings, at least one. Each is a line of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if number > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The source of a setting's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// No source has given a value.
    Default,
    /// A line of a file, counted from 1.
    File(Arc<Path>, usize),
    /// An environment variable, by its name.
    Variable(String),
    /// An argument of the command line, such as `--max-message`.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) | Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// The reason for which a server does not start, or has stopped.
#[derive(Debug)]
pub enum StartError {
    /// The setting `io` demands io_uring, and the kernel or the container does not allow it.
    Probe(ProbeError, RefusalCause),
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The address for `/metrics` cannot be listened on.
    ListenMetrics(SocketAddr, io::Error),
    /// A listener that another process has opened cannot be used.
    Inherit(io::Error),
    /// A shard could not be set up.
    Shard(io::Error),
    /// The control thread could not be set up.
    Control(io::Error),
    /// The sandbox that the settings ask for cannot be set up. The sandbox of rings is part of a shard's set-up.
    Sandbox(SandboxError),
    /// The server cannot send requests to the URLs of its settings: it trusts no certificate authority.
    Outbound(String),
    /// A shard has ended on its own, which is a bug; the server cannot serve without it. A thread that ends without a
    /// report of its end is taken for a shard, although it may have been the control thread.
    ShardDied(String),
    /// The control thread has ended on its own, which is a bug.
    ControlDied(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Probe(error, cause) => write!(
                f,
                "{error}. The likely cause: {cause}. The remedy: {}. The server would start on epoll with `--io auto` \
                 or `--io epoll`.",
                cause.remedy()
            ),
            StartError::Listen(address, error) => not_listening(f, address, error, "--listen"),
            StartError::ListenMetrics(address, error) => not_listening(f, address, error, "--metrics-listen"),
            StartError::Inherit(error) => write!(f, "a listener that was passed to the server cannot be used: {error}"),
            StartError::Shard(error) => write!(f, "a shard could not be set up: {error}"),
            StartError::Control(error) => write!(f, "the control thread could not be set up: {error}"),
            StartError::Sandbox(error) => error.fmt(f),
            StartError::Outbound(error) => write!(f, "requests to https URLs cannot be made: {error}"),
            StartError::ShardDied(how) => write!(f, "a shard has ended, which it never should: {how}"),
            StartError::ControlDied(how) => write!(f, "the control thread has ended, which it never should: {how}"),
        }
    }
}

/// Writes the cause, and the flag to look at.
fn not_listening(f: &mut fmt::Formatter<'_>, address: &SocketAddr, error: &io::Error, flag: &str) -> fmt::Result {
    match error.kind() {
        io::ErrorKind::AddrInUse => write!(
            f,
            "{address} is in use: another ringhub or another server listens there. Stop it, or choose another address \
             with {flag}."
        ),
        io::ErrorKind::PermissionDenied => write!(
            f,
            "{address} may not be listened on ({error}). Ports below 1024 need a privilege; choose another with {flag}."
        ),
        io::ErrorKind::AddrNotAvailable => {
            write!(f, "{address} is not an address of this machine ({error}). Choose another with {flag}.")
        }
        _ => write!(f, "{address} cannot be listened on: {error}"),
    }
}

impl std::error::Error for StartError {}
