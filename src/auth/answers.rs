//! Answers that a request waits for, because an authenticator asks somebody else.

use std::{
    any::Any,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// Work that a request waits for. When it is done, its authenticator can decide.
pub type Later = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The answers that a request has waited for, by the questions. A clone is another handle to the same answers.
///
/// An authenticator whose answer must not be kept for other requests puts it here ([`Authenticator::prepare`]), and
/// finds it when it is asked again for the same request.
///
/// [`Authenticator::prepare`]: super::Authenticator::prepare
#[derive(Default)]
pub struct Answers(OnceLock<Arc<Mutex<Vec<Entry>>>>);

/// The most rounds in which a request waits. Several authenticators may have to wait for one request, each once or, if
/// its first answer is stale, twice.
pub(crate) const ROUNDS_MAX: usize = 8;

/// A question and its answer.
type Entry = (String, Arc<dyn Any + Send + Sync>);

impl Answers {
    /// Keeps the answer to a question. An earlier answer to the same question is replaced.
    pub fn put<T: Send + Sync + 'static>(&self, question: impl Into<String>, answer: T) {
        let (question, mut entries) = (question.into(), self.lock());
        entries.retain(|(other, _)| *other != question);
        entries.push((question, Arc::new(answer)));
    }

    /// Returns the answer to a question, if there is one of this type.
    #[must_use]
    pub fn get<T: Send + Sync + 'static>(&self, question: &str) -> Option<Arc<T>> {
        // Most requests wait for nothing, and get no list.
        self.0.get()?;
        let answer = self.lock().iter().find(|(other, _)| other == question).map(|(_, answer)| Arc::clone(answer));
        answer?.downcast().ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        // No call panics while it holds the lock.
        self.0.get_or_init(Arc::default).lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for Answers {
    fn clone(&self) -> Self {
        Answers(Arc::clone(self.0.get_or_init(Arc::default)).into())
    }
}

/// Prints the number of answers: questions and answers may hold secrets.
impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.get().map_or(0, |_| self.lock().len());
        write!(f, "Answers({count})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_by_their_questions() {
        let answers = Answers::default();
        assert!(answers.get::<u8>("who").is_none());
        answers.clone().put("who", 1_u8);
        answers.put("what", String::from("secret"));
        answers.put("who", 2_u8);
        assert_eq!(answers.get::<u8>("who").as_deref(), Some(&2));
        assert!(answers.get::<u16>("who").is_none());
        assert_eq!(format!("{answers:?}"), "Answers(2)");
    }
}
