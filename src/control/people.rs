//! Acts on many connections, shard by shard, in bounded steps: pages of connections and topics, closes, revocations.

use std::{future::poll_fn, pin::Pin, sync::Arc, task::Poll};

use super::publisher::Publisher;
use crate::{
    auth::{RevocationError, Revocations},
    hub::{
        Command, ConnectionFilter, ConnectionId, ConnectionPage, ROWS_MAX, Reply, TopicCursor, TopicName, TopicPage,
        TopicSummary, Who,
    },
    proto::CloseCode,
};

impl Publisher {
    /// Returns a page of open connections: those after `after`, at most `most`. The page may have fewer although more
    /// follow, so that neither the work nor the page grows without end. Returns `None` if the server has ended.
    pub(crate) async fn connection_page(
        &self,
        shards: u16,
        filter: &ConnectionFilter,
        after: Option<ConnectionId>,
        most: usize,
    ) -> Option<ConnectionPage> {
        let (filter, most) = (Arc::new(filter.clone()), most.max(1));
        let (mut shard, mut from) = after.map_or((0, 0), |id| (id.shard(), id.slot() + 1));
        let (mut page, mut bytes) = (ConnectionPage::default(), 0);
        for _ in 0..STEPS_MAX {
            if shard >= shards || page.connections.len() >= most || bytes >= PAGE_BYTES {
                break;
            }
            let rows_max = (most - page.connections.len()).min(ROWS_MAX);
            let command = Command::Page { filter: Arc::clone(&filter), from, rows_max };
            let Reply::Page(part) = self.command(shard, command).await? else { return None };
            bytes += part.connections.iter().map(|row| size_of_val(row) + row.text_bytes()).sum::<usize>();
            page.connections.extend(part.connections);
            (shard, from) = part.next.map_or((shard + 1, 0), |next| (shard, next));
        }
        page.next = (shard < shards).then(|| match from.checked_sub(1) {
            Some(slot) => ConnectionId::new(shard, slot, 0),
            None => ConnectionId::new(shard.saturating_sub(1), ConnectionId::SLOTS_MAX - 1, 0),
        });
        Some(page)
    }

    /// Begins the closing handshakes of all open connections of an owner, and returns how many they were. Returns
    /// `None` if the server has ended.
    pub(crate) async fn disconnect_all(&self, shards: u16, who: &Who, code: CloseCode, reason: &str) -> Option<u64> {
        let reason: Arc<str> = reason.into();
        // Each shard takes its steps by itself, so that no shard waits for one that is behind or stuck.
        let each = (0..shards).map(|shard| self.disconnect_on(shard, who, code, &reason));
        at_once(each).await.into_iter().sum()
    }

    /// Begins the closing handshakes of all open connections of an owner on one shard, step by step.
    async fn disconnect_on(&self, shard: u16, who: &Who, code: CloseCode, reason: &Arc<str>) -> Option<u64> {
        let (mut all, mut from) = (0, 0);
        loop {
            let step = Command::CloseAll { who: who.clone(), from, code, reason: Arc::clone(reason) };
            let Reply::Closed { closed, next } = self.command(shard, step).await? else { return None };
            all += u64::from(closed);
            let Some(next) = next else { return Some(all) };
            from = next;
        }
    }

    /// Refuses an owner until `until`, in seconds of Unix time, and closes its connections. Returns how many they were;
    /// 0 if the server has ended.
    ///
    /// # Errors
    ///
    /// See [`RevocationError`].
    pub(crate) async fn revoke(
        &self,
        shards: u16,
        revocations: &Revocations,
        who: &Who,
        until: u64,
        (code, reason): (CloseCode, &str),
    ) -> Result<u64, RevocationError> {
        // The revocation comes first: a connection that was judged before it is closed here, or when it is adopted.
        revocations.revoke(who, until)?;
        let closed = self.disconnect_all(shards, who, code, reason).await.unwrap_or_default();
        tracing::info!(%until, closed, "an identity or a token has been revoked");
        Ok(closed)
    }

    /// Returns a page of the topics that connections use and whose names begin with `prefix`: those after `after`, at
    /// most `most`. The page may have fewer although more follow. Returns `None` if the server has ended.
    pub(crate) async fn topic_page(
        &self,
        shards: u16,
        prefix: &Arc<str>,
        after: Option<TopicCursor>,
        most: usize,
    ) -> Option<TopicPage> {
        let TopicCursor { mut shard, index: mut from } = after.unwrap_or(TopicCursor { shard: 0, index: 0 });
        let mut page = TopicPage::default();
        for _ in 0..STEPS_MAX {
            if shard >= shards || page.topics.len() >= most {
                break;
            }
            let command = Command::Topics { from, most: most - page.topics.len(), prefix: Arc::clone(prefix) };
            let Reply::Topics(part) = self.command(shard, command).await? else { return None };
            (shard, from) = part.next.map_or((shard + 1, 0), |next| (shard, next));
            let names: Arc<[TopicName]> = part.topics.into();
            let counts = self.counts(shards, &names).await?;
            let topics = names.iter().zip(counts);
            page.topics.extend(topics.map(|(topic, subscribers)| TopicSummary { topic: topic.clone(), subscribers }));
        }
        page.next = (shard < shards).then_some(TopicCursor { shard, index: from });
        Some(page)
    }

    /// Returns how many subscribers each topic has on all shards. Returns `None` if the server has ended.
    pub(crate) async fn counts(&self, shards: u16, topics: &Arc<[TopicName]>) -> Option<Vec<u64>> {
        let mut sums = vec![0; topics.len()];
        if topics.is_empty() {
            return Some(sums);
        }
        for reply in self.command_each(shards, &Command::CountSubscribers(Arc::clone(topics))).await? {
            let Reply::Counts(counts) = reply else { return None };
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += u64::from(count));
        }
        Some(sums)
    }
}

/// Waits for all of these futures at once, on the caller's task, and returns their outputs in order.
async fn at_once<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<Pin<Box<F>>> = futures.map(Box::pin).collect();
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (future, output) in futures.iter_mut().zip(&mut outputs).filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(ready) = future.as_mut().poll(context) {
                *output = Some(ready);
            }
        }
        if outputs.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

/// The most steps of a page. A page that finds nothing has looked at no more than 65 536 slots, or topics.
const STEPS_MAX: usize = 64;

/// A page of connections ends with the step by which its connections take so many bytes.
const PAGE_BYTES: usize = 1 << 20;
