//! The table of surfaces. The names of handlers in the settings' file, the reader of routes, docs/routes.md and the
//! control thread follow from it.

use super::{batch::BATCHES, echo::ECHO, events::EVENTS, raw::RAW, surface::Surface, v1::V1};
use crate::hub::{Encodings, Growth};

/// Every surface, in the order in which the settings' file and the documentation name them.
pub(crate) const SURFACES: &[&Surface] = &[
    &RAW,
    &ECHO,
    #[cfg(test)]
    &super::testing::LINES,
    &V1,
    &EVENTS,
    &BATCHES,
];

/// Returns the encodings of all surfaces.
pub(crate) fn encodings() -> Encodings {
    let mut encodings = Encodings::default();
    for new in SURFACES.iter().flat_map(|surface| surface.encodings) {
        encodings.add_new(new);
    }
    encodings
}

/// Returns the most bytes that a publication with a payload of so many bytes has in any form.
pub(crate) fn largest_form(payload: u64) -> u64 {
    growths().map(|growth| growth.largest(payload)).fold(0, u64::max)
}

/// Returns the most bytes that a publication with a payload of so many bytes has in all forms together.
pub(crate) fn all_forms(payload: u64) -> u64 {
    growths().map(|growth| growth.largest(payload)).fold(0, u64::saturating_add)
}

fn growths() -> impl Iterator<Item = Growth> {
    let of_surfaces = SURFACES.iter().flat_map(|surface| surface.encodings).map(|encoding| encoding.growth);
    std::iter::once(Growth::RAW).chain(of_surfaces)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_keys_are_distinct() {
        let mut names = BTreeSet::from(["files", "page"]);
        assert!(SURFACES.iter().all(|surface| names.insert(surface.name)));
        let mut keys = BTreeSet::new();
        let of_surfaces = || SURFACES.iter().flat_map(|surface| surface.keys);
        assert!(of_surfaces().all(|key| key.qualified.starts_with("routes.") && keys.insert(key.name())));
    }

    /// A path of a surface follows that of a route, so it is empty or begins with a slash.
    #[test]
    fn paths_are_below_their_routes() {
        let paths = SURFACES.iter().flat_map(|surface| surface.paths);
        assert!(paths.map(|path| path.below).all(|below| below.is_empty() || below.starts_with('/')));
    }
}
