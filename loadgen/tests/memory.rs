//! Counts the memory that idle connections take in the generator.

use cap::Cap;
use clap::Parser as _;
use ringhub_loadgen::{Cli, Moment, Progress};
use std::alloc::System;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::thread;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// The most bytes of an idle connection.
const BYTES_MAX: usize = 400;

/// Notes what is allocated when all connections are open.
#[derive(Default)]
struct Watcher {
    allocated: usize,
}

impl Progress for Watcher {
    fn connecting(&mut self, open: usize, of: usize) {
        if open == of {
            self.allocated = ALLOCATOR.allocated();
        }
    }

    fn running(&mut self, _moment: &Moment) {}

    fn done(&mut self) {}
}

/// Starts a server that opens connections and holds them, and allocates nothing meanwhile.
fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::with_capacity(10_000);
    thread::spawn(move || {
        let mut head = [0; 4_096];
        while let Ok((mut stream, _)) = listener.accept() {
            let mut length = 0;
            while !head[..length].ends_with(b"\r\n\r\n") {
                length += stream.read(&mut head[length..]).unwrap();
            }
            stream
                .write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
                )
                .unwrap();
            held.push(stream);
        }
    });
    address
}

#[test]
fn an_idle_connection_takes_at_most_400_bytes() {
    let url = format!("--url=ws://{}/x", start());
    let allocated = |connections: usize| {
        let count = format!("--connections={connections}");
        let words = ["ringhub-loadgen", "idle", &url, &count, "--steps=1", "--hold=10ms"];
        let plan = Cli::try_parse_from(words).unwrap().into_options().unwrap().plan().unwrap();
        let mut watcher = Watcher::default();
        ringhub_loadgen::run(&plan, &mut watcher).unwrap();
        watcher.allocated
    };
    // The first run also allocates what stays.
    allocated(10);
    let (few, many) = (allocated(100), allocated(1_100));
    let each = (many - few) / 1_000;
    eprintln!("{each} B for an idle connection");
    assert!(each > 50 && each <= BYTES_MAX, "{each} B");
}
