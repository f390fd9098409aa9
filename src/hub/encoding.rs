//! Encodings: the forms in which publications leave for subscribers, and the table of them.
//!
//! A publication arrives as an unmasked frame, so the first encoding, [`Format::RAW`], costs nothing: its bytes are the
//! publication's own. Each other one is a function that is registered before the hub starts. A shard calls it once for
//! each publication, however many subscribers want the format, and not at all if none does.

use std::fmt;

use bytes::BytesMut;

use super::{
    publication::{Place, Publication},
    topic_name::TopicName,
};

/// The form in which a subscriber gets the publications of a topic: an encoding, and the options that change its bytes.
/// It is the number of a row of [`Encodings`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Format(pub(crate) u8);

impl Format {
    /// The frame in which a server sends the message to a WebSocket (RFC 6455 5.2).
    pub const RAW: Format = Format(0);
}

/// A publication, with all that its encoded form may tell.
#[derive(Debug, Clone, Copy)]
pub struct Encodable<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// The publication.
    pub publication: &'a Publication,
    /// The publication's place in the topic's order; `None` if it is for this shard alone.
    pub place: Option<Place>,
}

/// Appends a publication in one form to a buffer, which is empty. The function is total: it has a form for every
/// publication, and the form has at least one byte.
pub type Encode = fn(&Encodable<'_>, &mut BytesMut);

/// The table of the encodings of a server, which all of its shards share.
#[derive(Clone, Default)]
pub struct Encodings {
    /// The row of [`Format::RAW`] is not in the list.
    others: Vec<(&'static str, Encode)>,
}

impl Encodings {
    /// Adds an encoding, and returns the format by which subscribers ask for it.
    ///
    /// # Panics
    ///
    /// If the name is taken, or the table has 256 rows.
    pub fn add(&mut self, name: &'static str, encode: Encode) -> Format {
        assert!(self.names().all(|other| other != name), "the encoding {name} is registered once");
        self.others.push((name, encode));
        Format(u8::try_from(self.others.len()).expect("a server has at most 256 encodings"))
    }

    /// Returns the function of a format; `None` for [`Format::RAW`], which needs none.
    ///
    /// # Panics
    ///
    /// If the format is of another table.
    pub(super) fn get(&self, format: Format) -> Option<Encode> {
        let index = usize::from(format.0).checked_sub(1)?;
        Some(self.others[index].1)
    }

    /// Returns the format of the encoding of that name.
    #[must_use]
    pub fn format(&self, name: &str) -> Option<Format> {
        self.names().position(|other| other == name).map(|index| Format(index as u8))
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once("raw").chain(self.others.iter().map(|(name, _)| *name))
    }
}

impl fmt::Debug for Encodings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &Encodable<'_>, _: &mut BytesMut) {}

    #[test]
    fn formats_are_numbers_of_rows() {
        let mut encodings = Encodings::default();
        assert!(encodings.get(Format::RAW).is_none());
        let (first, second) = (encodings.add("first", nothing), encodings.add("second", nothing));
        assert_eq!((first, second), (Format(1), Format(2)));
        let formats = ["raw", "second", "third"].map(|name| encodings.format(name));
        assert_eq!(formats, [Some(Format::RAW), Some(second), None]);
        assert!(encodings.get(first).is_some() && encodings.get(second).is_some());
        assert_eq!(format!("{encodings:?}"), r#"["raw", "first", "second"]"#);
    }

    #[test]
    #[should_panic(expected = "the encoding raw is registered once")]
    fn a_name_is_of_one_encoding() {
        Encodings::default().add("raw", nothing);
    }
}
