//! Hashes of the keys and values of a route.

/// Hashes of the keys and values of a route, by which a reload notices a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::config) struct RouteDigest {
    /// Of all keys, with the contents of files that are values.
    pub(in crate::config) all: u64,
    /// Of the keys that a reload cannot change: the handler's name, its topics, and the keys of its surface.
    pub(in crate::config) lasting: u64,
}

impl RouteDigest {
    /// Adds the hash of a key and its value. The order of the keys makes no difference.
    pub(super) fn add(&mut self, hash: u64, is_lasting: bool) {
        self.all = self.all.wrapping_add(hash);
        self.lasting = self.lasting.wrapping_add(if is_lasting { hash } else { 0 });
    }
}
