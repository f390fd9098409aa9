//! Why a run could not take place.

use std::fmt;
use std::io;

/// Not a verdict about the server: the run did not happen.
#[derive(Debug)]
pub enum Error {
    /// Flags that contradict each other or cannot be met.
    Options(String),
    /// No connection, or an answer that is not RFC 6455 section 4.2.2.
    Connect(String),
    /// The operating system refused something.
    System {
        /// What was attempted.
        attempt: &'static str,
        /// Its answer.
        error: io::Error,
    },
}

impl Error {
    /// For `map_err` around a system call.
    pub(crate) fn system<E: Into<io::Error>>(attempt: &'static str) -> impl FnOnce(E) -> Error {
        move |error| Error::System { attempt, error: error.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Options(why) | Error::Connect(why) => formatter.write_str(why),
            Error::System { attempt, error } => write!(formatter, "cannot {attempt}: {error}"),
        }
    }
}

impl std::error::Error for Error {}
