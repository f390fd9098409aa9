//! The rules of a route that decide which clients may use it.

use std::{fmt, sync::Arc};

use super::{Authenticator, Identity, credentials::Credentials, origins::Origins};
use crate::proto::Refusal;

/// The origins and the authenticator of a route.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    /// The origins, if they are not those of the server.
    pub(crate) origins: Option<Origins>,
    /// The authenticator, if the route is not for every client.
    pub(crate) authenticator: Option<Arc<dyn Authenticator>>,
}

impl Gate {
    /// Returns the origins whose pages may pass; `origins` are the server's.
    pub(crate) fn origins_or<'a>(&'a self, origins: &'a Origins) -> &'a Origins {
        self.origins.as_ref().unwrap_or(origins)
    }

    /// Admits a request, and returns the identity that the authenticator has found; `origins` are the server's.
    ///
    /// # Errors
    ///
    /// 403 if `Origin` or `Sec-Fetch-Site` shows that the page is of another origin; otherwise the refusal of the
    /// authenticator.
    pub(crate) fn admit(&self, origins: &Origins, credentials: &Credentials<'_>) -> Result<Option<Identity>, Refusal> {
        let origins = self.origins_or(origins);
        origins.check(credentials.head)?;
        let credentials = &credentials.behind(origins);
        self.authenticator.as_ref().map(|authenticator| authenticator.authenticate(credentials)).transpose()
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authenticator = self.authenticator.as_ref().map(|_| "an authenticator");
        f.debug_struct("Gate").field("origins", &self.origins).field("authenticator", &authenticator).finish()
    }
}
