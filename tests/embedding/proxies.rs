//! The addresses of a client that comes through a trusted proxy, as handlers and authenticators see them, and the
//! causes of refusals.

use ringhub::{
    auth::{Authenticator, ClientAddress, Credentials, Identity},
    documents::Documents,
    handler::{Accept, RouteOptions},
    metrics::Counter,
    proto::Refusal,
};

use crate::{
    Live, Script, builder,
    support::{ask, dial, request, text, upgrade_request},
    until,
};

/// Sends a connection its own addresses: of the opening request, and of the connection.
fn addresses() -> Script<String> {
    let (script, _) = Script::<String>::new();
    let script = script.opening(|request| {
        let (peer, proxy) = (request.peer().unwrap(), request.proxy().map(|proxy| proxy.ip()));
        Ok(Accept::with(format!("{peer} {proxy:?}")))
    });
    script.on_open(|connection| {
        let found = format!("{} {}", connection.state(), connection.peer().unwrap());
        connection.send_text(found);
    })
}

#[test]
fn handlers_see_the_client_and_the_proxy() {
    let forgets = RouteOptions::new().forget_request();
    let routes = builder(1).route("/kept", addresses()).route_with("/forgotten", addresses(), forgets);
    let server = Live::start(routes.settings(|settings| {
        settings.trusted_proxies = Some(vec!["127.0.0.1".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
        settings.client_address = ClientAddress::Forwarded;
    }));
    for target in ["/kept", "/forgotten"] {
        let forwarded = [("Forwarded", "for=10.9.9.9, for=\"[2001:db8::9]:47\", for=10.0.0.2")];
        let mut client = server.open(target, &[], &forwarded).unwrap();
        client.expect(text("[2001:db8::9]:47 Some(127.0.0.1) [2001:db8::9]:47"));
        client.leave();
        // The next owner of the slot comes directly.
        until("the connection has ended", || server.running().counters()[0].get(Counter::ConnectionsOpen) == 0);
        let mut direct = server.connect(target);
        let own = direct.stream().local_addr().unwrap();
        direct.expect(text(&format!("{own} None {own}")));
        direct.leave();
        until("the connection has ended", || server.running().counters()[0].get(Counter::ConnectionsOpen) == 0);
    }
}

/// Cannot decide now.
struct Busy;

impl Authenticator for Busy {
    fn authenticate(&self, _: &Credentials<'_>) -> Result<Identity, Refusal> {
        Err(Refusal::new(503, "ask again later"))
    }
}

/// A 503 of an authenticator is no limit of the server, whichever thread answers.
#[test]
fn an_authenticators_503_has_one_cause_on_all_threads() {
    let busy = || RouteOptions::new().authenticator(Busy);
    let documents = Documents::new("examples").unwrap();
    let routes = builder(1).route_with("/ws", addresses(), busy()).documents_with("/files", documents, busy());
    let server = Live::start(routes);
    let counts = || {
        let running = server.running();
        let all = running.counters().iter().chain([running.control_counters()]);
        all.fold((0, 0), |(limit, other), counters| {
            (limit + counters.get(Counter::RefusedLimit), other + counters.get(Counter::RefusedOther))
        })
    };
    assert_eq!(ask(&mut dial(server.address), &upgrade_request("/ws")).status(), 503);
    assert_eq!(counts(), (0, 1));
    assert_eq!(ask(&mut dial(server.address), &request("GET", "/files/chat.rs")).status(), 503);
    assert_eq!(counts(), (0, 2));
}
