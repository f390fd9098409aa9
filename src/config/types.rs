//! The types that settings have.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{
    listen::{ListenAddress, parse_address},
    quantities::{MemoryLimit, Size, Time},
    rates::{ByteRateLimit, RateLimit},
    value::{Fault, Scalar, Value, one_of},
};
use crate::{
    auth::{AddressRange, ClientAddress, OnError},
    outbound::Outbound,
    proto::is_token,
};

/// Secret strings. `Debug` prints only how many there are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(pub Vec<String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

/// No items are an unset value (`None`): there is no empty list.
impl Value for Option<Secrets> {
    const IS_LIST: bool = true;
    const IS_SECRET: bool = true;
    const TAKES_INTEGERS: bool = false;
    const EXPECTED: &'static str = "text in quotes";

    fn read(items: &[&str]) -> Result<Self, Fault> {
        Ok((!items.is_empty()).then(|| Secrets(items.iter().map(ToString::to_string).collect())))
    }

    fn items(&self) -> Vec<String> {
        self.iter().flat_map(|secrets| &secrets.0).map(|_| "***".into()).collect()
    }
}

/// CPU numbers and ranges: `0`, `0,2`, `0-3,6`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

impl CpuList {
    fn of_parts<'a>(parts: impl IntoIterator<Item = &'a str>) -> Result<Self, Fault> {
        let mut cpus = Vec::new();
        for (item, part) in parts.into_iter().enumerate() {
            cpus.extend(cpu_range(part).map_err(|what| Fault { item, what })?);
        }
        cpus.sort_unstable();
        cpus.dedup();
        Ok(CpuList(cpus))
    }
}

fn cpu_range(part: &str) -> Result<std::ops::RangeInclusive<usize>, String> {
    let error = || format!("{part:?} is no CPU number or range; write it like 0 or 2-3");
    let number = |number: &str| number.trim().parse::<usize>().map_err(|_| error());
    let (first, last) = match part.split_once('-') {
        Some((first, last)) if !first.is_empty() => (number(first)?, number(last)?),
        _ => (number(part)?, number(part)?),
    };
    if first > last || last - first > 4_096 {
        return Err(format!("{part:?} is no range of CPUs"));
    }
    Ok(first..=last)
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::of_parts(text.split(',')).map_err(|fault| fault.what)
    }
}

impl Value for Option<CpuList> {
    const IS_LIST: bool = true;
    const TAKES_INTEGERS: bool = true;
    const EXPECTED: &'static str = "a CPU number or, in quotes, a range such as \"2-3\"";

    fn read(items: &[&str]) -> Result<Self, Fault> {
        if items.is_empty() { Ok(None) } else { CpuList::of_parts(items.iter().copied()).map(Some) }
    }

    fn items(&self) -> Vec<String> {
        self.iter().flat_map(|list| &list.0).map(ToString::to_string).collect()
    }
}

/// The URL of another server, to which this server sends requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl(pub String);

impl Scalar for HttpUrl {
    const EXPECTED: &'static str = "a URL in quotes, such as \"https://app.example/ringhub\"";

    fn parse(text: &str) -> Result<Self, String> {
        Outbound::default().target(text).map(|_| HttpUrl(text.into())).map_err(|error| error.to_string())
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// The name of a header line, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderName(pub String);

impl Scalar for HeaderName {
    const EXPECTED: &'static str = "the name of a header line in quotes, such as \"cookie\"";

    fn parse(text: &str) -> Result<Self, String> {
        match is_token(text) {
            true => Ok(HeaderName(text.to_ascii_lowercase())),
            false => Err(format!("{text:?} is no name of a header line")),
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// Whether the application is asked about requests at routes that are not in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallbackConnect {
    /// It is asked, if there is a `callback_url`.
    On,
    /// It is not asked.
    Off,
}

/// The path of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath(pub PathBuf);

impl Scalar for FilePath {
    const EXPECTED: &'static str = "the path of a file in quotes";

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("the path is empty".into()) } else { Ok(FilePath(text.into())) }
    }

    fn show(&self) -> String {
        self.0.display().to_string()
    }
}

/// The rule by which shards stay on their CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// Shards stay, unless a cgroup quota is smaller than the affinity mask and no CPUs are given.
    Auto,
    /// Shards always stay.
    On,
    /// Shards never stay.
    Off,
}

/// The kernel's interface that the shards of a server use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring, or epoll where the kernel or the container does not allow io_uring.
    Auto,
    /// io_uring. The server does not start where it is not allowed.
    Uring,
    /// epoll.
    Epoll,
}

/// Whether a server gives up what only its start needs, once it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxChoice {
    /// A filter refuses the process all system calls that a serving server does not make, and rings take the operations
    /// in use alone.
    On,
    /// The process may do what its user may do.
    Off,
}

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// The format of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// No line is written.
    Off,
    /// One JSON object for each opening, each HTTP request and each end of a connection.
    Json,
}

/// A filter of events: a level, or a level for each target, such as `info` or `warn,ringhub=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// Returns the filter for the subscriber of events.
    #[must_use]
    pub fn to_filter(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl Scalar for LogFilter {
    const EXPECTED: &'static str = "a level or a filter in quotes, such as \"info\" or \"ringhub=debug\"";

    fn parse(text: &str) -> Result<Self, String> {
        // The library takes a bare word that is no level for a target, and then logs nothing else.
        let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
        if text.split(',').all(|word| word.trim().is_empty()) {
            return Err("a filter of logs is empty; `off` writes none".into());
        }
        let mut bare = text.split(',').map(str::trim).filter(|word| !word.contains(['=', '[']));
        if let Some(word) = bare.find(|word| !is_level(word)) {
            return Err(format!(
                "{word:?} is no level of logs: off, error, warn, info, debug or trace; a target has one, as in \
                 ringhub=debug"
            ));
        }
        let checked = EnvFilter::try_new(text).map(|_| LogFilter(text.into()));
        checked.map_err(|error| format!("{text:?} is no filter of logs, such as info or ringhub=debug: {error}"))
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Scalar for SocketAddr {
    const EXPECTED: &'static str = "an address and port in quotes, such as \"127.0.0.1:6455\"";

    fn parse(text: &str) -> Result<Self, String> {
        parse_address(text)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// An origin. All origins are checked together.
impl Scalar for String {
    const EXPECTED: &'static str = "an origin in quotes, such as \"https://example.org\"";

    fn parse(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// The connections that a listener on an IPv6 address takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenIpv6 {
    /// The connections of IPv6.
    Only,
    /// The connections of IPv4 too, where the address is `[::]`.
    Dual,
}

/// Types that are written as words, each with the value that it stands for.
macro_rules! words {
    ($($type:ident, $expected:literal: $($word:literal $variant:ident),+;)+) => {$(
        impl Scalar for $type {
            const EXPECTED: &'static str = $expected;

            fn parse(text: &str) -> Result<Self, String> {
                one_of(text, &[$(($word, $type::$variant)),+])
            }

            fn show(&self) -> String {
                match self { $($type::$variant => $word.into()),+ }
            }
        }
    )+};
}

words! {
    Pin, "\"auto\", \"on\" or \"off\"": "auto" Auto, "on" On, "off" Off;
    IoChoice, "\"auto\", \"uring\" or \"epoll\"": "auto" Auto, "uring" Uring, "epoll" Epoll;
    SandboxChoice, "\"on\" or \"off\"": "on" On, "off" Off;
    CallbackConnect, "\"on\" or \"off\"": "on" On, "off" Off;
    OnError, "\"deny\", \"allow\" or \"last\"": "deny" Deny, "allow" Allow, "last" Last;
    AccessLogFormat, "\"off\" or \"json\"": "off" Off, "json" Json;
    LogFormat, "\"text\" or \"json\"": "text" Text, "json" Json;
    ListenIpv6, "\"only\" or \"dual\"": "only" Only, "dual" Dual;
    ClientAddress, "\"x-forwarded-for\", \"forwarded\" or \"none\"":
        "x-forwarded-for" XForwardedFor, "forwarded" Forwarded, "none" None;
}

/// Types that are read by [`FromStr`] and shown by `Display`. An integer has no unit: a time refuses it with that
/// reason, unless it is 0.
macro_rules! parsed {
    ($($type:ident, $takes_integers:literal, $expected:literal;)+) => {$(
        impl Scalar for $type {
            const TAKES_INTEGERS: bool = $takes_integers;
            const EXPECTED: &'static str = $expected;

            fn parse(text: &str) -> Result<Self, String> {
                text.parse()
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

parsed! {
    Size, true, "a size, such as 65536 or \"64KiB\"";
    MemoryLimit, true, "a size, such as 734003200 or \"700MiB\", or \"off\"";
    Time, true, "a time in quotes, such as \"10s\"";
    RateLimit, false, "a rate in quotes, such as \"100/s\", or \"off\"";
    ByteRateLimit, false, "a rate in quotes, such as \"64KiB/s\", or \"off\"";
    ListenAddress, false, "an address and port in quotes, such as \"127.0.0.1:6455\"";
    AddressRange, false, "an address or a network in quotes, such as \"10.0.0.0/8\"";
}

macro_rules! counts {
    ($($type:ty)+) => {$(
        impl Scalar for $type {
            const TAKES_INTEGERS: bool = true;
            const EXPECTED: &'static str = "a whole number";

            fn parse(text: &str) -> Result<Self, String> {
                let number = text.trim().parse();
                number.map_err(|_| format!("{text:?} is no whole number from 0 to {}", <$type>::MAX))
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

counts! { u32 u64 usize }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!("0".parse(), Ok(CpuList(vec![0])));
        assert_eq!("3,0-1,1".parse(), Ok(CpuList(vec![0, 1, 3])));
        for bad in ["", "a", "1-", "-1", "3-1", "0-99999999"] {
            assert!(bad.parse::<CpuList>().is_err(), "{bad}");
        }
    }

    /// A shown value can be written, and reads as the same value.
    #[test]
    fn shown_is_read_again() {
        fn check<T: Value + PartialEq + fmt::Debug>(text: &str, shown: &[&str]) {
            let value = T::read(&text.split(',').collect::<Vec<_>>()).unwrap();
            let items = value.items();
            assert_eq!(items, shown, "{text}");
            assert_eq!(T::read(&items.iter().map(|item| &**item).collect::<Vec<_>>()), Ok(value));
        }
        check::<Size>("1024KiB", &["1MiB"]);
        check::<Size>("1000", &["1000"]);
        check::<Size>("0", &["0"]);
        check::<Size>("3GiB", &["3GiB"]);
        check::<Time>("60000ms", &["60s"]);
        check::<Time>("75s", &["75s"]);
        check::<Time>("1500ms", &["1500ms"]);
        check::<Time>("120m", &["2h"]);
        check::<Time>("180s", &["3m"]);
        check::<Time>("0", &["0"]);
        check::<Option<CpuList>>("0,2-3", &["0", "2", "3"]);
        check::<Option<u32>>("7", &["7"]);
        check::<Pin>("off", &["off"]);
        check::<LogFormat>("json", &["json"]);
        check::<LogFilter>("ringhub=debug", &["ringhub=debug"]);
        check::<Vec<ListenAddress>>("127.0.0.1:1,[::1]:2,a:3", &["127.0.0.1:1", "[::1]:2", "a:3"]);
        check::<ListenIpv6>("dual", &["dual"]);
        check::<ClientAddress>("forwarded", &["forwarded"]);
        check::<Vec<AddressRange>>(
            "10.0.0.0/8,::ffff:192.0.2.1,fd00::1",
            &["10.0.0.0/8", "192.0.2.1/32", "fd00::1/128"],
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let secrets = Option::<Secrets>::read(&["hush", "hush2"]).unwrap();
        assert_eq!(secrets.items(), ["***", "***"]);
        assert_eq!(format!("{secrets:?}"), "Some(Secrets(2))");
        assert_eq!(secrets.unwrap().0, ["hush", "hush2"]);
        assert_eq!(Option::<Secrets>::read(&[]), Ok(None));
    }
}
