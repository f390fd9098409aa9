//! Encodings: the forms in which publications leave for subscribers, and the table of them.
//!
//! A publication arrives as an unmasked frame, so the first encoding, [`Format::RAW`], costs nothing: its bytes are the
//! publication's own. Each other encoding is a function that is registered before the hub starts. A shard calls it once
//! for each publication, however many subscribers want the format, and not at all if none does. An encoding is *dear*
//! if a part of its form is expensive to make, such as a compressed payload. The topic's home makes this part, once for
//! all shards.

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::{
    format::Format,
    lag::EncodeLag,
    publication::{Place, Publication},
    tag::Tags,
    topic_name::TopicName,
};

/// A publication, with all that its encoded form may contain.
#[derive(Debug, Clone, Copy)]
pub struct Encodable<'a> {
    /// The topic.
    pub topic: &'a TopicName,
    /// The publication.
    pub publication: &'a Publication,
    /// The publication's place in the topic's order; `None` if the publication is for this shard alone.
    pub place: Option<Place>,
    /// The part that the topic's home has made for a dear encoding. `None` for any other encoding, for a publication
    /// without a place, and if the home did not know yet that a subscriber wants the format. In the last two cases the
    /// function makes the part itself.
    pub prepared: Option<&'a Bytes>,
}

/// Appends the form of a publication to an empty buffer. The function is total: it has a form for every publication,
/// and each form has at least one byte.
pub type Encode = fn(&Encodable<'_>, &mut BytesMut);

/// An encoding, before it is in a table.
#[derive(Debug, Clone, Copy)]
pub struct NewEncoding {
    /// The name.
    pub name: &'static str,
    /// Makes the form of a publication.
    pub encode: Encode,
    /// Makes the frames that tell a subscriber of a lag. With `None` the format has no such frames: a subscriber that
    /// is too slow is closed unless it has [`SubscribeOptions::has_silent_lags`](super::SubscribeOptions).
    pub encode_lag: Option<EncodeLag>,
    /// How much larger than its payload the form of a publication may be.
    pub growth: Growth,
    /// Whether the form is a body, to which each connection adds a part of its own before it is sent.
    pub is_body: bool,
}

/// How much larger than its payload the form of a publication may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// The most bytes for a byte of the payload.
    pub factor: u64,
    /// The most bytes beside those of the payload.
    pub besides: u64,
}

impl Growth {
    /// The growth of raw frames: a header.
    pub const RAW: Growth = Growth { factor: 1, besides: 14 };

    /// Returns the most bytes that the form of a publication with a payload of so many bytes has.
    #[must_use]
    pub const fn largest(self, payload: u64) -> u64 {
        payload.saturating_mul(self.factor).saturating_add(self.besides)
    }
}

/// Makes the part of a publication's form that is dear to make.
pub type Prepare = fn(&Publication) -> Bytes;

/// A set of dear formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DearFormats(u8);

impl DearFormats {
    /// How many dear formats a server may have.
    pub const MAX: usize = 8;

    /// Returns the formats of both sets.
    #[must_use]
    pub fn union(self, other: DearFormats) -> DearFormats {
        DearFormats(self.0 | other.0)
    }

    /// Returns whether the set has no format.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The table of the encodings of a server, which all of its shards share.
#[derive(Clone, Default)]
pub struct Encodings {
    /// The rows of all formats but [`Format::RAW`].
    others: Vec<Row>,
}

/// An encoding.
#[derive(Clone)]
struct Row {
    name: &'static str,
    encode: Encode,
    /// The function that makes the dear part; `None` if the encoding is not dear.
    prepare: Option<Prepare>,
    encode_lag: Option<EncodeLag>,
    /// The most bytes that a connection adds to a form; `None` if the forms are whole messages, and no bodies.
    own_bytes: Option<usize>,
}

impl Encodings {
    /// Adds an encoding, and returns the format by which subscribers ask for it.
    ///
    /// # Panics
    ///
    /// If the name is taken, or the table has 256 rows.
    pub fn add(&mut self, name: &'static str, encode: Encode) -> Format {
        self.add_row(Row { name, encode, prepare: None, encode_lag: None, own_bytes: None })
    }

    /// Adds an encoding with all that its surface says about it, as [`Encodings::add`] does.
    ///
    /// # Panics
    ///
    /// As [`Encodings::add`] does.
    pub fn add_new(&mut self, new: &NewEncoding) -> Format {
        let &NewEncoding { name, encode, encode_lag, growth, is_body } = new;
        let own_bytes = is_body.then_some(growth.besides as usize);
        self.add_row(Row { name, encode, prepare: None, encode_lag, own_bytes })
    }

    /// Adds a dear encoding, as [`Encodings::add`] does.
    ///
    /// # Panics
    ///
    /// As [`Encodings::add`] does, and if the table has [`DearFormats::MAX`] dear encodings.
    pub fn add_dear(&mut self, name: &'static str, prepare: Prepare, encode: Encode) -> Format {
        let dear = self.others.iter().filter(|row| row.prepare.is_some()).count();
        assert!(dear < DearFormats::MAX, "a server has at most {} dear encodings", DearFormats::MAX);
        self.add_row(Row { name, encode, prepare: Some(prepare), encode_lag: None, own_bytes: None })
    }

    fn add_row(&mut self, row: Row) -> Format {
        let name = row.name;
        assert!(self.names().all(|other| other != name), "the encoding {name} is registered once");
        self.others.push(row);
        Format(u8::try_from(self.others.len()).expect("a server has at most 256 encodings"))
    }

    /// Returns the set with this format alone if the format is dear, else the empty set.
    pub(super) fn dear(&self, format: Format) -> DearFormats {
        let Some(index) = usize::from(format.0).checked_sub(1) else { return DearFormats::default() };
        let dear = |row: &&Row| row.prepare.is_some();
        let bit = self.others[..index].iter().filter(dear).count();
        if dear(&&self.others[index]) { DearFormats(1 << bit) } else { DearFormats::default() }
    }

    /// Makes the dear parts of a publication for these formats.
    pub(super) fn prepare(&self, publication: &Publication, formats: DearFormats) -> Vec<(Format, Bytes)> {
        let dear = self.others.iter().enumerate().filter_map(|(index, row)| Some((index, row.prepare?)));
        let wanted = dear.enumerate().filter(|(bit, _)| formats.0 & 1 << bit != 0);
        wanted.map(|(_, (index, prepare))| (Format(index as u8 + 1), prepare(publication))).collect()
    }

    /// Returns the function of a format; `None` for [`Format::RAW`], which needs none.
    ///
    /// # Panics
    ///
    /// If the format is of another table.
    pub(super) fn get(&self, format: Format) -> Option<Encode> {
        let index = usize::from(format.0).checked_sub(1)?;
        Some(self.others[index].encode)
    }

    /// Returns the function that makes the frames about lags in a format; `None` if the format has no such frames.
    ///
    /// # Panics
    ///
    /// If the format is of another table.
    #[must_use]
    pub fn lag(&self, format: Format) -> Option<EncodeLag> {
        let index = usize::from(format.0).checked_sub(1)?;
        self.others[index].encode_lag
    }

    /// Returns whether the forms of a format are bodies, to which each connection adds a part of its own.
    #[inline]
    pub(super) fn is_body(&self, format: Format) -> bool {
        self.own_bytes(format).is_some()
    }

    /// Returns the most bytes that a connection adds to a body of a format; `None` if its forms are whole messages.
    #[inline]
    pub(super) fn own_bytes(&self, format: Format) -> Option<usize> {
        if format == Format::RAW { None } else { self.others[usize::from(format.0) - 1].own_bytes }
    }

    /// Returns the tags of a run in a format, at a topic with such tags.
    #[inline]
    pub(super) fn tags(&self, format: Format, of_topic: Tags) -> Tags {
        match of_topic {
            // A connection adds its part to each body by itself, by the body's place.
            Tags::Off if self.is_body(format) => Tags::On,
            tags => tags,
        }
    }

    /// Returns the format of the encoding of that name.
    #[must_use]
    pub fn format(&self, name: &str) -> Option<Format> {
        self.names().position(|other| other == name).map(|index| Format(index as u8))
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once("raw").chain(self.others.iter().map(|row| row.name))
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
    fn a_format_may_tell_of_lags() {
        let mut encodings = Encodings::default();
        let new =
            |name, encode_lag| NewEncoding { name, encode: nothing, encode_lag, growth: Growth::RAW, is_body: false };
        let tells = encodings.add_new(&new("tells", Some(|_, out| out.extend_from_slice(b"lag"))));
        let silent = encodings.add_new(&new("silent", None));
        assert!(encodings.lag(tells).is_some());
        assert!(encodings.lag(silent).is_none() && encodings.lag(Format::RAW).is_none());
    }

    #[test]
    fn dear_formats_are_a_set() {
        let mut encodings = Encodings::default();
        let plain = encodings.add("plain", nothing);
        let dear = |encodings: &mut Encodings, name| {
            encodings.add_dear(name, |publication| publication.frame().slice(2..), nothing)
        };
        let (first, second) = (dear(&mut encodings, "first"), dear(&mut encodings, "second"));
        assert!(encodings.dear(plain).is_empty() && encodings.dear(Format::RAW).is_empty());
        let both = encodings.dear(first).union(encodings.dear(second));
        let publication = Publication::text("x");
        let formats =
            |set| encodings.prepare(&publication, set).into_iter().map(|(format, _)| format).collect::<Vec<_>>();
        assert_eq!(formats(both), [first, second]);
        assert_eq!(formats(encodings.dear(second)), [second]);
        assert_eq!(formats(DearFormats::default()), []);
    }

    #[test]
    #[should_panic(expected = "at most 8 dear encodings")]
    fn dear_formats_are_few() {
        let mut encodings = Encodings::default();
        for name in ["1", "2", "3", "4", "5", "6", "7", "8", "9"] {
            encodings.add_dear(name, |publication| publication.frame().clone(), nothing);
        }
    }

    #[test]
    #[should_panic(expected = "the encoding raw is registered once")]
    fn a_name_is_of_one_encoding() {
        Encodings::default().add("raw", nothing);
    }
}
