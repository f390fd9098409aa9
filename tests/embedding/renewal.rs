//! Tokens that expire, and fresh tokens: the interface for embedders.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use ringhub::{
    SubscribeOptions,
    auth::{Authenticator, Credentials, Grants, Identity, Later, Network, TopicRight},
    handler::{Accept, RenewError, RouteOptions, TOKEN_EXPIRED, TopicName},
    metrics::Counter,
    proto::Refusal,
};

use crate::{Script, serve, support::text};

/// An authenticator that takes the token for the identity's name. A token with a dot is decided only later, and then
/// grants the topic behind the dot.
struct Slow {
    /// Whether a token with a dot has been waited for.
    has_waited: AtomicBool,
}

impl Authenticator for Slow {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
        let token = credentials.token().ok_or_else(|| Refusal::new(401, "a token is missing"))?;
        let token = String::from_utf8_lossy(&token).into_owned();
        let Some((name, topic)) = token.split_once('.') else { return Ok(Identity::new(token)) };
        let grants = Grants::default().allow(TopicRight::Subscribe, [topic.parse().unwrap()]);
        Ok(Identity::new(name).with_grants(grants))
    }

    fn prepare(&self, credentials: &Credentials<'_>) -> Option<Later> {
        let answers = credentials.answers()?.clone();
        let has_dot = credentials.token().is_some_and(|token| token.contains(&b'.'));
        if !has_dot || answers.get::<()>("waited").is_some() {
            return None;
        }
        self.has_waited.store(true, Ordering::SeqCst);
        Some(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            answers.put("waited", ());
        }))
    }
}

/// A handle waits where a connection cannot. The new grants hold, and the connection leaves what they do not have.
#[test]
fn a_handle_waits_for_the_decision_about_a_token() {
    let slow = Arc::new(Slow { has_waited: AtomicBool::new(false) });
    let (script, _journal) = Script::<()>::by_message(|connection, message| {
        assert_eq!(connection.renew_token(message), Err(RenewError::MustWait));
        let token = message.to_string();
        connection.spawn(|handle| async move {
            let renewed = handle.renew_token(token).await.map(|renewed| renewed.unsubscribed);
            handle.send_text(format!("{renewed:?}")).await;
            let identity = handle.with(|connection| connection.identity().cloned()).await.flatten();
            handle.send_text(identity.unwrap().name).await;
        });
    });
    let script = script.on_open(|connection| {
        for topic in ["a", "b"] {
            connection.subscribe(&TopicName::new(topic).unwrap(), SubscribeOptions::default()).unwrap();
        }
    });
    let options = RouteOptions::new().authenticator(Arc::clone(&slow));
    let server = serve(1, |builder| builder.route_with("/", script, options));
    let mut client = server.open("/", &[], &[("Authorization", "Bearer ann")]).unwrap();
    client.send_text("ann.a");
    client.expect(text("Ok([TopicName(\"b\")])"));
    client.expect(text("ann"));
    assert!(slow.has_waited.load(Ordering::SeqCst));
    client.send_text("ben.a");
    client.expect(text("Err(OtherIdentity)"));
    client.expect(text("ann"));
    client.leave();
}

/// What cannot be renewed is named.
#[test]
fn tokens_that_cannot_be_renewed() {
    let script = || {
        Script::<()>::by_message(|connection, message| {
            let error = connection.renew_token(message).unwrap_err();
            connection.send_text(format!("{error:?}: {error}"));
        })
    };
    let (plain, forgetful) = (script().0, script().0);
    let slow = Slow { has_waited: AtomicBool::new(false) };
    let options = RouteOptions::new().authenticator(slow).forget_request();
    let server = serve(1, |builder| builder.route("/plain", plain).route_with("/forgetful", forgetful, options));
    for (target, expected) in [
        ("/plain", "NoAuthenticator: the route has no authenticator that could judge a token"),
        ("/forgetful", "RequestForgotten: the route has not kept the opening request, which the token belongs to"),
    ] {
        let mut client = server.open(target, &[], &[("Authorization", "Bearer ann")]).unwrap();
        client.send_text("ann");
        client.expect(text(expected));
        client.leave();
    }
}

/// The connection keeps the token, so its size is bounded whatever the authenticator is.
#[test]
fn a_token_that_renews_another_one_has_a_limit() {
    let script = || {
        Script::<()>::by_message(|connection, message| {
            let renewed = connection.renew_token(&"x".repeat(message.parse().unwrap()));
            connection.send_text(renewed.map_or_else(|error| error.to_string(), |_| "renewed".into()));
        })
    };
    // Neither looks at the token.
    let network = RouteOptions::new().authenticator(Network::new(&["127.0.0.0/8"], &[]).unwrap());
    let server = serve(1, |builder| builder.route_with("/", script().0, network));
    let mut client = server.connect("/");
    for (bytes, expected) in [("6144", "renewed"), ("6145", "the token has more than 6144 bytes"), ("1", "renewed")] {
        client.send_text(bytes);
        client.expect(text(expected));
    }
    client.leave();
}

/// A handler that authenticates its clients itself sets and renews an identity that expires.
#[test]
fn an_identity_of_the_handler_expires() {
    let (script, _journal) = Script::<()>::by_message(|connection, name| {
        let later = Identity::new(name).with_expiry(SystemTime::now() + Duration::from_secs(600));
        let renewed = connection.renew_identity(later).map(drop);
        connection.send_text(format!("{renewed:?}"));
    });
    let script = script.opening(|_| {
        let soon = Identity::new("ann").with_expiry(SystemTime::now() + Duration::from_secs(2));
        Ok(Accept::default().identity(soon))
    });
    let server = serve(1, |builder| builder.route("/", script));
    let mut goes_on = server.connect("/");
    goes_on.send_text("ben");
    goes_on.expect(text("Err(OtherIdentity)"));
    goes_on.send_text("ann");
    goes_on.expect(text("Ok(())"));
    let mut ends = server.connect("/");
    ends.expect_close(TOKEN_EXPIRED.0, "token expired");
    goes_on.send_text("ann");
    goes_on.expect(text("Ok(())"));
    goes_on.leave();
    assert_eq!(server.hub().count(Counter::TokenExpired), 1);
}

/// A handler that renews its own identity does not renew the token that the route's authenticator has admitted. A fresh
/// token renews both.
#[test]
fn a_renewal_forgets_no_other_expiry() {
    /// Admits the clients for a moment, and those that show a fresh token for long.
    struct Brief;

    impl Authenticator for Brief {
        fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Identity, Refusal> {
            let seconds = if credentials.renewed_token().is_some() { 600 } else { 2 };
            Ok(Identity::new("ann").with_expiry(SystemTime::now() + Duration::from_secs(seconds)))
        }
    }

    let (script, _journal) = Script::<()>::by_message(|connection, message| {
        let renewed = match message {
            "token" => connection.renew_token(message),
            _ => connection.renew_identity(Identity::new("ann")),
        };
        connection.send_text(format!("{:?}", renewed.map(drop)));
    });
    let script = script.opening(|_| Ok(Accept::default().identity(Identity::new("ann"))));
    let options = RouteOptions::new().authenticator(Brief);
    let server = serve(1, |builder| builder.route_with("/", script, options));
    let [mut ends, mut goes_on] = ["identity", "token"].map(|renews| {
        let mut client = server.connect("/");
        client.send_text(renews);
        client.expect(text("Ok(())"));
        client
    });
    ends.expect_close(TOKEN_EXPIRED.0, "token expired");
    goes_on.send_text("identity");
    goes_on.expect(text("Ok(())"));
    goes_on.leave();
    assert_eq!(server.hub().count(Counter::TokenExpired), 1);
}

/// An authenticator that has to wait again and again does not hold up its caller for ever.
#[test]
fn a_decision_about_a_token_that_takes_too_long() {
    struct Undecided;

    impl Authenticator for Undecided {
        fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, Refusal> {
            Ok(Identity::new("ann"))
        }

        fn prepare(&self, credentials: &Credentials<'_>) -> Option<Later> {
            // The opening request itself need not wait.
            credentials.renewed_token().map(|_| Box::pin(tokio::time::sleep(Duration::from_millis(1))) as Later)
        }
    }

    let (script, _journal) = Script::<()>::by_message(|connection, token| {
        let token = token.to_string();
        connection.spawn(|handle| async move {
            let renewed = handle.renew_token(token).await;
            handle.send_text(format!("{renewed:?}")).await;
        });
    });
    let options = RouteOptions::new().authenticator(Undecided);
    let server = serve(1, |builder| builder.route_with("/", script, options));
    let mut client = server.connect("/");
    client.send_text("ann");
    client.expect(text("Err(Undecided)"));
    client.leave();
}
