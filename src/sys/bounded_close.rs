//! Sockets that leave little to the kernel when they are closed.

use std::{ops::Deref, os::fd::AsFd, time::Duration};

use tokio::time::sleep;

use super::net;

/// A socket whose close leaves at most 64 KiB to the kernel. If the peer has yet to take more than that when the socket
/// is dropped, the connection is reset.
///
/// Without the reset the kernel would keep these bytes for minutes, beyond the server's end, in a socket that no limit
/// counts.
#[derive(Debug)]
pub struct BoundedClose<S: AsFd> {
    /// Set until [`BoundedClose::into_inner`].
    socket: Option<S>,
}

impl<S: AsFd> BoundedClose<S> {
    /// Bounds what the close of `socket` leaves to the kernel. Other owners of the same socket have to close it soon
    /// after this owner.
    pub fn new(socket: S) -> Self {
        BoundedClose { socket: Some(socket) }
    }

    /// Returns the socket, which goes on to another owner.
    #[must_use]
    pub fn into_inner(mut self) -> S {
        self.socket.take().expect("only `into_inner` takes it")
    }
}

impl<S: AsFd> Deref for BoundedClose<S> {
    type Target = S;

    fn deref(&self) -> &S {
        self.socket.as_ref().expect("`into_inner` has consumed the owner")
    }
}

impl<S: AsFd> Drop for BoundedClose<S> {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket
            && leaves_much(socket)
        {
            net::reset_when_closed(socket);
        }
    }
}

/// Waits until closing `socket` would leave little to the kernel.
pub async fn until_taken(socket: &impl AsFd) {
    while leaves_much(socket) {
        sleep(LOOK_AFTER_PEER).await;
    }
}

fn leaves_much(socket: &impl AsFd) -> bool {
    // The kernel reports an error for a socket without a connection.
    net::unacknowledged(socket).is_ok_and(|left| left > LEFT_TO_KERNEL_MAX)
}

/// The bytes that a peer may take after its connection was closed.
pub const LEFT_TO_KERNEL_MAX: usize = 64 * 1_024;

/// The interval of looks at whether a peer has taken its last answer, since the kernel does not report it.
pub const LOOK_AFTER_PEER: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// Returns a socket with so many bytes of output, and its peer, which has read none of them.
    fn pair(output: usize) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        peer.set_recv_buffer_size(4_096).unwrap();
        peer.connect(&listener.local_addr().unwrap().into()).unwrap();
        let mut stream = listener.accept().unwrap().0;
        socket2::SockRef::from(&stream).set_send_buffer_size(1 << 20).unwrap();
        stream.write_all(&vec![b'x'; output]).unwrap();
        (stream, peer.into())
    }

    fn read_all(mut peer: TcpStream) -> Result<usize, ErrorKind> {
        peer.read_to_end(&mut Vec::new()).map_err(|error| error.kind())
    }

    #[test]
    fn a_close_leaves_little_to_the_kernel() {
        let (stream, peer) = pair(4 * LEFT_TO_KERNEL_MAX);
        drop(BoundedClose::new(stream));
        assert_eq!(read_all(peer), Err(ErrorKind::ConnectionReset));
        let (stream, peer) = pair(LEFT_TO_KERNEL_MAX);
        drop(BoundedClose::new(stream));
        assert_eq!(read_all(peer), Ok(LEFT_TO_KERNEL_MAX));
        let (stream, peer) = pair(4 * LEFT_TO_KERNEL_MAX);
        drop(BoundedClose::new(stream).into_inner());
        assert_eq!(read_all(peer), Ok(4 * LEFT_TO_KERNEL_MAX));
    }
}
