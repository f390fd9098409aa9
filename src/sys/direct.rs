//! Sockets that a task uses alone, with one system call for each operation.

use std::{io, os::fd::OwnedFd, sync::Arc};

use bytes::BytesMut;
use tokio::net::TcpStream;

use super::net;

/// A non-blocking socket that a task uses alone.
pub trait DirectSocket {
    /// Appends bytes that have arrived to `buffer`, within its spare capacity, which must not be 0.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if no byte is there; otherwise the failure of the socket.
    fn receive_direct(&self, buffer: &mut BytesMut) -> io::Result<usize>;

    /// Sends as many bytes as fit into the socket, and returns their number.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if none fits; otherwise the failure of the socket.
    fn send_direct(&self, bytes: &[u8]) -> io::Result<usize>;
}

impl DirectSocket for OwnedFd {
    fn receive_direct(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let mut chunk = [0; 2_048];
        let most = chunk.len().min(buffer.capacity() - buffer.len());
        let count = net::receive_now(self, &mut chunk[..most])?;
        buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    fn send_direct(&self, bytes: &[u8]) -> io::Result<usize> {
        net::send_now(self, bytes)
    }
}

impl DirectSocket for Arc<TcpStream> {
    fn receive_direct(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.try_read_buf(buffer)
    }

    fn send_direct(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write(bytes)
    }
}
