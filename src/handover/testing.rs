//! Helpers of tests with sockets that are idle.

use std::{
    net::{TcpListener, TcpStream as Peer},
    sync::Arc,
};

use tokio::net::TcpStream;

/// Runs a test in a runtime, with a listener for [`pair`].
pub(crate) fn run(test: impl FnOnce(&TcpListener)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { test(&TcpListener::bind("127.0.0.1:0").unwrap()) });
}

/// Returns a connection's side, and its peer's.
pub(crate) fn pair(listener: &TcpListener) -> (Arc<TcpStream>, Peer) {
    let peer = Peer::connect(listener.local_addr().unwrap()).unwrap();
    let stream = listener.accept().unwrap().0;
    stream.set_nonblocking(true).unwrap();
    (Arc::new(TcpStream::from_std(stream).unwrap()), peer)
}
