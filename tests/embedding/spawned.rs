//! Asynchronous work of handlers, with the cases of Ioto's calls that yield.

use std::{
    cell::RefCell,
    net::TcpListener,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use ringhub::{
    handler::{CloseError, Refused, Sent},
    proto::CloseCode,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use crate::{
    Script, serve,
    support::{Client, Received, dial_with, text},
    until,
};

/// The state of a connection need not be `Send`.
#[test]
fn qore_state_of_a_connection_need_not_be_send() {
    let (script, _) = Script::<Rc<RefCell<Vec<String>>>>::by_message(|connection, text| {
        let said = Rc::clone(connection.state());
        said.borrow_mut().push(text.into());
        let shared = Rc::clone(&said);
        connection.spawn(|handle| async move {
            tokio::task::yield_now().await;
            let all = shared.borrow().join(" ");
            handle.send_text(all).await;
        });
    });
    let server = serve(3, |builder| builder.route("/", script));
    let (mut one, mut two) = (server.connect("/"), server.connect("/"));
    for (said, all) in [("a", "a"), ("b", "a b")] {
        one.send_text(said);
        one.expect(text(all));
    }
    two.send_text("c");
    two.expect(text("c"));
}

#[test]
fn ioto_timers() {
    let (script, _) = Script::<()>::new();
    let script = script.on_open(|connection| {
        connection.spawn(|handle| async move {
            for number in 0..3 {
                sleep(Duration::from_millis(5)).await;
                handle.send_text(number.to_string()).await;
            }
            handle.close(CloseCode::NORMAL, "done").await.unwrap();
            assert_eq!(handle.close(CloseCode::NORMAL, "").await, Err(CloseError::NotOpen));
        });
    });
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = server.connect("/");
    for number in 0..3 {
        client.expect(text(&number.to_string()));
    }
    client.expect_close(1000, "done");
}

/// Work can use tokio: here a socket to another server, and several tasks.
#[test]
fn ioto_sockets_and_tasks() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = backend.local_addr().unwrap();
    thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in backend.incoming() {
            let (mut stream, mut byte) = (stream.unwrap(), [0]);
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&[byte[0].to_ascii_uppercase()]).unwrap();
        }
    });
    let (script, _) = Script::<()>::by_message(move |connection, letters| {
        let letters: Vec<u8> = letters.bytes().collect();
        connection.spawn(move |handle| async move {
            let mut asked = JoinSet::new();
            for letter in letters {
                asked.spawn_local(async move {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    stream.write_all(&[letter]).await.unwrap();
                    stream.read_u8().await.unwrap()
                });
            }
            let mut answers = asked.join_all().await;
            answers.sort_unstable();
            handle.send_text(String::from_utf8(answers).unwrap()).await;
        });
    });
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = server.connect("/");
    client.send_text("abc");
    client.expect(text("ABC"));
}

struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn ioto_work_ends_with_its_connection() {
    let dropped: Arc<AtomicBool> = Arc::default();
    let flag = Arc::clone(&dropped);
    let (script, journal) = Script::<()>::by_message(move |connection, _| {
        let flag = Flag(Arc::clone(&flag));
        connection.spawn(|handle| async move {
            handle.send_text("begun").await;
            std::future::pending::<()>().await;
            drop(flag);
        });
    });
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = server.connect("/");
    client.send_text("now");
    client.expect(text("begun"));
    assert!(!dropped.load(Ordering::SeqCst));
    client.leave();
    journal.until(r#"close 1000 "bye" clean"#);
    // The work has ended a turn later at the latest.
    let mut other = server.connect("/");
    other.send_text("now");
    other.expect(text("begun"));
    assert!(dropped.load(Ordering::SeqCst));
}

/// Work that outlives its connection finds the connection gone, and does not reach the next owner of the slot.
#[test]
fn ioto_a_handle_after_the_end() {
    let (outcomes, outcome) = std::sync::mpsc::channel();
    let is_first = AtomicBool::new(true);
    let (script, journal) = Script::<()>::new();
    let script = script.on_open(move |connection| {
        let (handle, outcomes) = (connection.handle(), outcomes.clone());
        if is_first.swap(false, Ordering::SeqCst) {
            // The task is not spawned on the connection, so it outlives the connection.
            tokio::task::spawn_local(async move {
                while handle.with(|_| ()).await.is_some() {
                    sleep(Duration::from_millis(1)).await;
                }
                let sent = (handle.send_text("x").await, handle.send_binary(vec![1]).await);
                handle.drained().await;
                let closed = handle.close(CloseCode::NORMAL, "").await;
                outcomes.send((sent, closed)).unwrap();
            });
        }
    });
    let server = serve(1, |builder| builder.route("/", script));
    server.connect("/").leave();
    journal.until(r#"close 1000 "bye" clean"#);
    let mut next = server.connect("/");
    let refused = Sent::Refused(Refused::NotOpen);
    let outcome = outcome.recv_timeout(crate::DEADLINE).unwrap();
    assert_eq!(outcome, ((refused, refused), Err(CloseError::NotOpen)));
    next.expect_nothing();
}

/// `drained`, as Qore's `flush`: the client reads slowly, and the handler sends more only when the client has taken
/// everything.
#[test]
fn qore_drained_waits_for_the_client() {
    const PIECE: usize = 1 << 20;
    let is_queued: Arc<AtomicBool> = Arc::default();
    let told = Arc::clone(&is_queued);
    let (script, _) = Script::<()>::by_message(move |connection, _| {
        let told = Arc::clone(&told);
        connection.spawn(|handle| async move {
            for _ in 0..16 {
                assert!(handle.send_binary(vec![0; PIECE]).await.is_accepted());
                if handle.with(|connection| connection.backlog_bytes()).await.unwrap() > 0 {
                    told.store(true, Ordering::SeqCst);
                }
                handle.drained().await;
                assert_eq!(handle.with(|connection| connection.backlog_bytes()).await, Some(0));
            }
            handle.send_text("done").await;
        });
    });
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = Client::open(dial_with(server.address, Some(4_096)), "/", b"").unwrap();
    client.send_text("now");
    until("the socket is full", || is_queued.load(Ordering::SeqCst));
    for _ in 0..16 {
        let Received::Binary(bytes) = client.receive() else { panic!("not what was sent") };
        assert_eq!(bytes.len(), PIECE);
    }
    client.expect(text("done"));
}

#[test]
fn qore_drained_ends_with_the_connection() {
    let (told, drained) = std::sync::mpsc::channel();
    let (script, journal) = Script::<()>::by_message(move |connection, _| {
        let (handle, told) = (connection.handle(), told.clone());
        connection.send_binary(vec![0; 16 << 20]);
        tokio::task::spawn_local(async move {
            handle.drained().await;
            told.send(()).unwrap();
        });
    });
    let server = serve(1, |builder| builder.route("/", script));
    let mut client = Client::open(dial_with(server.address, Some(4_096)), "/", b"").unwrap();
    client.send_text("now");
    journal.until("text now");
    crate::support::reset(client.into_stream());
    drained.recv_timeout(crate::DEADLINE).unwrap();
}
