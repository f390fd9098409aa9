//! Bounds the readings of histories: those that wait for a home, and the answers that clients have not taken.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{config::Limits, hub::TopicName, proto::Refusal};

/// The readings of histories under way. A home that is behind leaves room for the readings of the others.
#[derive(Debug)]
pub(super) struct HistoryReads {
    /// For each home, or for a few homes together, the readings that wait for it.
    of_homes: Vec<Arc<Semaphore>>,
    /// The KiB of all answers.
    answers: Arc<Semaphore>,
}

/// An answer, which counts until its last byte has left.
struct Held {
    page: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.page
    }
}

impl Default for HistoryReads {
    fn default() -> Self {
        let of_homes = (0..HOMES).map(|_| Arc::new(Semaphore::new(READS_MAX))).collect();
        HistoryReads { of_homes, answers: Arc::new(Semaphore::new(ANSWERS_KIB_MAX)) }
    }
}

impl HistoryReads {
    /// Waits for `read`, which asks the home of this number for a part of the history of a topic.
    ///
    /// # Errors
    ///
    /// 503 if the home does not answer within `wait_max`, with the wait for other readings of the home.
    pub(super) async fn wait<T>(
        &self,
        home: u16,
        topic: &TopicName,
        wait_max: Duration,
        read: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        let of_home = &self.of_homes[usize::from(home) % HOMES];
        let done = timeout(wait_max, async {
            let _permit = of_home.acquire().await;
            read.await
        });
        let behind = || Refusal::not_now(format!("the shard of the topic {:?} is behind", topic.as_str()));
        done.await.map_err(|_| behind())
    }

    /// Returns an answer that counts until it has left.
    ///
    /// # Errors
    ///
    /// 503 if the answers that clients have not taken have as many bytes as allowed.
    pub(super) fn hold(&self, page: Bytes) -> Result<Bytes, Refusal> {
        let kib = page.len().div_ceil(1_024).min(ANSWERS_KIB_MAX);
        match Arc::clone(&self.answers).try_acquire_many_owned(kib as u32) {
            Ok(permit) => Ok(Bytes::from_owner(Held { page, _permit: permit })),
            Err(_) => Err(Refusal::not_now("other clients have not taken their pages of histories yet")),
        }
    }

    /// Returns the bytes of all answers that clients have not taken.
    pub(super) fn bytes(&self) -> u64 {
        (ANSWERS_KIB_MAX - self.answers.available_permits()) as u64 * 1_024
    }
}

/// The numbers of homes that are told apart.
const HOMES: usize = 64;

/// The most readings that wait for a home.
const READS_MAX: usize = 16;

/// The KiB of all answers.
const ANSWERS_KIB_MAX: usize = Limits::HISTORY_ANSWERS_BYTES_MAX / 1_024;

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_home_that_is_behind_leaves_room_for_others() {
        let (reads, topic) = (HistoryReads::default(), TopicName::new("a").unwrap());
        let soon = Duration::from_millis(20);
        let mut waiting: Vec<_> =
            (0..READS_MAX).map(|_| Box::pin(reads.wait(1, &topic, Duration::MAX, pending::<()>()))).collect();
        for read in &mut waiting {
            assert!(timeout(Duration::from_millis(1), read).await.is_err());
        }
        let refusal = reads.wait(1, &topic, soon, ready(())).await.unwrap_err();
        assert_eq!(refusal.status, 503);
        assert_eq!(reads.wait(2, &topic, soon, ready(7)).await.map_err(|refusal| refusal.status), Ok(7));
        assert_eq!(reads.wait(2, &topic, soon, pending::<()>()).await.map_err(|refusal| refusal.status), Err(503));
        drop(waiting);
        assert_eq!(reads.wait(1, &topic, soon, ready(7)).await.map_err(|refusal| refusal.status), Ok(7));
    }

    #[test]
    fn answers_count_until_they_have_left() {
        let reads = HistoryReads::default();
        let half = Bytes::from("x".repeat(Limits::HISTORY_ANSWERS_BYTES_MAX / 2));
        let held = [reads.hold(half.clone()).unwrap(), reads.hold(half.clone()).unwrap()];
        assert_eq!(reads.bytes(), Limits::HISTORY_ANSWERS_BYTES_MAX as u64);
        let part = held[0].slice(1..2);
        assert_eq!(reads.hold("x".into()).map_err(|refusal| refusal.status), Err(503));
        let [first, second] = held;
        drop(first);
        assert!(reads.hold("x".into()).is_err(), "a part of the answer is left");
        drop(part);
        assert!(reads.hold(half).is_ok());
        drop(second);
        assert_eq!(reads.bytes(), 0);
        assert!(reads.hold("x".repeat(Limits::HISTORY_ANSWERS_BYTES_MAX + 1).into()).is_ok(), "one answer of any size");
    }
}
