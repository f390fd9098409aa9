//! The signatures of tokens, by the crate `ring`, which TLS uses too.
//!
//! The crate for tokens, `jsonwebtoken`, takes its cryptography from a provider that the whole process shares. The two
//! providers that the crate has would add the crates of RustCrypto, or a second library in C beside `ring`.

use std::sync::Once;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind, Result},
};
use ring::{hmac, signature as ring_signature};
use signature::Verifier;

/// Gives the crate for tokens a provider, unless the process has one. A feature of the crate, or a call of
/// `CryptoProvider::install_default`, may have given it one.
pub(super) fn provide() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Another thread of the embedder may be first.
        if CryptoProvider::try_get_default().is_none() && PROVIDER.install_default().is_err() {
            tracing::debug!("this process has another provider of cryptography for tokens");
        }
    });
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: refuse_to_sign,
    verifier_factory: verifier,
    // The server makes no JWK.
    key_utils: KeyUtils::new_unimplemented(),
};

fn refuse_to_sign(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::Provider("ringhub's provider of cryptography signs nothing".into()).into())
}

fn verifier(&algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if key.family() != algorithm.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let check = match algorithm.family() {
        AlgorithmFamily::Hmac => Check::Hmac(hmac::Key::new(digest(algorithm)?, key.try_get_as_bytes()?)),
        AlgorithmFamily::Rsa => match key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => {
                let components = ring_signature::RsaPublicKeyComponents { n: n.clone(), e: e.clone() };
                Check::Rsa(rsa(algorithm)?, components)
            }
            DecodingKeyKind::SecretOrDer(_) => return Err(ErrorKind::InvalidKeyFormat.into()),
        },
        AlgorithmFamily::Ec | AlgorithmFamily::Ed => {
            let key = ring_signature::UnparsedPublicKey::new(curve(algorithm)?, key.try_get_as_bytes()?.to_vec());
            Check::Curve(key)
        }
    };
    Ok(Box::new(Checker { algorithm, check }))
}

/// Checks signatures of one algorithm with one key.
struct Checker {
    algorithm: Algorithm,
    check: Check,
}

enum Check {
    Hmac(hmac::Key),
    Rsa(&'static ring_signature::RsaParameters, ring_signature::RsaPublicKeyComponents<Vec<u8>>),
    Curve(ring_signature::UnparsedPublicKey<Vec<u8>>),
}

impl Verifier<Vec<u8>> for Checker {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        let outcome = match &self.check {
            // In constant time.
            Check::Hmac(key) => hmac::verify(key, message, signature),
            Check::Rsa(parameters, key) => key.verify(parameters, message, signature),
            Check::Curve(key) => key.verify(message, signature),
        };
        outcome.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Checker {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

fn digest(algorithm: Algorithm) -> Result<hmac::Algorithm> {
    Ok(match algorithm {
        Algorithm::HS256 => hmac::HMAC_SHA256,
        Algorithm::HS384 => hmac::HMAC_SHA384,
        Algorithm::HS512 => hmac::HMAC_SHA512,
        _ => return Err(unsupported()),
    })
}

/// Returns the parameters of an algorithm for RSA keys of 2048 bits or more (RFC 7518 3.3).
fn rsa(algorithm: Algorithm) -> Result<&'static ring_signature::RsaParameters> {
    Ok(match algorithm {
        Algorithm::RS256 => &ring_signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &ring_signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &ring_signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &ring_signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &ring_signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &ring_signature::RSA_PSS_2048_8192_SHA512,
        _ => return Err(unsupported()),
    })
}

fn curve(algorithm: Algorithm) -> Result<&'static dyn ring_signature::VerificationAlgorithm> {
    Ok(match algorithm {
        Algorithm::ES256 => &ring_signature::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &ring_signature::ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &ring_signature::ED25519,
        _ => return Err(unsupported()),
    })
}

fn unsupported() -> Error {
    ErrorKind::UnsupportedAlgorithm.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key of another family is no key of the algorithm, whatever its bytes are.
    #[test]
    fn an_algorithm_takes_keys_of_its_family_alone() {
        let keys = [
            DecodingKey::from_secret(&[1; 64]).unwrap(),
            DecodingKey::from_rsa_raw_components(&[1; 256], &[1, 0, 1]),
            DecodingKey::from_ec_der(&[4; 65]),
            DecodingKey::from_ed_der(&[1; 32]),
        ];
        for algorithm in super::super::algorithms::ALL {
            for key in &keys {
                let outcome = verifier(algorithm, key);
                assert_eq!(outcome.is_ok(), key.family() == algorithm.family(), "{algorithm:?} {:?}", key.family());
            }
        }
    }

    #[test]
    fn nothing_is_signed() {
        assert!(refuse_to_sign(&Algorithm::HS256, &EncodingKey::from_secret(b"x").unwrap()).is_err());
    }
}
