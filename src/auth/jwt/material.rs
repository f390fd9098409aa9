//! The bytes of keys, checked.

use jsonwebtoken::DecodingKey;

use super::algorithms::KeyKind;

/// The bytes of a key, and its kind.
pub(super) struct Material {
    pub(super) kind: KeyKind,
    pub(super) key: DecodingKey,
    /// The bytes of a secret, which limit its algorithms.
    pub(super) secret_bytes: usize,
}

impl Material {
    /// # Errors
    ///
    /// A sentence, if the secret is empty.
    pub(super) fn secret(secret: &[u8]) -> Result<Material, String> {
        let key = DecodingKey::from_secret(secret).map_err(|_| String::from("the secret is empty"))?;
        Ok(Material { kind: KeyKind::Hmac, key, secret_bytes: secret.len() })
    }

    /// Checks the modulus and the exponent of an RSA key, which may begin with zeros.
    ///
    /// # Errors
    ///
    /// A sentence, if the key has less than 2048 or more than 8192 bits, or the exponent is not one that is in use.
    pub(super) fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Material, String> {
        let [modulus, exponent] = [modulus, exponent].map(|number| {
            let zeros = number.iter().take_while(|&&byte| byte == 0).count();
            &number[zeros..]
        });
        let bits = 8 * modulus.len() - modulus.first().map_or(0, |first| first.leading_zeros() as usize);
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(format!("an RSA key of {bits} bits; {RSA_BITS_MIN} to {RSA_BITS_MAX} are supported"));
        }
        // `ring` takes odd exponents of 3 to 33 bits.
        if !(1..=5).contains(&exponent.len()) || exponent.last().is_none_or(|last| last % 2 == 0) || exponent == [1] {
            return Err("an RSA key whose exponent (e) is not one in use".into());
        }
        let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
        Ok(Material { kind: KeyKind::Rsa, key, secret_bytes: 0 })
    }

    /// Checks the length of an uncompressed point of a curve.
    ///
    /// # Errors
    ///
    /// A sentence about the length.
    pub(super) fn point(kind: KeyKind, point: Vec<u8>) -> Result<Material, String> {
        let coordinate = if kind == KeyKind::P384 { 48 } else { 32 };
        if point.len() != 1 + 2 * coordinate || point[0] != 4 {
            return Err(format!("{} whose coordinates do not have {coordinate} bytes each", kind.words()));
        }
        Ok(Material { kind, key: DecodingKey::from_ec_der(&point), secret_bytes: 0 })
    }

    /// # Errors
    ///
    /// A sentence about the length.
    pub(super) fn ed25519(key: Vec<u8>) -> Result<Material, String> {
        if key.len() != 32 {
            return Err("an Ed25519 key that does not have 32 bytes".into());
        }
        Ok(Material { kind: KeyKind::Ed25519, key: DecodingKey::from_ed_der(&key), secret_bytes: 0 })
    }
}

/// The fewest and the most bits of an RSA key: those of RFC 7518 3.3, and of `ring`.
const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_sizes() {
        let told = |outcome: Result<Material, String>| outcome.err().unwrap_or_default();
        assert_eq!(told(Material::rsa(&[0xFF; 256], &[1, 0, 1])), "");
        assert_eq!(told(Material::rsa(&[&[0][..], &[0xFF; 256]].concat(), &[0, 3])), "");
        assert!(told(Material::rsa(&[0x7F; 256], &[1, 0, 1])).contains("2047 bits"));
        assert!(told(Material::rsa(&[0xFF; 1025], &[1, 0, 1])).contains("8200 bits"));
        assert!(told(Material::rsa(&[], &[1, 0, 1])).contains("0 bits"));
        for exponent in [&[][..], &[1], &[2], &[0], &[1, 0, 0, 0, 0, 1]] {
            assert!(told(Material::rsa(&[0xFF; 256], exponent)).contains("exponent"), "{exponent:?}");
        }
        assert_eq!(told(Material::point(KeyKind::P256, vec![4; 65])), "");
        assert!(told(Material::point(KeyKind::P384, vec![4; 65])).contains("48 bytes"));
        assert!(told(Material::point(KeyKind::P256, vec![2; 33])).contains("32 bytes"));
        assert!(told(Material::ed25519(vec![0; 31])).contains("32 bytes"));
        assert!(told(Material::secret(b"")).contains("empty"));
    }
}
