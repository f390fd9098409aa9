//! The clients' bytes of the corpora, and of seeds, through a server of each backend, cut at places that a seed draws:
//! both answer with the same bytes, and end each connection in the same way.
//!
//! `RINGHUB_SEED=n` replays the input of one seed, and `RINGHUB_SEEDS=n` plays more of them.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    thread,
    time::Duration,
};

use ringhub::{config::IoChoice, server::ChosenBackend};

use crate::{
    bodies,
    fuzz_corpus::{number_of, read_corpus},
    inputs,
    random::Random,
    support::{Server, dial, exchange, post, upgrade_request},
};

#[test]
fn both_backends_answer_the_corpora_with_the_same_bytes() {
    if let Err(error) = ChosenBackend::choose(IoChoice::Uring) {
        println!("skipped, since there is only one backend here: {error}");
        return;
    }
    let inputs = all_inputs();
    let answers = thread::scope(|scope| {
        let play = |io| {
            scope.spawn({
                let inputs = &inputs;
                move || play_all(inputs, io)
            })
        };
        ["uring", "epoll"].map(play).map(|played| played.join().unwrap())
    });
    let mut kinds = [0; 3];
    for (input, (uring, epoll)) in inputs.iter().zip(answers[0].iter().zip(&answers[1])) {
        assert!(uring == epoll, "{input:?}\non io_uring: {uring:?}\non epoll: {epoll:?}");
        let starts = [&b"HTTP/1.1 101 "[..], b"HTTP/1.1 4", b"HTTP/1.1 20"];
        starts.iter().zip(&mut kinds).for_each(|(start, count)| *count += usize::from(uring.bytes.starts_with(start)));
    }
    println!("{} inputs: {} were upgraded, {} refused, {} answered", inputs.len(), kinds[0], kinds[1], kinds[2]);
    if number_of("RINGHUB_SEED").is_none() {
        assert!(kinds.iter().all(|&count| count >= 5), "{kinds:?} of {} inputs", inputs.len());
    }
}

/// What a client sends.
struct Input {
    name: String,
    bytes: Vec<u8>,
    /// The parts in which the bytes are written, by their ends.
    cuts: Vec<usize>,
    /// The length of an opening request whose answer the client awaits before it goes on.
    awaited: Option<usize>,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, cut at {:?}: {:?}", self.name, self.cuts, String::from_utf8_lossy(&self.bytes))
    }
}

/// What came back, and the way in which the connection has ended.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    bytes: Vec<u8>,
    end: String,
}

fn all_inputs() -> Vec<Input> {
    let mut inputs = Vec::new();
    let mut add = |name: String, bytes: Vec<u8>, random: &mut Random| {
        // What follows an awaited answer comes by the shard's own receives, and the rest with the opening request.
        let opening = bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        let awaited = opening.filter(|_| bytes.starts_with(b"GET /t/") && !random.once_in(3));
        let begin = awaited.unwrap_or(0);
        let mut cuts: Vec<usize> = (0..random.below(6)).map(|_| begin + random.below(bytes.len() - begin)).collect();
        cuts.extend(awaited.into_iter().chain([bytes.len()]));
        cuts.sort_unstable();
        inputs.push(Input { name, bytes, cuts, awaited });
    };
    if number_of("RINGHUB_SEED").is_none() {
        for (target, request) in TARGETS {
            for (number, input) in read_corpus(target).into_iter().enumerate() {
                let topic = format!("{target}-{number}");
                add(topic.clone(), request(&topic, &input), &mut Random::new(number as u64));
            }
        }
    }
    let seeds = match number_of("RINGHUB_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_of("RINGHUB_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let mut random = Random::new(seed);
        let (frames, request) = (inputs::frames(&mut random), inputs::requests(&mut random));
        add(format!("frames of seed {seed}"), of_frames(&format!("seed-{seed}"), &frames), &mut random);
        add(format!("request of seed {seed}"), of_request("", &request), &mut random);
    }
    inputs
}

/// Makes a client's bytes of an input and of the name of its topic.
type MakeBytes = fn(&str, &[u8]) -> Vec<u8>;

/// The fuzz targets whose inputs a client can send.
const TARGETS: [(&str, MakeBytes); 5] = [
    ("frames", of_frames),
    ("receive", of_octets),
    ("frame_header", of_octets),
    ("handshake", |_, input| input.to_vec()),
    ("requests", of_request),
];

/// Seeds of an ordinary run.
const SEEDS: u64 = 150;

fn of_frames(topic: &str, input: &[u8]) -> Vec<u8> {
    of_octets(topic, &bodies::frames::stream(input))
}

fn of_octets(topic: &str, octets: &[u8]) -> Vec<u8> {
    [upgrade_request(&format!("/t/{topic}?echo=true")).as_bytes(), octets].concat()
}

/// The first byte of such an input is no part of the request.
fn of_request(_topic: &str, input: &[u8]) -> Vec<u8> {
    input.get(1..).unwrap_or_default().to_vec()
}

/// Plays all inputs, one after the other, on a server with this backend.
fn play_all(inputs: &[Input], io: &str) -> Vec<Answer> {
    let flags = ["--io", io, "--max-message", "64KiB", "--close-timeout", "60s", "--ping-interval", "0"];
    let mut server = Server::start(&flags);
    let answers = inputs.iter().map(|input| play(server.address(), input)).collect();
    server.end();
    answers
}

fn play(server: SocketAddr, input: &Input) -> Answer {
    let mut stream = dial(server);
    let mut begin = 0;
    for &cut in &input.cuts {
        // The server may have ended the connection because of an earlier part.
        if stream.write_all(&input.bytes[begin..cut]).is_err() {
            break;
        }
        begin = cut;
        if input.awaited == Some(cut) {
            drop(stream.peek(&mut [0]));
        } else if cut < input.bytes.len() {
            thread::sleep(Duration::from_millis(1));
        }
    }
    settle(server);
    drop(stream.shutdown(Shutdown::Write));
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map_or_else(|error| error.kind().to_string(), |_| "end".into());
    Answer { bytes: without_variable_lines(&bytes), end }
}

/// Returns when the server has sent what it owes for all that has arrived: an end without a goodbye gives up the rest.
/// The shard takes a publication in a turn, before which it has received what arrived earlier.
fn settle(server: SocketAddr) {
    for _ in 0..2 {
        assert_eq!(exchange(server, &post("/t/settled", "text/plain", "x")).status(), 202);
    }
}

/// Returns bytes without the lines that differ between any two answers of HTTP: the date, the place of a message, and
/// the length of that.
fn without_variable_lines(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split_inclusive(|&octet| octet == b'\n');
    let varies = |line: &[u8]| {
        let line = line.to_ascii_lowercase();
        [&b"date: "[..], b"{\"topic\"", b"content-length: "].iter().any(|&start| line.starts_with(start))
    };
    lines.filter(|line| !varies(line)).flatten().copied().collect()
}
