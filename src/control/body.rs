//! Reads the body of a request, within the limits of the body, of all bodies together, and of time.

use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming};

use super::{
    bodies::{Incomplete, NoRoom, Room},
    shared::Shared,
};
use crate::proto::Refusal;

/// The largest body of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct BodyMax {
    pub(super) bytes: u32,
    /// The name of the limit in the refusal of a larger body.
    pub(super) what: &'static str,
}

/// Reads a body, and takes room for it.
///
/// # Errors
///
/// 413 for a body that is larger, 400 for a broken one, 408 for one that takes too long, and 503 without room for it.
pub(super) async fn read(shared: &Shared, body_max: BodyMax, mut body: Incoming) -> Result<(Bytes, Room), Refusal> {
    // Most bodies arrive whole with their heads.
    match take_whole(shared, body_max, &mut body)? {
        Ok(whole) => Ok(whole),
        Err(begun) => Box::pin(read_body(shared, body_max, body, begun)).await,
    }
}

/// Takes a body that has arrived whole, and room for it. If the body has not arrived whole, the inner error is the part
/// that has arrived.
fn take_whole(
    shared: &Shared,
    body_max: BodyMax,
    body: &mut Incoming,
) -> Result<Result<(Bytes, Room), Bytes>, Refusal> {
    check_size(body_max, body.size_hint().lower())?;
    let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut Context::from_waker(Waker::noop())) else {
        return Ok(Err(Bytes::new()));
    };
    let is_whole = frame.is_none() || body.is_end_stream();
    let data = frame.map(data_of).transpose()?.unwrap_or_default();
    check_size(body_max, data.len() as u64)?;
    if !is_whole {
        return Ok(Err(data));
    }
    let room = shared.bodies.take(data.len()).map_err(|NoRoom| no_room_for_bodies())?;
    Ok(Ok((data, room)))
}

/// Reads a body to its end, within the limits of its size, of all bodies together, and of time.
async fn read_body(
    shared: &Shared,
    body_max: BodyMax,
    mut body: Incoming,
    begun: Bytes,
) -> Result<(Bytes, Room), Refusal> {
    let (incomplete, given_way) = shared.bodies.begin();
    let read = async {
        let announced = body.size_hint().upper().map(|rest| begun.len() as u64 + rest);
        let most = announced.map_or(body_max.bytes, |bytes| bytes.min(body_max.bytes.into()) as u32) as usize;
        let mut whole = Vec::new();
        gather(&mut whole, &begun, most, &incomplete).map_err(|NoRoom| no_room_for_bodies())?;
        drop(begun);
        while let Some(frame) = body.frame().await {
            let data = data_of(frame)?;
            check_size(body_max, (whole.len() + data.len()) as u64)?;
            gather(&mut whole, &data, most, &incomplete).map_err(|NoRoom| no_room_for_bodies())?;
        }
        Ok(whole.into())
    };
    let timeout = shared.config.get().http.body_timeout;
    let whole = tokio::select! {
        biased;
        _ = given_way => Err(no_room_for_bodies()),
        whole = read => whole,
        () = tokio::time::sleep(timeout) => {
            Err(Refusal::new(408, format!("the body did not arrive within {timeout:?}")))
        }
    }?;
    let room = incomplete.complete().map_err(|NoRoom| no_room_for_bodies())?;
    Ok((whole, room))
}

/// Appends a piece to a body of at most `most` bytes, and takes room for its memory, which doubles as the body grows.
fn gather(whole: &mut Vec<u8>, piece: &[u8], most: usize, incomplete: &Incomplete) -> Result<(), NoRoom> {
    let needed = whole.len() + piece.len();
    if needed > whole.capacity() {
        let capacity = (2 * whole.capacity()).min(most).max(needed);
        incomplete.grow(capacity - whole.capacity())?;
        whole.reserve_exact(capacity - whole.len());
    }
    whole.extend_from_slice(piece);
    Ok(())
}

/// Returns the data of a frame of a body. Trailers have none.
fn data_of(frame: hyper::Result<Frame<Bytes>>) -> Result<Bytes, Refusal> {
    let frame = frame.map_err(|error| Refusal::new(400, format!("the body is broken: {}", cause(&error))))?;
    Ok(frame.into_data().unwrap_or_default())
}

fn check_size(BodyMax { bytes: most, what }: BodyMax, bytes: u64) -> Result<(), Refusal> {
    let too_large = || Refusal::new(413, format!("the body is larger than {what}, {most} bytes"));
    if bytes > u64::from(most) { Err(too_large()) } else { Ok(()) }
}

fn no_room_for_bodies() -> Refusal {
    Refusal::not_now("as many bytes of bodies are in memory as this server allows")
}

/// Returns the text of an error of a body.
fn cause(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::{super::bodies::Bodies, *};

    /// The sum of `check-config` holds for bodies whatever their memory has grown to.
    #[test]
    fn a_body_weighs_its_memory() {
        let check = |pieces: &[usize], most: usize, expected: usize| {
            let bodies = Bodies::new(1_000);
            let (incomplete, _given_way) = bodies.begin();
            let mut whole = Vec::new();
            for &piece in pieces {
                gather(&mut whole, &vec![7; piece], most, &incomplete).expect("there is room");
            }
            assert_eq!((whole.len(), whole.capacity()), (pieces.iter().sum(), expected), "{pieces:?}");
            let _room = incomplete.complete().expect("it has not given way");
            let is_free = |bytes: usize| bodies.take(bytes).is_ok();
            assert_eq!((is_free(1_001 - expected), is_free(1_000 - expected)), (false, true), "{pieces:?}");
        };
        check(&[100], 1_000, 100);
        check(&[100, 1], 1_000, 200);
        check(&[100, 1, 99], 1_000, 200);
        check(&[100, 500, 1], 1_000, 1_000);
        check(&[100, 1, 100], 201, 201);
        check(&[0, 3], 3, 3);
        let bodies = Bodies::new(150);
        let (incomplete, _given_way) = bodies.begin();
        let mut whole = vec![7; 100];
        incomplete.grow(100).expect("there is room");
        assert_eq!(gather(&mut whole, b"x", 1_000, &incomplete), Err(NoRoom));
    }
}
