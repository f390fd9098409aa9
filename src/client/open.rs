//! Opens a connection: name, socket, proxy, TLS, opening handshake, redirects; each within its deadline.

use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{self, TcpStream},
    time::{Instant, timeout_at},
};

use super::{
    config::Config,
    error::{ConnectError, Rejection, Stage},
    opened::{Opened, Timings},
    url::Url,
};
use crate::proto::{ClientHandshake, HeadScan, HttpError, ResponseError, ResponseHead};

/// A connection that is ready for frames.
pub(super) struct Connected {
    pub(super) stream: Stream,
    /// The bytes that came after the answer to the opening handshake.
    pub(super) received: Bytes,
    pub(super) opened: Opened,
}

/// A TCP socket, or TLS over one.
pub(super) type Stream = Box<dyn Transport>;

pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Opens a connection to the configured URL, following redirects.
pub(super) async fn open(config: &Config) -> Result<Connected, ConnectError> {
    let begin = Instant::now();
    let mut url = config.url.clone();
    for redirects in 0..=config.redirects_max {
        match attempt(config, &url).await? {
            Answer::Opened(mut connected) => {
                connected.opened.redirects = redirects;
                connected.opened.timings.total = begin.elapsed();
                return Ok(*connected);
            }
            Answer::Redirect(_) if redirects == config.redirects_max => {}
            Answer::Redirect(head) => {
                let location = head.headers().get("location").and_then(|location| str::from_utf8(location).ok());
                let next = location.ok_or(ConnectError::RedirectLocation(None))?;
                let next = url.redirect(next).map_err(|error| ConnectError::RedirectLocation(Some(error)))?;
                if url.is_secure() && !next.is_secure() {
                    return Err(ConnectError::RedirectInsecure);
                }
                tracing::debug!(from = %url, to = %next, "redirected");
                url = next;
            }
        }
    }
    Err(ConnectError::TooManyRedirects(config.redirects_max))
}

/// Returns `N` unpredictable bytes.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = getrandom(&mut bytes, GetRandomFlags::empty()).expect("the kernel has randomness");
    assert_eq!(filled, N, "the kernel fills up to 256 bytes in one call");
    bytes
}

enum Answer {
    Opened(Box<Connected>),
    Redirect(ResponseHead),
}

async fn attempt(config: &Config, url: &Url) -> Result<Answer, ConnectError> {
    let mut timings = Timings::default();
    let first_hop = config.proxy.as_ref().map_or(url, |proxy| &proxy.url);
    let socket = tcp_connect(config, first_hop, &mut timings).await?;
    let (local_address, peer_address) = addresses(&socket).map_err(|error| ConnectError::Io(Stage::Connect, error))?;
    let deadline = Instant::now() + config.handshake_timeout;
    let socket = match &config.proxy {
        None => socket,
        Some(proxy) => {
            let tunnel = proxy_connect(socket, url, proxy.authorization.as_deref());
            let (socket, took) = within(deadline, Stage::Proxy, tunnel).await?;
            timings.proxy = Some(took);
            socket
        }
    };
    let (mut stream, tls): (Stream, _) = if url.is_secure() {
        let ((stream, facts), took) = within(deadline, Stage::Tls, config.tls.connect(url.host(), socket)).await?;
        timings.tls = Some(took);
        (Box::new(stream), Some(facts))
    } else {
        (Box::new(socket), None)
    };
    let mut handshake = ClientHandshake::new(random());
    let request = config.opening_request(&mut handshake, url);
    let exchange = async {
        write(&mut stream, Stage::Handshake, &request).await?;
        read_head(&mut stream, Stage::Handshake).await
    };
    let ((head, received), took) = within(deadline, Stage::Handshake, exchange).await?;
    timings.handshake = took;
    let protocol = match handshake.check(&head) {
        Ok(protocol) => protocol,
        Err(ResponseError::Status(301 | 302 | 303 | 307 | 308)) if config.redirects_max > 0 => {
            return Ok(Answer::Redirect(head));
        }
        Err(ResponseError::Status(_)) => {
            let body = refusal_body(&mut stream, &head, received, deadline).await;
            return Err(ConnectError::Refused(Box::new(Rejection { head, body })));
        }
        Err(error) => return Err(ConnectError::Handshake(error)),
    };
    let opened = Opened {
        head,
        protocol,
        connection_id: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
        url: url.to_string(),
        local_address,
        peer_address,
        tls,
        redirects: 0,
        timings,
    };
    Ok(Answer::Opened(Box::new(Connected { stream, received: received.freeze(), opened })))
}

async fn tcp_connect(config: &Config, url: &Url, timings: &mut Timings) -> Result<TcpStream, ConnectError> {
    let deadline = Instant::now() + config.connect_timeout;
    let resolve = async {
        let addresses = net::lookup_host((url.host(), url.port())).await;
        let addresses = addresses.map_err(|error| ConnectError::Resolve(url.host().into(), error))?;
        Ok(addresses.take(ADDRESSES_MAX).collect::<Vec<_>>())
    };
    let (addresses, took) = within(deadline, Stage::Resolve, resolve).await?;
    timings.resolve = took;
    let begin = Instant::now();
    let stream = dial(&addresses, deadline).await.map_err(|error| match error {
        None => ConnectError::Timeout(Stage::Connect),
        Some(error) => ConnectError::Connect(url.host_and_port(), error),
    })?;
    timings.connect = begin.elapsed();
    // Nagle's algorithm would delay small messages. A failure costs that delay and nothing else.
    drop(stream.set_nodelay(true));
    Ok(stream)
}

/// Connects to the first address that accepts. Each address has an equal share of the remaining time, so that an
/// address without any answer leaves time for the others. The error is the one of the last address, `None` for a
/// timeout.
async fn dial(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Option<io::Error>> {
    let mut last = Some(io::ErrorKind::AddrNotAvailable.into());
    for (index, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / (addresses.len() - index) as u32;
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = Some(error),
            Err(_) => last = None,
        }
    }
    Err(last)
}

/// Requests a tunnel to the server from the proxy (RFC 9110 9.3.6; RFC 6455 4.1).
async fn proxy_connect(
    mut socket: TcpStream,
    url: &Url,
    authorization: Option<&str>,
) -> Result<TcpStream, ConnectError> {
    let target = url.host_and_port();
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(authorization) = authorization {
        request += &format!("Proxy-Authorization: {authorization}\r\n");
    }
    request += "\r\n";
    write(&mut socket, Stage::Proxy, request.as_bytes()).await?;
    let (head, received) = read_head(&mut socket, Stage::Proxy).await?;
    if !matches!(head.status(), 200..=299) {
        return Err(ConnectError::ProxyRefused(Box::new(head)));
    }
    // Neither a TLS server nor a WebSocket server speaks first.
    if !received.is_empty() {
        return Err(ConnectError::Http(Stage::Proxy, HttpError::Header));
    }
    Ok(socket)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), stage: Stage, bytes: &[u8]) -> Result<(), ConnectError> {
    let written = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    written.await.map_err(|error| io_error(stage, error))
}

/// Returns the head of the final response, and the bytes after it.
async fn read_head(
    stream: &mut (impl AsyncRead + Unpin),
    stage: Stage,
) -> Result<(ResponseHead, BytesMut), ConnectError> {
    let (mut received, mut scan, mut interim) = (BytesMut::new(), HeadScan::default(), 0);
    loop {
        let decoded = ResponseHead::decode_with(&mut scan, &received);
        if let Some((head, length)) = decoded.map_err(|error| ConnectError::Http(stage, error))? {
            drop(received.split_to(length));
            // RFC 9110 15.2: 100 and 103, for example, come before the answer.
            if matches!(head.status(), 100 | 102..=199) && interim < INTERIM_RESPONSES_MAX {
                (scan, interim) = (HeadScan::default(), interim + 1);
                continue;
            }
            return Ok((head, received));
        }
        if stream.read_buf(&mut received).await.map_err(|error| io_error(stage, error))? == 0 {
            return Err(ConnectError::EndOfStream(stage));
        }
    }
}

/// Returns the beginning of a refusal's body, for display only: the bytes that arrive before the deadline. Without a
/// `Content-Length` the result is empty.
async fn refusal_body(
    stream: &mut (impl AsyncRead + Unpin),
    head: &ResponseHead,
    received: BytesMut,
    deadline: Instant,
) -> Vec<u8> {
    let announced = head.headers().get("content-length").and_then(|length| str::from_utf8(length).ok()?.parse().ok());
    let length = announced.unwrap_or(0).min(Rejection::BODY_BYTES_MAX);
    let mut body = received.to_vec();
    while body.len() < length {
        match timeout_at(deadline, stream.read_buf(&mut body)).await {
            Ok(Ok(1..)) => {}
            _ => break,
        }
    }
    body.truncate(length);
    body
}

/// Runs a stage until the deadline. Returns its result and its duration.
async fn within<T>(
    deadline: Instant,
    stage: Stage,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<(T, Duration), ConnectError> {
    let begin = Instant::now();
    let done = timeout_at(deadline, work).await.map_err(|_| ConnectError::Timeout(stage))??;
    Ok((done, begin.elapsed()))
}

fn addresses(socket: &TcpStream) -> io::Result<(SocketAddr, SocketAddr)> {
    Ok((socket.local_addr()?, socket.peer_addr()?))
}

fn io_error(stage: Stage, error: io::Error) -> ConnectError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => ConnectError::EndOfStream(stage),
        _ => ConnectError::Io(stage, error),
    }
}

/// The id of the next connection of this process.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// The number of addresses of a name that are tried.
const ADDRESSES_MAX: usize = 16;

/// The number of interim responses that are skipped. A further one counts as the answer.
const INTERIM_RESPONSES_MAX: u32 = 8;

#[cfg(test)]
mod tests {
    use socket2::{Domain, Socket, Type};

    use super::*;

    fn socket() -> Socket {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket
    }

    fn address(socket: &Socket) -> SocketAddr {
        socket.local_addr().unwrap().as_socket().unwrap()
    }

    /// The first address refuses, the second has a full backlog and answers nothing, the third accepts.
    #[test]
    fn the_first_address_that_accepts() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (refusing, full, good) = (socket(), socket(), socket());
            full.listen(0).unwrap();
            good.listen(1).unwrap();
            let mut waiting = Vec::new();
            for _ in 0..4 {
                let attempt = socket();
                attempt.set_nonblocking(true).unwrap();
                drop(attempt.connect(&full.local_addr().unwrap()));
                waiting.push(attempt);
            }
            let soon = || Instant::now() + Duration::from_millis(600);
            let dialled = dial(&[address(&refusing), address(&full), address(&good)], soon()).await.unwrap();
            assert_eq!(dialled.peer_addr().unwrap(), address(&good));
            assert!(dial(&[address(&refusing), address(&full)], soon()).await.unwrap_err().is_none());
            let refused = dial(&[address(&full), address(&refusing)], soon()).await.unwrap_err().unwrap();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}
