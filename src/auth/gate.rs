//! The rules of a route that decide which clients may use it.

use std::{fmt, sync::Arc};

use super::{Authenticator, Identity, answers::Later, credentials::Credentials, origins::Origins};
use crate::proto::Refusal;

/// The origins and the authenticator of a route.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    /// The origins, if they are not those of the server.
    pub(crate) origins: Option<Origins>,
    /// The authenticator, if the route is not for every client.
    pub(crate) authenticator: Option<Arc<dyn Authenticator>>,
}

/// The reason for which a gate does not admit a request.
pub(crate) enum Stopped {
    /// The origin or the authenticator refuses the request.
    Refused(Refusal),
    /// The authenticator can decide when this work is done.
    Waits(Later),
}

impl Gate {
    /// Returns the origins whose pages may pass; `origins` are the server's.
    pub(crate) fn origins_or<'a>(&'a self, origins: &'a Origins) -> &'a Origins {
        self.origins.as_ref().unwrap_or(origins)
    }

    /// Returns whether this gate decides about every request as the other one does, since both have the same
    /// authenticator and the same origins.
    pub(crate) fn is_same(&self, other: &Gate) -> bool {
        let is_same_authenticator = match (&self.authenticator, &other.authenticator) {
            (None, None) => true,
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (Some(_), None) | (None, Some(_)) => false,
        };
        is_same_authenticator && self.origins == other.origins
    }

    /// Returns whether a cookie alone may admit a request.
    pub(crate) fn takes_cookies(&self) -> bool {
        self.authenticator.as_ref().is_some_and(|authenticator| authenticator.takes_cookies())
    }

    /// Returns whether the decision depends on the topic of the request.
    pub(crate) fn depends_on_topic(&self) -> bool {
        self.authenticator.as_ref().is_some_and(|authenticator| authenticator.depends_on_topic())
    }

    /// Returns whether a request shows credentials that the authenticator would look at.
    pub(crate) fn sees_credentials(&self, credentials: &Credentials<'_>) -> bool {
        self.authenticator.as_ref().is_some_and(|authenticator| authenticator.sees_credentials(credentials))
    }

    /// Admits a request, and returns the identity that the authenticator has found, with those of further
    /// authenticators behind it ([`Identity::each`]); `origins` are the server's.
    ///
    /// # Errors
    ///
    /// 403 if `Origin` or `Sec-Fetch-Site` shows that the page is of another origin; otherwise the refusal of the
    /// authenticator. [`Stopped::Waits`] only for a request that can wait: one whose credentials have answers.
    pub(crate) fn admit(&self, origins: &Origins, credentials: &Credentials<'_>) -> Result<Option<Identity>, Stopped> {
        let origins = self.origins_or(origins);
        origins.check(credentials.head).map_err(Stopped::Refused)?;
        let credentials = &credentials.behind(origins);
        let Some(authenticator) = &self.authenticator else { return Ok(None) };
        if credentials.answers().is_some()
            && let Some(later) = authenticator.prepare(credentials)
        {
            return Err(Stopped::Waits(later));
        }
        authenticator.authenticate(credentials).map(Some).map_err(Stopped::Refused)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authenticator = self.authenticator.as_ref().map(|_| "an authenticator");
        f.debug_struct("Gate").field("origins", &self.origins).field("authenticator", &authenticator).finish()
    }
}
