//! The state of a callback: asks a question at most once at the same time, and decides what becomes of its outcome.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use super::{
    super::{Credentials, Identity},
    answer::{self, Allowed, Answer, Fault, RIGHTS, Subject, Verdict},
    breaker::Breaker,
    cache::{Cache, Flight, Found},
    options::{CallbackOptions, OnError},
    question::{Key, Question},
    signature::{SIGNATURE, sign},
};
use crate::{
    log_throttle::LogThrottle,
    metrics::{Counter, add_for_process},
    outbound::{OutboundAnswer, OutboundError, OutboundRequest, Target},
    proto::Refusal,
};

/// The state that all clones of a callback share.
pub(super) struct Core {
    /// The number of the callback within the process, which tells the answers of several callbacks apart.
    number: u64,
    target: Target,
    options: CallbackOptions,
    state: Mutex<State>,
    failures: LogThrottle,
    malformed: LogThrottle,
}

struct State {
    cache: Cache<Outcome>,
    breaker: Breaker,
}

/// What has become of a question. A clone costs a reference count.
#[derive(Debug, Clone)]
pub(super) struct Outcome(Arc<Decided>);

#[derive(Debug)]
enum Decided {
    Admitted(Identity),
    Denied(Refusal),
}

impl Outcome {
    /// Returns the identity, or the refusal.
    pub(super) fn decide(&self) -> Result<Identity, Refusal> {
        match &*self.0 {
            Decided::Admitted(identity) => Ok(identity.clone()),
            Decided::Denied(refusal) => Err(refusal.clone()),
        }
    }

    fn admit(identity: Identity) -> Outcome {
        Outcome(Arc::new(Decided::Admitted(identity)))
    }

    fn deny(refusal: Refusal) -> Outcome {
        Outcome(Arc::new(Decided::Denied(refusal)))
    }

    /// Returns the outcome of an answer that has come at `now`.
    fn of(verdict: Verdict, now: SystemTime) -> Outcome {
        match verdict {
            Verdict::Allow(Allowed { identity, info, grants, expires_in }) => {
                let expires = expires_in.and_then(|time| now.checked_add(time));
                let name = identity.unwrap_or_default();
                Outcome::admit(Identity { info, grants, expires, ..Identity::new(name) })
            }
            Verdict::Deny { status, reason } => {
                let refusal = Refusal::new(status, reason);
                // RFC 9110 11.6.1: a 401 has a challenge.
                Outcome::deny(if status == 401 { refusal.header("WWW-Authenticate", "Bearer") } else { refusal })
            }
        }
    }

    /// Returns the bytes of memory that the outcome keeps.
    fn bytes(&self) -> usize {
        match &*self.0 {
            Decided::Denied(refusal) => refusal.error.len(),
            Decided::Admitted(Identity { name, info, grants, .. }) => {
                let patterns =
                    grants.iter().flat_map(|grants| RIGHTS.iter().flat_map(|(_, right)| grants.patterns(*right)));
                let of_grants: usize = patterns.map(|pattern| pattern.to_string().len() + PATTERN_BYTES).sum();
                name.len() + info.as_ref().map_or(0, |info| info.len()) + of_grants
            }
        }
    }
}

impl Core {
    pub(super) fn new(target: Target, options: CallbackOptions) -> Core {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let state = State { cache: Cache::new(options.cache_bytes_max), breaker: Breaker::default() };
        Core {
            // Relaxed: only the numbers have to differ.
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            target,
            options,
            state: Mutex::new(state),
            failures: LogThrottle::of_limit(),
            malformed: LogThrottle::of_limit(),
        }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn options(&self) -> &CallbackOptions {
        &self.options
    }

    /// Returns the question about a request.
    pub(super) fn connect_question(&self, credentials: &Credentials<'_>) -> Question {
        Question::connect(credentials, &self.options.headers)
    }

    /// Returns the name of a question among the answers of a request.
    pub(super) fn name_of(&self, question: &Question) -> String {
        let mut name = format!("callback {} ", self.number);
        name.extend(question.key.iter().map(|octet| char::from(*octet)));
        name
    }

    /// Returns the answer to a question, if it is kept.
    pub(super) fn kept(&self, question: &Question) -> Option<Outcome> {
        match self.lock().cache.find(&question.key, Instant::now()) {
            Found::Answer(outcome) => Some(outcome),
            Found::Flight(_) | Found::Nothing(_) => None,
        }
    }

    /// Finds the outcome of a question: among the answers that are kept, or by asking it.
    pub(super) fn find(self: &Arc<Self>, subject: Subject, question: Question) -> Known {
        let now = Instant::now();
        let mut state = self.lock();
        match state.cache.find(&question.key, now) {
            Found::Answer(outcome) => {
                add_for_process(Counter::CallbackCached, 1);
                Known::Now(outcome)
            }
            Found::Flight(flight) => Known::Later(flight),
            Found::Nothing(earlier) if !state.breaker.may_ask(now) => {
                add_for_process(Counter::CallbackPaused, 1);
                Known::Now(self.unanswered(earlier))
            }
            Found::Nothing(_) => {
                let landing = state.cache.depart(question.key);
                let flight = landing.subscribe();
                // The outcome may come within the call.
                drop(state);
                self.ask(subject, question, landing);
                Known::Later(flight)
            }
        }
    }

    /// Asks a question, whose outcome the receivers of `landing` get.
    fn ask(
        self: &Arc<Self>,
        subject: Subject,
        Question { body, key }: Question,
        landing: watch::Sender<Option<Outcome>>,
    ) {
        add_for_process(Counter::CallbackAsked, 1);
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signature = sign(&self.options.secrets, time, &body);
        let request = OutboundRequest::post(body)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .header(SIGNATURE, &signature)
            .timeout(self.options.timeout)
            .answer_bytes_max(ANSWER_BYTES_MAX);
        let core = Arc::clone(self);
        self.target.start(request, move |outcome| {
            landing.send_replace(Some(core.land(subject, &key, outcome)));
        });
    }

    /// Keeps the outcome of a question, if it may be kept, and returns it.
    fn land(&self, subject: Subject, key: &Key, outcome: Result<OutboundAnswer, OutboundError>) -> Outcome {
        // The application has no part in these errors.
        let is_own_fault = matches!(outcome, Err(OutboundError::Limit | OutboundError::NotServing));
        let read = answer::read(subject, outcome);
        let now = Instant::now();
        let mut state = self.lock();
        match read {
            Ok(Answer { verdict, cache_for }) => {
                self.note_answer(&mut state);
                let (fresh, spare) = self.times(&verdict, cache_for);
                if matches!(verdict, Verdict::Deny { .. }) {
                    add_for_process(Counter::CallbackDenied, 1);
                }
                let outcome = Outcome::of(verdict, SystemTime::now());
                state.cache.land(key, Some((outcome.clone(), outcome.bytes())), fresh, spare, now);
                outcome
            }
            Err(Fault::Malformed(what)) => {
                self.note_answer(&mut state);
                state.cache.land(key, None, Duration::ZERO, Duration::ZERO, now);
                drop(state);
                add_for_process(Counter::CallbackFailed, 1);
                if let Some(suppressed) = self.malformed.allow(now) {
                    let target = &self.target;
                    tracing::warn!(%target, what, suppressed, "the application's answer is not understood");
                }
                Outcome::deny(Refusal::not_now("the application's answer is not understood"))
            }
            Err(fault @ (Fault::Timeout(_) | Fault::Down(_))) => {
                let begins_pauses = !is_own_fault && state.breaker.failed(now);
                state.cache.land(key, None, Duration::ZERO, Duration::ZERO, now);
                let earlier = match state.cache.find(key, now) {
                    Found::Nothing(earlier) => earlier,
                    Found::Answer(_) | Found::Flight(_) => None,
                };
                drop(state);
                self.report(&fault, begins_pauses, now);
                self.unanswered(earlier)
            }
        }
    }

    /// Notes an answer, and logs it if it ends the pauses.
    fn note_answer(&self, state: &mut State) {
        if state.breaker.answered() {
            tracing::info!(target = %self.target, "the application answers again");
        }
    }

    /// Counts a question without an answer, and logs it.
    fn report(&self, fault: &Fault, begins_pauses: bool, now: Instant) {
        let (counter, what) = match fault {
            Fault::Timeout(what) => (Counter::CallbackTimeout, what),
            Fault::Down(what) | Fault::Malformed(what) => (Counter::CallbackFailed, what),
        };
        add_for_process(counter, 1);
        let target = &self.target;
        if let Some(suppressed) = self.failures.allow(now) {
            let effect = match self.options.on_error {
                OnError::Deny => "clients are answered 503",
                OnError::Last => "the last answers hold, and other clients are answered 503",
                OnError::Allow => "everybody is let in",
            };
            tracing::warn!(%target, what, suppressed, "the application has not answered a callback: {effect}");
        }
        if begins_pauses {
            let failures = Breaker::FAILURES_MAX;
            tracing::info!(%target, failures, "the application is asked once in a second until it answers");
        }
    }

    /// Returns for how long an answer holds, and for how long beyond that it is kept for times without another.
    fn times(&self, verdict: &Verdict, cache_for: Duration) -> (Duration, Duration) {
        let expires_in = match verdict {
            Verdict::Allow(Allowed { expires_in: Some(time), .. }) => *time,
            _ => Duration::MAX,
        };
        let fresh = cache_for.min(self.options.cache_time).min(expires_in);
        let spare = match self.options.on_error {
            OnError::Last => SPARE_TIME_MAX.min(expires_in - fresh),
            OnError::Deny | OnError::Allow => Duration::ZERO,
        };
        (fresh, spare)
    }

    /// Returns what becomes of a question that the application does not answer; `earlier` is its last answer.
    fn unanswered(&self, earlier: Option<Outcome>) -> Outcome {
        match (self.options.on_error, earlier) {
            (OnError::Last, Some(earlier)) => earlier,
            (OnError::Allow, _) => Outcome::admit(Identity::new("unverified")),
            (OnError::Deny | OnError::Last, _) => Outcome::deny(no_answer()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No call panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outcome of a question: known, or to be waited for.
pub(super) enum Known {
    Now(Outcome),
    Later(Flight<Outcome>),
}

/// Waits for the outcome of a question that is being asked.
pub(super) async fn landed(mut flight: Flight<Outcome>) -> Outcome {
    let outcome = flight.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
    outcome.unwrap_or_else(|| Outcome::deny(no_answer()))
}

fn no_answer() -> Refusal {
    Refusal::not_now("the application has not answered")
}

/// Bytes that a pattern costs in addition to its text.
const PATTERN_BYTES: usize = 48;

/// The most bytes of the body of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The time for which an answer is kept beyond its own, for times without another.
const SPARE_TIME_MAX: Duration = Duration::from_secs(60 * 60);
