//! The handle by which any thread sends requests, and the targets of these.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    error::OutboundError,
    job::{Entrance, Job, Reply},
    message::{OutboundAnswer, OutboundRequest},
    url::{TargetUrl, TargetUrlError},
};

/// The way by which requests of a server leave it, from any thread. A clone is another handle to the same way.
///
/// Requests are made by the server that the handle belongs to, once this server has started. If several servers have
/// been started with the same settings, the first one that still serves makes them.
#[derive(Clone, Default)]
pub struct Outbound(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The entrances of the services that make the requests.
    entrances: Vec<Entrance>,
    has_targets: bool,
    has_secure_targets: bool,
}

impl Outbound {
    /// Returns the target of a URL, such as `https://app.example/ringhub`. All targets have to be made before the
    /// server starts.
    ///
    /// ```
    /// use ringhub::outbound::Outbound;
    /// let outbound = Outbound::default();
    /// assert!(outbound.target("https://app.example/ringhub?site=1").is_ok());
    /// let error = outbound.target("ftp://app.example/").unwrap_err();
    /// assert_eq!(error.to_string(), "the scheme \"ftp\" is not supported; write it like https://app.example/ringhub");
    /// ```
    ///
    /// # Errors
    ///
    /// If the URL has another scheme than `http` or `https`, credentials, a fragment, or no host.
    pub fn target(&self, url: &str) -> Result<Target, TargetUrlError> {
        let url = TargetUrl::parse(url)?;
        self.with(|state| {
            state.has_targets = true;
            state.has_secure_targets |= url.is_secure();
        });
        Ok(Target { outbound: self.clone(), url: Arc::new(url) })
    }

    /// Returns whether there is a target.
    #[must_use]
    pub fn has_targets(&self) -> bool {
        self.with(|state| state.has_targets)
    }

    /// Returns whether there is a target with TLS.
    pub(super) fn has_secure_targets(&self) -> bool {
        self.with(|state| state.has_secure_targets)
    }

    /// Lets a service make the requests, if none before it still serves.
    pub(super) fn attach(&self, entrance: &Entrance) {
        self.with(|state| state.entrances.push(entrance.clone()));
    }

    /// Lets the service of another handle make the requests too: after a reload of the settings, whose handle is new.
    pub(crate) fn join(&self, serving: &Outbound) {
        let entrances = serving.with(|state| state.entrances.clone());
        entrances.iter().for_each(|entrance| self.attach(entrance));
    }

    /// Hands a job to the first service that serves. Without one, and if the service has too many jobs, the job fails.
    fn submit(&self, job: Job) {
        let entrance = self.with(|state| {
            state.entrances.retain(Entrance::is_open);
            state.entrances.first().cloned()
        });
        match entrance {
            Some(entrance) => entrance.submit(job),
            None => job.reply.send(Err(OutboundError::NotServing)),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // No call panics while it holds the lock.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("has_targets", &self.has_targets()).finish_non_exhaustive()
    }
}

/// A URL to which a server sends requests.
#[derive(Clone)]
pub struct Target {
    outbound: Outbound,
    url: Arc<TargetUrl>,
}

impl Target {
    /// Returns the whole URL, which may have a secret.
    pub(crate) fn whole_url(&self) -> String {
        format!("{}{}", self.url, self.url.target())
    }

    /// Sends a request, and returns its answer. The caller may await it on any thread.
    ///
    /// # Errors
    ///
    /// [`OutboundError`], at the latest after twice the time of the request: once for the wait until it is under way,
    /// and once for its answer. A status such as 500 is an answer, not an error.
    pub fn send(
        &self,
        request: OutboundRequest,
    ) -> impl Future<Output = Result<OutboundAnswer, OutboundError>> + Send + 'static {
        let (answer, answered) = oneshot::channel();
        // Nobody may wait for the answer any more.
        self.start(request, |outcome| drop(answer.send(outcome)));
        async { answered.await.unwrap_or(Err(OutboundError::NotServing)) }
    }

    /// Sends a request. `done` is called once: with the answer on the control thread, or at once if the request cannot
    /// be made. It must not take long, since the control thread serves others.
    pub fn start(
        &self,
        request: OutboundRequest,
        done: impl FnOnce(Result<OutboundAnswer, OutboundError>) + Send + 'static,
    ) {
        let wait_until = Instant::now() + request.timeout;
        let reply = Reply::new(Box::new(done));
        self.outbound.submit(Job { url: Arc::clone(&self.url), request, wait_until, reply });
    }
}

/// Prints the scheme, the host and the port: a path or a query may have a secret.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({})", self.url)
    }
}

/// Writes the scheme, the host and the port.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}
