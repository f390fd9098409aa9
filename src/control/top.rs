//! The answer at `/debug/top`: the busiest topics and the largest backlogs of all shards.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{
    StatusCode,
    header::{self, HeaderValue},
};
use tokio::{task::JoinSet, time::timeout};

use super::{
    answers::{Answer, JSON, TEXT, response},
    merged_top::AllShards,
    shared::Shared,
};
use crate::{
    hub::{Command, Reply},
    proto::{Refusal, RequestHead, query_pairs},
};

/// The format of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopFormat {
    Json,
    /// Tables for people.
    Text,
}

impl TopFormat {
    /// Returns the format that a request asks for by `?format=json` or `?format=text`; JSON without the key.
    ///
    /// # Errors
    ///
    /// 400 for another format.
    pub(super) fn of(head: &RequestHead) -> Result<TopFormat, Refusal> {
        let format = query_pairs(head.query()).find(|(key, _)| key.as_deref() == Some("format"));
        match format.as_ref().map(|(_, value)| value.as_deref()) {
            None | Some(Some("json")) => Ok(TopFormat::Json),
            Some(Some("text")) => Ok(TopFormat::Text),
            Some(_) => Err(Refusal::new(400, "format is json or text")),
        }
    }
}

/// Answers a request. All requests within a second get the same numbers, and one request at a time asks the shards.
pub(super) async fn answer(shared: &Shared, format: TopFormat) -> Answer {
    let mut last = shared.top.lock().await;
    let all = match &*last {
        Some((time, all)) if time.elapsed() < AGE_MAX => Arc::clone(all),
        _ => {
            let all = Arc::new(ask(shared).await);
            *last = Some((Instant::now(), Arc::clone(&all)));
            all
        }
    };
    drop(last);
    let mut answer = match format {
        TopFormat::Json => response(StatusCode::OK, JSON, format!("{:#}\n", all.json())),
        TopFormat::Text => response(StatusCode::OK, TEXT, all.text()),
    };
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Asks all shards at once.
async fn ask(shared: &Shared) -> AllShards {
    let mut asked = JoinSet::new();
    for shard in 0..shared.shards.len() as u16 {
        let publisher = shared.publisher.clone();
        asked.spawn(async move { timeout(WAIT, publisher.command(shard, Command::Top)).await });
    }
    let (mut tops, mut silent) = (Vec::new(), 0);
    while let Some(answered) = asked.join_next().await {
        match answered {
            Ok(Ok(Some(Reply::Top(top)))) => tops.push(*top),
            _ => silent += 1,
        }
    }
    AllShards::merge(tops, silent)
}

/// The longest age of an answer of the shards.
const AGE_MAX: Duration = Duration::from_secs(1);

/// The longest wait for a shard. A handler may block it.
const WAIT: Duration = Duration::from_secs(2);
