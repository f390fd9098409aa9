//! An authenticator that asks the application: an endpoint of the application's own HTTP server decides who a client is
//! and what it may do.
//!
//! The bytes of a question and of its answer stand in docs/callbacks.md. A question is asked once for all requests
//! that would ask the same at the same time. An answer is kept for the time that it allows, at most
//! [`CallbackOptions::cache_time`]. Its key is a hash of the whole question, so a different question never gets it.

mod answer;
mod breaker;
mod cache;
mod core;
mod options;
mod question;
mod signature;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

pub use options::{CallbackOptions, OnError};

use self::{
    answer::Subject,
    core::{Core, Outcome},
    question::Question,
};
use super::{Answers, Authenticator, Credentials, Identity, Later, PermissionSource, TopicQuestion};
use crate::{outbound::Target, proto::Refusal};

/// Asks an endpoint of the application who the sender of a request is, and, where the rule of a topic says so, whether
/// the sender may use the topic. A clone asks the same endpoint, and shares the answers that are kept.
///
/// ```
/// use ringhub::{
///     auth::{Callback, CallbackOptions},
///     handler::RouteOptions,
///     server::Server,
/// };
/// let builder = Server::builder();
/// let target = builder.outbound().target("https://app.example/ringhub")?;
/// let callback = Callback::new(target, CallbackOptions::new(["a long secret, 16 characters or more"]))?;
/// let options = RouteOptions::new().authenticator(callback);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Callback(Arc<Core>);

impl Callback {
    /// Returns the callback to an endpoint of the application.
    ///
    /// # Errors
    ///
    /// A sentence about the first option that cannot be used. It shows no secret.
    pub fn new(target: Target, options: CallbackOptions) -> Result<Callback, String> {
        options.check()?;
        Ok(Callback(Arc::new(Core::new(target, options))))
    }

    /// Returns whether a header line is sent to the application.
    pub(crate) fn sends_header(&self, name: &str) -> bool {
        self.0.options().headers.iter().any(|sent| sent == name)
    }

    /// Returns what becomes of a request while the application does not answer.
    pub(crate) fn on_error(&self) -> OnError {
        self.0.options().on_error
    }

    /// Returns the most bytes of memory of the answers that are kept.
    pub(crate) fn cache_bytes_max(&self) -> usize {
        self.0.options().cache_bytes_max
    }

    /// Returns the bytes of memory of the answers that are kept now.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.0.cache_bytes()
    }

    /// Returns the outcome of a question: that which the request has waited for, or one that is kept.
    fn known(&self, question: &Question, answers: Option<&Answers>) -> Result<Identity, Refusal> {
        let waited = answers.and_then(|answers| answers.get::<Outcome>(&self.0.name_of(question)));
        let outcome = waited.map(|outcome| (*outcome).clone()).or_else(|| self.0.kept(question));
        outcome.ok_or_else(|| Refusal::no_decision("the application has not been asked yet"))?.decide()
    }

    /// Finds the outcome of a question, for the answers of a request. Returns the work to wait for, if the application
    /// has to be asked: it asks when it is first polled.
    fn prepared(&self, subject: Subject, question: Question, answers: Answers) -> Option<Later> {
        let name = self.0.name_of(&question);
        if answers.get::<Outcome>(&name).is_some() {
            return None;
        }
        if let Some(outcome) = self.0.decided(&question) {
            answers.put(name, outcome);
            return None;
        }
        let outcome = Arc::clone(&self.0).outcome(subject, question);
        Some(Box::pin(async move { answers.put(name, outcome.await) }))
    }
}

impl Authenticator for Callback {
    /// Returns the identity that the application has named. Its denial is one for wrong credentials if the request
    /// shows any.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let known = self.known(&self.0.connect_question(credentials)?, credentials.answers());
        known.map_err(|refusal| match self.sees_credentials(credentials) {
            true => refusal,
            false => without_credentials(refusal),
        })
    }

    fn prepare(&self, credentials: &Credentials<'_>) -> Option<Later> {
        let answers = credentials.answers()?.clone();
        // A question that is too large is refused.
        self.prepared(Subject::Request, self.0.connect_question(credentials).ok()?, answers)
    }

    /// Returns whether the application is told anything about a request by which it could know the sender, and that a
    /// browser does not send by itself. Cookies are such lines of browsers: those of others come along, and a cookie
    /// that logs somebody in is no word that could be guessed.
    fn sees_credentials(&self, credentials: &Credentials<'_>) -> bool {
        question::shows_credentials(credentials, &self.0.options().headers)
    }
}

impl PermissionSource for Callback {
    fn decide(&self, question: &TopicQuestion<'_>) -> Result<(), Refusal> {
        let known = self.known(&Question::topic(question)?, question.credentials.answers());
        known.map(drop).map_err(without_credentials)
    }

    fn prepare(&self, question: &TopicQuestion<'_>) -> Option<Later> {
        let answers = question.credentials.answers()?.clone();
        self.prepared(Subject::Topic, Question::topic(question).ok()?, answers)
    }
}

/// Returns a denial of the application that is not about credentials.
fn without_credentials(refusal: Refusal) -> Refusal {
    Refusal { is_for_wrong_credentials: false, ..refusal }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Callback({})", self.0.target())
    }
}
