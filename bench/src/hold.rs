//! A bare server that accepts, answers the opening handshake, and holds the connection: it shows the memory that a
//! connection costs with no server at all.

use crate::bare::{Accepted, accept, listen};
use rustix::event::{PollFd, PollFlags, poll};
use std::io;
use std::net::{SocketAddr, TcpStream};

/// Serves until it is killed.
pub(crate) fn serve(address: SocketAddr, cpu: Option<usize>) -> io::Result<bool> {
    let listener = listen(address, cpu)?;
    let mut held: Vec<TcpStream> = Vec::new();
    loop {
        poll(&mut [PollFd::new(&listener, PollFlags::IN)], None)?;
        loop {
            match accept(&listener)? {
                Accepted::Client(stream, _) => held.push(stream),
                Accepted::Stranger => {}
                Accepted::NoMore => break,
            }
        }
    }
}
