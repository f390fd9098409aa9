//! Waits for the judge: some requests can be judged only when another thread has answered.

use std::{
    future::{Future, poll_fn},
    task::Poll,
    time::Duration,
};

use super::denied::Denied;
use crate::{
    auth::{Later, ROUNDS_MAX},
    handler::Panicked,
};

/// Asks the judge until it decides. While the judge has to wait, the request does: for `time` and [`ROUNDS_MAX`] rounds
/// at most, and no longer than its client, whose end `left` notices. A request that need not wait costs nothing here.
///
/// # Errors
///
/// The decision of the judge; [`Denied::Undecided`] if the wait is too long, [`Denied::Left`] if the client has left.
pub(crate) async fn until_decided<T>(
    time: Duration,
    left: impl Future<Output = ()>,
    mut ask: impl FnMut() -> Result<T, Denied>,
) -> Result<T, Denied> {
    let later = match ask() {
        Err(Denied::Later(later)) => later,
        decided => return decided,
    };
    let rounds = async {
        let mut later = later;
        for _ in 0..ROUNDS_MAX {
            finish(later).await?;
            later = match ask() {
                Err(Denied::Later(later)) => later,
                decided => return decided,
            };
        }
        Err(Denied::Undecided)
    };
    // The state of a wait is large, and few requests wait.
    Box::pin(async {
        tokio::select! {
            biased;
            decided = rounds => decided,
            () = left => Err(Denied::Left),
            () = tokio::time::sleep(time) => Err(Denied::Undecided),
        }
    })
    .await
}

/// Runs work to its end, and catches its panic.
async fn finish(mut later: Later) -> Result<(), Denied> {
    let panicked = |Panicked(panic): Panicked| {
        tracing::error!(panic, "the work that a request waits for has panicked");
        Denied::Panicked
    };
    poll_fn(|cx| match Panicked::catch(|| later.as_mut().poll(cx)) {
        Ok(poll) => poll.map(Ok),
        Err(caught) => Poll::Ready(Err(panicked(caught))),
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::proto::Refusal;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    /// Waits for a judge that decides after so many rounds. Returns the outcome, and how often the judge was asked.
    fn decided_after(rounds: usize) -> (Result<(), Denied>, usize) {
        let mut asked = 0;
        let outcome = block_on(until_decided(Duration::from_secs(60), pending(), || {
            asked += 1;
            if asked > rounds { Ok(()) } else { Err(Denied::Later(Box::pin(tokio::task::yield_now()))) }
        }));
        (outcome, asked)
    }

    #[test]
    fn a_request_waits_for_some_rounds() {
        for rounds in [0, 1, ROUNDS_MAX] {
            let (outcome, asked) = decided_after(rounds);
            assert!(outcome.is_ok(), "{outcome:?}");
            assert_eq!(asked, rounds + 1);
        }
        let (outcome, asked) = decided_after(ROUNDS_MAX + 1);
        assert!(matches!(outcome, Err(Denied::Undecided)), "{outcome:?}");
        assert_eq!(asked, ROUNDS_MAX + 1);
    }

    /// All rounds together have the time of one opening handshake.
    #[test]
    fn a_request_waits_for_a_limited_time() {
        let mut rounds = vec![Duration::from_secs(600), Duration::from_millis(1)];
        let outcome: Result<(), Denied> = block_on(async {
            let ask = || Err(Denied::Later(Box::pin(tokio::time::sleep(rounds.pop().unwrap()))));
            until_decided(Duration::from_millis(50), pending(), ask).await
        });
        assert!(matches!(outcome, Err(Denied::Undecided)), "{outcome:?}");
        assert!(rounds.is_empty());
    }

    #[test]
    fn a_refusal_ends_the_wait() {
        let mut refusals = vec![Denied::Refused(Refusal::new(403, "no")), Denied::Later(Box::pin(async {}))];
        let outcome: Result<(), Denied> =
            block_on(until_decided(Duration::from_secs(60), pending(), || Err(refusals.pop().unwrap())));
        assert!(matches!(outcome, Err(Denied::Refused(refusal)) if refusal.status == 403));
    }

    #[test]
    fn a_client_that_leaves_ends_the_wait() {
        let outcome: Result<(), Denied> = block_on(async {
            let left = tokio::time::sleep(Duration::from_millis(1));
            until_decided(Duration::from_secs(60), left, || Err(Denied::Later(Box::pin(pending())))).await
        });
        assert!(matches!(outcome, Err(Denied::Left)), "{outcome:?}");
    }

    #[test]
    fn a_panic_of_the_work_is_caught() {
        let outcome: Result<(), Denied> = block_on(until_decided(Duration::from_secs(60), pending(), || {
            Err(Denied::Later(Box::pin(async { panic!("as intended") })))
        }));
        assert!(matches!(outcome, Err(Denied::Panicked)), "{outcome:?}");
    }
}
