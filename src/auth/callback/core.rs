//! The state of a callback: asks a question at most once at the same time, and decides what becomes of its outcome.

use std::{
    collections::HashMap,
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
    breaker::{Asker, Blame, Breaker, Permit},
    cache::{Cache, Flight, Found},
    options::{CallbackOptions, OnError},
    question::{Key, Question},
    signature::{SIGNATURE, sign},
};
use crate::{
    log_throttle::LogThrottle,
    metrics::{Counter, add_for_process},
    outbound::{OutboundAnswer, OutboundError, OutboundLimits, OutboundRequest, Target},
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
    /// The number of questions under way of each client that has any.
    asking: HashMap<Asker, usize>,
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
                let refusal = Refusal::new(status, reason).for_wrong_credentials();
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
        let state =
            State { cache: Cache::new(options.cache_bytes_max), breaker: Breaker::default(), asking: HashMap::new() };
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

    /// Returns the bytes of memory of the answers that are kept.
    pub(super) fn cache_bytes(&self) -> usize {
        self.lock().cache.bytes()
    }

    /// Returns the question about a request.
    ///
    /// # Errors
    ///
    /// 431 for a question that is too large.
    pub(super) fn connect_question(&self, credentials: &Credentials<'_>) -> Result<Question, Refusal> {
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

    /// Returns the outcome of a question if the application need not be asked: the answer is kept, or questions pause,
    /// or as many of this client are under way as may be.
    pub(super) fn decided(&self, question: &Question) -> Option<Outcome> {
        let now = Instant::now();
        let mut state = self.lock();
        match state.cache.find(&question.key, now) {
            Found::Answer(outcome) => {
                add_for_process(Counter::CallbackCached, 1);
                Some(outcome)
            }
            Found::Flight(_) => None,
            Found::Nothing(earlier) => {
                let permit = state.breaker.permit(question.asker, now);
                self.not_asked(&state, question.asker, permit, earlier)
            }
        }
    }

    /// Returns the outcome of a question that is not asked; `None` if it may be. `earlier` is the last answer to it.
    fn not_asked(&self, state: &State, asker: Asker, permit: Permit, earlier: Option<Outcome>) -> Option<Outcome> {
        let (counter, outcome) = match permit {
            Permit::AllPause | Permit::AskerPauses(Blame::Application) => {
                (Counter::CallbackPaused, self.unanswered(earlier))
            }
            Permit::AskerPauses(Blame::Question) => (Counter::CallbackPaused, Outcome::deny(has_failed())),
            Permit::Asks if state.asking.get(&asker).is_some_and(|&count| count >= ASKING_MAX) => {
                let error =
                    "as many questions to the application about requests of this address are under way as may be";
                let refusal = Refusal::new(429, error).header("Retry-After", "1");
                (Counter::CallbackLimited, Outcome::deny(refusal))
            }
            Permit::Asks => return None,
        };
        add_for_process(counter, 1);
        Some(outcome)
    }

    /// Waits for the outcome of a question, which is asked unless it is being asked already.
    pub(super) async fn outcome(self: Arc<Self>, subject: Subject, question: Question) -> Outcome {
        match self.find(subject, question) {
            Known::Now(outcome) => outcome,
            Known::Later(flight) => landed(flight).await,
        }
    }

    /// Finds the outcome of a question: among the answers that are kept, or by asking it.
    fn find(self: &Arc<Self>, subject: Subject, question: Question) -> Known {
        let now = Instant::now();
        let mut state = self.lock();
        match state.cache.find(&question.key, now) {
            Found::Answer(outcome) => {
                add_for_process(Counter::CallbackCached, 1);
                Known::Now(outcome)
            }
            Found::Flight(flight) => Known::Later(flight),
            Found::Nothing(earlier) => {
                let permit = state.breaker.permit(question.asker, now);
                if let Some(outcome) = self.not_asked(&state, question.asker, permit, earlier) {
                    return Known::Now(outcome);
                }
                state.breaker.asks(question.asker, now);
                *state.asking.entry(question.asker).or_default() += 1;
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
        Question { body, key, asker }: Question,
        landing: watch::Sender<Option<Outcome>>,
    ) {
        add_for_process(Counter::CallbackAsked, 1);
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let signature = sign(&self.options.secrets, time, &body);
        let request = OutboundRequest::post(body)
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .header(SIGNATURE, &signature)
            .for_client(asker)
            .timeout(self.options.timeout)
            .answer_bytes_max(ANSWER_BYTES_MAX);
        let core = Arc::clone(self);
        self.target.start(request, move |outcome| {
            landing.send_replace(Some(core.land(subject, &key, asker, outcome)));
        });
    }

    /// Keeps the outcome of a question, if it may be kept, and returns it.
    fn land(
        &self,
        subject: Subject,
        key: &Key,
        asker: Asker,
        outcome: Result<OutboundAnswer, OutboundError>,
    ) -> Outcome {
        let read = answer::read(subject, outcome);
        let now = Instant::now();
        let mut state = self.lock();
        state.has_asked(asker);
        match read {
            Ok(Answer { verdict, cache_for }) => {
                self.note_end(state.breaker.answered(asker));
                let (fresh, spare) = self.times(&verdict, cache_for);
                if matches!(verdict, Verdict::Deny { .. }) {
                    add_for_process(Counter::CallbackDenied, 1);
                }
                let outcome = Outcome::of(verdict, SystemTime::now());
                state.cache.land(key, asker, Some((outcome.clone(), outcome.bytes())), fresh, spare, now);
                outcome
            }
            Err(Fault::Malformed(what)) => {
                self.note_end(state.breaker.answered(asker));
                state.cache.land(key, asker, None, Duration::ZERO, Duration::ZERO, now);
                drop(state);
                add_for_process(Counter::CallbackFailed, 1);
                if let Some(suppressed) = self.malformed.allow(now) {
                    let target = &self.target;
                    tracing::warn!(%target, what, suppressed, "the application's answer is not understood");
                }
                Outcome::deny(Refusal::no_decision("the application's answer is not understood"))
            }
            Err(fault) => {
                let mut begins_outage = false;
                // A client may make the application fail at its own question, and many requests of clients fill the
                // room. Neither may admit a client that the application might refuse.
                let refusal = match &fault {
                    Fault::Timeout(_) | Fault::Down(_) => {
                        begins_outage = state.breaker.unanswered(asker, now);
                        None
                    }
                    Fault::Failed(_) => {
                        self.note_end(state.breaker.failed(asker, now));
                        Some(has_failed())
                    }
                    // While questions pause for want of answers, `callback_on_error` decides about those that are not
                    // asked, so also about this one.
                    Fault::NotAsked(_) | Fault::Malformed(_) => (!state.breaker.is_outage_for(asker)).then(no_answer),
                };
                state.cache.land(key, asker, None, Duration::ZERO, Duration::ZERO, now);
                let earlier = match state.cache.find(key, now) {
                    Found::Nothing(earlier) => earlier,
                    Found::Answer(_) | Found::Flight(_) => None,
                };
                drop(state);
                self.report(&fault, refusal.is_some(), begins_outage, now);
                refusal.map_or_else(|| self.unanswered(earlier), Outcome::deny)
            }
        }
    }

    /// Logs the end of an outage, if an answer ends one.
    fn note_end(&self, ends_outage: bool) {
        if ends_outage {
            tracing::info!(target = %self.target, "the application answers again");
        }
    }

    /// Counts a question about which the application has not decided, and logs it, with what becomes of such questions.
    fn report(&self, fault: &Fault, is_refused: bool, begins_outage: bool, now: Instant) {
        let (counter, what) = match fault {
            Fault::Timeout(what) => (Counter::CallbackTimeout, what),
            Fault::Down(what) | Fault::Failed(what) | Fault::NotAsked(what) | Fault::Malformed(what) => {
                (Counter::CallbackFailed, what)
            }
        };
        add_for_process(counter, 1);
        let target = &self.target;
        if let Some(suppressed) = self.failures.allow(now) {
            let effect = match self.options.on_error {
                _ if is_refused => "its client is answered 503",
                OnError::Deny => "clients are answered 503",
                OnError::Last => "the last answers hold, and other clients are answered 503",
                OnError::Allow => "everybody is let in",
            };
            tracing::warn!(%target, what, suppressed, "the application has not decided about a question: {effect}");
        }
        if begins_outage {
            let failures = Breaker::FAILURES_MAX;
            tracing::info!(%target, failures, "the application is asked at most once in a second until it answers");
        }
    }

    /// Returns for how long an answer is used, and for how long after that it is used if the application does not
    /// answer.
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
enum Known {
    Now(Outcome),
    Later(Flight<Outcome>),
}

/// Waits for the outcome of a question that is being asked.
async fn landed(mut flight: Flight<Outcome>) -> Outcome {
    let outcome = flight.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
    outcome.unwrap_or_else(|| Outcome::deny(no_answer()))
}

impl State {
    /// Notes that a question of a client is no longer under way.
    fn has_asked(&mut self, asker: Asker) {
        let Some(count) = self.asking.get_mut(&asker) else { return };
        *count -= 1;
        if *count == 0 {
            self.asking.remove(&asker);
        }
    }
}

fn has_failed() -> Refusal {
    Refusal::no_decision("the application has failed at this request")
}

fn no_answer() -> Refusal {
    Refusal::no_decision("the application has not answered")
}

/// The most questions under way of one client, a quarter of those of all: [`OutboundLimits::REQUESTS_MAX`]. Only 60
/// questions are sent at the same time ([`OutboundLimits::IN_FLIGHT_MAX`] without the places for fetches of keys), so
/// clients behind one address can still have all of these.
///
/// [`OutboundLimits::REQUESTS_MAX`]: crate::outbound::OutboundLimits::REQUESTS_MAX
/// [`OutboundLimits::IN_FLIGHT_MAX`]: crate::outbound::OutboundLimits::IN_FLIGHT_MAX
pub(super) const ASKING_MAX: usize = OutboundLimits::REQUESTS_MAX / 4;

/// Bytes that a pattern costs in addition to its text.
const PATTERN_BYTES: usize = 48;

/// The most bytes of the body of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The longest time for which an answer that is not fresh any more is used if the application does not answer.
const SPARE_TIME_MAX: Duration = Duration::from_secs(60 * 60);
