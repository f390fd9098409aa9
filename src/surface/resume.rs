//! The positions in histories that clients name: in queries, and in commands.

use crate::{
    hub::{OrderEnd, Resume},
    proto::truncate_reason,
};

/// Reads the part of a history that `since` or `last` names; `None` if neither is given.
///
/// # Errors
///
/// The value that is wrong, in words.
pub(super) fn read_resume(since: Option<&str>, last: Option<&str>) -> Result<Option<Resume>, String> {
    match (since, last) {
        (Some(_), Some(_)) => Err("since and last exclude each other".into()),
        (None, None) => Ok(None),
        (Some("earliest"), None) => Ok(Some(Resume::Earliest)),
        (Some(since), None) => match position(since) {
            Some(OrderEnd { epoch, offset }) => Ok(Some(Resume::After { epoch, offset })),
            None => Err(format!(
                "since is {:?}, not EPOCH.OFFSET, such as 1763998000000.42, or earliest",
                truncate_reason(since)
            )),
        },
        (None, Some(last)) => match digits(last) {
            Some(messages) => Ok(Some(Resume::Last(messages))),
            None => Err(format!("last is {:?}, not a number", truncate_reason(last))),
        },
    }
}

/// Reads a position: an epoch and an offset, with a point or a colon between them.
pub(super) fn position(text: &str) -> Option<OrderEnd> {
    let (epoch, offset) = text.split_once(['.', ':'])?;
    Some(OrderEnd { epoch: digits(epoch)?, offset: digits(offset)? })
}

/// Reads a number that has digits alone.
pub(super) fn digits(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}
