//! The kinds of trouble of a soak. Each is bounded, and checks the messages and the ends of its own clients.

use std::{
    fmt,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use ringhub::proto::OpCode;

use super::{honest::Honest, random::Random};
use crate::{
    faults::{cut_off, line_with, listen_elsewhere},
    support::{
        Client, Fate, Listeners, Numbered, ask, dial, dial_with, frame, pattern, post, request, reset, upgrade_request,
    },
};

/// A kind of trouble.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    /// Listeners of an honest topic come, and leave in different ways.
    Churn,
    /// Listeners stop reading all at once, until they are closed.
    Stall,
    /// A process with listeners is killed.
    Kill,
    /// Listeners are lost and come back at once.
    Storm,
    /// Posts, whole and cut off.
    Posts,
    /// Topics come and go.
    Topics,
    /// Consumers that read, but late.
    SlowConsumers,
    /// Clients that break the protocol, or never come to an end.
    Hostile,
    /// Peers that the network takes away.
    DeadNetwork,
    /// Clients that send requests and do not read the answers.
    DeafReaders,
}

impl Trouble {
    pub(super) const ALL: [Trouble; 10] = [
        Trouble::Churn,
        Trouble::Stall,
        Trouble::Kill,
        Trouble::Storm,
        Trouble::Posts,
        Trouble::Topics,
        Trouble::SlowConsumers,
        Trouble::Hostile,
        Trouble::DeadNetwork,
        Trouble::DeafReaders,
    ];

    pub(super) fn draw(random: &mut Random) -> Trouble {
        Self::ALL[random.below(Self::ALL.len())]
    }
}

/// How often each kind has come.
#[derive(Default)]
pub(super) struct Tally([AtomicU64; Trouble::ALL.len()]);

impl Tally {
    /// Causes a trouble, and returns when it is over.
    pub(super) fn make(&self, trouble: Trouble, server: SocketAddr, honest: &Honest, random: &mut Random) {
        let number = self.0[trouble as usize].fetch_add(1, Ordering::Relaxed);
        // Only this trouble uses this topic.
        let own = Numbered::new(&format!("/t/{trouble:?}-{number}"));
        match trouble {
            Trouble::Churn => churn(server, honest, random),
            Trouble::Stall => stall(server, &own, random),
            Trouble::Kill => kill(server, &own, random),
            Trouble::Storm => storm(server, honest, random),
            Trouble::Posts => posts(server, &own, random),
            Trouble::Topics => topics(server, &own, random),
            Trouble::SlowConsumers => slow_consumers(server, &own, random),
            Trouble::Hostile => hostile(server, &own, random),
            Trouble::DeadNetwork => dead_network(server, &own, random),
            Trouble::DeafReaders => deaf_readers(server, random),
        }
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = Trouble::ALL.iter().zip(&self.0);
        f.debug_map().entries(rows.map(|(trouble, count)| (trouble, count.load(Ordering::Relaxed)))).finish()
    }
}

fn churn(server: SocketAddr, honest: &Honest, random: &mut Random) {
    let mut listeners = Listeners::new(server);
    for _ in 0..3 {
        let (from, count) = (listeners.len(), 10 + random.below(50));
        listeners.join(count, honest.topic(random), None);
        (0..random.below(20)).for_each(|_| listeners.serve_once(5));
        for number in from..listeners.len() {
            match random.below(5) {
                0 => listeners.close(number),
                1 => listeners.leave(number, true),
                2 => listeners.leave(number, false),
                3 => listeners.shut_down(number),
                // The listener stays until all are dropped.
                _ => {}
            }
        }
    }
    assert_eq!(listeners.count(|fate| matches!(fate, Fate::Refused(..) | Fate::Unanswered)), 0);
}

fn stall(server: SocketAddr, own: &Numbered, random: &mut Random) {
    let (reading, stalled) = (5, 20 + random.below(80));
    let mut listeners = Listeners::new(server);
    listeners.join(reading, own, None);
    listeners.join(stalled, own, Some(4_096));
    let mut publisher = Client::connect(server, &format!("{}?mode=pub", own.target()));
    let all = 0..reading + stalled;
    (reading..all.end).for_each(|number| listeners.stall(number));
    // These messages are more than a backlog and the sockets hold.
    for _ in 0..60 {
        publish(&mut publisher, own, 30_000);
        listeners.serve_until("those that read have all", |listeners| listeners.have_all(0..reading));
    }
    for number in reading..all.end {
        match random.below(3) {
            0 => listeners.leave(number, random.below(2) == 0),
            // The listener gets the close frame, or is reset in the end.
            1 => listeners.resume(number),
            _ => {}
        }
    }
    (0..200).for_each(|_| listeners.serve_once(10));
    let is_told = |fate: &Fate| matches!(fate, Fate::Closed(code, _) if *code != 1008);
    assert_eq!(listeners.count(is_told), 0, "{listeners:?}");
    assert_eq!((0..reading).filter(|&number| *listeners.fate(number) != Fate::Open).count(), 0);
}

fn kill(server: SocketAddr, own: &Numbered, random: &mut Random) {
    let (dying, mut publisher) =
        (20 + random.below(80), Client::connect(server, &format!("{}?mode=pub", own.target())));
    let process = listen_elsewhere(server, own.target(), dying);
    line_with(&process, "subscribed");
    let mut listeners = Listeners::new(server);
    listeners.join(5, own, None);
    (0..20).for_each(|_| publish(&mut publisher, own, 2_000));
    drop(process);
    (0..20).for_each(|_| publish(&mut publisher, own, 2_000));
    listeners.serve_until("the other listeners have all messages", |listeners| listeners.have_all(0..5));
}

fn storm(server: SocketAddr, honest: &Honest, random: &mut Random) {
    let count = 100 + random.below(400);
    let topic = honest.topic(random);
    let mut listeners = Listeners::new(server);
    for _ in 0..2 {
        (0..listeners.len()).for_each(|number| listeners.leave(number, random.below(2) == 0));
        (0..count).for_each(|_| _ = listeners.dial(topic, None));
        listeners.serve_until("all are answered", |all| all.opening() == 0);
        assert_eq!(listeners.open(), count, "{listeners:?}");
    }
}

fn posts(server: SocketAddr, own: &Numbered, random: &mut Random) {
    let mut listeners = Listeners::new(server);
    listeners.join(3, own, None);
    let mut kept = dial(server);
    for _ in 0..50 {
        let length = [10, 1_000, 40_000][random.below(3)];
        let whole = post(own.target(), "text/plain", &own.next(length));
        assert_eq!(ask(&mut kept, &whole).status(), 202);
        let cut = random.below(whole.len() - 1);
        let mut stream = dial(server);
        stream.write_all(&whole.as_bytes()[..cut]).unwrap();
        if random.below(2) == 0 { reset(stream) } else { drop(stream) }
    }
    listeners.serve_until("all listeners have all messages", |listeners| listeners.have_all(0..3));
}

fn topics(server: SocketAddr, own: &Numbered, random: &mut Random) {
    let mut listeners = Listeners::new(server);
    let topics: Vec<Numbered> =
        (0..50 + random.below(100)).map(|number| Numbered::new(&format!("{}-{number}", own.target()))).collect();
    topics.iter().for_each(|topic| _ = listeners.dial(topic, None));
    listeners.serve_until("all are subscribed", |all| all.opening() == 0);
    let mut stream = dial(server);
    for topic in &topics {
        assert_eq!(ask(&mut stream, &post(topic.target(), "text/plain", &topic.last())).status(), 202);
    }
    listeners.serve_until("each has its message", |all| all.finished() == topics.len());
    (0..topics.len()).for_each(|number| {
        if number % 2 == 0 {
            listeners.close(number)
        }
    });
    listeners.serve_until("half have left", |all| all.open() == topics.len() / 2);
}

fn slow_consumers(server: SocketAddr, own: &Numbered, random: &mut Random) {
    let count = 10 + random.below(20);
    let mut listeners = Listeners::new(server);
    listeners.join(count, own, Some(4_096));
    let mut publisher = Client::connect(server, &format!("{}?mode=pub", own.target()));
    for _ in 0..10 {
        (0..count).for_each(|number| listeners.stall(number));
        // These messages are more than the sockets hold, and less than the sockets and a backlog hold.
        (0..10).for_each(|_| publish(&mut publisher, own, 20_000));
        (0..count).for_each(|number| listeners.resume(number));
        listeners.serve_until("all listeners have all messages", |listeners| listeners.have_all(0..count));
    }
    assert_eq!(listeners.open(), count, "{listeners:?}");
}

fn hostile(server: SocketAddr, own: &Numbered, random: &mut Random) {
    let large = frame(OpCode::Binary, true, &pattern(1, 60_000));
    let mut left: Vec<TcpStream> = Vec::new();
    for _ in 0..20 + random.below(20) {
        let mut stream = dial_with(server, Some(4_096));
        let head = upgrade_request(own.target());
        let (bytes, is_open): (&[u8], bool) = match random.below(6) {
            0 => (&head.as_bytes()[..random.below(head.len())], false),
            1 => (b"POST / nonsense\r\n\r\n", false),
            // Reserved bits, a part of a message, an unmasked frame, and a fragmented ping.
            2 => (b"\xf1\x80\0\0\0\0", true),
            3 => (&large[..random.below(large.len())], true),
            4 => (b"\x81\x02hi", true),
            _ => (b"\x09\x80\0\0\0\0", true),
        };
        if is_open {
            stream = Client::open(stream, own.target(), &[]).expect("there is room").into_stream();
        }
        // The write may fail, since the server may have ended the connection.
        drop(stream.write_all(bytes));
        match random.below(3) {
            0 => reset(stream),
            1 => drop(stream.shutdown(Shutdown::Write)),
            _ => left.push(stream),
        }
    }
    thread::sleep(Duration::from_millis(random.below(1_000) as u64));
}

fn dead_network(server: SocketAddr, own: &Numbered, random: &mut Random) {
    let gone: Vec<Client> = (0..5 + random.below(10))
        .map(|_| {
            let client = Client::open(dial_with(server, Some(4_096)), own.target(), &[]).unwrap();
            cut_off(client.stream());
            client
        })
        .collect();
    let mut publisher = Client::connect(server, &format!("{}?mode=pub", own.target()));
    // These messages are more than a backlog holds.
    (0..60).for_each(|_| publish(&mut publisher, own, 30_000));
    thread::sleep(Duration::from_millis(random.below(3_000) as u64));
    drop(gone);
}

fn deaf_readers(server: SocketAddr, random: &mut Random) {
    let readers: Vec<TcpStream> = (0..5 + random.below(10))
        .map(|_| {
            let mut stream = dial_with(server, Some(4_096));
            stream.write_all(request("GET", "/").repeat(6).as_bytes()).unwrap();
            stream
        })
        .collect();
    thread::sleep(Duration::from_millis(random.below(5_000) as u64));
    for mut stream in readers {
        match (random.below(2), stream.read(&mut [0; 64])) {
            (0, _) => reset(stream),
            (_, Err(error)) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            _ => {}
        }
    }
}

/// Publishes a message, and waits until the server has taken it.
fn publish(publisher: &mut Client, topic: &Numbered, length: usize) {
    publisher.send_text(&topic.next(length));
    publisher.send(OpCode::Ping, true, b"taken?");
    loop {
        match publisher.receive() {
            crate::support::Received::Pong(_) => return,
            crate::support::Received::Ping(_) => {}
            other => panic!("a publisher receives {other:?}"),
        }
    }
}
