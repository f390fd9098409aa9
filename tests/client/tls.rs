//! `wss`, with certificates that the tests make.

use std::{process::Command, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use ringhub::client::{ClientBuilder, ConnectError, Stage};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto, pki_types::PrivateKeyDer},
    server::TlsStream,
};

use super::{
    client,
    example::example,
    expect_closed, expect_text, on_tokio,
    peer::{Peer, Side},
    support::program::Program,
};

/// A certificate authority, and a server with its certificate for `localhost`.
struct SecurePeer {
    peer: Peer,
    acceptor: TlsAcceptor,
    authority: String,
}

impl SecurePeer {
    async fn listen() -> SecurePeer {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_string()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        SecurePeer { peer: Peer::listen().await, acceptor, authority: authority.pem() }
    }

    /// Returns a builder for a client that connects to the name in the certificate.
    fn client(&self) -> ClientBuilder {
        self.client_of("localhost")
    }

    fn client_of(&self, host: &str) -> ClientBuilder {
        client(&format!("wss://{host}:{}/t/x", self.peer.address().port())).without_system_authorities()
    }

    fn trusting(&self) -> ClientBuilder {
        self.client().certificate_authority(self.authority.clone())
    }

    async fn accept(&self) -> std::io::Result<Side<TlsStream<TcpStream>>> {
        Ok(Side::new(self.acceptor.accept(self.peer.accept().await.stream).await?))
    }

    async fn open(&self) -> Side<TlsStream<TcpStream>> {
        let mut side = self.accept().await.unwrap();
        side.upgrade().await;
        side
    }

    /// Returns the error of a client that fails during the TLS handshake, before its opening request.
    async fn failure(&self, builder: ClientBuilder) -> ConnectError {
        let (client, _events) = builder.build().unwrap();
        let (opened, _) = tokio::join!(client.connect(), self.accept());
        opened.unwrap_err()
    }
}

/// Messages larger than the buffers of TLS and the socket go both ways at once.
#[test]
fn messages() {
    on_tokio(async {
        let peer = SecurePeer::listen().await;
        let (client, mut events) = peer.trusting().build().unwrap();
        let (opened, mut side) = tokio::join!(client.connect(), peer.open());
        let opened = opened.unwrap();
        let tls = opened.tls.unwrap();
        assert_eq!(tls.version, "TLSv1_3");
        assert!(tls.cipher.starts_with("TLS13_"), "{}", tls.cipher);
        assert!(opened.timings.tls.unwrap() > Duration::ZERO);
        assert!(opened.url.starts_with("wss://"));
        let large = "x".repeat(1 << 20);
        for _ in 0..4 {
            client.send_text(large.clone()).await.unwrap();
        }
        for _ in 0..4 {
            side.send_text(&large).await;
            side.expect_text(&large).await;
            expect_text(&mut events, &large).await;
        }
        let close = async {
            side.expect_close(1001, "").await;
            side.send_close(1001, "").await;
            side.stream.shutdown().await.unwrap();
            side.expect_end().await;
        };
        let (closed, ()) = tokio::join!(client.close(), close);
        closed.unwrap();
        assert!(expect_closed(&mut events).await.is_clean);
    });
}

#[test]
fn any_certificate() {
    on_tokio(async {
        let peer = SecurePeer::listen().await;
        let (client, _events) = peer.client_of("127.0.0.1").danger_accept_any_certificate().build().unwrap();
        let (opened, mut side) = tokio::join!(client.connect(), peer.open());
        opened.unwrap();
        client.send_text("blindly").await.unwrap();
        side.expect_text("blindly").await;
    });
}

#[test]
fn through_a_proxy() {
    on_tokio(async {
        let peer = SecurePeer::listen().await;
        let builder = client("wss://localhost/t/x").proxy(format!("http://{}", peer.peer.address()));
        let (client, _events) = builder.certificate_authority(peer.authority.clone()).build().unwrap();
        let accept = async {
            let mut proxy = peer.peer.accept().await;
            assert_eq!(proxy.request().await.target(), "localhost:443");
            proxy.raw(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let mut side = Side::new(peer.acceptor.accept(proxy.stream).await.unwrap());
            assert_eq!(side.upgrade().await.headers().get("host"), Some(&b"localhost"[..]));
            side
        };
        let (opened, mut side) = tokio::join!(client.connect(), accept);
        opened.unwrap();
        client.send_text("inside").await.unwrap();
        side.expect_text("inside").await;
    });
}

#[test]
fn certificates_that_are_not_accepted() {
    on_tokio(async {
        let (peer, other) = (SecurePeer::listen().await, SecurePeer::listen().await);
        let stranger = peer.client().certificate_authority(other.authority);
        let wrong_name = peer.client_of("127.0.0.1").certificate_authority(peer.authority.clone());
        for builder in [stranger, wrong_name] {
            match peer.failure(builder).await {
                ConnectError::Certificate(_) => {}
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn no_certificate_authorities() {
    on_tokio(async {
        let peer = SecurePeer::listen().await;
        let (client, _events) = peer.client().build().unwrap();
        let (opened, _) = tokio::join!(client.connect(), peer.peer.accept());
        assert!(matches!(opened, Err(ConnectError::NoCertificateAuthorities)), "{opened:?}");
    });
}

/// The system's certificate authorities, which `SSL_CERT_FILE` sets.
#[test]
fn system_authorities() {
    on_tokio(async {
        let peer = SecurePeer::listen().await;
        let folder = std::env::temp_dir().join(format!("ringhub-client-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("authority.pem");
        std::fs::write(&file, &peer.authority).unwrap();
        let mut command = Command::new(example("client_tail"));
        command.env("SSL_CERT_FILE", &file).arg(format!("wss://localhost:{}/", peer.peer.address().port()));
        let tail = Program::start(command);
        let mut side = peer.open().await;
        side.send_text("trusted").await;
        let line = tokio::task::spawn_blocking(move || tail.line()).await.unwrap();
        assert_eq!(line.as_deref(), Some("trusted"));
        std::fs::remove_dir_all(&folder).unwrap();
    });
}

/// The server does not speak TLS.
#[test]
fn no_tls() {
    on_tokio(async {
        let peer = SecurePeer::listen().await;
        let check = async |builder: ClientBuilder, answer: Option<&[u8]>| {
            let (client, _events) = builder.build().unwrap();
            let accept = async {
                let mut side = peer.peer.accept().await;
                match answer {
                    Some(b"") => drop(side),
                    Some(answer) => side.raw(answer).await,
                    None => return Some(side),
                }
                None
            };
            tokio::join!(client.connect(), accept).0.unwrap_err()
        };
        let garbage = check(peer.trusting(), Some(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
        assert!(matches!(garbage, ConnectError::Tls(_)), "{garbage:?}");
        let end = check(peer.trusting(), Some(b"")).await;
        assert!(matches!(end, ConnectError::EndOfStream(Stage::Tls) | ConnectError::Tls(_)), "{end:?}");
        let silence = check(peer.trusting().handshake_timeout(Duration::from_millis(200)), None).await;
        assert!(matches!(silence, ConnectError::Timeout(Stage::Tls)), "{silence:?}");
    });
}

#[test]
fn a_redirect_to_ws() {
    on_tokio(async {
        let peer = SecurePeer::listen().await;
        let (client, _events) = peer.trusting().build().unwrap();
        let accept = async {
            let mut side = peer.accept().await.unwrap();
            side.request().await;
            side.raw(b"HTTP/1.1 301 Moved\r\nLocation: ws://localhost/\r\nContent-Length: 0\r\n\r\n").await;
        };
        let (opened, ()) = tokio::join!(client.connect(), accept);
        assert!(matches!(opened, Err(ConnectError::RedirectInsecure)), "{opened:?}");
    });
}

/// A redirect from `ws` to `wss` is followed.
#[test]
fn a_redirect_to_wss() {
    on_tokio(async {
        let (plain, secure) = (Peer::listen().await, SecurePeer::listen().await);
        let builder = plain.client().certificate_authority(secure.authority.clone());
        let (client, _events) = builder.build().unwrap();
        let accept = async {
            let mut side = plain.accept().await;
            side.request().await;
            let location = format!("https://localhost:{}/", secure.peer.address().port());
            side.raw(format!("HTTP/1.1 308 Permanent\r\nLocation: {location}\r\n\r\n").as_bytes()).await;
            secure.open().await
        };
        let (opened, _side) = tokio::join!(client.connect(), accept);
        assert!(opened.unwrap().tls.is_some());
    });
}
