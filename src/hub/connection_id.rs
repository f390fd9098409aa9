//! Ids of connections, which tell the owners of a slot apart.

use std::{fmt, str::FromStr};

/// The name of one connection of the server: the shard that owns the connection, the connection's slot there, and the
/// slot's generation. An id is not used again until its slot has had 16 million other owners.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(u64);

impl ConnectionId {
    /// The largest number of connections of a shard.
    pub const SLOTS_MAX: u32 = 1 << 24;
    pub(super) const GENERATIONS: u32 = 1 << 24;

    /// Returns the id of these parts.
    ///
    /// # Panics
    ///
    /// If the slot or the generation has more than 24 bits.
    #[must_use]
    pub fn new(shard: u16, slot: u32, generation: u32) -> Self {
        assert!(slot < Self::SLOTS_MAX && generation < Self::GENERATIONS, "a connection id has 24 bits for each");
        ConnectionId(u64::from(shard) << 48 | u64::from(generation) << 24 | u64::from(slot))
    }

    /// Returns the shard that owns the connection.
    #[must_use]
    pub fn shard(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Returns the connection's slot in that shard.
    #[must_use]
    pub fn slot(self) -> u32 {
        self.0 as u32 & (Self::SLOTS_MAX - 1)
    }

    /// Returns the number of owners that the slot had before, modulo 2²⁴.
    #[must_use]
    pub fn generation(self) -> u32 {
        (self.0 >> 24) as u32 & (Self::GENERATIONS - 1)
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.shard(), self.slot(), self.generation())
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionId({self})")
    }
}

/// Reads an id in the form that [`ConnectionId`] is displayed in, such as `0.17.2`.
///
/// ```
/// use ringhub::ConnectionId;
/// assert_eq!("0.17.2".parse(), Ok(ConnectionId::new(0, 17, 2)));
/// assert!("0.17".parse::<ConnectionId>().is_err());
/// ```
impl FromStr for ConnectionId {
    type Err = ConnectionIdError;

    fn from_str(text: &str) -> Result<Self, ConnectionIdError> {
        let mut numbers = text.split('.').map(number);
        let mut next = || numbers.next().flatten().ok_or(ConnectionIdError);
        let (shard, slot, generation) = (next()?, next()?, next()?);
        let shard = u16::try_from(shard).map_err(|_| ConnectionIdError)?;
        if slot >= Self::SLOTS_MAX || generation >= Self::GENERATIONS || numbers.next().is_some() {
            return Err(ConnectionIdError);
        }
        Ok(ConnectionId::new(shard, slot, generation))
    }
}

/// Reads a number that consists of digits: `u32::from_str` would also accept a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The text is no [`ConnectionId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionIdError;

impl fmt::Display for ConnectionIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection's id is three numbers with dots between them, such as 0.17.2")
    }
}

impl std::error::Error for ConnectionIdError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        let last = ConnectionId::new(u16::MAX, ConnectionId::SLOTS_MAX - 1, ConnectionId::GENERATIONS - 1);
        for id in [ConnectionId::new(0, 0, 0), ConnectionId::new(1, 2, 3), last] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for no_id in
            ["", "1", "1.2", "1.2.3.4", "1.2.", "1.+2.3", "1. 2.3", "65536.0.0", "0.16777216.0", "0.0.16777216"]
        {
            assert_eq!(no_id.parse::<ConnectionId>(), Err(ConnectionIdError), "{no_id:?}");
        }
    }

    #[test]
    fn an_id_keeps_its_parts() {
        let id = ConnectionId::new(65_535, ConnectionId::SLOTS_MAX - 1, 5);
        assert_eq!((id.shard(), id.slot(), id.generation()), (65_535, ConnectionId::SLOTS_MAX - 1, 5));
        assert_eq!(id.to_string(), "65535.16777215.5");
    }
}
