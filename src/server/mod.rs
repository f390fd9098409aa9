//! Builds, starts and stops a server, and acts on its connections from outside.

mod addresses;
mod blueprint;
mod build_error;
mod builder;
mod choice;
mod drain_report;
mod engine;
#[cfg(test)]
mod engine_order;
#[cfg(test)]
mod formats;
mod hub;
mod in_force;
#[cfg(test)]
mod judging;
#[cfg(test)]
mod kernel_limits;
mod listeners;
#[cfg(test)]
mod mixed_order;
#[cfg(test)]
mod order_on_backends;
#[cfg(test)]
mod paced;
mod people;
#[cfg(test)]
mod permissions;
mod reload;
mod role;
mod running;
mod sandbox;
#[cfg(test)]
mod second_surface;
#[cfg(test)]
mod slow_policies;
mod start;
#[cfg(test)]
mod testing;
mod topic_table;
#[cfg(test)]
mod transports;
mod turn_watch;
mod wiring;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use blueprint::Blueprint;
use engine::Engine;
use listeners::Listeners;

use crate::{
    access_log::AccessLog, config::Config, control::publisher::Requests, current::Current, endpoints::Endpoints,
    error::StartError, hub::Encodings, outbound::Outbound, shard::Listener, surface,
};

pub use crate::config::{ReloadReport, SettingChange};
pub use blueprint::check_topics;
pub use build_error::BuildError;
pub use builder::Builder;
pub use choice::ChosenBackend;
pub use drain_report::DrainReport;
pub use hub::{Hub, HubError};
pub use people::{Lagged, QueueLimits, Subscription, TopicMessage};
pub use reload::ReloadError;
pub use running::Running;
pub use sandbox::check_sandbox;
pub use turn_watch::TurnWatch;

/// A server that listens, but does not serve yet.
///
/// ```no_run
/// use ringhub::server::Server;
///
/// let running = Server::builder().listen(["127.0.0.1:0".parse()?]).topics().build()?.start()?;
/// println!("ws://{}/t/hello", running.local_addr());
/// running.stop();
/// running.wait_blocking()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    config: Config,
    /// The listeners of each shard.
    listeners: Vec<Vec<Listener>>,
    /// The addresses, at least one.
    addresses: Vec<SocketAddr>,
    metrics_listener: Option<TcpListener>,
    endpoints: Current<Endpoints>,
    blueprint: Blueprint,
    access_log: AccessLog,
    /// The encodings of the formats that connections may want.
    encodings: Arc<Encodings>,
    hub: (Hub, Requests),
    backend: ChosenBackend,
    engine: Option<Engine>,
    /// The way of the server's own requests, for what the embedder has made of URLs.
    outbound: Outbound,
}

impl Server {
    /// Chooses the backend by what the kernel allows, then listens, unless there are listeners already.
    ///
    /// # Errors
    ///
    /// [`StartError::Probe`] before anything listens; [`StartError::Listen`] or [`StartError::ListenMetrics`] if an
    /// address cannot be listened on; [`StartError::Inherit`] if an inherited listener cannot be used.
    fn bind(
        config: Config,
        inherited: Vec<TcpListener>,
        endpoints: Current<Endpoints>,
        blueprint: Blueprint,
        hub: (Hub, Requests),
        outbound: Outbound,
    ) -> Result<Server, StartError> {
        let backend = ChosenBackend::choose(config.io)?;
        if let Some(line) = backend.fallback() {
            tracing::warn!("{line}");
        }
        let Listeners { by_shard: listeners, addresses } = if inherited.is_empty() {
            Listeners::open(&config)?
        } else {
            Listeners::inherit(inherited, &config).map_err(StartError::Inherit)?
        };
        let metrics_listener = config.metrics_listen.map(|address| {
            let listen = TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            listen.map_err(|error| StartError::ListenMetrics(address, error))
        });
        let metrics_listener = metrics_listener.transpose()?;
        let encodings = Arc::new(surface::encodings());
        Ok(Server {
            config,
            listeners,
            addresses,
            metrics_listener,
            endpoints,
            blueprint,
            access_log: AccessLog::off(),
            encodings,
            hub,
            backend,
            engine: None,
            outbound,
        })
    }

    /// Returns the backend that the server's shards will use.
    #[must_use]
    pub fn backend(&self) -> &ChosenBackend {
        &self.backend
    }

    /// Returns the address of `/metrics`, if that is not an address of the server.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_listener.as_ref()?.local_addr().ok()
    }
}
