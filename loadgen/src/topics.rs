//! Topics and streams: which subscriber gets what, and which publisher publishes it.
//!
//! A *stream* is the sequence of messages that one publisher publishes to one topic. There are as many streams as
//! topics or publishers, whichever is more: stream `s` has topic `s % topics` and publisher `s % publishers`. So one
//! topic has a stream of each publisher, and many topics are shared out among the publishers.

/// How evenly subscribers or messages are distributed over topics.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// Every topic gets the same share.
    Uniform,
    /// The share of topic `k`, counted from 1, is proportional to `1 / k^exponent`.
    Zipf(f64),
}

impl std::str::FromStr for Spread {
    type Err = String;

    /// Parses `uniform`, `zipf` or `zipf:EXPONENT`.
    fn from_str(text: &str) -> Result<Spread, String> {
        let exponent = match text {
            "uniform" => return Ok(Spread::Uniform),
            "zipf" => 1.0,
            other => match other.strip_prefix("zipf:").map(str::parse::<f64>) {
                Some(Ok(exponent)) if exponent.is_finite() && exponent >= 0.0 => exponent,
                _ => return Err("expected uniform, zipf or zipf:EXPONENT".to_owned()),
            },
        };
        Ok(Spread::Zipf(exponent))
    }
}

/// The topics of a run.
#[derive(Clone, Debug)]
pub(crate) struct Topics {
    base: String,
    count: usize,
    per_connection: usize,
    publishers: usize,
    subscriptions: Shares,
    publications: Shares,
}

/// The cumulated shares of the topics; empty if all are equal.
#[derive(Clone, Debug)]
struct Shares(Vec<f64>);

impl Topics {
    /// Makes the topics of a run, each with a name that begins with `base`.
    pub(crate) fn new(
        base: &str,
        [count, per_connection, publishers]: [usize; 3],
        [subscriptions, publications]: [Spread; 2],
    ) -> Topics {
        Topics {
            base: base.to_owned(),
            count,
            per_connection,
            publishers: publishers.max(1),
            subscriptions: Shares::new(subscriptions, count),
            publications: Shares::new(publications, count),
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn streams(&self) -> usize {
        self.count.max(self.publishers)
    }

    /// Returns the name of a topic: the base alone if the run has one topic.
    pub(crate) fn name(&self, topic: usize) -> String {
        if self.count == 1 { self.base.clone() } else { format!("{}-{topic}", self.base) }
    }

    pub(crate) fn topic_of(&self, stream: usize) -> usize {
        stream % self.count
    }

    pub(crate) fn publisher_of(&self, stream: usize) -> usize {
        stream % self.publishers
    }

    /// Returns the first topic of a subscriber.
    pub(crate) fn first_of(&self, subscriber: usize) -> usize {
        match &self.subscriptions.0[..] {
            [] => subscriber.wrapping_mul(self.per_connection) % self.count,
            _ => self.subscriptions.pick(subscriber as u64),
        }
    }

    /// Returns the topics of a subscriber.
    pub(crate) fn of_subscriber(&self, subscriber: usize) -> impl Iterator<Item = usize> {
        let (first, count) = (self.first_of(subscriber), self.count);
        (0..self.per_connection).map(move |offset| (first + offset) % count)
    }

    /// Returns the number of checkers that a subscriber needs: one for each stream of its topics.
    pub(crate) fn slots(&self) -> usize {
        self.per_connection * self.streams_per_topic()
    }

    /// Returns the place of a stream among the checkers of a subscriber whose first topic is `first`; `None` if the
    /// stream is not for this subscriber.
    pub(crate) fn slot(&self, first: usize, stream: usize) -> Option<usize> {
        let offset = (self.topic_of(stream) + self.count - first) % self.count;
        (stream < self.streams() && offset < self.per_connection)
            .then(|| offset * self.streams_per_topic() + stream / self.count)
    }

    /// Returns the stream of a checker; the inverse of [`Self::slot`]. The stream may not exist.
    pub(crate) fn stream_of_slot(&self, first: usize, slot: usize) -> usize {
        let topic = (first + slot / self.streams_per_topic()) % self.count;
        topic + slot % self.streams_per_topic() * self.count
    }

    /// Returns the number of subscribers of each topic.
    pub(crate) fn audiences(&self, subscribers: usize) -> Vec<u64> {
        let mut audiences = vec![0; self.count];
        for subscriber in 0..subscribers {
            self.of_subscriber(subscriber).for_each(|topic| audiences[topic] += 1);
        }
        audiences
    }

    /// Returns the stream of the message with this place in the schedule.
    pub(crate) fn stream_at(&self, place: u64) -> usize {
        if self.publications.0.is_empty() {
            return (place % self.streams() as u64) as usize;
        }
        let topic = self.publications.pick(place);
        let streams = (self.streams() - topic).div_ceil(self.count) as u64;
        topic + (place % streams) as usize * self.count
    }

    fn streams_per_topic(&self) -> usize {
        self.streams().div_ceil(self.count)
    }
}

impl Shares {
    fn new(spread: Spread, count: usize) -> Shares {
        let Spread::Zipf(exponent) = spread else { return Shares(Vec::new()) };
        let mut sum = 0.0;
        let cumulated = (1..=count).map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        });
        Shares(cumulated.collect())
    }

    /// Returns the topic of the thing with this number. Any run of numbers falls on the topics by their shares, and the
    /// same number always on the same topic: multiples of the golden ratio leave no gap in the unit interval.
    fn pick(&self, number: u64) -> usize {
        let total = self.0.last().copied().unwrap_or_default();
        let place = ((number as f64 + 0.5) * GOLDEN_RATIO).fract() * total;
        self.0.partition_point(|&sum| sum <= place).min(self.0.len() - 1)
    }
}

const GOLDEN_RATIO: f64 = 0.618_033_988_749_894_9;

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(numbers: [usize; 3], spread: Spread) -> Topics {
        Topics::new("bench", numbers, [spread, spread])
    }

    #[test]
    fn one_topic_has_a_stream_for_each_publisher() {
        let topics = topics([1, 1, 3], Spread::Uniform);
        assert_eq!((topics.streams(), topics.slots(), topics.name(0)), (3, 3, "bench".to_owned()));
        assert_eq!((0..4).map(|place| topics.stream_at(place)).collect::<Vec<_>>(), [0, 1, 2, 0]);
        assert_eq!(topics.audiences(10), [10]);
        assert_eq!((0..3).map(|stream| topics.slot(0, stream)).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn topics_are_shared_out() {
        let topics = topics([4, 2, 3], Spread::Uniform);
        assert_eq!((topics.streams(), topics.slots(), topics.name(3)), (4, 2, "bench-3".to_owned()));
        assert_eq!(topics.of_subscriber(1).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(topics.audiences(4), [2, 2, 2, 2]);
        assert_eq!((topics.slot(3, 0), topics.slot(3, 3), topics.slot(3, 1)), (Some(1), Some(0), None));
        assert_eq!((topics.topic_of(3), topics.publisher_of(3)), (3, 0));
    }

    #[test]
    fn slots_and_streams_are_inverse() {
        for numbers in [[1, 1, 1], [1, 1, 7], [5, 2, 3], [3, 2, 7], [4, 4, 9], [10, 1, 10]] {
            let topics = topics(numbers, Spread::Uniform);
            for first in 0..topics.count() {
                for stream in 0..topics.streams() {
                    if let Some(slot) = topics.slot(first, stream) {
                        assert!(slot < topics.slots());
                        assert_eq!(topics.stream_of_slot(first, slot), stream, "{numbers:?}");
                    }
                }
            }
            assert_eq!(topics.slot(0, topics.streams()), None);
        }
    }

    #[test]
    fn zipf_falls_by_rank() {
        let topics = topics([1_000, 1, 1], Spread::Zipf(1.0));
        let audiences = topics.audiences(100_000);
        // The first of 1 000 topics has a share of 1 / 7.485.
        for (rank, share) in [(1, 0.1336), (2, 0.0668), (10, 0.01336)] {
            let found = audiences[rank - 1] as f64 / 100_000.0;
            assert!((found - share).abs() < 0.002, "rank {rank}: {found}");
        }
        let mut published = vec![0_u64; 1_000];
        (0..100_000).for_each(|place| published[topics.topic_of(topics.stream_at(place))] += 1);
        assert_eq!(published, audiences);
        assert_eq!("zipf:1.2".parse(), Ok(Spread::Zipf(1.2)));
        assert!("zipf:x".parse::<Spread>().is_err() && "even".parse::<Spread>().is_err());
    }

    #[test]
    fn zipf_reaches_every_stream_of_a_topic() {
        let topics = topics([2, 1, 5], Spread::Zipf(0.5));
        let mut seen = vec![0; topics.streams()];
        (0..1_000).for_each(|place| seen[topics.stream_at(place)] += 1);
        assert!(seen.iter().all(|&count| count > 0), "{seen:?}");
    }
}
