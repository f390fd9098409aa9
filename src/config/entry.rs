//! A setting of one source, before its value is read.

use super::{file_value::Item, settings::Setting};
use crate::error::Origin;

/// A setting of one source, before its value is read.
pub(super) struct Entry {
    pub(super) setting: &'static Setting,
    pub(super) items: Vec<Item>,
    pub(super) origin: Origin,
}

/// The part of all settings that is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// Every setting, and the routes.
    All,
    One(&'static Setting),
}

impl Part {
    /// Returns whether a setting is read.
    pub(super) fn includes(self, setting: &Setting) -> bool {
        match self {
            Part::All => true,
            Part::One(one) => one.key == setting.key,
        }
    }
}

/// Returns the known key that is most similar to a misspelled one, if it is similar enough.
pub(super) fn nearest_key(key: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let (nearest, distance) = nearest(key, known)?;
    (distance <= key.len().max(nearest.len()) / 2).then_some(nearest)
}

/// Returns the known name with the smallest edit distance, and the distance.
pub(super) fn nearest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<(&'static str, usize)> {
    known.map(|known| (known, strsim::damerau_levenshtein(name, known))).min_by_key(|&(_, distance)| distance)
}
