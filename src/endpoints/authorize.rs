//! Judges whether a request may use an endpoint: one judge for every thread and every surface.

use super::{
    Endpoint, Endpoints,
    denied::{Admittance, AdmittedSender, Denied},
    http::PublishGrant,
    intent::Intent,
    permissions::DecidedBy,
};
use crate::{
    auth::{Credentials, Gate, Identities, Identity, Origins, Stopped},
    handler::{Panicked, Pattern, sendable},
    hub::TopicName,
    proto::Refusal,
};

impl Endpoints {
    /// Judges whether a request may use an endpoint as it intends, and returns the identities of its sender.
    ///
    /// The access to a topic depends on the topic, not on the path in the request or on its spelling. The gates of all
    /// routes whose topics include this topic must admit the request, not only the gate of the request's own route.
    /// Then the request must show a token for each right of its intent for which the server requires one. At last the
    /// rules of the topic decide, by the grants of all identities that the gates have found.
    ///
    /// # Errors
    ///
    /// 403 for a page of another origin, a token for another right, or a topic that is not for the sender; 401 for a
    /// missing, wrong or expired token; either for a revoked sender; 429 if the address has shown wrong credentials
    /// faster than its rate allows; the refusal of an authenticator;
    /// [`Denied::Panicked`] (500); and [`Denied::Later`] where an authenticator has to wait and the request can wait:
    /// its credentials have answers.
    pub(crate) fn authorize(
        &self,
        credentials: &Credentials<'_>,
        intent: Intent,
        endpoint: &Endpoint,
    ) -> Result<Admittance, Denied> {
        if self.is_open_to_all(intent, endpoint) {
            return Ok(Admittance { identities: Identities::default(), is_lasting: true });
        }
        let credentials = &credentials.about(endpoint.topic());
        let is_foreign = || self.gates(endpoint).next().is_some_and(|(own, _)| self.is_foreign(credentials, own));
        let sees_credentials = || self.sees_credentials(credentials, intent, self.gates(endpoint));
        self.guesses.limit(credentials, is_foreign, sees_credentials, |credentials| {
            self.judge(credentials, None, intent, endpoint.topic(), self.gates(endpoint))
        })
    }

    /// Returns whether the judge would admit every request: all gates are open, and no topic has rules.
    fn is_open_to_all(&self, intent: Intent, endpoint: &Endpoint) -> bool {
        let is_for_topics = matches!(
            intent,
            Intent::Use
                | Intent::Attach { .. }
                | Intent::Resume { .. }
                | Intent::Publish
                | Intent::ReadHistory
                | Intent::ReadPresence
        );
        self.has_open_gates && self.permissions.are_open() && is_for_topics && matches!(endpoint, Endpoint::Path { .. })
    }

    /// Judges whether a request that a route has admitted may use a topic as it intends, though its path does not name
    /// the topic. The gate of the route itself is asked again only if its decision depends on the topic, and if the
    /// grants that it has found do not name the topics. The identities that the sender has are checked again: they were
    /// found some time before, and the judge may have waited since.
    ///
    /// The topic of the sender's credentials is the one that the gate of the route has been asked about.
    ///
    /// # Errors
    ///
    /// As of [`Endpoints::authorize`].
    pub(crate) fn authorize_topic(
        &self,
        sender: &AdmittedSender<'_>,
        intent: Intent,
        topic: &TopicName,
    ) -> Result<Admittance, Denied> {
        let own = &self.routes[sender.route].rules.gate;
        let asks_own =
            sender.credentials.topic() != Some(topic) && own.depends_on_topic() && !sender.identities.name_topics();
        let credentials = &sender.credentials.about(Some(topic));
        let gates = || asks_own.then_some((own, None)).into_iter().chain(self.other_gates(sender.route, topic));
        let is_foreign = || self.is_foreign(credentials, own);
        let sees_credentials = || self.sees_credentials(credentials, intent, gates());
        self.guesses.limit(credentials, is_foreign, sees_credentials, |credentials| {
            self.judge(credentials, Some(sender.identities), intent, Some(topic), gates())
        })
    }

    /// Checks whether the address of a sender may show a token in a message, which could be a guess. With the refusal
    /// of such a token, counts it.
    ///
    /// # Errors
    ///
    /// 429 if the address has shown wrong credentials faster than its rate allows; the refusal.
    pub(super) fn judge_guess(
        &self,
        credentials: &Credentials<'_>,
        route: usize,
        refusal: Option<&Refusal>,
    ) -> Result<(), Denied> {
        let is_foreign = || self.is_foreign(credentials, &self.routes[route].rules.gate);
        let judge = |_: &Credentials<'_>| refusal.map_or(Ok(()), |refusal| Err(Denied::Refused(refusal.clone())));
        self.guesses.limit(credentials, is_foreign, || refusal.is_none(), judge)
    }

    /// Returns whether a browser says that a page of another origin has sent a request to an endpoint with this gate.
    fn is_foreign(&self, credentials: &Credentials<'_>, own: &Gate) -> bool {
        own.origins_or(&self.access.origins).is_foreign(credentials.head)
    }

    /// Returns whether a request shows credentials that the server's tokens or the authenticator of a gate would be
    /// asked about. An authenticator that panics may have seen some.
    fn sees_credentials<'a>(
        &self,
        credentials: &Credentials<'_>,
        intent: Intent,
        mut gates: impl Iterator<Item = (&'a Gate, Option<&'a Pattern>)>,
    ) -> bool {
        self.access.sees_credentials(credentials, intent.rights())
            || gates.any(|(gate, _)| Panicked::catch(|| gate.sees_credentials(credentials)).unwrap_or(true))
    }

    /// Judges whether a request may publish to a topic, as [`Endpoints::authorize_topic`] does. Returns the grant, and
    /// the identities that the gates of other routes have found.
    ///
    /// # Errors
    ///
    /// As of [`Endpoints::authorize`].
    pub(crate) fn authorize_publish(
        &self,
        sender: &AdmittedSender<'_>,
        topic: &TopicName,
    ) -> Result<(PublishGrant, Identities), Denied> {
        let Admittance { identities, .. } = self.authorize_topic(sender, Intent::Publish, topic)?;
        Ok((self.grant(topic), identities))
    }

    /// Returns the grant of a request whose path names a topic, if the request was admitted there with
    /// [`Intent::Publish`].
    pub(crate) fn granted(&self, intent: Intent, endpoint: &Endpoint) -> Option<PublishGrant> {
        let Endpoint::Path { topic: Some(topic), .. } = endpoint else { return None };
        (intent == Intent::Publish).then(|| self.grant(topic))
    }

    /// Returns the grant of a sender that the judge has admitted to publish to a topic.
    pub(super) fn grant(&self, topic: &TopicName) -> PublishGrant {
        PublishGrant::new(topic.clone(), self.topic_bytes_max(topic), self.permissions.key_of(topic).cloned())
    }

    /// Judges a request by gates, by the server's tokens, and by the rules of the topic. `known` are the identities
    /// that were found before. The own identity of the outcome is that of the first gate, if it is the gate of the
    /// endpoint.
    fn judge<'a>(
        &self,
        credentials: &Credentials<'_>,
        known: Option<&Identities>,
        intent: Intent,
        topic: Option<&TopicName>,
        gates: impl Iterator<Item = (&'a Gate, Option<&'a Pattern>)>,
    ) -> Result<Admittance, Denied> {
        if let Some(known) = known {
            known.check_again(&self.revocations).map_err(Denied::Refused)?;
        }
        let mut own: Option<Identity> = None;
        let mut others: Vec<Identity> = Vec::new();
        let mut asked: Vec<&Gate> = Vec::new();
        for (gate, elsewhere) in gates {
            // Two routes at the same paths have one gate, and so may have others.
            if asked.iter().any(|other| other.is_same(gate)) {
                continue;
            }
            asked.push(gate);
            let admitted = Panicked::catch(|| gate.admit(&self.access.origins, credentials));
            let admitted = admitted.map_err(|Panicked(panic)| {
                tracing::error!(panic, "an authenticator has panicked over a request");
                Denied::Panicked
            })?;
            let refused = |refusal| Denied::Refused(refused_by(elsewhere, sendable(refusal)));
            let found = match admitted {
                Ok(None) => continue,
                Ok(Some(found)) => found,
                Err(Stopped::Waits(later)) => return Err(Denied::Later(later)),
                Err(Stopped::Refused(refusal)) => return Err(refused(refusal)),
            };
            found.each().try_for_each(Identity::check_expiry).map_err(refused)?;
            self.revocations.check(found.each()).map_err(refused)?;
            match elsewhere {
                None => own = Some(found),
                Some(_) => others.push(found),
            }
        }
        self.access.check_tokens(credentials, intent.rights()).map_err(Denied::Refused)?;
        let mut by = DecidedBy::Rules;
        if let Some(topic) = topic {
            let found = own.iter().chain(&others).flat_map(Identity::each);
            let identities = known.into_iter().flat_map(Identities::of_route).chain(found);
            by = self.permissions.judge(credentials, intent.topic_rights(), topic, identities)?;
        }
        // The gate of the sender's own route may have been asked again.
        let own = own.filter(|own| known.is_none_or(|known| !known.have(own)));
        let identities = Identities::new(own, &others);
        Ok(Admittance { identities, is_lasting: by == DecidedBy::Rules })
    }

    /// Returns the header lines by which a browser learns which pages may have an answer (WHATWG Fetch). Without an
    /// endpoint the server's own origins hold. `origin` is the origin that the request names.
    ///
    /// - `Access-Control-Allow-Origin` lets a page of an allowed origin read the answer, where its request names the
    ///   origin (CORS).
    /// - `Access-Control-Allow-Credentials` lets the page do this with the visitor's password (`credentials:
    ///   "include"`), where every list of allowed origins that holds here names the origin. `null` is the origin of any
    ///   page's sandboxed frame, so it gets no credentials even if a list has it.
    /// - `Cross-Origin-Resource-Policy` keeps the answer out of elements (scripts, pictures) of other pages, where
    ///   origins are restricted, or where a cookie may admit: a browser sends it with the requests of such elements.
    ///   Pages of allowed origins need no exception: browsers ignore the line for requests with CORS, and `same-site`
    ///   would let in pages of other origins too.
    /// - `Content-Security-Policy: frame-ancestors` (CSP 3, 6.4.2) keeps the answer out of frames and objects of other
    ///   pages: a browser loads them by navigation, to which the line above does not apply. `X-Frame-Options` does the
    ///   same in older browsers.
    /// - `Vary` keeps a cache from giving the answer to a page of another origin. It names every line by which
    ///   `Origins::check` judges.
    pub(crate) fn page_lines(&self, origin: Option<&[u8]>, endpoint: Option<&Endpoint>) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        if origin.is_none() && !self.restricts_origins {
            return lines;
        }
        let all = |is: &dyn Fn(&Origins) -> bool| match endpoint {
            Some(endpoint) => self.gates(endpoint).all(|(gate, _)| is(gate.origins_or(&self.access.origins))),
            None => is(&self.access.origins),
        };
        let takes_cookies =
            || endpoint.is_some_and(|endpoint| self.gates(endpoint).any(|(gate, _)| gate.takes_cookies()));
        let is_restricted = !all(&Origins::are_any) || takes_cookies();
        if is_restricted {
            lines.push(("Cross-Origin-Resource-Policy", "same-origin".into()));
            lines.push(("Content-Security-Policy", "frame-ancestors 'self'".into()));
            lines.push(("X-Frame-Options", "SAMEORIGIN".into()));
            lines.push(("Vary", "origin, sec-fetch-site, sec-fetch-mode, sec-fetch-dest".into()));
        } else if origin.is_some() {
            lines.push(("Vary", "origin".into()));
        }
        if let Some(origin) = origin.filter(|origin| all(&|origins| origins.allow(origin))) {
            lines.push(("Access-Control-Allow-Origin", String::from_utf8_lossy(origin).into_owned()));
            if all(&|origins| origins.has(origin)) {
                lines.push(("Access-Control-Allow-Credentials", "true".into()));
            }
        }
        lines
    }

    /// Returns every gate that holds at an endpoint, its own first, and the others with the patterns of their routes.
    fn gates<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = (&'a Gate, Option<&'a Pattern>)> {
        static OPEN: Gate = Gate { origins: None, authenticator: None };
        let (own, topic): (&Gate, Option<(usize, &TopicName)>) = match endpoint {
            Endpoint::Path { path, topic } => {
                let route = self.paths[*path].route;
                (&self.routes[route].rules.gate, topic.as_ref().map(|topic| (route, topic)))
            }
            Endpoint::Files { mount, .. } => (&self.mounts[*mount].gate, None),
            Endpoint::Page { page: Some(page) } => (&self.pages[*page], None),
            Endpoint::Service { service } => (&self.services[*service].gate, None),
            Endpoint::Page { page: None }
            | Endpoint::ClientFile(_)
            | Endpoint::Health
            | Endpoint::Ready
            | Endpoint::Metrics
            | Endpoint::Top
            | Endpoint::Admin(_)
            | Endpoint::Nothing => (&OPEN, None),
        };
        let others = topic.into_iter().flat_map(|(route, topic)| self.other_gates(route, topic));
        std::iter::once((own, None)).chain(others)
    }

    /// Returns the gates of all other routes that lead to a topic, with the patterns of the routes.
    fn other_gates(&self, own: usize, topic: &TopicName) -> impl Iterator<Item = (&Gate, Option<&Pattern>)> {
        let others = self.routes.iter().enumerate().filter(move |(at, route)| *at != own && route.leads_to(topic));
        others.map(|(_, route)| (&route.rules.gate, Some(&route.pattern)))
    }
}

/// Adds the name of the refusing route to a refusal, if it is not the request's own route.
fn refused_by(elsewhere: Option<&Pattern>, refusal: Refusal) -> Refusal {
    let Some(pattern) = elsewhere else { return refusal };
    let error = format!("{}: by the rules of the route {pattern}, which leads to the same topic", refusal.error);
    Refusal { error, ..refusal }
}
