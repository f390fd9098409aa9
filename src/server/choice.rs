//! The choice of a server's backend, once, before anything listens.

use std::fmt;

use crate::{
    config::IoChoice,
    error::StartError,
    metrics::BackendInfo,
    sys::{
        BackendKind,
        uring::{
            cause::RefusalCause,
            probe::{ProbeError, probe},
        },
    },
};

/// The backend of a server, and the reason for it. A server never changes its backend while it runs.
#[derive(Debug)]
pub struct ChosenBackend {
    pub(super) kind: BackendKind,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    /// The setting names the backend.
    Setting,
    /// The kernel allows everything that the hub needs of io_uring.
    Available,
    /// The kernel does not allow io_uring.
    Refused(ProbeError, RefusalCause),
}

impl ChosenBackend {
    /// Chooses the backend that a server with this setting would have here. Unless the setting is `epoll`, the
    /// probe tries everything that the hub needs of io_uring.
    ///
    /// # Errors
    ///
    /// [`StartError::Probe`] if the setting is `uring` and the kernel does not allow it.
    pub fn choose(setting: IoChoice) -> Result<ChosenBackend, StartError> {
        Self::by(setting, probe)
    }

    fn by(setting: IoChoice, probe: impl FnOnce() -> Result<(), ProbeError>) -> Result<ChosenBackend, StartError> {
        let (kind, reason) = match setting {
            IoChoice::Epoll => (BackendKind::Epoll, Reason::Setting),
            IoChoice::Uring => {
                probe().map_err(|error| {
                    let cause = RefusalCause::of(&error);
                    StartError::Probe(error, cause)
                })?;
                (BackendKind::Uring, Reason::Setting)
            }
            IoChoice::Auto => match probe() {
                Ok(()) => (BackendKind::Uring, Reason::Available),
                Err(error) => {
                    let cause = RefusalCause::of(&error);
                    (BackendKind::Epoll, Reason::Refused(error, cause))
                }
            },
        };
        Ok(ChosenBackend { kind, reason })
    }

    /// Returns the line for the operator if io_uring is refused and the server serves without it: what was refused, the
    /// likely cause, and the remedy.
    #[must_use]
    pub fn fallback(&self) -> Option<String> {
        let Reason::Refused(error, cause) = &self.reason else { return None };
        let remedy = cause.remedy();
        Some(format!(
            "{error}. The likely cause: {cause}. The hub serves on epoll instead, with a system call \
             for each send rather than for each batch, which takes about a tenth more CPU where messages \
             are few. The remedy: {remedy}. `--io epoll` takes epoll \
             without this warning."
        ))
    }

    /// Returns the backend and the reason as labels of a metric: few values, none of them from outside.
    #[must_use]
    pub fn info(&self) -> BackendInfo {
        let reason = match &self.reason {
            Reason::Setting => "setting".into(),
            Reason::Available => "available".into(),
            Reason::Refused(error, _) => error.label(),
        };
        BackendInfo { backend: self.kind.to_string(), reason }
    }
}

/// Writes the backend and the reason, for people.
impl fmt::Display for ChosenBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reason {
            Reason::Setting => write!(f, "{} (by the setting io)", self.kind),
            Reason::Available => write!(f, "{} (everything that it needs is allowed)", self.kind),
            Reason::Refused(error, _) => write!(f, "{} (io_uring: {})", self.kind, error.refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::sys::uring::probe::{Call, tests::refusals};

    fn refusal() -> ProbeError {
        ProbeError::Refused(Call::Setup, io::Error::from_raw_os_error(libc::EPERM))
    }

    fn chosen(setting: IoChoice, outcome: Result<(), ProbeError>) -> Result<ChosenBackend, StartError> {
        ChosenBackend::by(setting, || outcome)
    }

    #[test]
    fn auto_takes_the_first_that_is_allowed() {
        let uring = chosen(IoChoice::Auto, Ok(())).unwrap();
        assert_eq!((uring.kind, uring.fallback()), (BackendKind::Uring, None));
        assert_eq!(uring.info(), BackendInfo { backend: "uring".into(), reason: "available".into() });
        let epoll = chosen(IoChoice::Auto, Err(refusal())).unwrap();
        assert_eq!(epoll.kind, BackendKind::Epoll);
        assert_eq!(epoll.info(), BackendInfo { backend: "epoll".into(), reason: "io_uring_setup EPERM".into() });
        let line = epoll.fallback().unwrap();
        assert!(line.contains("io_uring_setup fails with EPERM") && line.contains("on epoll"), "{line}");
        assert!(!line.contains('\n'), "{line}");
        assert_eq!(epoll.to_string(), "epoll (io_uring: io_uring_setup fails with EPERM)");
    }

    /// Whatever the kernel refuses: `auto` serves on epoll with one line about it, and `uring` does not start.
    #[test]
    fn each_refusal_gives_the_fallback_or_the_strict_error() {
        for (what, error) in refusals() {
            let label = error.label();
            let epoll = chosen(IoChoice::Auto, Err(error)).unwrap();
            assert_eq!(epoll.kind, BackendKind::Epoll, "{what}");
            assert_eq!(epoll.info(), BackendInfo { backend: "epoll".into(), reason: label });
            let line = epoll.fallback().unwrap();
            assert!(line.starts_with(&format!("io_uring cannot be used: {what}. The likely cause: ")), "{line}");
            assert!(
                line.contains("on epoll instead") && line.contains("The remedy: ") && !line.contains('\n'),
                "{line}"
            );
        }
        for (what, error) in refusals() {
            let cause = RefusalCause::of(&error);
            let error = chosen(IoChoice::Uring, Err(error)).unwrap_err();
            let told = format!(
                "io_uring cannot be used: {what}. The likely cause: {cause}. The remedy: {}. The server would start on \
                 epoll with `--io auto` or `--io epoll`.",
                cause.remedy()
            );
            assert!(matches!(error, StartError::Probe(..)), "{what}: {error}");
            assert_eq!(error.to_string(), told);
            assert!(!told.contains('\n') && !told.contains("unconfined"), "{told}");
        }
    }

    #[test]
    fn a_named_backend_is_taken_or_refused() {
        let error = chosen(IoChoice::Uring, Err(refusal())).unwrap_err();
        assert!(matches!(error, StartError::Probe(ProbeError::Refused(Call::Setup, _), _)), "{error}");
        let uring = chosen(IoChoice::Uring, Ok(())).unwrap();
        assert_eq!(uring.to_string(), "uring (by the setting io)");
        let epoll = ChosenBackend::by(IoChoice::Epoll, || panic!("io_uring is not asked for")).unwrap();
        assert_eq!((epoll.kind, epoll.fallback()), (BackendKind::Epoll, None));
        assert_eq!(epoll.info().reason, "setting");
    }
}
