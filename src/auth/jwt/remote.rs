//! Keys that an issuer publishes at an address, as a set of JSON Web Keys: fetched, kept, and fetched again.
//!
//! No timer fetches keys. A fetch begins when a token comes that needs it.
//!
//! | the keys are | a token |
//! | --- | --- |
//! | fresh ([`Times::fresh`], or as long as the answer said) | is checked by them |
//! | older | is checked by them, and begins a fetch |
//! | twice as old, or taken over at a reload | waits for the fetch; if that fails, is checked by them |
//! | as old as [`Times::kept`], or not there | waits for the fetch; if it fails, the token is answered 503 |
//!
//! A token that names a key which is not among the keys waits for a fetch too, since the issuer may have a new key. If
//! keys have been fetched since it came, and the key is not among them, the token is answered 401; else nobody knows
//! whether the issuer has the key, and the token is answered 503. There is one fetch at a time, for all that wait, and
//! none within [`Times::pause`] after another has begun or failed. So tokens with invented key ids cause at most one
//! fetch in each pause.
//!
//! A token waits for one fetch at most, whether that succeeds or fails. In the two pauses after a fetch has failed, a
//! token whose key is there begins the next fetch and does not wait for it. So an issuer that is silent holds up the
//! tokens of the first fetch, and not all.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    super::{Answers, Later},
    fault::PAUSE,
    keys::{Allowed, KeySet},
};
use crate::metrics::{Counter, add_for_process};

/// Gets the keys that an issuer publishes.
pub(super) trait Fetch: Send + Sync {
    /// Begins to get them. `done` is called once, perhaps at once and on this thread.
    fn start(&self, done: Done);

    /// Returns the URL of the keys, which may have a secret: it is only compared.
    fn url(&self) -> String;
}

/// Takes the outcome of a fetch: an answer, or a sentence about its failure.
pub(super) type Done = Box<dyn FnOnce(Result<Fetched, String>) + Send>;

/// The answer to a fetch.
pub(super) struct Fetched {
    pub(super) body: Vec<u8>,
    /// `Cache-Control` of the answer.
    pub(super) cache_control: Option<String>,
}

/// The times of keys.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// How long keys are fresh if the answer does not say it.
    pub(super) fresh: Duration,
    /// The shortest time for which keys are fresh, whatever the answer says.
    pub(super) fresh_min: Duration,
    /// The longest time for which keys are fresh, whatever the answer says.
    pub(super) fresh_max: Duration,
    /// The shortest time from the beginning of a fetch, and from its failure, to the beginning of the next.
    pub(super) pause: Duration,
    /// How long the last keys are used while no others can be fetched.
    pub(super) kept: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Times {
            fresh: Duration::from_secs(5 * 60),
            fresh_min: Duration::from_secs(60),
            fresh_max: Duration::from_secs(60 * 60),
            pause: PAUSE,
            kept: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// The keys that an issuer publishes.
pub(super) struct RemoteKeys {
    /// The issuer's name, for logs.
    name: String,
    source: Arc<dyn Fetch>,
    allowed: Allowed,
    times: Times,
    state: Mutex<State>,
    /// The number of fetches that have ended.
    ended: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    keys: Option<Kept>,
    /// Whether the keys were taken over at a reload, and no fetch has ended since.
    are_taken_over: bool,
    /// When the last fetch has begun.
    begun: Option<Instant>,
    is_under_way: bool,
    /// When the last fetch has failed, until one succeeds.
    failed: Option<Instant>,
    /// When a failure was last told in the log, until a fetch succeeds.
    told: Option<Instant>,
}

#[derive(Clone)]
struct Kept {
    set: Arc<KeySet>,
    /// The set as it was published: other settings may allow other keys of it.
    body: Arc<[u8]>,
    since: Instant,
    fresh: Duration,
}

impl RemoteKeys {
    pub(super) fn new(name: &str, source: Arc<dyn Fetch>, allowed: Allowed, times: Times) -> Arc<RemoteKeys> {
        let (state, ended) = (Mutex::default(), watch::Sender::new(0));
        Arc::new(RemoteKeys { name: name.into(), source, allowed, times, state, ended })
    }

    /// Takes over the keys that earlier settings of the issuer have fetched from the same URL, so that a reload refuses
    /// nobody while the issuer does not answer. They are as old as they were. The next token begins a fetch and waits
    /// for it: whoever reloads because a key was withdrawn gets the keys without it.
    pub(super) fn take_over(&self, earlier: &RemoteKeys) {
        let kept = if self.source.url() == earlier.source.url() { earlier.lock().keys.clone() } else { None };
        let Some(kept) = kept else { return };
        let Ok(set) = KeySet::published(&kept.body, &self.allowed) else { return };
        let mut state = self.lock();
        if state.keys.is_none() {
            state.keys = Some(Kept { set: Arc::new(set), ..kept });
            state.are_taken_over = true;
        }
    }

    /// Returns the keys, if there are any that may still be used.
    pub(super) fn usable(&self, now: Instant) -> Option<Arc<KeySet>> {
        self.lock().usable(self.times.kept, now).map(|kept| Arc::clone(&kept.set))
    }

    /// Returns whether keys have been fetched at this time or later.
    pub(super) fn are_fetched_since(&self, time: Instant) -> bool {
        self.lock().keys.as_ref().is_some_and(|kept| kept.since >= time)
    }

    /// Returns whether a fetch has ended at this time or later.
    pub(super) fn has_fetch_ended_since(&self, time: Instant) -> bool {
        let failed = self.lock().failed;
        failed.is_some_and(|failed| failed >= time) || self.are_fetched_since(time)
    }

    /// Returns the keys, if there are any that may still be used. If they are not fresh, begins a fetch.
    pub(super) fn keys(self: &Arc<Self>, now: Instant) -> Option<Arc<KeySet>> {
        let state = self.lock();
        let kept = state.usable(self.times.kept, now);
        let set = kept.map(|kept| Arc::clone(&kept.set));
        // Only a caller that cannot wait comes here before keys that were taken over are fetched again.
        let is_old = state.are_taken_over || kept.is_none_or(|kept| kept.age(now) >= kept.fresh);
        if is_old {
            self.begin(state, now);
        }
        set
    }

    /// Returns the work that a token has to wait for, if it needs other keys than those that are there, or if those are
    /// too old. Returns `None` if a fetch could bring nothing, or if one has begun or failed just now. The work begins
    /// a fetch when it is first polled, unless one is under way, or has ended since.
    pub(super) fn renewed(self: &Arc<Self>, need: Need, now: Instant) -> Option<Later> {
        let state = self.lock();
        let is_needed = match (state.usable(self.times.kept, now), need) {
            (None, _) | (_, Need::Another) => true,
            (Some(_), Need::Any) if state.are_taken_over => true,
            (Some(_), Need::Any) if state.has_failed_within(2 * self.times.pause, now) => false,
            (Some(kept), Need::Any) => kept.age(now) >= 2 * kept.fresh,
        };
        if !is_needed || !(state.is_under_way || self.may_begin(&state, now)) {
            return None;
        }
        // While the lock is held, no fetch ends unnoticed.
        let (mut ended, keys) = (self.ended.subscribe(), Arc::clone(self));
        Some(Box::pin(async move {
            if !ended.has_changed().unwrap_or(true) {
                keys.begin(keys.lock(), Instant::now());
            }
            drop(ended.changed().await);
        }))
    }

    /// Begins a fetch, unless one is under way, or has begun or failed just now.
    fn begin(self: &Arc<Self>, mut state: MutexGuard<'_, State>, now: Instant) {
        if self.may_begin(&state, now) {
            state.is_under_way = true;
            state.begun = Some(now);
            // The fetch may end at once, on this thread.
            drop(state);
            let keys = Arc::clone(self);
            self.source.start(Box::new(move |outcome| keys.take(outcome, Instant::now())));
        }
    }

    fn may_begin(&self, state: &State, now: Instant) -> bool {
        let is_paused = state.begun.is_some_and(|begun| now.saturating_duration_since(begun) < self.times.pause);
        // A fetch may take as long as a pause, so the end of the fetch begins another one.
        !state.is_under_way && !is_paused && !state.has_failed_within(self.times.pause, now)
    }

    /// Takes the outcome of a fetch. A failure leaves the last keys as they are.
    fn take(&self, outcome: Result<Fetched, String>, now: Instant) {
        let outcome = outcome.and_then(|Fetched { body, cache_control }| {
            let set = Arc::new(KeySet::published(&body, &self.allowed)?);
            Ok(Kept { set, body: body.into(), since: now, fresh: self.fresh(cache_control.as_deref()) })
        });
        let mut state = self.lock();
        (state.is_under_way, state.are_taken_over) = (false, false);
        match outcome {
            Ok(kept) => {
                add_for_process(Counter::JwksFetched, 1);
                if state.told.take().is_some() || state.keys.is_none() {
                    tracing::info!(issuer = self.name, keys = ?kept.set.kinds(), "the keys of an issuer are fetched");
                }
                (state.keys, state.failed) = (Some(kept), None);
            }
            Err(error) => {
                add_for_process(Counter::JwksFailed, 1);
                state.failed = Some(now);
                if state.told.is_none_or(|told| now.saturating_duration_since(told) >= TELL_INTERVAL) {
                    state.told = Some(now);
                    let effect = match state.usable(self.times.kept, now) {
                        Some(_) => "the last keys stay in use",
                        None => "the issuer's tokens are answered 503",
                    };
                    tracing::warn!(issuer = self.name, error, "the keys of an issuer cannot be fetched: {effect}");
                }
            }
        }
        drop(state);
        self.ended.send_modify(|count| *count += 1);
    }

    /// Returns how long keys are fresh (RFC 9111 5.2.2), within bounds.
    fn fresh(&self, cache_control: Option<&str>) -> Duration {
        let Times { fresh, fresh_min, fresh_max, .. } = self.times;
        let told =
            cache_control.map(|value| value.split(',').map(str::trim)).into_iter().flatten().find_map(|directive| {
                let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
                match &*name.trim().to_ascii_lowercase() {
                    "max-age" => value.trim().trim_matches('"').parse().ok().map(Duration::from_secs),
                    "no-store" | "no-cache" => Some(Duration::ZERO),
                    _ => None,
                }
            });
        told.map_or(fresh, |told| told.clamp(fresh_min, fresh_max))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No call panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys that a token needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Keys that are not too old.
    Any,
    /// A key that is not among the keys.
    Another,
}

impl State {
    /// Returns the keys, unless they are as old as `longest`.
    fn usable(&self, longest: Duration, now: Instant) -> Option<&Kept> {
        self.keys.as_ref().filter(|kept| kept.age(now) < longest)
    }

    /// Returns whether the last fetch has failed, and less than `time` has passed since.
    fn has_failed_within(&self, time: Duration, now: Instant) -> bool {
        self.failed.is_some_and(|failed| now.saturating_duration_since(failed) < time)
    }
}

impl Kept {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

/// Returns when a request has first needed a fetch of keys: `now` unless it is among the answers.
pub(super) fn first_needed(answers: &Answers, now: Instant) -> Instant {
    needed(answers).unwrap_or_else(|| {
        answers.put(NEEDED, now);
        now
    })
}

/// Returns when a request has first needed a fetch of keys, if that is among the answers.
pub(super) fn needed(answers: &Answers) -> Option<Instant> {
    answers.get::<Instant>(NEEDED).map(|needed| *needed)
}

/// The name of that time among the answers of a request.
const NEEDED: &str = "a fetch of an issuer's keys is needed";

/// The shortest time between two lines of the log about failures of one issuer.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// The most bytes of a set of keys. 64 keys of RSA with their certificates are some 200 KiB.
pub(super) const JWKS_BYTES_MAX: usize = 256 << 10;
