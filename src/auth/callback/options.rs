//! The options of a callback.

use std::{fmt, time::Duration};

use super::signature::SECRET_BYTES_MIN;
use crate::proto::is_token;

/// The options of a [`Callback`](super::Callback). The settings `callback_...` of a server are the same.
#[derive(Clone)]
pub struct CallbackOptions {
    pub(super) secrets: Vec<String>,
    pub(super) headers: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) on_error: OnError,
    pub(super) cache_time: Duration,
    pub(super) cache_bytes_max: usize,
}

/// What becomes of a request while the application does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The request is answered 503.
    Deny,
    /// The request is admitted as `unverified`, with all rights that the route and the topic leave to everybody.
    /// Anybody gets in who can make the application slow.
    Allow,
    /// The last answer to the same question holds for up to an hour. Without one, the request is answered 503.
    Last,
}

impl CallbackOptions {
    /// Returns options with these secrets, each of at least 16 characters. A question is signed by every secret, so
    /// that the application can know the new one or the old one while a secret is replaced.
    ///
    /// The header lines `authorization`, `cookie` and `origin` are sent, an answer is awaited for two seconds and kept
    /// for at most five minutes, the answers that are kept take at most 16 MiB, and a request that has no answer is
    /// denied.
    #[must_use]
    pub fn new<S: Into<String>>(secrets: impl IntoIterator<Item = S>) -> CallbackOptions {
        CallbackOptions {
            secrets: secrets.into_iter().map(Into::into).collect(),
            headers: ["authorization", "cookie", "origin"].map(String::from).into(),
            timeout: Duration::from_secs(2),
            on_error: OnError::Deny,
            cache_time: Duration::from_secs(300),
            cache_bytes_max: 16 << 20,
        }
    }

    /// Sends the header lines of these names, and no others, to the application.
    #[must_use]
    pub fn headers<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> CallbackOptions {
        let headers = names.into_iter().map(|name| name.into().to_ascii_lowercase()).collect();
        CallbackOptions { headers, ..self }
    }

    /// Bounds the time for an answer.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> CallbackOptions {
        CallbackOptions { timeout, ..self }
    }

    /// Sets what becomes of a request while the application does not answer.
    #[must_use]
    pub fn on_error(self, on_error: OnError) -> CallbackOptions {
        CallbackOptions { on_error, ..self }
    }

    /// Keeps an answer for this time at most, whatever it says itself; 0 keeps none.
    #[must_use]
    pub fn cache_time(self, time: Duration) -> CallbackOptions {
        CallbackOptions { cache_time: time, ..self }
    }

    /// Bounds the memory of the answers that are kept. Beyond it, the answer goes that was not used for the longest
    /// time.
    #[must_use]
    pub fn cache_bytes_max(self, bytes: usize) -> CallbackOptions {
        CallbackOptions { cache_bytes_max: bytes, ..self }
    }

    /// Checks that questions can be signed and asked.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.secrets.is_empty() {
            return Err("a secret is needed, by which the application knows that the hub asks".into());
        }
        if let Some(at) = self.secrets.iter().position(|secret| secret.len() < SECRET_BYTES_MIN) {
            return Err(format!("secret {} has less than {SECRET_BYTES_MIN} characters", at + 1));
        }
        match self.headers.iter().find(|name| !is_token(name)) {
            Some(name) => Err(format!("{name:?} is no name of a header line")),
            None => Ok(()),
        }
    }
}

/// Prints no secret.
impl fmt::Debug for CallbackOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CallbackOptions { headers, timeout, on_error, .. } = self;
        f.debug_struct("CallbackOptions")
            .field("headers", headers)
            .field("timeout", timeout)
            .field("on_error", on_error)
            .finish_non_exhaustive()
    }
}
