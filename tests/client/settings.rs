//! Invalid settings, each with its error.

use std::time::Duration;

use ringhub::client::{Client, ClientBuildError, ClientBuilder, ClientLimits, Reconnect, UrlError};

use super::client;

#[track_caller]
fn refused(builder: ClientBuilder, error: ClientBuildError) {
    let message = error.to_string();
    assert_eq!(builder.build().map(|_| ()), Err(error), "{message}");
}

fn some() -> ClientBuilder {
    client("ws://127.0.0.1:1/")
}

#[test]
fn addresses() {
    refused(Client::builder(), ClientBuildError::UrlMissing);
    refused(client("127.0.0.1:1"), ClientBuildError::Url(UrlError::NoScheme));
    refused(client("http://hub/"), ClientBuildError::Url(UrlError::UnknownScheme("http".into())));
    refused(client("ws://me:secret@hub/"), ClientBuildError::Url(UrlError::UserInfo));
    refused(client("ws://:1/"), ClientBuildError::Url(UrlError::Host(":1".into())));
    refused(client("ws://hub:x/"), ClientBuildError::Url(UrlError::Port("x".into())));
    refused(client("ws://hub/#x"), ClientBuildError::Url(UrlError::Fragment));
    refused(client("ws://hub/a b"), ClientBuildError::Url(UrlError::Character(' ')));
    refused(some().proxy("https://proxy/"), ClientBuildError::Proxy(UrlError::UnknownScheme("https".into())));
    refused(some().proxy("http://me:secret@proxy"), ClientBuildError::Proxy(UrlError::UserInfo));
    refused(some().proxy("http://proxy/path"), ClientBuildError::Proxy(UrlError::Path));
    refused(some().proxy_basic_auth("me", "secret"), ClientBuildError::ProxyMissing);
}

#[test]
fn headers() {
    refused(some().header("X Y", "z"), ClientBuildError::HeaderName("X Y".into()));
    refused(some().header("", "z"), ClientBuildError::HeaderName("".into()));
    refused(some().header("X", "a\r\nY: b"), ClientBuildError::HeaderValue("X".into()));
    for name in ["Host", "upgrade", "Connection", "sec-websocket-key", "Sec-WebSocket-Protocol", "Content-Length"] {
        refused(some().header(name, "x"), ClientBuildError::HeaderReserved(name.into()));
    }
    refused(some().header("X", "x".repeat(8 << 10)), ClientBuildError::HeadTooLong);
}

#[test]
fn credentials() {
    refused(some().basic_auth("me", "secret").bearer_auth("token"), ClientBuildError::CredentialsTwice);
    refused(some().bearer_auth("token").header("authorization", "x"), ClientBuildError::CredentialsTwice);
    refused(some().basic_auth("m:e", "secret"), ClientBuildError::Credentials);
    refused(some().basic_auth("me", "sec\nret"), ClientBuildError::Credentials);
    refused(some().bearer_auth("to\nken"), ClientBuildError::Credentials);
    refused(some().proxy("http://proxy").proxy_basic_auth("m:e", ""), ClientBuildError::Credentials);
}

#[test]
fn subprotocols() {
    refused(some().subprotocol("a b"), ClientBuildError::Subprotocol("a b".into()));
    refused(some().subprotocol("a").subprotocol("b").subprotocol("a"), ClientBuildError::SubprotocolTwice("a".into()));
}

#[test]
fn certificate_authorities() {
    for pem in ["", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        match some().certificate_authority(pem).build() {
            Err(ClientBuildError::CertificateAuthority(_)) => {}
            other => panic!("{pem:?}: {other:?}"),
        }
    }
}

#[test]
fn zeros() {
    let zero = Duration::ZERO;
    refused(some().connect_timeout(zero), ClientBuildError::Zero("connect_timeout"));
    refused(some().handshake_timeout(zero), ClientBuildError::Zero("handshake_timeout"));
    refused(some().close_timeout(zero), ClientBuildError::Zero("close_timeout"));
    let limits = ClientLimits { events_max: 0, ..ClientLimits::default() };
    refused(some().limits(limits), ClientBuildError::Zero("limits.events_max"));
    let limits = ClientLimits { queue_messages_max: 0, ..ClientLimits::default() };
    refused(some().limits(limits), ClientBuildError::Zero("limits.queue_messages_max"));
    let reconnect = Reconnect { first_delay_max: zero, ..Reconnect::default() };
    refused(some().reconnect(reconnect), ClientBuildError::Zero("reconnect.first_delay_max"));
    let (min, max) = (Duration::from_secs(2), Duration::from_secs(1));
    let reconnect = Reconnect { first_delay_max: min, delay_max: max, ..Reconnect::default() };
    refused(some().reconnect(reconnect), ClientBuildError::ReconnectDelays(min, max));
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
