//! The connections of the server's own requests: opens them, and keeps idle ones for the next request.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    task::{self, JoinHandle},
    time::{Instant, timeout},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

use super::{error::OutboundError, limits::OutboundLimits, url::TargetUrl};

/// The connections of a service.
pub(super) struct Connections {
    /// The rules of TLS, if a target uses TLS.
    tls: Option<Arc<ClientConfig>>,
    /// The names that may be resolved at the same time. Each takes a thread, which the files of folders need too.
    lookups: Arc<Semaphore>,
    /// The connections without a request, the one that was used last at the end.
    idle: Mutex<VecDeque<Idle>>,
}

/// A connection without a request.
struct Idle {
    connection: Connection,
    since: Instant,
}

/// An open connection to the server of a URL.
pub(super) struct Connection {
    pub(super) sender: http1::SendRequest<Full<Bytes>>,
    url: Arc<TargetUrl>,
    /// The task that reads and writes. It ends with the connection.
    _driver: Driver,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connections {
    pub(super) fn new(tls: Option<Arc<ClientConfig>>) -> Connections {
        Connections { tls, lookups: Arc::new(Semaphore::new(OutboundLimits::LOOKUPS_MAX)), idle: Mutex::default() }
    }

    /// Takes an idle connection to the server of a URL, if there is one.
    pub(super) fn take(&self, url: &TargetUrl, now: Instant) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(at) = idle.iter().rposition(|idle| idle.connection.url.shares_connections(url)) {
            let Idle { connection, since } = idle.remove(at)?;
            if connection.sender.is_ready() && now.duration_since(since) < OutboundLimits::IDLE_TIME {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request. Beyond [`OutboundLimits::IDLE_MAX`], the connection that has been idle
    /// longest is closed.
    pub(super) fn keep(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() >= OutboundLimits::IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { connection, since: Instant::now() });
    }

    /// Closes the connections that have been idle for [`OutboundLimits::IDLE_TIME`], or that the other side has closed.
    pub(super) fn close_idle(&self, now: Instant) {
        let is_young = |idle: &Idle| now.duration_since(idle.since) < OutboundLimits::IDLE_TIME;
        self.idle().retain(|idle| !idle.connection.sender.is_closed() && is_young(idle));
    }

    /// Opens a connection to the server of a URL. `deadline` only divides the time among the addresses of the host; the
    /// caller ends the call at it.
    ///
    /// # Errors
    ///
    /// [`OutboundError::Name`], [`OutboundError::Connect`], [`OutboundError::Tls`] or [`OutboundError::Exchange`].
    pub(super) async fn open(&self, url: &Arc<TargetUrl>, deadline: Instant) -> Result<Connection, OutboundError> {
        let socket = connect(self.resolve(url).await?, deadline).await?;
        // A failure costs at most some time.
        drop(socket.set_nodelay(true));
        if !url.is_secure() {
            return begin(url, socket).await;
        }
        let tls = self.tls.clone().ok_or_else(|| OutboundError::Tls("the target was made too late".into()))?;
        let name = ServerName::try_from(url.host().to_string());
        let name = name.map_err(|_| OutboundError::Tls("no certificate can have the name of the host".into()))?;
        let stream = TlsConnector::from(tls).connect(name, socket).await;
        begin(url, stream.map_err(|error| OutboundError::Tls(error.to_string()))?).await
    }

    /// Returns the addresses of the host of a URL.
    async fn resolve(&self, url: &TargetUrl) -> Result<Vec<SocketAddr>, OutboundError> {
        if let Ok(address) = url.host().parse::<IpAddr>() {
            return Ok(vec![(address, url.port()).into()]);
        }
        let permit = Arc::clone(&self.lookups).acquire_owned().await;
        let (host, port) = (url.host().to_string(), url.port());
        let lookup = task::spawn_blocking(move || {
            // The thread is taken until the resolver returns, even if nobody waits for it any more.
            let _permit = permit;
            Ok((host, port).to_socket_addrs()?.collect::<Vec<_>>())
        });
        let addresses = lookup.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        match addresses.map_err(|error| OutboundError::Name(error.to_string()))? {
            addresses if addresses.is_empty() => Err(OutboundError::Name("it has no address".into())),
            addresses => Ok(addresses),
        }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        // No call panics while it holds the lock.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to the first address that answers. Each address gets an equal part of the time that is left, so that a
/// silent one does not use up the time of the others.
async fn connect(addresses: Vec<SocketAddr>, deadline: Instant) -> Result<TcpStream, OutboundError> {
    let mut last = String::new();
    for (at, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let part: Duration = left / (addresses.len() - at) as u32;
        match timeout(part, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = format!("{address} does not answer"),
        }
    }
    Err(OutboundError::Connect(last))
}

/// Begins HTTP/1.1 on a stream.
async fn begin(
    url: &Arc<TargetUrl>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Connection, OutboundError> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(OutboundLimits::HEAD_BYTES_MAX);
    let begun = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = begun.map_err(|error| OutboundError::Exchange(error.to_string()))?;
    // The request on the connection gets its error too.
    let driver = tokio::spawn(async { drop(connection.await) });
    Ok(Connection { sender, url: Arc::clone(url), _driver: Driver(driver) })
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Application, json},
        *,
    };

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    fn url(application: &Application) -> Arc<TargetUrl> {
        Arc::new(TargetUrl::parse(&application.url("/")).unwrap())
    }

    #[test]
    fn idle_connections_have_limits() {
        let (one, other) = (Application::start(|_| json("1")), Application::start(|_| json("2")));
        let (one, other) = (url(&one), url(&other));
        run(async {
            let connections = Connections::new(None);
            let in_time = Instant::now() + Duration::from_secs(60);
            connections.keep(connections.open(&other, in_time).await.unwrap());
            for _ in 1..OutboundLimits::IDLE_MAX {
                connections.keep(connections.open(&one, in_time).await.unwrap());
            }
            assert_eq!(connections.idle().len(), OutboundLimits::IDLE_MAX);
            connections.keep(connections.open(&one, in_time).await.unwrap());
            assert_eq!(connections.idle().len(), OutboundLimits::IDLE_MAX);
            // The tasks of the connections get ready.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = Instant::now();
            assert!(connections.take(&other, now).is_none(), "it was idle longest");
            assert!(connections.take(&one, now).is_some());
            assert_eq!(connections.idle().len(), OutboundLimits::IDLE_MAX - 1);
            connections.close_idle(now);
            assert_eq!(connections.idle().len(), OutboundLimits::IDLE_MAX - 1);
            assert!(connections.take(&one, now + OutboundLimits::IDLE_TIME).is_none());
            connections.keep(connections.open(&one, in_time).await.unwrap());
            connections.close_idle(Instant::now() + OutboundLimits::IDLE_TIME);
            assert!(connections.idle().is_empty());
        });
    }

    #[test]
    fn few_names_are_resolved_at_the_same_time() {
        let application = Application::start(|_| json("1"));
        let by_name = url(&application);
        let by_address = Arc::new(TargetUrl::parse(&format!("http://{}/", application.address)).unwrap());
        run(async {
            let connections = Connections::new(None);
            let in_time = Instant::now() + Duration::from_secs(60);
            let all = connections.lookups.acquire_many(OutboundLimits::LOOKUPS_MAX as u32).await.unwrap();
            let waits = timeout(Duration::from_millis(100), connections.open(&by_name, in_time));
            assert!(waits.await.is_err(), "both threads are taken");
            assert!(connections.open(&by_address, in_time).await.is_ok());
            drop(all);
            assert!(connections.open(&by_name, in_time).await.is_ok());
        });
    }
}
