//! The TLS handshake, and the certificate authorities that the client trusts.

use std::{io, sync::Arc};

use tokio::{net::TcpStream, sync::OnceCell, task};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{self, CryptoProvider},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    },
};

use super::error::{ClientBuildError, ConnectError, Stage};

/// A client's TLS configuration, made at the first handshake: the system's certificate authorities are read then.
pub(super) struct Tls {
    trust: Trust,
    config: OnceCell<Arc<ClientConfig>>,
}

#[derive(Clone)]
pub(super) enum Trust {
    /// The given certificate authorities, and the system's unless `has_system` is false.
    Authorities { given: Vec<CertificateDer<'static>>, has_system: bool },
    /// Every certificate is accepted.
    Insecure,
}

/// The result of a TLS handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFacts {
    /// The protocol version, such as `TLSv1_3`.
    pub version: String,
    /// The cipher suite, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: String,
}

impl Tls {
    pub(super) fn new(trust: Trust) -> Self {
        Self { trust, config: OnceCell::new() }
    }

    /// Runs the handshake of a client that expects a certificate for `host`.
    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, TlsFacts), ConnectError> {
        let config = self.config.get_or_try_init(|| self.load()).await?;
        let name = ServerName::try_from(host.to_string())
            .map_err(|_| ConnectError::Certificate(format!("{host} is a name that no certificate can have")))?;
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await.map_err(handshake_error)?;
        let connection = stream.get_ref().1;
        let facts = TlsFacts {
            version: connection.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default(),
            cipher: connection
                .negotiated_cipher_suite()
                .map(|suite| format!("{:?}", suite.suite()))
                .unwrap_or_default(),
        };
        Ok((stream, facts))
    }

    async fn load(&self) -> Result<Arc<ClientConfig>, ConnectError> {
        let trust = self.trust.clone();
        // The system's certificates are files, whose reading blocks.
        let config = task::spawn_blocking(move || client_config(&trust)).await;
        config.map_err(|error| ConnectError::Tls(io::Error::other(error)))?
    }
}

/// Returns the certificates of a PEM file.
///
/// # Errors
///
/// [`ClientBuildError::CertificateAuthority`] if there is none, or a broken one.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ClientBuildError> {
    let wrong = |error: &dyn ToString| ClientBuildError::CertificateAuthority(error.to_string());
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
    if certificates.is_empty() {
        return Err(wrong(&"there is no certificate in PEM form"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| wrong(&error))?;
    }
    Ok(certificates)
}

fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, ConnectError> {
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectError::Tls(io::Error::other(error)))?;
    let mut config = match trust {
        Trust::Insecure => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
            .with_no_client_auth(),
        Trust::Authorities { given, has_system } => {
            let mut roots = RootCertStore::empty();
            // `certificates` has checked each of them.
            roots.add_parsable_certificates(given.iter().cloned());
            if *has_system {
                // An unreadable certificate is not trusted. An empty store is refused below.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
            if roots.is_empty() {
                return Err(ConnectError::NoCertificateAuthorities);
            }
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn handshake_error(error: io::Error) -> ConnectError {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(reason)) => ConnectError::Certificate(format!("{reason}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => ConnectError::EndOfStream(Stage::Tls),
        _ => ConnectError::Tls(error),
    }
}

/// A verifier that accepts every certificate. The server still proves that it has the certificate's key.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
