//! The keys of an issuer.

use jsonwebtoken::{Algorithm, DecodingKey};

use super::{
    algorithms::{self, KeyKind},
    fault::Fault,
    jwk::{self, Secrets},
    material::Material,
    pem,
};

/// A key, and the algorithms that it is used with, at least one.
pub(super) struct Key {
    id: Option<String>,
    kind: KeyKind,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

/// The keys of an issuer.
#[derive(Default)]
pub(super) struct KeySet(Vec<Key>);

/// The algorithms that an issuer allows. `None` allows each key its own algorithm (`alg`), or else the one that is
/// usual for its kind.
pub(super) type Allowed = Option<Vec<Algorithm>>;

impl KeySet {
    /// Adds a secret that the issuer shares with this server.
    ///
    /// # Errors
    ///
    /// A sentence without the secret, if the secret is too short for an algorithm (RFC 7518 3.2), is a key in PEM, or
    /// no allowed algorithm is for it.
    pub(super) fn add_secret(&mut self, id: Option<String>, secret: &str, allowed: &Allowed) -> Result<(), String> {
        if secret.contains("-----BEGIN ") {
            return Err("this is a key in PEM, not a secret: public keys belong under public_keys".into());
        }
        self.add(id, Material::secret(secret.as_bytes())?, None, allowed)
    }

    /// Adds a public key in PEM.
    ///
    /// # Errors
    ///
    /// A sentence about the key.
    pub(super) fn add_pem(&mut self, id: Option<String>, text: &str, allowed: &Allowed) -> Result<(), String> {
        self.add(id, pem::public_key(text)?, None, allowed)
    }

    /// Adds the keys of a set in JSON. Keys that are not for signatures are skipped; each other key must be usable.
    ///
    /// # Errors
    ///
    /// A sentence about the set or about its first key that cannot be used.
    pub(super) fn add_set(&mut self, text: &str, allowed: &Allowed) -> Result<(), String> {
        let count = self.0.len();
        for member in jwk::members(text.as_bytes(), KEYS_MAX)? {
            if let Some(jwk) = jwk::jwk(&member, Secrets::Allowed)? {
                self.add(jwk.id, jwk.material, jwk.algorithm, allowed)?;
            }
        }
        if self.0.len() == count {
            return Err("no key of the set is for signatures that this server can check".into());
        }
        Ok(())
    }

    /// Returns the keys of a set that an issuer publishes. Keys that cannot be used are skipped, since an issuer may
    /// have them for others.
    ///
    /// # Errors
    ///
    /// A sentence, if the set is malformed, too large, or has no key that can be used.
    pub(super) fn published(text: &[u8], allowed: &Allowed) -> Result<KeySet, String> {
        let mut keys = KeySet::default();
        let mut first_error = None;
        for member in jwk::members(text, KEYS_MAX)? {
            let added = jwk::jwk(&member, Secrets::Skipped).and_then(|jwk| match jwk {
                Some(jwk) => keys.add(jwk.id, jwk.material, jwk.algorithm, allowed),
                None => Ok(()),
            });
            first_error = first_error.or(added.err());
        }
        if keys.0.is_empty() {
            let why = first_error.map(|error| format!(": {error}")).unwrap_or_default();
            return Err(format!("no key of the set can be used{why}"));
        }
        Ok(keys)
    }

    fn add(
        &mut self,
        id: Option<String>,
        material: Material,
        own: Option<Algorithm>,
        allowed: &Allowed,
    ) -> Result<(), String> {
        let Material { kind, key, secret_bytes } = material;
        let usable: Vec<Algorithm> = match (own, allowed) {
            (Some(own), None) => vec![own],
            (Some(own), Some(allowed)) => allowed.iter().copied().filter(|&one| one == own).collect(),
            (None, None) => vec![kind.algorithms()[0]],
            (None, Some(allowed)) => allowed.iter().copied().filter(|one| kind.algorithms().contains(one)).collect(),
        };
        if usable.is_empty() {
            let allowed = algorithms::names(allowed.as_deref().unwrap_or_default());
            return Err(format!("no algorithm of the issuer ({allowed}) is for {}", kind.words()));
        }
        if let Some(long) = usable.iter().copied().find(|&one| digest_bytes(one) > secret_bytes) {
            let (name, needed) = (algorithms::name(long), digest_bytes(long));
            return Err(format!(
                "the secret has {secret_bytes} bytes, and {name} needs {needed} at least; `openssl rand -hex {needed}` \
                 makes one"
            ));
        }
        if id.is_some() && self.0.iter().any(|other| other.id == id) {
            return Err(format!("two keys have the id {:?}", id.unwrap_or_default()));
        }
        if self.0.len() == KEYS_MAX {
            return Err(format!("there are more than {KEYS_MAX} keys"));
        }
        self.0.push(Key { id, kind, algorithms: usable, decoding: key });
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the keys that may have signed a token with this key id and this algorithm: keys of this id, and keys
    /// without an id. An id is compared and nothing else: it names no file and no address.
    ///
    /// # Errors
    ///
    /// [`Fault::UnknownKey`] if no key has the id and all have one; otherwise a sentence, if no key is for the
    /// algorithm, or too many keys would have to be tried.
    pub(super) fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Vec<&DecodingKey>, Fault> {
        let is_named = |key: &&Key| id.is_none() || key.id.is_none() || key.id.as_deref() == id;
        let named: Vec<&Key> = self.0.iter().filter(is_named).collect();
        if named.is_empty() {
            return Err(Fault::UnknownKey);
        }
        let fitting: Vec<&DecodingKey> =
            named.iter().filter(|key| key.algorithms.contains(&algorithm)).map(|key| &key.decoding).collect();
        match fitting.len() {
            0 => Err(Fault::of(format!("its algorithm is {}, which its key is not for", algorithms::name(algorithm)))),
            1..=TRIED_MAX => Ok(fitting),
            more if id.is_none() => Err(Fault::of(format!(
                "it does not name its key (kid), and {more} keys may have signed it: at most {TRIED_MAX} are tried"
            ))),
            more => Err(Fault::of(format!(
                "{more} keys may have signed it, and at most {TRIED_MAX} are tried: keys without an id (kid) count for \
                 every token"
            ))),
        }
    }

    /// Returns the kinds of the keys, for tests and logs.
    pub(super) fn kinds(&self) -> Vec<&'static str> {
        self.0.iter().map(|key| key.kind.words()).collect()
    }
}

/// Returns the bytes of the digest of an algorithm with secrets; 0 for other algorithms.
fn digest_bytes(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS256 => 32,
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => 0,
    }
}

/// The most keys of an issuer.
pub(super) const KEYS_MAX: usize = 64;

/// The most keys that are tried for a token. A signature of RSA costs some 30 µs to check, one of a curve 100 µs.
pub(super) const TRIED_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";
    const P256: &str = r#"{"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"KID}"#;

    fn p256(id: &str) -> String {
        P256.replace("KID", &format!(r#", "kid": "{id}""#))
    }

    #[test]
    fn a_key_is_for_its_usual_algorithm_unless_others_are_named() {
        use Algorithm::{ES256, HS256, HS384, HS512};
        let check = |allowed: Allowed, algorithm, is_for: bool| {
            let mut keys = KeySet::default();
            keys.add_secret(None, &SECRET.repeat(2), &allowed).unwrap();
            assert_eq!(keys.candidates(None, algorithm).is_ok(), is_for, "{allowed:?} {algorithm:?}");
        };
        check(None, HS256, true);
        check(None, HS384, false);
        check(None, ES256, false);
        check(Some(vec![HS384, HS512, ES256]), HS512, true);
        check(Some(vec![HS384, HS512, ES256]), HS256, false);
        check(Some(vec![HS256, ES256]), ES256, false);
        let error = KeySet::default().add_secret(None, SECRET, &Some(vec![ES256])).unwrap_err();
        assert_eq!(error, "no algorithm of the issuer (ES256) is for a secret");
    }

    #[test]
    fn short_secrets_are_refused() {
        let check = |secret: &str, algorithm, expected: &str| {
            let error = KeySet::default().add_secret(None, secret, &Some(vec![algorithm])).err().unwrap_or_default();
            assert!(error.contains(expected) && !error.contains("0123"), "{error}");
        };
        check(&SECRET[..31], Algorithm::HS256, "31 bytes, and HS256 needs 32 at least");
        check(SECRET, Algorithm::HS384, "HS384 needs 48");
        check(SECRET, Algorithm::HS512, "`openssl rand -hex 64`");
        check("", Algorithm::HS256, "empty");
        check("-----BEGIN PUBLIC KEY-----", Algorithm::HS256, "public keys belong under public_keys");
    }

    #[test]
    fn an_id_chooses_among_keys() {
        let mut keys = KeySet::default();
        keys.add_set(&format!(r#"{{"keys": [{}, {}]}}"#, p256("a"), p256("b")), &None).unwrap();
        let count = |keys: &KeySet, id| keys.candidates(id, Algorithm::ES256).map(|keys| keys.len());
        assert_eq!(count(&keys, Some("a")), Ok(1));
        assert_eq!(count(&keys, None), Ok(2));
        for unknown in ["c", "", "../../etc/passwd", "a' OR '1'='1"] {
            assert_eq!(count(&keys, Some(unknown)), Err(Fault::UnknownKey), "{unknown}");
        }
        assert!(keys.add_set(&p256("a"), &None).unwrap_err().contains("two keys have the id \"a\""));
        // A key without an id may be any key.
        keys.add_secret(None, SECRET, &None).unwrap();
        assert_eq!(keys.candidates(Some("c"), Algorithm::HS256).map(|keys| keys.len()), Ok(1));
        assert!(matches!(keys.candidates(Some("c"), Algorithm::ES256), Err(Fault::Invalid(_))));
    }

    #[test]
    fn few_keys_are_tried_for_a_token_and_few_are_kept() {
        let mut keys = KeySet::default();
        for at in 0..=TRIED_MAX {
            keys.add_set(&p256(&at.to_string()), &None).unwrap();
        }
        let Err(Fault::Invalid(error)) = keys.candidates(None, Algorithm::ES256) else { panic!("5 keys") };
        assert_eq!(error, "it does not name its key (kid), and 5 keys may have signed it: at most 4 are tried");
        assert!(keys.candidates(Some("4"), Algorithm::ES256).is_ok());
        for at in TRIED_MAX + 1..KEYS_MAX {
            keys.add_set(&p256(&at.to_string()), &None).unwrap();
        }
        assert!(keys.add_set(&p256("more"), &None).unwrap_err().contains("more than 64 keys"));
    }

    /// A token that names its key is not told that it names none.
    #[test]
    fn keys_without_an_id_are_too_many_for_a_token_with_one() {
        let mut keys = KeySet::default();
        for _ in 0..TRIED_MAX {
            keys.add_set(&P256.replace("KID", ""), &None).unwrap();
        }
        assert_eq!(keys.candidates(Some("a"), Algorithm::ES256).map(|keys| keys.len()), Ok(TRIED_MAX));
        keys.add_set(&p256("a"), &None).unwrap();
        let Err(Fault::Invalid(error)) = keys.candidates(Some("a"), Algorithm::ES256) else { panic!("5 keys") };
        let expected =
            "5 keys may have signed it, and at most 4 are tried: keys without an id (kid) count for every token";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_published_set_is_used_as_far_as_it_can_be() {
        let set = format!(r#"{{"keys": [{{"kty": "RSA", "n": "AQAB", "e": "AQAB"}}, {}]}}"#, p256("a"));
        let keys = KeySet::published(set.as_bytes(), &None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(keys.kinds(), ["a key of the curve P-256"]);
        let error = |set: &str, allowed| KeySet::published(set.as_bytes(), &allowed).err().unwrap_or_default();
        assert!(error(r#"{"keys": []}"#, None).ends_with("can be used"));
        assert!(error(r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}"#, None).contains("17 bits"));
        assert!(error(&p256("a"), Some(vec![Algorithm::RS256])).contains("no algorithm of the issuer (RS256)"));
        let many = vec![p256("a"); 65].join(",");
        assert!(error(&format!(r#"{{"keys": [{many}]}}"#), None).contains("65 keys, more than 64"));
    }
}
