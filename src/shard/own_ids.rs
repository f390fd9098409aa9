//! The ids of streams of several topics: each message of such a stream has the positions of its client in all topics.
//!
//! All subscribers of a topic share the body of a message. What differs is the line with the id, so a share of such a
//! connection does not leave from the run: it goes through the connection's backlog, in which each message is the body
//! and the connection's own id.

use bytes::BytesMut;

use super::session::Session;
use crate::{
    hub::{OrderEnd, Owed, Piece, PieceTags, TaggedMessage},
    proto::Framing,
    surface::Positions,
};

/// Makes blocks of the bodies that a connection is owed, if its messages have ids of their own.
pub(super) fn stamp(session: &mut Session, owed: &mut Owed) {
    let Some((framing, positions)) = session.positions() else { return };
    let (mut before, mut written, mut ends) = (0, 0, Vec::new());
    for piece in &mut owed.pieces {
        let length = piece.bytes.len();
        let tags = piece.tags.take().expect("the bodies of a run have tags");
        let mut blocks = Vec::with_capacity(length + ID_BYTES_USUAL * tags.messages().len());
        let mut tagged = Vec::with_capacity(tags.messages().len());
        let mut begin = 0;
        for TaggedMessage { end, tag } in tags.messages() {
            if let Some(place) = tag.place {
                positions.note(&owed.topic, OrderEnd { epoch: place.epoch, offset: place.offset });
            }
            put_block(framing, &piece.bytes[begin..*end], positions, &mut blocks);
            begin = *end;
            tagged.push(TaggedMessage { end: blocks.len(), tag: tag.clone() });
            ends.push((before + end, written + blocks.len()));
        }
        (before, written) = (before + length, written + blocks.len());
        let tags = owed.slow.needs_tags().then(|| PieceTags::new(tagged));
        *piece = Piece { tags, ..Piece::new(blocks.into(), piece.messages) };
    }
    for (end, _) in &mut owed.tickets {
        let at = ends.binary_search_by_key(end, |(before, _)| *before).expect("a ticket is of a message");
        *end = ends[at].1;
    }
}

/// Appends the block of a message.
fn put_block(framing: Framing, body: &[u8], positions: &Positions, out: &mut Vec<u8>) {
    let mut block = BytesMut::with_capacity(body.len() + ID_BYTES_USUAL);
    framing.in_block(&mut block, |block| {
        block.extend_from_slice(body);
        block.extend_from_slice(b"id: ");
        positions.put(block);
        block.extend_from_slice(b"\n");
    });
    out.extend_from_slice(&block);
}

/// The bytes of an id of a few topics, and of its chunk.
const ID_BYTES_USUAL: usize = 100;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        hub::{Overflow, Place, SlowRules, Tag, TopicName},
        proto::Millis,
    };

    #[test]
    fn each_message_gets_an_id_of_its_own() {
        let topics = ["a", "b"].map(|name| TopicName::new(name).unwrap());
        let mut session = Session::event_stream(Framing::Chunked, Some(Positions::new(&topics)));
        let place = |offset| Some(Place { epoch: 7, offset, previous: offset - 1 });
        let tagged = |end, offset| TaggedMessage { end, tag: Tag { place: place(offset), time: Millis(0), key: None } };
        let piece = |bytes: &'static [u8], tags: Vec<TaggedMessage>| {
            let messages = tags.len() as u32;
            Piece { tags: Some(PieceTags::new(tags)), ..Piece::new(Bytes::from_static(bytes), messages) }
        };
        let slow = SlowRules { overflow: Overflow::DropOldest, ..SlowRules::default() };
        let mut owed = Owed {
            topic: topics[1].clone(),
            lag: None,
            pieces: vec![
                piece(b"data: x\ndata: yy\n", vec![tagged(8, 1), tagged(17, 2)]),
                piece(b"data: z\n", vec![tagged(8, 3)]),
            ],
            slow,
            tickets: Vec::new(),
        };
        stamp(&mut session, &mut owed);
        let texts: Vec<String> =
            owed.pieces.iter().map(|piece| String::from_utf8(piece.bytes.to_vec()).unwrap()).collect();
        let hash = texts[0].split_once("id: ").unwrap().1.split_once(';').unwrap().0.to_owned();
        let block = |line: &str, offset: u64| {
            let block = format!("data: {line}\nid: {hash};0.0,7.{offset}\n\n");
            format!("{:x}\r\n{block}\r\n", block.len())
        };
        assert_eq!(texts, [block("x", 1) + &block("yy", 2), block("z", 3)]);
        assert_eq!(owed.pieces.iter().map(|piece| piece.messages).collect::<Vec<_>>(), [2, 1]);
        let tags = owed.pieces[0].tags.as_ref().unwrap();
        let ends: Vec<usize> = tags.messages().iter().map(|message| message.end).collect();
        assert_eq!(ends, [block("x", 1).len(), texts[0].len()]);
    }

    #[test]
    fn other_connections_keep_the_pieces_of_the_run() {
        let topic = TopicName::new("a").unwrap();
        let bytes = Bytes::from_static(b"x");
        let pieces = vec![Piece::new(bytes.clone(), 1)];
        let mut owed = Owed { topic, lag: None, pieces, slow: SlowRules::default(), tickets: Vec::new() };
        for mut session in [Session::web_socket(), Session::event_stream(Framing::Chunked, None)] {
            stamp(&mut session, &mut owed);
            assert_eq!(owed.pieces[0].bytes.as_ptr(), bytes.as_ptr());
        }
    }
}
