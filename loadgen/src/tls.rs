//! TLS of a connection: records in, plain bytes out, and the other way round.

use crate::error::Error;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::io::{Read as _, Write as _};
use std::sync::Arc;

/// Whether the server must prove who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// By a certificate of an authority that the system trusts.
    System,
    /// Every certificate is accepted.
    Anyone,
}

/// The TLS settings of all connections to a server.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Settings {
    /// Makes the settings for a server with this name.
    ///
    /// # Errors
    /// An error is returned if the name is neither a name nor an address, or if the system trusts no authority.
    pub(crate) fn new(host: &str, trust: Trust) -> Result<Settings, Error> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| Error::Options(format!("TLS to {host}: {error}")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Options(format!("TLS: {error}")))?;
        let mut config = match trust {
            Trust::Anyone => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
                .with_no_client_auth(),
            Trust::System => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    let why = "the system trusts no certificate authority; --insecure accepts every certificate";
                    return Err(Error::Options(why.to_owned()));
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Settings { config: Arc::new(config), name })
    }
}

/// The TLS of one connection.
#[derive(Debug)]
pub(crate) struct Tls(ClientConnection);

impl Tls {
    /// Begins a handshake, whose first bytes wait for [`Self::take_records`].
    ///
    /// # Errors
    /// An error is returned if the settings fit no handshake.
    pub(crate) fn begin(settings: &Settings) -> Result<Tls, Error> {
        let connection = ClientConnection::new(Arc::clone(&settings.config), settings.name.clone());
        let mut connection = connection.map_err(|error| Error::Connect(format!("TLS: {error}")))?;
        // Bytes that are written before the end of the handshake wait, however many they are.
        connection.set_buffer_limit(None);
        Ok(Tls(connection))
    }

    /// Appends the plain bytes of some records to `plain`. Answers to the server wait for [`Self::take_records`].
    ///
    /// # Errors
    /// The error is the reason for which the connection must end.
    pub(crate) fn open(&mut self, mut records: &[u8], plain: &mut Vec<u8>) -> Result<(), String> {
        while !records.is_empty() {
            let taken = self.0.read_tls(&mut records).map_err(|error| error.to_string())?;
            let state = self.0.process_new_packets().map_err(|error| format!("TLS: {error}{}", remedy(&error)))?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            self.0.reader().read_exact(&mut plain[start..]).map_err(|error| format!("TLS: {error}"))?;
            // Nothing is taken after the server's close_notify.
            if taken == 0 || state.peer_has_closed() {
                return Err("closed by the server: TLS close_notify".to_owned());
            }
        }
        Ok(())
    }

    /// Takes plain bytes, whose records wait for [`Self::take_records`].
    pub(crate) fn seal(&mut self, plain: &[u8]) {
        self.0.writer().write_all(plain).expect("the buffer has no limit");
    }

    /// Appends the waiting records to `out`.
    pub(crate) fn take_records(&mut self, out: &mut Vec<u8>) {
        while self.0.wants_write() {
            self.0.write_tls(out).expect("a vector takes all bytes");
        }
    }
}

/// Returns the remedy of a failed handshake, as the end of a sentence; empty if there is none.
fn remedy(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(_) => {
            "; --insecure accepts every certificate, and SSL_CERT_FILE=ca.pem trusts an authority of your own"
        }
        rustls::Error::InvalidMessage(_) => "; does the server speak TLS at this port (ws:// is without TLS)?",
        _ => "",
    }
}

/// Accepts every certificate whose key has signed the handshake.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

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
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_begins_with_a_hello() {
        let settings = Settings::new("example.org", Trust::Anyone).unwrap();
        let mut records = Vec::new();
        let mut tls = Tls::begin(&settings).unwrap();
        tls.take_records(&mut records);
        // A handshake record with a ClientHello.
        assert_eq!((records[0], records[5]), (22, 1));
        let mut plain = Vec::new();
        assert!(tls.open(b"HTTP/1.1 400 Bad Request\r\n\r\n", &mut plain).is_err_and(|why| why.contains("TLS")));
        assert!(Settings::new("not a name", Trust::Anyone).is_err());
    }
}
