//! Checks the settings of the server's own requests to other servers.

use std::fs;

use super::{
    checked::Limits,
    quantities::Size,
    settings::Settings,
    ticks::{at_least_a_tick, ticks},
    types::{FilePath, HttpUrl},
};
use crate::{
    auth::{Callback, CallbackOptions},
    error::ConfigError,
    outbound::{Authorities, Outbound},
};

/// Returns the callback to the application, if there is one. Its questions leave by `outbound`.
pub(super) fn callback(settings: &Settings, outbound: &Outbound) -> Result<Option<Callback>, ConfigError> {
    let timeout = at_least_a_tick("callback_timeout", settings.callback_timeout)?;
    ticks("callback_cache_time", settings.callback_cache_time)?;
    let cache = settings.callback_cache_size;
    if cache.0 > Limits::SIZE_MAX {
        let what = format!("{cache} is not between 0 and {}", Size(Limits::SIZE_MAX));
        return Err(ConfigError::of("callback_cache_size", what));
    }
    let secrets = settings.callback_secrets.as_ref().map(|secrets| secrets.0.clone()).unwrap_or_default();
    let Some(HttpUrl(url)) = &settings.callback_url else {
        let what = "there is nothing to sign without callback_url";
        let unused = ConfigError::of("callback_secrets", what.into()).against("callback_url");
        return if secrets.is_empty() { Ok(None) } else { Err(unused) };
    };
    let target = outbound.target(url).map_err(|error| ConfigError::of("callback_url", error.to_string()))?;
    if timeout.0 > settings.handshake_timeout.0 {
        let what = format!("{timeout} is more than handshake_timeout, {}", settings.handshake_timeout);
        return Err(ConfigError::of("callback_timeout", what).against("handshake_timeout"));
    }
    let options = CallbackOptions::new(secrets)
        .headers(settings.callback_headers.iter().map(|name| &*name.0))
        .timeout(timeout.0)
        .on_error(settings.callback_on_error)
        .cache_time(settings.callback_cache_time.0)
        .cache_bytes_max(cache.0 as usize);
    let callback = Callback::new(target, options);
    callback.map(Some).map_err(|what| ConfigError::of("callback_secrets", what).against("callback_url"))
}

/// Reads the authorities that the server trusts in addition to those of the system.
pub(super) fn authorities(settings: &Settings) -> Result<Authorities, ConfigError> {
    let Some(FilePath(path)) = &settings.outbound_ca else { return Ok(Authorities::default()) };
    let read = fs::read(path).map_err(|error| error.to_string()).and_then(|pem| Authorities::from_pem(&pem));
    read.map_err(|error| ConfigError::of("outbound_ca", format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Secrets, Time};

    /// Returns the error about settings with a URL, or with nothing, and a change.
    fn fault(url: Option<&str>, change: impl FnOnce(&mut Settings)) -> String {
        let secrets = Some(Secrets(vec!["a-secret-of-16-characters".into()]));
        let callback_url = url.map(|url| HttpUrl(url.into()));
        let mut settings = Settings { callback_url, callback_secrets: secrets, ..Settings::default() };
        change(&mut settings);
        callback(&settings, &Outbound::default()).map(drop).map_err(|error| error.to_string()).err().unwrap_or_default()
    }

    #[test]
    fn callbacks_that_cannot_be_are_named() {
        let url = Some("https://app.example/");
        let hour = Time(Duration::from_secs(3_600));
        assert_eq!(fault(url, |_| {}), "");
        let outbound = Outbound::default();
        assert!(callback(&Settings::default(), &outbound).unwrap().is_none() && !outbound.has_targets());
        let check =
            |told: String, expected: &str| assert!(told.starts_with(expected) && !told.contains("hush"), "{told}");
        check(fault(None, |_| {}), "callback_secrets: there is nothing to sign without callback_url");
        check(fault(url, |settings| settings.callback_secrets = None), "callback_secrets: a secret is needed");
        let short = Some(Secrets(vec!["hush".into()]));
        check(fault(url, |settings| settings.callback_secrets = short), "callback_secrets: secret 1 has less than 16");
        check(fault(url, |settings| settings.callback_timeout = hour), "callback_timeout: 1h is more than handshake_");
        let zero = Time(Duration::ZERO);
        check(fault(url, |settings| settings.callback_timeout = zero), "callback_timeout: ");
        let large = Size(2 << 40);
        check(
            fault(url, |settings| settings.callback_cache_size = large),
            "callback_cache_size: 2048GiB is not between",
        );
        let long = Time(Duration::from_secs(367 * 24 * 3_600));
        check(fault(url, |settings| settings.callback_cache_time = long), "callback_cache_time: ");
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let read = |path: &str| {
            let settings = Settings { outbound_ca: Some(FilePath(path.into())), ..Settings::default() };
            authorities(&settings).map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(read("Cargo.toml"), Err("outbound_ca: Cargo.toml: there is no certificate in PEM form".into()));
        assert!(read("no-such-file").unwrap_err().starts_with("outbound_ca: no-such-file: No such file"));
        assert!(authorities(&Settings::default()).is_ok());
    }
}
