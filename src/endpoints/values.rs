//! The values of a surface's own keys in the table of a route.

#![cfg_attr(not(test), expect(dead_code, reason = "only the surface of the tests uses all of it so far"))]

use std::fmt;

/// The values of a surface's own keys, by the names of the keys. The reader of routes has checked their types.
#[derive(Clone, Default)]
pub(crate) struct RouteValues(Vec<(&'static str, RouteValue)>);

/// The value of a key.
#[derive(Clone)]
pub(crate) enum RouteValue {
    Text(String),
    Boolean(bool),
    /// A number of bytes.
    Size(u64),
    /// Secrets by name.
    Secrets(Vec<(String, String)>),
}

impl RouteValues {
    /// Adds the value of a key.
    pub(crate) fn set(&mut self, key: &'static str, value: RouteValue) {
        self.0.push((key, value));
    }

    /// Returns the value of a key that takes text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.find(key, |value| if let RouteValue::Text(text) = value { Some(&**text) } else { None })
    }

    /// Returns the value of a key that takes `true` or `false`.
    pub(crate) fn boolean(&self, key: &str) -> Option<bool> {
        self.find(key, |value| if let RouteValue::Boolean(is_so) = value { Some(*is_so) } else { None })
    }

    /// Returns the value of a key that takes a size, in bytes.
    pub(crate) fn size(&self, key: &str) -> Option<u64> {
        self.find(key, |value| if let RouteValue::Size(bytes) = value { Some(*bytes) } else { None })
    }

    /// Returns the secrets of a key that takes a table of them, by name.
    pub(crate) fn secrets(&self, key: &str) -> &[(String, String)] {
        let of_table = self.find(key, |value| match value {
            RouteValue::Secrets(secrets) => Some(&secrets[..]),
            RouteValue::Text(_) | RouteValue::Boolean(_) | RouteValue::Size(_) => None,
        });
        of_table.unwrap_or_default()
    }

    fn find<'a, T>(&'a self, key: &str, of: impl Fn(&'a RouteValue) -> Option<T>) -> Option<T> {
        self.0.iter().find(|(name, _)| *name == key).and_then(|(_, value)| of(value))
    }
}

/// Shows the keys alone: a value may be a secret.
impl fmt::Debug for RouteValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}
