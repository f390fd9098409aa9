//! The rate of requests with wrong credentials, so that tokens and passwords cannot be guessed fast.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::denied::Denied;
use crate::{
    auth::{Credentials, Later, TrustedProxies},
    clock::Clock,
    metrics::{Counter, add_for_process},
    rates::{AddressBlock, Rate, RateTable, over_rate},
};

/// The buckets of the addresses whose wrong credentials the judge has refused lately, and the rate that they have.
///
/// All tables of endpoints of a server share the buckets: an address has the same buckets for all threads, and a reload
/// forgets no guess. A refusal counts if an authenticator or a list of tokens says that it is one for wrong credentials
/// ([`Refusal::for_wrong_credentials`]), with whatever status the request is refused. A request that the judge admits
/// does not count, though it may have shown wrong credentials to one of several authenticators. A request of a trusted
/// proxy itself is neither counted nor refused, since its address stands for many clients.
///
/// An address has one bucket for requests whose browsers say that a page of another origin has sent them, and one for
/// all other requests. So a page cannot use up the rate of its visitors.
#[derive(Debug, Clone)]
pub(crate) struct Guesses {
    clock: Clock,
    buckets: Arc<RateTable>,
    rate: Option<Rate>,
    trusted_proxies: TrustedProxies,
}

impl Default for Guesses {
    fn default() -> Self {
        Guesses { clock: Clock::new(), buckets: Arc::default(), rate: None, trusted_proxies: TrustedProxies::default() }
    }
}

impl Guesses {
    /// Returns the bytes of memory of the buckets.
    pub(crate) fn bytes(&self) -> usize {
        self.buckets.bytes()
    }

    /// Returns the same buckets with this rate.
    #[must_use]
    pub(crate) fn with_rate(&self, rate: Option<Rate>, trusted_proxies: TrustedProxies) -> Guesses {
        Guesses { rate, trusted_proxies, ..self.clone() }
    }

    /// Asks the judge about a request, unless it shows credentials and its address has shown wrong ones faster than the
    /// rate allows. `is_foreign` returns whether a page of another origin has sent the request, `sees_credentials`
    /// whether the judge would look at credentials that the request shows.
    ///
    /// # Errors
    ///
    /// 429, or the refusal of the judge.
    pub(super) fn limit<T>(
        &self,
        credentials: &Credentials<'_>,
        is_foreign: impl Fn() -> bool,
        sees_credentials: impl FnOnce() -> bool,
        judge: impl FnOnce(&Credentials<'_>) -> Result<T, Denied>,
    ) -> Result<T, Denied> {
        let Some(rate) = &self.rate else { return judge(credentials) };
        if !self.buckets.is_untouched()
            && sees_credentials()
            && let Some(key) = self.key(credentials, &is_foreign)
        {
            let now = self.clock.now();
            if let Some(due) = self.buckets.due(rate, key, now) {
                add_for_process(Counter::LimitedGuesses, 1);
                return Err(Denied::Refused(over_rate(OVER_GUESS_RATE, now, due)));
            }
        }
        let has_noted = AtomicBool::new(false);
        let denied = match judge(&credentials.noting(&has_noted)) {
            Ok(admitted) => return Ok(admitted),
            Err(denied) => denied,
        };
        let is_wrong = match &denied {
            Denied::Refused(refusal) if refusal.is_for_wrong_credentials => true,
            // Relaxed: the judge has written it on this thread.
            _ => has_noted.load(Ordering::Relaxed),
        };
        let Some(key) = is_wrong.then(|| self.key(credentials, &is_foreign)).flatten() else { return Err(denied) };
        let guess = Guess { buckets: Arc::clone(&self.buckets), rate: *rate, key, clock: self.clock, is_open: true };
        Err(match denied {
            // The judge is asked again. If it is not, since the client leaves for instance, the guess counts: the wait
            // has told that the credentials are wrong. A wait that never begins has told nothing. It is one that the
            // control thread drops, since a shard judges the opening again.
            Denied::Later(later) => Denied::Later(guess.wait(later)),
            denied => denied,
        })
    }

    /// Returns the key of the bucket of a request. Returns `None` if the request is of a trusted proxy itself, or has
    /// no address any more.
    fn key(&self, credentials: &Credentials<'_>, is_foreign: impl Fn() -> bool) -> Option<Key> {
        let address = credentials.address().filter(|address| !self.trusted_proxies.include(*address))?;
        Some((AddressBlock::of(address), if is_foreign() { Sender::Foreign } else { Sender::Own }))
    }
}

/// The key of a bucket.
type Key = (AddressBlock, Sender);

/// The senders of the requests of an address, as far as browsers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Sender {
    /// A page of another origin.
    Foreign,
    /// Any other page, or no page.
    Own,
}

/// Wrong credentials, which count when this value is dropped, unless they are settled before.
struct Guess {
    buckets: Arc<RateTable>,
    rate: Rate,
    key: Key,
    clock: Clock,
    is_open: bool,
}

impl Guess {
    /// Waits for the judge. At the end of the wait the guess is settled, since the judge is asked again.
    fn wait(mut self, later: Later) -> Later {
        self.is_open = false;
        Box::pin(async move {
            let mut guess = self;
            guess.is_open = true;
            later.await;
            guess.is_open = false;
        })
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        if self.is_open {
            // It fails if other threads have emptied the bucket meanwhile; the request was judged all the same.
            _ = self.buckets.take(&self.rate, self.key, self.clock.now());
        }
    }
}

const OVER_GUESS_RATE: &str = "more wrong credentials from one address than max_guess_rate allows";

#[cfg(test)]
mod tests {
    use std::{
        num::NonZeroU64,
        task::{Context, Waker},
        time::Duration,
    };

    use super::*;
    use crate::{
        auth::{Authenticator, Basic, Identity, Network, any_of},
        proto::{Refusal, RequestHead},
    };

    const TOKEN: &str = "Authorization: Bearer guess";
    const HERE: &str = "192.0.2.1";

    /// A request to a judge, which looks at credentials in `Authorization` alone.
    #[derive(Clone, Copy)]
    struct Asked<'a> {
        line: &'a str,
        peer: &'a str,
        is_foreign: bool,
    }

    const GUESS: Asked<'_> = Asked { line: TOKEN, peer: HERE, is_foreign: false };

    fn head(line: &str) -> RequestHead {
        RequestHead::decode(format!("GET / HTTP/1.1\r\n{line}\r\n\r\n").as_bytes()).unwrap().unwrap().0
    }

    fn ask_for<T>(
        guesses: &Guesses,
        asked: Asked<'_>,
        judge: impl FnOnce(&Credentials<'_>) -> Result<T, Denied>,
    ) -> Result<T, Denied> {
        let head = head(asked.line);
        let peer = std::net::SocketAddr::new(asked.peer.parse().unwrap(), 9);
        let sees_credentials = || head.headers().get("authorization").is_some();
        guesses.limit(&Credentials::new(&head, Some(peer)), || asked.is_foreign, sees_credentials, judge)
    }

    /// Asks a judge that answers with this refusal, or admits. Returns the status, and whether the judge was asked.
    fn ask(guesses: &Guesses, asked: Asked<'_>, refusal: Option<Refusal>) -> (u16, bool) {
        let mut is_asked = false;
        let outcome = ask_for(guesses, asked, |_| {
            is_asked = true;
            refusal.map_or(Ok(()), |refusal| Err(Denied::Refused(refusal)))
        });
        (outcome.map_or_else(|denied| Refusal::from(denied).status, |()| 200), is_asked)
    }

    fn wrong(status: u16) -> Option<Refusal> {
        Some(Refusal::new(status, "as intended").for_wrong_credentials())
    }

    fn two_an_hour() -> Guesses {
        let rate = Rate::new(NonZeroU64::MIN, Duration::from_secs(3_600), NonZeroU64::new(2).unwrap());
        Guesses::default().with_rate(Some(rate), TrustedProxies::default())
    }

    /// The mark of a refusal counts, and not its status. A right one among the guesses is refused too: the judge is not
    /// asked.
    #[test]
    fn wrong_credentials_use_up_the_rate_of_their_address() {
        for status in [401, 403, 404, 429, 503] {
            let guesses = two_an_hour();
            for _ in 0..2 {
                assert_eq!(ask(&guesses, GUESS, wrong(status)), (status, true));
            }
            assert_eq!(ask(&guesses, GUESS, None), (429, false), "{status}");
            assert_eq!(ask(&guesses, Asked { peer: "192.0.2.2", ..GUESS }, None), (200, true), "another address");
            assert_eq!(ask(&guesses, Asked { line: "X: y", ..GUESS }, None), (200, true), "no credentials");
        }
    }

    /// Missing credentials, and right ones that are for something else, are no guesses.
    #[test]
    fn only_wrong_credentials_count() {
        let guesses = two_an_hour();
        for _ in 0..5 {
            for status in [401, 403, 503] {
                assert_eq!(ask(&guesses, GUESS, Some(Refusal::new(status, "as intended"))), (status, true));
            }
            assert_eq!(ask(&guesses, GUESS, None), (200, true));
            assert!(ask_for(&guesses, GUESS, |_| Err::<(), _>(Denied::Panicked)).is_err());
        }
        assert!(guesses.buckets.is_untouched());
    }

    /// A page that sends guesses by its visitors' browsers does not lock the visitors out.
    #[test]
    fn pages_of_other_origins_have_a_rate_of_their_own() {
        let guesses = two_an_hour();
        let foreign = Asked { is_foreign: true, ..GUESS };
        (0..2).for_each(|_| assert_eq!(ask(&guesses, foreign, wrong(401)), (401, true)));
        assert_eq!(ask(&guesses, foreign, None), (429, false));
        (0..2).for_each(|_| assert_eq!(ask(&guesses, GUESS, wrong(401)), (401, true)));
        assert_eq!(ask(&guesses, GUESS, None), (429, false));
    }

    /// A chain notes wrong credentials that its answer does not tell.
    #[test]
    fn wrong_credentials_behind_another_answer_count() {
        let basic = Basic::new("r", [("ann", "right")]).unwrap();
        let inside = Network::new(&["192.0.2.0/24"], &[]).unwrap();
        let any = any_of(basic).or(inside);
        let guess = Asked { line: "Authorization: Basic YW5uOmd1ZXNz", ..GUESS };
        let guesses = two_an_hour();
        // The network admits: by itself that is no guess.
        (0..5).for_each(|_| assert!(ask_for(&guesses, guess, |credentials| admit(&any, credentials, Ok(()))).is_ok()));
        assert!(guesses.buckets.is_untouched());
        // The rule of a topic refuses whom the network has let in, and the right password would be let through.
        for _ in 0..2 {
            let by_rule = || Err(Denied::Refused(Refusal::new(403, "as intended")));
            assert!(ask_for(&guesses, guess, |credentials| admit(&any, credentials, by_rule())).is_err());
        }
        assert_eq!(ask(&guesses, guess, None), (429, false));
    }

    /// Lets an authenticator admit a request, and then decides in this way.
    fn admit(
        authenticator: &dyn Authenticator,
        credentials: &Credentials<'_>,
        then: Result<(), Denied>,
    ) -> Result<(), Denied> {
        authenticator.authenticate(credentials).map_err(Denied::Refused)?;
        then
    }

    /// A right password is admitted at once, and a wrong one waits for the next authenticator: who leaves meanwhile has
    /// learnt enough.
    #[test]
    fn a_guess_that_is_left_while_it_waits_counts() {
        let basic = || Basic::new("r", [("ann", "right")]).unwrap();
        let wait = |line: &str| {
            let guesses = two_an_hour();
            let any = any_of(basic()).or(Waiting);
            let denied = ask_for(&guesses, Asked { line, ..GUESS }, |credentials| {
                Err::<(), _>(any.prepare(credentials).map_or(Denied::Undecided, Denied::Later))
            });
            let Err(Denied::Later(later)) = denied else { panic!("the judge waits") };
            assert!(guesses.buckets.is_untouched(), "it waits");
            (guesses, later)
        };
        let is_over = |later: &mut Later| later.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        let (guesses, mut later) = wait("Authorization: Basic YW5uOmd1ZXNz");
        assert!(!is_over(&mut later));
        drop(later);
        assert!(!guesses.buckets.is_untouched());
        // The judge is asked again, and decides then.
        let (guesses, mut later) = wait("Authorization: Basic YW5uOmd1ZXNz");
        assert!(!is_over(&mut later) && is_over(&mut later));
        drop(later);
        assert!(guesses.buckets.is_untouched());
        // Nobody waits, since a shard judges the opening again.
        let (guesses, later) = wait("Authorization: Basic YW5uOmd1ZXNz");
        drop(later);
        assert!(guesses.buckets.is_untouched());
        let (guesses, later) = wait("X: y");
        drop(later);
        assert!(guesses.buckets.is_untouched(), "no credentials");
    }

    struct Waiting;

    impl Authenticator for Waiting {
        fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, Refusal> {
            panic!("it has yet to wait")
        }

        fn prepare(&self, _: &Credentials<'_>) -> Option<Later> {
            Some(Box::pin(tokio::task::yield_now()))
        }
    }

    /// A reload changes the rate, and forgets no guess.
    #[test]
    fn a_rate_may_change_and_end() {
        let guesses = two_an_hour();
        let from = |peer| Asked { peer, ..GUESS };
        (0..2).for_each(|_| _ = ask(&guesses, from("2001:db8::1"), wrong(401)));
        assert_eq!(ask(&guesses, from("2001:db8::2"), None), (429, false), "a /64 counts as one");
        let same = guesses.with_rate(guesses.rate, TrustedProxies::default());
        assert_eq!(ask(&same, from("2001:db8::1"), None), (429, false));
        let proxies = TrustedProxies::new(vec!["2001:db8::/32".parse().unwrap()], Default::default());
        let trusting = guesses.with_rate(guesses.rate, proxies);
        assert_eq!(ask(&trusting, from("2001:db8::1"), None), (200, true));
        let off = guesses.with_rate(None, TrustedProxies::default());
        assert_eq!(ask(&off, from("2001:db8::1"), wrong(401)), (401, true));
    }
}
