//! Invalid settings, each with its error.

use std::time::Duration;

use ringhub::client::{BuildError, Client, ClientBuilder, ClientLimits, Reconnect, UrlError};

use super::client;

#[track_caller]
fn refused(builder: ClientBuilder, error: BuildError) {
    let message = error.to_string();
    assert_eq!(builder.build().map(|_| ()), Err(error), "{message}");
}

fn some() -> ClientBuilder {
    client("ws://127.0.0.1:1/")
}

#[test]
fn addresses() {
    refused(Client::builder(), BuildError::UrlMissing);
    refused(client("127.0.0.1:1"), BuildError::Url(UrlError::NoScheme));
    refused(client("http://hub/"), BuildError::Url(UrlError::UnknownScheme("http".into())));
    refused(client("ws://me:secret@hub/"), BuildError::Url(UrlError::UserInfo));
    refused(client("ws://:1/"), BuildError::Url(UrlError::Host(":1".into())));
    refused(client("ws://hub:x/"), BuildError::Url(UrlError::Port("x".into())));
    refused(client("ws://hub/#x"), BuildError::Url(UrlError::Fragment));
    refused(client("ws://hub/a b"), BuildError::Url(UrlError::Character(' ')));
    refused(some().proxy("https://proxy/"), BuildError::Proxy(UrlError::UnknownScheme("https".into())));
    refused(some().proxy("http://me:secret@proxy"), BuildError::Proxy(UrlError::UserInfo));
    refused(some().proxy("http://proxy/path"), BuildError::Proxy(UrlError::Path));
    refused(some().proxy_basic_auth("me", "secret"), BuildError::ProxyMissing);
}

#[test]
fn headers() {
    refused(some().header("X Y", "z"), BuildError::HeaderName("X Y".into()));
    refused(some().header("", "z"), BuildError::HeaderName("".into()));
    refused(some().header("X", "a\r\nY: b"), BuildError::HeaderValue("X".into()));
    for name in ["Host", "upgrade", "Connection", "sec-websocket-key", "Sec-WebSocket-Protocol", "Content-Length"] {
        refused(some().header(name, "x"), BuildError::HeaderReserved(name.into()));
    }
    refused(some().header("X", "x".repeat(8 << 10)), BuildError::HeadTooLong);
}

#[test]
fn credentials() {
    refused(some().basic_auth("me", "secret").bearer_auth("token"), BuildError::CredentialsTwice);
    refused(some().bearer_auth("token").header("authorization", "x"), BuildError::CredentialsTwice);
    refused(some().basic_auth("m:e", "secret"), BuildError::Credentials);
    refused(some().basic_auth("me", "sec\nret"), BuildError::Credentials);
    refused(some().bearer_auth("to\nken"), BuildError::Credentials);
    refused(some().proxy("http://proxy").proxy_basic_auth("m:e", ""), BuildError::Credentials);
}

#[test]
fn subprotocols() {
    refused(some().subprotocol("a b"), BuildError::Subprotocol("a b".into()));
    refused(some().subprotocol("a").subprotocol("b").subprotocol("a"), BuildError::SubprotocolTwice("a".into()));
}

#[test]
fn certificate_authorities() {
    for pem in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        match some().certificate_authority(pem).build() {
            Err(BuildError::CertificateAuthority(_)) => {}
            other => panic!("{pem:?}: {other:?}"),
        }
    }
}

#[test]
fn zeros() {
    let zero = Duration::ZERO;
    refused(some().connect_timeout(zero), BuildError::Zero("connect_timeout"));
    refused(some().handshake_timeout(zero), BuildError::Zero("handshake_timeout"));
    refused(some().close_timeout(zero), BuildError::Zero("close_timeout"));
    let limits = ClientLimits { events_max: 0, ..ClientLimits::default() };
    refused(some().limits(limits), BuildError::Zero("limits.events_max"));
    let limits = ClientLimits { queue_messages_max: 0, ..ClientLimits::default() };
    refused(some().limits(limits), BuildError::Zero("limits.queue_messages_max"));
    let reconnect = Reconnect { delay_min: zero, ..Reconnect::default() };
    refused(some().reconnect(reconnect), BuildError::Zero("reconnect.delay_min"));
    let (min, max) = (Duration::from_secs(2), Duration::from_secs(1));
    let reconnect = Reconnect { delay_min: min, delay_max: max, ..Reconnect::default() };
    refused(some().reconnect(reconnect), BuildError::ReconnectDelays(min, max));
}

/// `Debug` shows no secret.
#[test]
fn secrets() {
    let builder = client("ws://hub/?token=secret").basic_auth("me", "secret").header("Cookie", "secret");
    assert!(!format!("{builder:?}").contains("secret"));
    let (client, _events) = builder.build().unwrap();
    assert_eq!(client.url(), "ws://hub/?…");
    assert!(!format!("{client:?}").contains("secret"));
}
