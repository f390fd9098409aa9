//! The connection that hyper reads: the requests for hyper, one after the other, and then the end of the input.
//!
//! Only one parser decides where a request begins and ends, since a second one could understand it differently: the
//! connection finds each head with the parser of the shards, judges it, and lets hyper read up to the end of the body
//! and no further. For hyper, the input ends before the first head that is not for hyper; every earlier request is
//! answered first.

use std::{
    future::{Future, poll_fn},
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::{
    io::Interest,
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};

use super::{
    last_head::LastHead,
    output::Output,
    permits::ConnectionPermit,
    router::{Destination, RequestRouter},
};
use crate::{
    config::Http,
    handover::{AddressPermit, has_input},
    proto::{BodyScan, HeadScan, HttpError, Refusal, RequestHead},
    sys::{
        bounded_close::{BoundedClose, until_taken},
        transport::Transport,
    },
};

/// A connection that speaks HTTP, for hyper to read and write.
#[derive(Debug)]
pub(super) struct HttpConnection {
    stream: BoundedClose<Transport<Arc<TcpStream>>>,
    router: Arc<RequestRouter>,
    received: BytesMut,
    has_large_buffer: bool,
    /// The number of received bytes that hyper may read.
    released: usize,
    /// The part of the input that comes after the released bytes.
    next: Next,
    last_head: LastHead,
    header_timeout: Duration,
    idle_timeout: Duration,
    output: Output,
    /// The permit among the connections that are served at the same time; `None` for a connection that has found no
    /// room among them.
    permit: Option<ConnectionPermit>,
    /// The permit among the connections of its address, where their number is limited.
    of_address: Option<AddressPermit>,
    /// Whether no byte has arrived since the last request.
    is_between: bool,
    /// Whether a whole head has arrived.
    has_request: bool,
    /// The timer of the next head: until its first byte, and then until its end.
    head_ends: Option<Pin<Box<Sleep>>>,
    /// The end of the time for the next head. The timer may end before: then it is set again.
    head_due: Instant,
    /// Whether `head_due` is that of the end of a head; `None` before it is set.
    is_due_for_rest: Option<bool>,
}

#[derive(Debug)]
enum Next {
    Head(HeadScan),
    Body(BodyScan),
    Nothing(EndReason),
}

/// The reason for the end of hyper's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndReason {
    /// The peer has finished or was silent for too long, the permit has gone to another connection, or the server
    /// leaves.
    Quiet,
    /// A head took too long.
    Timeout,
    /// The next request is for a shard.
    Shard,
    /// The next head is refused.
    Malformed(HttpError),
}

impl Next {
    /// Returns the part of the input that comes next, where a body goes on or has ended.
    fn after(body: BodyScan) -> Next {
        if body.is_whole() { Next::Head(HeadScan::default()) } else { Next::Body(body) }
    }
}

impl HttpConnection {
    /// Returns a connection whose input begins with `received` and goes on with the bytes of the socket.
    pub(super) fn new(
        stream: Transport<Arc<TcpStream>>,
        received: BytesMut,
        router: Arc<RequestRouter>,
        http: &Http,
        permit: Option<ConnectionPermit>,
        of_address: Option<AddressPermit>,
    ) -> Self {
        HttpConnection {
            stream: BoundedClose::new(stream),
            router,
            received,
            has_large_buffer: false,
            released: 0,
            next: Next::Head(HeadScan::default()),
            last_head: LastHead::default(),
            header_timeout: http.header_timeout,
            idle_timeout: http.idle_timeout,
            output: Output::new(http),
            permit,
            of_address,
            is_between: false,
            has_request: false,
            head_ends: None,
            head_due: Instant::now(),
            is_due_for_rest: None,
        }
    }

    /// Returns the reason for which this connection ended hyper's input; `None` if hyper ended by itself.
    pub(super) fn end_reason(&self) -> Option<EndReason> {
        match self.next {
            Next::Nothing(reason) => Some(reason),
            Next::Head(_) | Next::Body(_) => None,
        }
    }

    /// Returns the socket, the bytes that were received and not read, and the permit of its address.
    ///
    /// # Errors
    ///
    /// If the runtime cannot give the socket up.
    pub(super) fn into_parts(self) -> io::Result<(Transport, BytesMut, Option<AddressPermit>)> {
        // A look at the connection's input holds the socket only for a moment. `ConnectionPermits` looks on this
        // thread. `Addresses::admit` looks on a shard's thread, but under the lock that `set_busy` has taken since: the
        // connection is busy from the first byte of a head on, and then `Addresses::admit` does not look at it.
        let socket = self.stream.into_inner().try_map(|stream| {
            let stream = Arc::into_inner(stream).ok_or_else(|| io::Error::other("the socket is in use"))?;
            Ok(stream.into_std()?.into())
        })?;
        let of_address = self.of_address.map(AddressPermit::without_connection);
        Ok((socket, self.received, of_address))
    }

    /// Returns whether the peer took an answer too slowly.
    pub(super) fn was_too_slow(&self) -> bool {
        self.output.is_too_slow
    }

    /// Sends the last answer, and ends the connection.
    pub(super) async fn refuse(mut self, refusal: &Refusal) {
        let response = refusal.encode();
        let mut rest = &response[..];
        while !rest.is_empty() {
            match poll_fn(|cx| Pin::new(&mut self).poll_write(cx, rest)).await {
                Ok(count) => rest = &rest[count..],
                Err(_) => return,
            }
        }
        self.finish().await;
    }

    /// Finishes our side, and keeps the permits busy while the peer has yet to take much of the last answer. Returns
    /// whether the peer is fast enough; otherwise the connection is to be dropped.
    pub(super) async fn deliver(&mut self) -> bool {
        // A connection that has given way was idle, so little is left of its last answer.
        if self.set_busy() && self.shut_down().await {
            let HttpConnection { stream, output, .. } = self;
            poll_fn(move |cx| output.poll_taken(stream, cx)).await;
        }
        !self.was_too_slow()
    }

    /// Gives up the permit and finishes our side. Then drops the bytes that still arrive and waits until the peer has
    /// taken the answer, for at most [`LINGER`]: closing at once could destroy the answer on its way (RFC 9112 9.6).
    /// The permit of the address may go to another connection meanwhile, but the wait goes on: farewells have a limit
    /// of their own.
    pub(super) async fn finish(mut self) {
        self.permit = None;
        if !self.shut_down().await {
            return;
        }
        let rest = async {
            let mut most = LINGER_BYTES_MAX;
            self.received.clear();
            while most > 0
                && let Ok(count @ 1..) = poll_fn(|cx| self.fill_unless_idle(cx)).await
            {
                most = most.saturating_sub(count);
                self.received.clear();
            }
            until_taken(self.stream.socket()).await;
        };
        // After this time the connection ends, even if the client has not taken the answer.
        drop(timeout(LINGER, rest).await);
    }

    /// Reads bytes that the peer still sends, and sets the permits idle when no byte is left.
    fn fill_unless_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let filled = self.fill(cx, BODY_READ_BYTES);
        if filled.is_pending() {
            self.set_idle(cx);
        }
        filled
    }

    /// Ends our side after all output. Returns whether the peer may still read.
    async fn shut_down(&mut self) -> bool {
        let HttpConnection { stream, output, .. } = self;
        poll_fn(move |cx| output.finish(stream, cx)).await.is_ok()
    }

    /// Waits until there are bytes that hyper may read, or the input ends.
    fn release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.released == 0 {
            match &mut self.next {
                Next::Head(scan) => match self.last_head.decode(scan, &self.received) {
                    Ok(Some((head, length))) => self.take_head(head, length),
                    Ok(None) => ready!(self.await_head(cx))?,
                    Err(error) => self.end(EndReason::Malformed(error)),
                },
                Next::Body(body) => {
                    let broken = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                    self.released = body.take(&self.received).map_err(broken)?;
                    if body.is_whole() {
                        self.next = Next::Head(HeadScan::default());
                    } else if self.released == 0 && ready!(self.fill_body(cx))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Next::Nothing(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn take_head(&mut self, head: Arc<RequestHead>, length: usize) {
        self.is_due_for_rest = None;
        self.is_between = false;
        self.has_request = true;
        let (checked, body) = (head.check_host(), head.body());
        if self.router.route(head) == Destination::Shard {
            return self.end(EndReason::Shard);
        }
        if let Err(error) = checked {
            return self.end(EndReason::Malformed(error));
        }
        // hyper gets the head, and what has arrived of its body, by one read into one buffer. An error in the body is
        // found again, and reported, when hyper reads the body.
        let mut rest = body;
        match rest.take(&self.received[length..]) {
            Ok(count) => (self.released, self.next) = (length + count, Next::after(rest)),
            Err(_) => (self.released, self.next) = (length, Next::after(body)),
        }
    }

    fn end(&mut self, reason: EndReason) {
        self.next = Next::Nothing(reason);
    }

    /// Waits for more bytes of a head. `idle_timeout` runs until its first byte, and then `header_timeout` until its
    /// end.
    fn await_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let filled = self.fill(cx, HEAD_READ_BYTES)?;
        self.is_between = self.received.is_empty();
        // Without the permit, another connection has it, or the peer is too slow.
        let keeps_permit = self.keeps_permit(cx);
        match filled {
            Poll::Ready(1..) if keeps_permit => {}
            Poll::Pending if keeps_permit && !self.is_to_leave() => return self.await_rest(cx),
            Poll::Ready(_) | Poll::Pending => self.end(EndReason::Quiet),
        }
        Poll::Ready(Ok(()))
    }

    /// Returns whether the server leaves and all requests of this connection are answered. The first request of a
    /// connection is still served.
    fn is_to_leave(&self) -> bool {
        self.is_between && self.has_request && self.router.is_leaving() && !has_input(self.stream.socket())
    }

    fn await_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_rest = !self.received.is_empty();
        if !is_rest && mem::take(&mut self.has_large_buffer) {
            // An idle connection keeps no buffer.
            self.received = BytesMut::new();
        }
        let time = if is_rest { self.header_timeout } else { self.idle_timeout };
        if self.is_due_for_rest.replace(is_rest) != Some(is_rest) {
            self.head_due = Instant::now() + time;
        }
        let (due, ends) = (self.head_due, self.head_ends.get_or_insert_with(|| Box::pin(sleep(time))));
        // To set a timer costs more than to look at the clock, and most waits end long before their time.
        if due < ends.deadline() {
            ends.as_mut().reset(due);
        }
        loop {
            ready!(ends.as_mut().poll(cx));
            if Instant::now() >= due {
                break;
            }
            ends.as_mut().reset(due);
        }
        self.end(if is_rest { EndReason::Timeout } else { EndReason::Quiet });
        Poll::Ready(Ok(()))
    }

    fn fill_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.has_large_buffer = true;
        self.fill(cx, BODY_READ_BYTES)
    }

    /// Appends the bytes that arrive next, at most `most`. 0 bytes mean that the peer has finished.
    fn fill(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<usize>> {
        self.received.reserve(most);
        let room = self.received.capacity() - self.received.len();
        loop {
            if self.stream.has_opened() {
                return Poll::Ready(self.stream.receive_now(&mut self.received));
            }
            let socket = self.stream.socket();
            ready!(socket.poll_read_ready(cx))?;
            let mut count = None;
            let tried = socket.try_io(Interest::READABLE, || {
                let read = *count.insert(self.stream.receive_now(&mut self.received)?);
                // A read that left room has emptied the socket: `WouldBlock` saves a read that would find no byte.
                if (1..room).contains(&read) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            match (count, tried) {
                (Some(count), _) => return Poll::Ready(Ok(count)),
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                (None, _) => {}
            }
        }
    }

    /// Marks the permits as idle or busy. They are idle if no byte of another request has arrived, and the peer has
    /// taken all answers but a few bytes, which a close would leave to the kernel. Returns whether the connection may
    /// go on: the permits still hold, and the peer is fast enough.
    fn keeps_permit(&mut self, cx: &mut Context<'_>) -> bool {
        let is_idle = self.is_between && self.output.is_flushed && self.output.poll_taken(&self.stream, cx).is_ready();
        let is_held = if is_idle { self.set_idle(cx) } else { self.set_busy() };
        is_held && !self.was_too_slow()
    }

    /// Marks the permits as idle, so that other connections may take them. Returns whether they still hold.
    fn set_idle(&mut self, cx: &Context<'_>) -> bool {
        let (stream, waker) = (self.stream.socket(), cx.waker());
        let is_held = self.permit.as_mut().is_none_or(|permit| permit.set_idle(stream, waker));
        let is_held_of_address = self.of_address.as_mut().is_none_or(|permit| permit.set_idle(stream, waker));
        is_held && is_held_of_address
    }

    /// Marks the permits as busy, so that other connections cannot take them. Returns whether they still hold.
    fn set_busy(&mut self) -> bool {
        let is_held = self.permit.as_mut().is_none_or(ConnectionPermit::set_busy);
        let is_held_of_address = self.of_address.as_mut().is_none_or(AddressPermit::set_busy);
        is_held && is_held_of_address
    }
}

impl Read for HttpConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.release(cx))?;
        let count = self.released.min(cursor.remaining());
        cursor.put_slice(&self.received[..count]);
        self.received.advance(count);
        self.released -= count;
        Poll::Ready(Ok(()))
    }
}

impl Write for HttpConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let HttpConnection { stream, output, .. } = &mut *self;
        output.write(stream, cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let HttpConnection { stream, output, .. } = &mut *self;
        ready!(output.flush(stream, cx))?;
        let was_flushed = mem::replace(&mut self.output.is_flushed, true);
        // hyper may have read all input before this flush, and then reads again only when it is woken. So the permits
        // are looked at here too.
        if !was_flushed && self.is_between && !self.keeps_permit(cx) && self.was_too_slow() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Ready(Ok(()))
    }

    /// Does nothing: all output has been written to the socket, which is shut down after hyper has ended.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const HEAD_READ_BYTES: usize = 4 * 1_024;
const BODY_READ_BYTES: usize = 32 * 1_024;

/// The longest time for a client to read its last answer.
const LINGER: Duration = Duration::from_secs(2);

/// The most bytes that a client may still send in this time.
const LINGER_BYTES_MAX: usize = 8 << 20;
