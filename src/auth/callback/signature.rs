//! The signature of a question: HMAC (RFC 2104) with SHA-256.

use std::fmt::Write as _;

use ring::hmac;

/// The name of the header line with the signature.
pub(super) const SIGNATURE: &str = "x-ringhub-signature";

/// The least length of a secret.
pub(super) const SECRET_BYTES_MIN: usize = 16;

/// Returns the value of the header line: `t=TIME,v1=SIGNATURE`, with a signature by each secret. A signature is the
/// HMAC of the time, a point and the body, in hexadecimal digits.
pub(super) fn sign(secrets: &[String], time: u64, body: &[u8]) -> String {
    let mut value = format!("t={time}");
    for secret in secrets {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
        context.update(time.to_string().as_bytes());
        context.update(b".");
        context.update(body);
        value.push_str(",v1=");
        for octet in context.sign().as_ref() {
            // A string takes everything.
            write!(value, "{octet:02x}").unwrap_or_default();
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected value is what `printf '1700000000.{}' | openssl dgst -sha256 -hmac 0123456789abcdef` prints.
    #[test]
    fn a_signature_that_openssl_makes_too() {
        let secrets = ["0123456789abcdef".to_string(), "fedcba9876543210".to_string()];
        let value = sign(&secrets, 1_700_000_000, b"{}");
        let parts: Vec<&str> = value.split(',').collect();
        assert_eq!(parts[..2], ["t=1700000000", OPENSSL]);
        assert_eq!(parts.len(), 3);
        assert_ne!(parts[1], parts[2]);
        assert_ne!(sign(&secrets[..1], 1_700_000_001, b"{}").split(',').nth(1), Some(OPENSSL));
        assert_ne!(sign(&secrets[..1], 1_700_000_000, b"{ }").split(',').nth(1), Some(OPENSSL));
    }

    const OPENSSL: &str = "v1=e4f8e2ecae2295b2ddb2f0b5584c8275e226c0ebe9b3b819e70156bb67122e3e";
}
