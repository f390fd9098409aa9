//! JSON Web Keys and sets of them (RFC 7517, RFC 7518 6, RFC 8037 2).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::{
    algorithms::{self, KeyKind},
    material::Material,
};

/// A key of a set.
pub(super) struct Jwk {
    pub(super) id: Option<String>,
    /// The algorithm that the key is for, if the key names one.
    pub(super) algorithm: Option<Algorithm>,
    pub(super) material: Material,
}

/// Returns the keys of a set, or the one key that stands alone, each as a JSON object.
///
/// # Errors
///
/// A sentence, if the text is no JSON, or neither a set nor a key, or if there are more than `max` keys.
pub(super) fn members(text: &[u8], max: usize) -> Result<Vec<Map<String, Value>>, String> {
    // The errors of the parser would show a part of the text, which may have a secret.
    let value: Value = serde_json::from_slice(text)
        .map_err(|error| format!("this is no JSON at line {}, column {}", error.line(), error.column()))?;
    let no_set = || String::from("this is neither a set of keys ({\"keys\": [...]}) nor a key ({\"kty\": ...})");
    let Value::Object(mut object) = value else { return Err(no_set()) };
    let keys = match object.remove("keys") {
        Some(Value::Array(keys)) => keys,
        None if object.contains_key("kty") => return Ok(vec![object]),
        _ => return Err(no_set()),
    };
    if keys.len() > max {
        return Err(format!("there are {} keys, more than {max}", keys.len()));
    }
    let objects = keys.into_iter().map(|key| if let Value::Object(key) = key { Ok(key) } else { Err(no_set()) });
    objects.collect()
}

/// The keys that a set may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrets {
    /// Public keys, and secrets (`oct`): the set is in the settings.
    Allowed,
    /// Public keys alone: whoever reaches the set's address can read it.
    Skipped,
}

/// Reads a key. Returns `None` if the key is not for signatures that this server can check: another use, an unknown
/// type, curve or algorithm.
///
/// # Errors
///
/// A sentence about a key that is malformed, too weak, or private. It has nothing of the key but its id.
pub(super) fn jwk(key: &Map<String, Value>, secrets: Secrets) -> Result<Option<Jwk>, String> {
    let id = match key.get("kid") {
        None => None,
        Some(Value::String(id)) if id.len() <= KEY_ID_BYTES_MAX => Some(id.clone()),
        Some(_) => return Err(format!("the id of a key (kid) is no text of at most {KEY_ID_BYTES_MAX} bytes")),
    };
    let of_key = |what: String| match &id {
        Some(id) => format!("the key {id:?}: {what}"),
        None => what,
    };
    if !is_for_signatures(key) {
        return Ok(None);
    }
    let algorithm = match key.get("alg").map(|name| name.as_str().and_then(algorithms::algorithm)) {
        Some(None) => return Ok(None),
        algorithm => algorithm.flatten(),
    };
    let Some(material) = material(key, secrets).map_err(of_key)? else { return Ok(None) };
    if let Some(algorithm) = algorithm.filter(|algorithm| !material.kind.algorithms().contains(algorithm)) {
        let (name, kind) = (algorithms::name(algorithm), material.kind.words());
        return Err(of_key(format!("its algorithm (alg) is {name}, and it is {kind}")));
    }
    Ok(Some(Jwk { id, algorithm, material }))
}

/// Returns whether a key is for signatures (RFC 7517 4.2, 4.3).
fn is_for_signatures(key: &Map<String, Value>) -> bool {
    let is_used = key.get("use").is_none_or(|purpose| purpose == "sig");
    let verifies = |operations: &Value| match operations {
        Value::Array(operations) => operations.iter().any(|operation| operation == "verify"),
        _ => false,
    };
    is_used && key.get("key_ops").is_none_or(verifies)
}

fn material(key: &Map<String, Value>, secrets: Secrets) -> Result<Option<Material>, String> {
    let Some(Value::String(kind)) = key.get("kty") else { return Err("its type (kty) is no text".into()) };
    let curve = key.get("crv").and_then(Value::as_str).unwrap_or_default();
    if kind != "oct" && key.contains_key("d") && secrets == Secrets::Allowed {
        return Err("it has its private part (d), which only the issuer should have".into());
    }
    Ok(Some(match (&**kind, curve) {
        ("RSA", _) => Material::rsa(&bytes(key, "n")?, &bytes(key, "e")?)?,
        ("EC", "P-256") => Material::point(KeyKind::P256, point(key)?)?,
        ("EC", "P-384") => Material::point(KeyKind::P384, point(key)?)?,
        ("OKP", "Ed25519") => Material::ed25519(bytes(key, "x")?)?,
        ("oct", _) if secrets == Secrets::Allowed => Material::secret(&bytes(key, "k")?)?,
        _ => return Ok(None),
    }))
}

/// Returns an uncompressed point (SEC 1 2.3.3).
fn point(key: &Map<String, Value>) -> Result<Vec<u8>, String> {
    let (x, y) = (bytes(key, "x")?, bytes(key, "y")?);
    if x.len() != y.len() {
        return Err("its coordinates (x, y) have different lengths".into());
    }
    Ok([&[4][..], &x, &y].concat())
}

fn bytes(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = key.get(name).and_then(Value::as_str);
    let decoded = text.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    decoded.ok_or_else(|| format!("its {name:?} is missing, or no base64url without padding"))
}

/// The most bytes of a key's id.
pub(super) const KEY_ID_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, secrets: Secrets) -> Result<Vec<Option<Jwk>>, String> {
        members(json.as_bytes(), 4)?.iter().map(|key| jwk(key, secrets)).collect()
    }

    /// The numbers of keys that are used and that are skipped.
    fn check(json: &str, secrets: Secrets, expected: (usize, usize)) {
        let keys = read(json, secrets).unwrap_or_else(|error| panic!("{json}: {error}"));
        let used = keys.iter().flatten().count();
        assert_eq!((used, keys.len() - used), expected, "{json}");
    }

    fn fails(json: &str, expected: &str) {
        let error = read(json, Secrets::Allowed).err().unwrap_or_default();
        assert!(error.contains(expected) && !error.contains("hush"), "{json}: {error}");
    }

    /// RFC 8037 A.2, RFC 7515 A.3.1.
    const ED25519: &str = r#""kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#;
    const P256: &str = r#""kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0""#;
    const OCT: &str = r#""kty": "oct", "k": "aHVzaCBodXNoIGh1c2ggaHVzaCBodXNoIGh1c2ggaHVzaA""#;

    #[test]
    fn keys_that_are_used() {
        check(&format!("{{{ED25519}}}"), Secrets::Skipped, (1, 0));
        check(
            &format!(r#"{{"keys": [{{{ED25519}, "alg": "EdDSA"}}, {{{P256}, "use": "sig"}}]}}"#),
            Secrets::Skipped,
            (2, 0),
        );
        check(&format!(r#"{{{P256}, "key_ops": ["verify"]}}"#), Secrets::Skipped, (1, 0));
        check(&format!("{{{OCT}}}"), Secrets::Allowed, (1, 0));
        check(r#"{"keys": []}"#, Secrets::Skipped, (0, 0));
    }

    /// A set may have keys for other purposes, and keys of types to come (RFC 7517 5).
    #[test]
    fn keys_that_are_skipped() {
        check(&format!("{{{OCT}}}"), Secrets::Skipped, (0, 1));
        check(&format!(r#"{{{P256}, "use": "enc"}}"#), Secrets::Skipped, (0, 1));
        check(&format!(r#"{{{P256}, "key_ops": ["deriveKey"]}}"#), Secrets::Skipped, (0, 1));
        check(&format!(r#"{{{P256}, "alg": "ECDH-ES"}}"#), Secrets::Skipped, (0, 1));
        check(&format!(r#"{{{P256}, "alg": 7}}"#), Secrets::Skipped, (0, 1));
        check(r#"{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}"#, Secrets::Skipped, (0, 1));
        check(r#"{"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}"#, Secrets::Skipped, (0, 1));
        // A private key at a public address is as public as its other half.
        check(&format!(r#"{{{ED25519}, "d": "AA"}}"#), Secrets::Skipped, (1, 0));
    }

    #[test]
    fn keys_that_are_wrong() {
        fails("hush", "no JSON at line 1, column 1");
        fails("[]", "neither a set");
        fails("{}", "neither a set");
        fails(r#"{"keys": {}}"#, "neither a set");
        fails(r#"{"keys": [7]}"#, "neither a set");
        fails(r#"{"keys": [{}, {}, {}, {}, {}]}"#, "5 keys, more than 4");
        fails(r#"{"keys": [{"kid": "a"}]}"#, "the key \"a\": its type (kty) is no text");
        fails(r#"{"kty": "RSA", "e": "AQAB"}"#, "its \"n\" is missing");
        fails(r#"{"kty": "RSA", "n": "AQAB", "e": "AQAB"}"#, "17 bits");
        fails(r#"{"kty": "RSA", "n": "hush=", "e": "AQAB"}"#, "no base64url");
        fails(r#"{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AAAA"}"#, "different lengths");
        fails(r#"{"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}"#, "48 bytes");
        fails(r#"{"kty": "oct", "k": ""}"#, "empty");
        fails(&format!(r#"{{{ED25519}, "d": "hush"}}"#), "private part");
        fails(
            &format!(r#"{{{P256}, "alg": "EdDSA"}}"#),
            "its algorithm (alg) is EdDSA, and it is a key of the curve P-256",
        );
        fails(&format!(r#"{{{ED25519}, "kid": 7}}"#), "the id of a key (kid)");
        fails(&format!(r#"{{{ED25519}, "kid": "{}"}}"#, "x".repeat(257)), "at most 256 bytes");
    }
}
