//! The runtime of a shard's thread, and the waits on single sockets that belong to it.
//!
//! Each backend has a runtime of its own. Code on it uses tokio alone: it spawns with [`tokio::task::spawn_local`], and
//! its timers and channels are tokio's. Only the waits here know which runtime runs.

use std::{future::Future, io, os::fd::AsFd, rc::Rc};

use super::{BackendKind, epoll, uring};

/// Runs `future`, and the tasks that it spawns, on the calling thread and on the runtime of a backend.
///
/// # Errors
///
/// If the runtime cannot be set up.
pub fn block_on<F: Future>(backend: BackendKind, future: F) -> io::Result<F::Output> {
    match backend.real() {
        BackendKind::Epoll => epoll::block_on(future),
        _ => uring::block_on(future),
    }
}

/// Waits until `socket` has input, the end of input, or an error. If it is a listener, waits until a connection can be
/// accepted, or the listener was shut down.
///
/// To end a wait early, shut the socket down and do not drop the future: on io_uring the kernel would keep the socket.
///
/// # Errors
///
/// The error of the wait.
pub async fn readable(backend: BackendKind, socket: Rc<impl AsFd + 'static>) -> io::Result<()> {
    match backend.real() {
        BackendKind::Epoll => epoll::readable(socket).await,
        _ => uring::readable(socket).await,
    }
}

/// Waits until `socket` has room for output, or can send no more. Ends as [`readable`] does.
///
/// # Errors
///
/// The error of the wait.
pub async fn writable(backend: BackendKind, socket: Rc<impl AsFd + 'static>) -> io::Result<()> {
    match backend.real() {
        BackendKind::Epoll => epoll::writable(socket).await,
        _ => uring::writable(socket).await,
    }
}

/// Yields until the runtime has run the other tasks that are ready, and has looked at the sockets that tasks wait for.
pub async fn pass(backend: BackendKind) {
    match backend.real() {
        BackendKind::Epoll => epoll::pass().await,
        _ => uring::nop().await,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        io::{Read as _, Write as _},
        os::fd::OwnedFd,
        time::Duration,
    };

    use tokio::{task::spawn_local, time::timeout};

    use super::*;
    use crate::sys::{
        net,
        testing::{PATIENCE, full_pair, pair},
    };

    const BACKENDS: [BackendKind; 2] = [BackendKind::Uring, BackendKind::Epoll];

    /// A shard that always has work never sleeps: it passes.
    #[test]
    fn a_pass_lets_the_waits_of_other_tasks_go_on() {
        for backend in BACKENDS {
            let (server, mut client) = pair(None);
            client.write_all(b"x").unwrap();
            let passed = block_on(backend, async {
                let (is_readable, seen) = (Rc::new(Cell::new(false)), Rc::new(server));
                let (found, socket) = (Rc::clone(&is_readable), Rc::clone(&seen));
                spawn_local(async move { found.set(readable(backend, socket).await.is_ok()) });
                for _ in 0..10_000 {
                    pass(backend).await;
                    if is_readable.get() {
                        return true;
                    }
                }
                false
            });
            assert!(passed.unwrap(), "{backend}");
        }
    }

    /// Runs a wait, and a moment later `end`, which must end the wait.
    fn ends(backend: BackendKind, wait: impl Future<Output = io::Result<()>>, end: impl FnOnce()) {
        block_on(backend, async {
            let mut wait = std::pin::pin!(wait);
            let early = timeout(Duration::from_millis(20), wait.as_mut()).await;
            assert!(early.is_err(), "{backend}: there is nothing to wait for");
            end();
            timeout(PATIENCE, wait).await.expect("the wait ends").unwrap();
        })
        .unwrap();
    }

    #[test]
    fn a_wait_ends_with_input_with_room_or_with_the_socket() {
        for backend in BACKENDS {
            let (server, mut client) = pair(None);
            ends(backend, readable(backend, Rc::new(server)), || client.write_all(b"x").unwrap());
            let (server, client) = pair(None);
            ends(backend, readable(backend, Rc::new(server)), || drop(client));
            let (server, _client) = pair(None);
            let server = Rc::new(server);
            ends(backend, readable(backend, Rc::clone(&server)), || net::shutdown(&server, true));
            let (server, mut client, taken) = full_pair();
            let server = Rc::new(server);
            ends(backend, writable(backend, Rc::clone(&server)), || client.read_exact(&mut vec![0; taken]).unwrap());
            assert_eq!(Rc::strong_count(&server), 1, "{backend}: a wait that has ended keeps the socket");
            let (server, _client, _) = full_pair();
            let server = Rc::new(server);
            ends(backend, writable(backend, Rc::clone(&server)), || net::shutdown(&server, true));
        }
    }

    /// A listener that is shut down hangs up without input.
    #[test]
    fn a_listener_that_stops_ends_its_wait() {
        for backend in BACKENDS {
            let (mut listeners, address) = net::listen("127.0.0.1:0".parse().unwrap(), 1, false).unwrap();
            let listener: Rc<OwnedFd> = Rc::new(listeners.pop().unwrap());
            let wait = readable(backend, Rc::clone(&listener));
            ends(backend, wait, || drop(std::net::TcpStream::connect(address).unwrap()));
            drop(net::accept_now(&listener).unwrap());
            let wait = readable(backend, Rc::clone(&listener));
            ends(backend, wait, || net::stop_listening(&listener).unwrap());
        }
    }
}
