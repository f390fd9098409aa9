//! The certificate authorities that the server trusts when it sends requests.

use std::{fmt, sync::Arc};

use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

/// Certificate authorities in addition to those that the system trusts.
#[derive(Clone, Default)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Reads certificates in PEM form.
    ///
    /// # Errors
    ///
    /// A sentence about a certificate that cannot be used, or about a text without one.
    pub fn from_pem(pem: &[u8]) -> Result<Authorities, String> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates = certificates.map_err(|error| format!("this is no PEM form: {error}"))?;
        if certificates.is_empty() {
            return Err("there is no certificate in PEM form".into());
        }
        for (at, certificate) in certificates.iter().enumerate() {
            let added = RootCertStore::empty().add(certificate.clone());
            added.map_err(|error| format!("the certificate {} cannot be used: {error}", at + 1))?;
        }
        Ok(Authorities(certificates))
    }

    /// Returns the rules of TLS for a client that trusts these authorities, and those of the system. The system's are
    /// files, whose reading blocks.
    ///
    /// # Errors
    ///
    /// A sentence, if there is no authority to trust.
    pub(super) fn client_config(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        // `from_pem` has checked each of them.
        roots.add_parsable_certificates(self.0.iter().cloned());
        // An unreadable certificate is not trusted. An empty store is refused below.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("no certificate authority is trusted: the system has none, and outbound_ca names none".into());
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorities({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_read() {
        let certificate = rcgen::generate_simple_self_signed(vec!["a.example".into()]).unwrap().cert;
        let authorities = Authorities::from_pem(certificate.pem().as_bytes()).unwrap();
        assert_eq!(format!("{authorities:?}"), "Authorities(1)");
        assert!(authorities.client_config().is_ok());
        let check = |pem: &str, expected: &str| {
            let error = Authorities::from_pem(pem.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check("", "there is no certificate");
        check("-----BEGIN CERTIFICATE-----\n", "this is no PEM form");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(broken, "the certificate 1 cannot be used");
    }
}
