//! The errors that prevent or break off a run.

use std::fmt;
use std::io;

/// The reason why a run could not begin or could not go on. The reason says nothing about the server's deliveries.
#[derive(Debug)]
pub enum Error {
    /// Flags contradict each other, or ask for something that is not possible.
    Options(String),
    /// A connection failed, or the server's answer does not follow RFC 6455 4.2.2.
    Connect(String),
    /// The user ended the run before all connections were open.
    Interrupted {
        /// The connections that were open.
        opened: usize,
        /// The connections that the run needs.
        connections: usize,
    },
    /// A system call failed.
    System {
        /// What was attempted.
        attempt: &'static str,
        /// The error of the system call.
        error: io::Error,
    },
}

impl Error {
    /// Returns a function for `map_err` that makes an error of a failed system call.
    pub(crate) fn system<E: Into<io::Error>>(attempt: &'static str) -> impl FnOnce(E) -> Error {
        move |error| Error::System { attempt, error: error.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Options(why) | Error::Connect(why) => formatter.write_str(why),
            Error::Interrupted { opened, connections } => {
                write!(formatter, "interrupted while connecting: {opened} of {connections} connections were open")
            }
            Error::System { attempt, error } => write!(formatter, "cannot {attempt}: {error}"),
        }
    }
}

impl std::error::Error for Error {}
