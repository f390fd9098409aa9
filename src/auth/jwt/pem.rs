//! Public keys in PEM (RFC 7468), and the little DER (X.690) that they need.

use tokio_rustls::rustls::pki_types::pem::{PemObject as _, SectionKind};

use super::{algorithms::KeyKind, material::Material};

/// Reads the one public key of a text in PEM: `-----BEGIN PUBLIC KEY-----`.
///
/// # Errors
///
/// A sentence about the text, which has nothing of the text.
pub(super) fn public_key(text: &str) -> Result<Material, String> {
    let mut found: Option<Vec<u8>> = None;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        let (kind, der) = section.map_err(|_| String::from("this is damaged PEM"))?;
        match kind {
            SectionKind::PublicKey if found.is_none() => found = Some(der),
            SectionKind::PublicKey => return Err("there are several keys: give each a text of its own".into()),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                let remedy = "`openssl pkey -pubout` makes the public key of it";
                return Err(format!("this is a private key, which only the issuer should have; {remedy}"));
            }
            SectionKind::Certificate => {
                let remedy = "`openssl x509 -pubkey -noout` makes the public key of it";
                return Err(format!("this is a certificate; {remedy}"));
            }
            _ => return Err("this is no public key".into()),
        }
    }
    match found {
        Some(der) => subject_public_key(&der).ok_or_else(|| {
            "the key is of a kind that is not supported; RSA, P-256, P-384 and Ed25519 are supported".into()
        }),
        None if text.contains("-----BEGIN RSA PUBLIC KEY-----") => {
            let remedy = "`openssl rsa -RSAPublicKey_in -pubout` writes it in the usual form";
            Err(format!("this is a key in the form of PKCS #1; {remedy}"))
        }
        None => Err("this is no public key in PEM, which begins with -----BEGIN PUBLIC KEY-----".into()),
    }
}

/// Reads a SubjectPublicKeyInfo (RFC 5280 4.1.2.7): an algorithm, and the key's bits.
fn subject_public_key(der: &[u8]) -> Option<Material> {
    let (whole, after) = element(SEQUENCE, der)?;
    let (algorithm, rest) = element(SEQUENCE, whole)?;
    let (bits, behind) = element(BIT_STRING, rest)?;
    // The first byte counts unused bits. No key has any.
    let (&0, key) = bits.split_first()? else { return None };
    if !after.is_empty() || !behind.is_empty() {
        return None;
    }
    match algorithm {
        RSA => rsa_key(key),
        P256 => Material::point(KeyKind::P256, key.to_vec()).ok(),
        P384 => Material::point(KeyKind::P384, key.to_vec()).ok(),
        ED25519 => Material::ed25519(key.to_vec()).ok(),
        _ => None,
    }
}

/// Reads an RSAPublicKey (RFC 8017 A.1.1): the modulus, and the exponent.
fn rsa_key(der: &[u8]) -> Option<Material> {
    let (whole, after) = element(SEQUENCE, der)?;
    let (modulus, rest) = element(INTEGER, whole)?;
    let (exponent, behind) = element(INTEGER, rest)?;
    (after.is_empty() && behind.is_empty()).then(|| Material::rsa(modulus, exponent).ok())?
}

/// Returns the contents of the element at the front, if it has this tag, and the rest.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7F => (usize::from(first), rest),
        // No key has more than 64 KiB.
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
            (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
        }
        _ => return None,
    };
    (found == tag).then(|| rest.split_at_checked(length))?
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// The algorithms of keys, with their parameters: rsaEncryption, id-ecPublicKey with a curve, id-Ed25519.
const RSA: &[u8] = &[0x06, 9, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1, 0x05, 0];
const P256: &[u8] = &[0x06, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1, 0x06, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7];
const P384: &[u8] = &[0x06, 7, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1, 0x06, 5, 0x2B, 0x81, 4, 0, 0x22];
const ED25519: &[u8] = &[0x06, 3, 0x2B, 0x65, 0x70];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_end_where_they_say() {
        assert_eq!(element(INTEGER, &[2, 1, 7, 9]), Some((&[7][..], &[9][..])));
        assert_eq!(element(INTEGER, &[2, 0x81, 1, 7]), Some((&[7][..], &[][..])));
        assert_eq!(element(INTEGER, &[2, 0x82, 0, 1, 7]), Some((&[7][..], &[][..])));
        for bad in [&[][..], &[2], &[2, 2, 1], &[3, 1, 1], &[2, 0x80], &[2, 0x83, 0, 0, 1, 7], &[2, 0x82, 1]] {
            assert_eq!(element(INTEGER, bad), None, "{bad:?}");
        }
    }

    #[test]
    fn texts_without_a_public_key() {
        let check = |text: &str, expected: &str| {
            let error = public_key(text).err().unwrap_or_default();
            assert!(error.contains(expected) && !error.contains("AAEC"), "{error}");
        };
        let pem = |label: &str, body: &str| format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n");
        check("", "no public key in PEM");
        check("a-secret-word", "no public key in PEM");
        check(&pem("PRIVATE KEY", "AAEC"), "`openssl pkey -pubout`");
        check(&pem("EC PRIVATE KEY", "AAEC"), "a private key");
        check(&pem("CERTIFICATE", "AAEC"), "`openssl x509");
        check(&pem("RSA PUBLIC KEY", "AAEC"), "PKCS #1");
        check(&pem("PUBLIC KEY", "AAEC"), "a kind that is not supported");
        check(&(pem("PUBLIC KEY", "AAEC") + &pem("PUBLIC KEY", "AAEC")), "several keys");
        check(&pem("PUBLIC KEY", "!"), "damaged");
        check(&pem("X509 CRL", "AAEC"), "no public key");
    }
}
