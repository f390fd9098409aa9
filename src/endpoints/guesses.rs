//! The rate of requests whose credentials are refused, so that tokens and passwords cannot be guessed fast.

use std::sync::Arc;

use super::denied::Denied;
use crate::{
    auth::{Credentials, TrustedProxies},
    clock::Clock,
    metrics::{Counter, add_for_process},
    rates::{AddressBlock, Rate, RateTable, over_rate},
};

/// The buckets of the addresses whose credentials the judge has refused lately, and the rate that they have.
///
/// All tables of endpoints of a server share the buckets: an address has one bucket for all threads, and a reload
/// forgets no guess. A request without credentials guesses nothing: it is neither counted nor refused. Nor is a request
/// of a trusted proxy itself, since its address stands for many clients.
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

    /// Asks the judge about a request, unless requests with credentials from its address are refused faster than the
    /// rate allows. A request that shows credentials counts if the judge refuses it with 401 or 403, whatever the
    /// reason: a valid token for another topic counts too.
    ///
    /// # Errors
    ///
    /// 429, or the refusal of the judge.
    pub(super) fn limit<T>(
        &self,
        credentials: &Credentials<'_>,
        judge: impl FnOnce() -> Result<T, Denied>,
    ) -> Result<T, Denied> {
        let Some(rate) = &self.rate else { return judge() };
        if !self.buckets.is_untouched()
            && let Some(block) = self.counted(credentials)
        {
            let now = self.clock.now();
            if let Some(due) = self.buckets.due(rate, block, now) {
                add_for_process(Counter::LimitedGuesses, 1);
                return Err(Denied::Refused(over_rate(OVER_GUESS_RATE, now, due)));
            }
        }
        let judged = judge();
        if let Err(Denied::Refused(refusal)) = &judged
            && matches!(refusal.status, 401 | 403)
            && let Some(block) = self.counted(credentials)
        {
            // `take` fails if other threads have emptied the bucket meanwhile; this request was judged all the same.
            _ = self.buckets.take(rate, block, self.clock.now());
        }
        judged
    }

    /// Returns the block of addresses that a request counts for. Returns `None` if the request shows no credentials, is
    /// of a trusted proxy itself, or has no address any more.
    fn counted(&self, credentials: &Credentials<'_>) -> Option<AddressBlock> {
        let address = credentials.address().filter(|_| credentials.has_any())?;
        (!self.trusted_proxies.include(address)).then(|| AddressBlock::of(address))
    }
}

const OVER_GUESS_RATE: &str = "more refused credentials from one address than max_guess_rate allows";

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, time::Duration};

    use super::*;
    use crate::proto::{Refusal, RequestHead};

    const TOKEN: &str = "Authorization: Bearer guess";

    /// Asks a judge that answers with this status about a request with this line. Returns the
    /// status, and whether the judge was asked.
    fn ask(guesses: &Guesses, target: &str, line: &str, peer: &str, status: u16) -> (u16, bool) {
        let head =
            RequestHead::decode(format!("GET {target} HTTP/1.1\r\n{line}\r\n\r\n").as_bytes()).unwrap().unwrap().0;
        let mut is_asked = false;
        let judge = || {
            is_asked = true;
            if status == 200 { Ok(()) } else { Err(Denied::Refused(Refusal::new(status, "as intended"))) }
        };
        let peer = std::net::SocketAddr::new(peer.parse().unwrap(), 9);
        let outcome = guesses.limit(&Credentials::new(&head, Some(peer)), judge);
        (outcome.map_or_else(|denied| Refusal::from(denied).status, |()| 200), is_asked)
    }

    fn two_an_hour() -> Guesses {
        let rate = Rate::new(NonZeroU64::MIN, Duration::from_secs(3_600), NonZeroU64::new(2).unwrap());
        Guesses::default().with_rate(Some(rate), TrustedProxies::default())
    }

    /// Whatever shows credentials is a guess, and a right one among them is refused too: the judge is not asked.
    #[test]
    fn refused_credentials_use_up_the_rate_of_their_address() {
        for (target, line) in [
            ("/", TOKEN),
            ("/", "Authorization: Basic ZXZlOng="),
            ("/", "Cookie: token=guess"),
            ("/?access_token=guess", "X: y"),
            ("/", "Sec-WebSocket-Protocol: access_token, guess"),
        ] {
            for status in [401, 403] {
                let guesses = two_an_hour();
                for _ in 0..2 {
                    assert_eq!(ask(&guesses, target, line, "192.0.2.1", status), (status, true), "{target} {line}");
                }
                assert_eq!(ask(&guesses, target, line, "192.0.2.1", 200), (429, false), "{target} {line}");
                assert_eq!(ask(&guesses, target, line, "192.0.2.2", 200), (200, true), "another address");
                assert_eq!(ask(&guesses, "/", "X: y", "192.0.2.1", 401), (401, true), "no credentials");
            }
        }
    }

    #[test]
    fn only_refused_credentials_count() {
        let guesses = two_an_hour();
        for _ in 0..5 {
            assert_eq!(ask(&guesses, "/", "X: y", "192.0.2.1", 401), (401, true));
            assert_eq!(ask(&guesses, "/", TOKEN, "192.0.2.1", 200), (200, true));
            assert_eq!(ask(&guesses, "/", TOKEN, "192.0.2.1", 503), (503, true));
        }
        let later = Denied::Later(Box::pin(async {}));
        let head = RequestHead::decode(format!("GET / HTTP/1.1\r\n{TOKEN}\r\n\r\n").as_bytes()).unwrap().unwrap().0;
        let credentials = Credentials::new(&head, "192.0.2.1:9".parse().ok());
        assert!(guesses.limit(&credentials, || Err::<(), _>(later)).is_err());
        assert!(guesses.buckets.is_untouched());
    }

    /// A reload changes the rate, and forgets no guess.
    #[test]
    fn a_rate_may_change_and_end() {
        let guesses = two_an_hour();
        (0..2).for_each(|_| _ = ask(&guesses, "/", TOKEN, "2001:db8::1", 401));
        assert_eq!(ask(&guesses, "/", TOKEN, "2001:db8::2", 200), (429, false), "a /64 counts as one");
        let same = guesses.with_rate(guesses.rate, TrustedProxies::default());
        assert_eq!(ask(&same, "/", TOKEN, "2001:db8::1", 200), (429, false));
        let proxies = TrustedProxies::new(vec!["2001:db8::/32".parse().unwrap()], Default::default());
        assert_eq!(ask(&guesses.with_rate(guesses.rate, proxies), "/", TOKEN, "2001:db8::1", 200), (200, true));
        let off = guesses.with_rate(None, TrustedProxies::default());
        assert_eq!(ask(&off, "/", TOKEN, "2001:db8::1", 401), (401, true));
    }
}
