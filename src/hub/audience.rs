//! Audiences: the subscribers of a topic that want the same format, and what they are owed.

use std::iter;

use super::{
    encoding::{DearFormats, Encodings},
    format::Format,
    run::Run,
    topic_id::TopicId,
    walk::{VACANT, Walk},
};
use crate::proto::Millis;

/// The id of an audience on one shard, valid as long as the id of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AudienceId {
    /// The topic.
    pub(crate) topic: TopicId,
    /// The form in which the audience gets the topic's publications.
    pub(crate) format: Format,
}

/// The subscribers of a topic, on one shard, that want one format. A connection stands in at most one audience of each
/// topic.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// The slots of the subscribers, dense, in no order. During a walk no member moves: the place of a member that
    /// leaves becomes [`VACANT`].
    pub(super) members: Vec<u32>,
    /// The slots of subscribers that have joined during the walk.
    pub(super) joining: Vec<u32>,
    /// How many `members` are vacant.
    pub(super) vacant: u32,
    /// The pass over the members that is under way.
    pub(super) walk: Option<Box<Walk>>,
    /// The publications that no walk hands out yet. Each epoch has a run, and later a walk, of its own. This is the
    /// latest run, and [`Run::earlier`] is the run before it.
    pub(super) run: Option<Box<Run>>,
    /// Decides where the next walk begins, so that no subscriber is always the last.
    pub(super) rotation: u32,
    /// How many subscriptions there are, pending ones included.
    pub(super) subscribed: u32,
    /// How many of these subscriptions can neither be told of a lag nor have agreed to one, and so may lose nothing.
    pub(super) lossless: u32,
    /// The time before which no walk begins, if the topic has an interval of deliveries.
    pub(super) next_walk: Millis,
}

impl Audience {
    /// Returns whether the audience has a subscriber that a new publication is owed to.
    #[inline]
    pub(super) fn has_members(&self) -> bool {
        self.members.len() != self.vacant as usize || !self.joining.is_empty()
    }

    /// Returns whether the lists of members have places, vacant ones included.
    #[cfg(test)]
    pub(super) fn has_places(&self) -> bool {
        self.members.len() + self.joining.len() > 0
    }

    /// Returns whether publications are still on their way to subscribers.
    pub(super) fn is_busy(&self) -> bool {
        self.walk.is_some() || self.run.is_some()
    }

    /// Takes the earliest of the runs.
    pub(super) fn take_run(&mut self) -> Option<Box<Run>> {
        let mut earliest = &mut self.run;
        while earliest.as_ref().is_some_and(|run| run.earlier.is_some()) {
            earliest = &mut earliest.as_mut()?.earlier;
        }
        earliest.take()
    }

    /// Calls `visit` with each of the runs, the latest first.
    pub(super) fn for_each_run(&mut self, mut visit: impl FnMut(&mut Run)) {
        let mut next = &mut self.run;
        while let Some(run) = next {
            visit(run);
            next = &mut run.earlier;
        }
    }

    /// Returns the memory of the publications that have been gathered and have not been handed to every member.
    pub(super) fn weight(&self) -> usize {
        let walk = self.walk.as_ref().map_or(0, |walk| walk.run.weight());
        let runs = iter::successors(self.run.as_ref(), |run| run.earlier.as_ref());
        walk + runs.map(|run| run.weight()).sum::<usize>()
    }

    /// Frees the memory of the lists of members, which must be empty.
    pub(super) fn forget_members(&mut self) {
        assert!(self.members.is_empty() && self.joining.is_empty(), "a member is attached");
        assert!(self.walk.is_none(), "a walk goes over members");
        self.members = Vec::new();
        self.joining = Vec::new();
    }

    /// Fills the first vacant place of the members, from index `from` on, with the last member. Returns `None` if no
    /// place is vacant.
    pub(super) fn fill_vacant(&mut self, from: usize) -> Option<Filled> {
        // At the end of nearly every walk nobody has left, and then no member is looked at.
        if self.vacant == 0 {
            return None;
        }
        let index = from + self.members[from..].iter().position(|&slot| slot == VACANT)?;
        self.members.swap_remove(index);
        self.vacant -= 1;
        let moved = self.members.get(index).copied().filter(|&slot| slot != VACANT);
        Some(Filled { index, moved })
    }
}

/// A place of the members that was vacant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) index: usize,
    /// The member that stands there now; `None` if the place is still vacant, or was the last place and is removed.
    pub(super) moved: Option<u32>,
}

/// The audiences of a topic. Nearly every topic has subscribers of the raw format only, so the raw audience needs no
/// allocation of its own.
#[derive(Debug, Default)]
pub(super) struct Audiences {
    raw: Audience,
    /// In the order in which their first subscribers came.
    others: Vec<(Format, Audience)>,
}

impl Audiences {
    /// Returns the audience of a format; `None` if the topic has none of that format.
    #[inline]
    pub(super) fn get(&self, format: Format) -> Option<&Audience> {
        if format == Format::RAW {
            return Some(&self.raw);
        }
        self.others.iter().find(|(other, _)| *other == format).map(|(_, audience)| audience)
    }

    /// Returns the audience of a format; `None` if the topic has none of that format.
    #[inline]
    pub(super) fn get_mut(&mut self, format: Format) -> Option<&mut Audience> {
        if format == Format::RAW {
            return Some(&mut self.raw);
        }
        self.others.iter_mut().find(|(other, _)| *other == format).map(|(_, audience)| audience)
    }

    /// Returns the audience of [`Format::RAW`].
    #[inline]
    pub(super) fn raw_mut(&mut self) -> &mut Audience {
        &mut self.raw
    }

    /// Adds the audience of a format, unless it exists.
    pub(super) fn add(&mut self, format: Format) {
        if self.get(format).is_none() {
            self.others.push((format, Audience::default()));
        }
    }

    /// Returns all audiences.
    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Audience> {
        iter::once(&self.raw).chain(self.others.iter().map(|(_, other)| other))
    }

    /// Calls `visit` with each audience.
    pub(super) fn for_each(&mut self, visit: impl FnMut(&mut Audience)) {
        iter::once(&mut self.raw).chain(self.others.iter_mut().map(|(_, other)| other)).for_each(visit);
    }

    /// Returns all audiences but that of [`Format::RAW`].
    pub(super) fn others_mut(&mut self) -> impl Iterator<Item = (Format, &mut Audience)> {
        self.others.iter_mut().map(|(format, other)| (*format, other))
    }

    /// Returns the dear formats that subscribers want.
    pub(super) fn dear(&self, encodings: &Encodings) -> DearFormats {
        let wanted = self.others.iter().filter(|(_, audience)| audience.subscribed > 0);
        wanted.fold(DearFormats::default(), |dear, (format, _)| dear.union(encodings.dear(*format)))
    }

    /// Returns whether there is an audience of another format than [`Format::RAW`].
    #[inline]
    pub(super) fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// Frees the memory of all lists of members, which must be empty, and removes the audiences that are owed nothing,
    /// except the raw one.
    pub(super) fn forget_members(&mut self) {
        self.raw.forget_members();
        self.others_mut().for_each(|(_, audience)| audience.forget_members());
        self.others.retain(|(_, audience)| audience.is_busy());
        self.others.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_are_found_by_their_format() {
        let mut audiences = Audiences::default();
        let (second, third) = (Format(2), Format(3));
        assert!(audiences.get(Format::RAW).is_some() && audiences.get(second).is_none() && !audiences.has_others());
        [second, third, second].into_iter().for_each(|format| audiences.add(format));
        audiences.get_mut(third).unwrap().members.push(7);
        assert_eq!(audiences.get(third).unwrap().members, [7]);
        assert_eq!(audiences.iter().count(), 3);
        audiences.get_mut(third).unwrap().members.clear();
        audiences.forget_members();
        assert!(!audiences.has_others() && audiences.get(second).is_none());
    }

    #[test]
    fn vacant_places_are_filled_from_the_back() {
        let mut audience = Audience { members: vec![4, VACANT, 6, VACANT, 8], vacant: 2, ..Audience::default() };
        assert_eq!(audience.fill_vacant(0), Some(Filled { index: 1, moved: Some(8) }));
        assert_eq!(audience.fill_vacant(1), Some(Filled { index: 3, moved: None }));
        assert_eq!(audience.fill_vacant(3), None);
        assert_eq!((audience.members, audience.vacant), (vec![4, 8, 6], 0));
    }
}
