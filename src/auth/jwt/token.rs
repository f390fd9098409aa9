//! A token's parts, before anything in them can be believed.

use std::collections::{BTreeMap, btree_map::Entry};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::{algorithms, fault::Fault, jwk::KEY_ID_BYTES_MAX};

/// The parts of a token (RFC 7515 3.1) that choose its issuer and its key.
#[derive(Debug, PartialEq)]
pub(super) struct Parts {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// The issuer that the token names. Nobody has vouched for it yet.
    pub(super) issuer: Option<String>,
}

impl Parts {
    /// Reads the parts of a token. A header's `jku`, `x5u`, `jwk` and `x5c` name or have keys: they are not read, so a
    /// token brings no key of its own. `crit` is refused, since this server knows no extension (RFC 7515 4.1.11).
    ///
    /// # Errors
    ///
    /// The first part that is wrong.
    pub(super) fn read(token: &[u8]) -> Result<Parts, Fault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Fault::of(format!("it has more than {TOKEN_BYTES_MAX} bytes")));
        }
        let parts: Vec<&[u8]> = token.split(|&byte| byte == b'.').collect();
        let [header, payload, _] = parts[..] else {
            return Err(Fault::of(match parts.len() {
                5 => "it is encrypted (JWE), and only signed tokens (JWS) are accepted",
                _ => "a token is a header, a payload and a signature, with dots between them",
            }));
        };
        let header = Object::decode(header).ok_or(Fault::of("its header is no JSON object in base64url"))?.0;
        if header.contains_key("crit") {
            return Err(Fault::of("its header has critical extensions (crit), of which this server knows none"));
        }
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) if name.eq_ignore_ascii_case("none") => {
                return Err(Fault::of("it has no signature (its algorithm is none)"));
            }
            Some(Value::String(name)) => {
                algorithms::algorithm(name).ok_or(Fault::of("its algorithm (alg) is not one that this server knows"))?
            }
            _ => return Err(Fault::of("its header names no algorithm (alg)")),
        };
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) if id.len() <= KEY_ID_BYTES_MAX => Some(id.clone()),
            Some(_) => {
                return Err(Fault::of(format!("its key id (kid) is no text of at most {KEY_ID_BYTES_MAX} bytes")));
            }
        };
        let payload = Object::decode(payload).ok_or(Fault::of("its payload is no JSON object in base64url"))?;
        let issuer = payload.text("iss")?.map(String::from);
        Ok(Parts { algorithm, key_id, issuer })
    }
}

/// Returns whether a text has the form of a token that an issuer may have signed. It says nothing about the signature.
pub(in crate::auth) fn has_jwt_form(text: &[u8]) -> bool {
    Parts::read(text).is_ok()
}

/// A JSON object in which no name is there twice (RFC 7519 4): two readers could take different ones.
#[derive(Debug)]
pub(super) struct Object(pub(super) BTreeMap<String, Value>);

impl Object {
    fn decode(part: &[u8]) -> Option<Object> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    }

    /// Returns a claim that is a text.
    ///
    /// # Errors
    ///
    /// [`Fault::Invalid`] if it is something else. `null` is nothing.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, Fault> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Fault::of(format!("its claim {name} is no text"))),
        }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut pairs: A) -> Result<Object, A::Error> {
                let mut object = BTreeMap::new();
                while let Some((name, value)) = pairs.next_entry::<String, Value>()? {
                    match object.entry(name) {
                        Entry::Vacant(free) => _ = free.insert(value),
                        Entry::Occupied(_) => return Err(de::Error::custom("a name is there twice")),
                    }
                }
                Ok(Object(object))
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

/// The most bytes of a token. Tokens of large identity providers have up to 4 KiB.
pub(crate) const TOKEN_BYTES_MAX: usize = 6 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload))
    }

    fn fault(token: &str) -> String {
        match Parts::read(token.as_bytes()) {
            Err(Fault::Invalid(what)) => what.into_owned(),
            other => panic!("{token}: {other:?}"),
        }
    }

    #[test]
    fn parts() {
        let read = |header: &str, payload: &str| Parts::read(token(header, payload).as_bytes()).unwrap();
        let parts = read(r#"{"alg":"ES256","kid":"k","typ":"JWT","jku":"http://x/"}"#, r#"{"iss":"i","sub":"s"}"#);
        let expected = Parts { algorithm: Algorithm::ES256, key_id: Some("k".into()), issuer: Some("i".into()) };
        assert_eq!(parts, expected);
        let expected = Parts { algorithm: Algorithm::HS256, key_id: None, issuer: None };
        assert_eq!(read(r#"{"alg":"HS256"}"#, "{}"), expected);
    }

    #[test]
    fn parts_that_are_wrong() {
        let check = |header: &str, payload: &str, expected: &str| {
            let fault = fault(&token(header, payload));
            assert!(fault.contains(expected), "{header} {payload}: {fault}");
        };
        for none in ["none", "None", "NONE", "nOnE"] {
            check(&format!(r#"{{"alg":"{none}"}}"#), "{}", "no signature");
        }
        for unknown in ["", "hs256", "none ", "ES512", "HS256\\u0000", "RS1"] {
            check(&format!(r#"{{"alg":"{unknown}"}}"#), "{}", "not one that this server knows");
        }
        check("{}", "{}", "names no algorithm");
        check(r#"{"alg":["HS256"]}"#, "{}", "names no algorithm");
        check(r#"{"alg":"HS256","alg":"none"}"#, "{}", "its header is no JSON object");
        check(r#"{"alg":"HS256","crit":["b64"],"b64":true}"#, "{}", "critical extensions");
        check(r#"{"alg":"HS256","kid":7}"#, "{}", "key id (kid) is no text");
        check(&format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "x".repeat(257)), "{}", "at most 256 bytes");
        check(r#"["HS256"]"#, "{}", "its header is no JSON object");
        check("hush", "{}", "its header is no JSON object");
        check(r#"{"alg":"HS256"}"#, "[]", "its payload is no JSON object");
        check(r#"{"alg":"HS256"}"#, r#"{"iss":"a","iss":"b"}"#, "its payload is no JSON object");
        check(r#"{"alg":"HS256"}"#, r#"{"iss":["a"]}"#, "its claim iss is no text");
        check(r#"{"alg":"HS256"}"#, &format!("{}1{}", "[".repeat(200), "]".repeat(200)), "its payload is no JSON");
    }

    #[test]
    fn what_is_no_token() {
        for text in ["", "a", "a.b", "a.b.c.d", "...."] {
            let fault = fault(text);
            assert!(fault.contains("with dots between them") || fault.contains("(JWE)"), "{text}: {fault}");
        }
        assert!(fault("..").contains("its header is no JSON object"));
        assert!(fault("a.b.c.d.e").contains("(JWE)"));
        assert!(fault(&"x".repeat(TOKEN_BYTES_MAX + 1)).contains("more than 6144 bytes"));
        // Padding, and the other alphabet.
        assert!(fault("eyJhbGciOiJIUzI1NiJ9=.e30.x").contains("its header"));
        assert!(fault("eyJhbGciOiJIUzI1NiJ9.e3+/.x").contains("its payload"));
    }
}
