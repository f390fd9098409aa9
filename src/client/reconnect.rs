//! `Reconnect`: the delays before a lost connection is opened again, by exponential backoff with full jitter.

use std::time::Duration;

use super::{
    error::{ClientBuildError, ConnectError},
    event::ConnectionEnd,
};
use crate::proto::CloseCode;

/// The rules by which a client opens a lost connection again.
///
/// The delay before attempt *n* since the last stable connection is a random time between 0 and `first_delay_max` ·
/// 2^(*n*-1), at most `delay_max`. The random part keeps many clients that lost one server from returning at once. If
/// the server refuses with `Retry-After` in seconds, the next delay is at least as long as `Retry-After` says, but at
/// most `delay_max`. If the server closes with 1012 and the reason `{"retry_after_ms":N}`, as ringhub does when it
/// leaves, the first delay is that time, but at most `delay_max`: the server has chosen it at random.
///
/// These ends are final: a close that the caller requested, a close with 1008 or 4000-4999, and the server's answer to
/// an attempt with a status 400-499 other than 408, 425 and 429, such as 401, 403 or 404. A refusal by the proxy is not
/// final, and neither is a close with 1008 whose reason begins with `slow consumer`: the client did not keep up for a
/// while, and may do better on another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reconnect {
    /// The longest delay before the first attempt. 500 ms by default.
    pub first_delay_max: Duration,
    /// The longest delay before any attempt. 30 s by default.
    pub delay_max: Duration,
    /// The number of attempts since the last stable connection, after which the client gives up. `None`, the default,
    /// sets no limit.
    pub attempts_max: Option<u32>,
    /// The time after which an open connection is stable, so that the count of attempts begins anew. 10 s by default.
    pub stable_after: Duration,
}

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            first_delay_max: Duration::from_millis(500),
            delay_max: Duration::from_secs(30),
            attempts_max: None,
            stable_after: Duration::from_secs(10),
        }
    }
}

impl Reconnect {
    pub(super) fn check(&self) -> Result<(), ClientBuildError> {
        if self.first_delay_max.is_zero() {
            Err(ClientBuildError::Zero("reconnect.first_delay_max"))
        } else if self.delay_max < self.first_delay_max {
            Err(ClientBuildError::ReconnectDelays(self.first_delay_max, self.delay_max))
        } else if self.attempts_max == Some(0) {
            Err(ClientBuildError::Zero("reconnect.attempts_max"))
        } else {
            Ok(())
        }
    }

    /// Returns the delay before an attempt, counted from 1.
    pub(super) fn delay(&self, attempt: u32, random: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
        let longest = self.first_delay_max.saturating_mul(doubled).min(self.delay_max);
        longest.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    pub(super) fn may_attempt(&self, attempt: u32) -> bool {
        self.attempts_max.is_none_or(|max| attempt <= max)
    }
}

/// Returns whether the server's close frame rules out a reconnect.
pub(super) fn is_final(closed: &ConnectionEnd) -> bool {
    let is_for_policy = closed.code == CloseCode::POLICY_VIOLATION && !closed.reason.starts_with(SLOW_CONSUMER);
    is_for_policy || matches!(closed.code.0, 4000..=4999)
}

/// The beginning of the reason for which the server closes a connection with 1008 that did not take its output.
const SLOW_CONSUMER: &str = "slow consumer";

/// Returns whether the server's answer to the opening handshake rules out a further attempt.
pub(super) fn is_refusal_final(error: &ConnectError) -> bool {
    match error {
        ConnectError::Refused(refused) => matches!(refused.head.status(), 400..=499 if
            ![408, 425, 429].contains(&refused.head.status())),
        _ => false,
    }
}

/// Returns the delay that a refusal asks for by `Retry-After` in seconds (RFC 9110 10.2.3). A date is ignored.
pub(super) fn retry_after(error: &ConnectError) -> Option<Duration> {
    let ConnectError::Refused(refused) = error else { return None };
    let seconds = str::from_utf8(refused.head.headers().get("retry-after")?).ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// Returns the delay that the server asks for when it leaves, by a close with 1012 and a reason in JSON.
pub(super) fn retry_hint(closed: &ConnectionEnd) -> Option<Duration> {
    if closed.code != CloseCode::SERVICE_RESTART {
        return None;
    }
    let reason: serde_json::Value = serde_json::from_str(&closed.reason).ok()?;
    reason.get("retry_after_ms")?.as_u64().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::{super::event::Cause, *};

    const RECONNECT: Reconnect = Reconnect {
        first_delay_max: Duration::from_secs(1),
        delay_max: Duration::from_secs(10),
        attempts_max: Some(3),
        stable_after: Duration::from_secs(1),
    };

    #[test]
    fn delays_double_up_to_the_longest() {
        for (attempt, seconds) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 10), (6, 10), (1000, 10), (u32::MAX, 10)] {
            assert_eq!(RECONNECT.delay(attempt, u32::MAX), Duration::from_secs(seconds), "{attempt}");
        }
    }

    #[test]
    fn jitter_is_full() {
        assert_eq!(RECONNECT.delay(5, 0), Duration::ZERO);
        let half = RECONNECT.delay(5, u32::MAX / 2);
        assert!(half > Duration::from_millis(4_990) && half < Duration::from_millis(5_010), "{half:?}");
    }

    #[test]
    fn a_server_that_leaves_chooses_the_delay() {
        let hint = |code: u16, reason: &str| {
            let closed =
                ConnectionEnd { code: CloseCode(code), reason: reason.into(), is_clean: true, cause: Cause::Server };
            retry_hint(&closed).map(|delay| delay.as_millis())
        };
        assert_eq!(hint(1012, r#"{"retry_after_ms":1234}"#), Some(1_234));
        assert_eq!(hint(1012, r#"{"retry_after_ms":0, "more": [1]}"#), Some(0));
        assert_eq!(hint(1001, r#"{"retry_after_ms":1234}"#), None);
        for reason in ["", "soon", "{}", "1234", r#"{"retry_after_ms":-1}"#, r#"{"retry_after_ms":"1"}"#] {
            assert_eq!(hint(1012, reason), None, "{reason}");
        }
    }

    #[test]
    fn a_slow_consumer_may_come_back() {
        let is_final = |code, reason: &str| {
            let (code, reason) = (CloseCode(code), reason.into());
            is_final(&ConnectionEnd { code, reason, is_clean: true, cause: Cause::Server })
        };
        for reason in ["", "revoked", "slow", "a slow consumer"] {
            assert!(is_final(1008, reason), "{reason}");
        }
        for reason in ["slow consumer", "slow consumer, and the server is short of memory"] {
            assert!(!is_final(1008, reason) && is_final(4008, reason), "{reason}");
        }
        assert!(!is_final(1013, "") && !is_final(1006, "") && is_final(4401, ""));
    }

    #[test]
    fn attempts_are_counted() {
        assert!(RECONNECT.may_attempt(3) && !RECONNECT.may_attempt(4));
        assert!(Reconnect { attempts_max: None, ..RECONNECT }.may_attempt(u32::MAX));
    }

    #[test]
    fn settings_without_a_meaning_are_refused() {
        let check = |reconnect: Reconnect, error| assert_eq!(reconnect.check(), Err(error));
        check(
            Reconnect { first_delay_max: Duration::ZERO, ..RECONNECT },
            ClientBuildError::Zero("reconnect.first_delay_max"),
        );
        check(Reconnect { attempts_max: Some(0), ..RECONNECT }, ClientBuildError::Zero("reconnect.attempts_max"));
        let (min, max) = (Duration::from_secs(1), Duration::from_millis(1));
        check(Reconnect { delay_max: max, ..RECONNECT }, ClientBuildError::ReconnectDelays(min, max));
    }
}
