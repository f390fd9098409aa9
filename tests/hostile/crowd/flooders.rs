//! Flooders: they send as much as the server takes, valid or not.

use super::{
    Random, Scene, frames,
    requests::{bare, post},
    visit::{Step, Visit, open},
};

pub(super) fn visit(random: &mut Random, scene: &Scene) -> Visit {
    let most = scene.message_max;
    match random.below(11) {
        0 | 1 => {
            let unit = frames::valid(random, most);
            flood("flood of messages", random, unit, &["mode=pub", "mode=pub", "echo=true", "scope=local"])
        }
        2 => {
            let small = random.pick(&[0, 1, 17, 125, 1_000]);
            let length = if random.once_in(2) { small } else { frames::size(random, most).min(most) };
            let frame = frames::frame(random.pick(&[0x81, 0x82]), &vec![b'z'; length]);
            let unit = frame.repeat(1 + 4_096 / frame.len());
            flood("flood of one size", random, unit, &["mode=pub", "mode=pub", "mode=both"])
        }
        3 => {
            let unit = frames::control(random).repeat(64);
            flood("flood of control frames", random, unit, &["mode=sub", "mode=pub", "echo=true"])
        }
        4 => fragments(random),
        5 => {
            let unit = frames::broken(random, most);
            flood("flood that breaks the protocol", random, unit, &["mode=pub", "echo=true"])
        }
        6 => {
            let unit = random.bytes(4_096);
            flood("flood of noise", random, unit, &["mode=pub", "echo=true"])
        }
        7 => {
            let unit = [frames::close(random), frames::valid(random, 300)].concat();
            flood("flood behind a close frame", random, unit, &["mode=pub", "echo=true"])
        }
        8 => echo(random, most),
        9 => posts(random, most),
        _ => gets(random),
    }
}

/// Opens a WebSocket and sends a unit again and again.
fn flood(name: &'static str, random: &mut Random, unit: Vec<u8>, queries: &[&'static str]) -> Visit {
    let topic = random.pick(&["flood-0", "flood-0", "flood-0", "flood-1", "flood-2", "unheard"]);
    let target = format!("/t/{topic}?{}", random.pick(queries));
    let total = total(random);
    let takes = !random.once_in(4);
    let mut steps = open(&target);
    steps.push(Step::Flood { unit, total, takes });
    if random.once_in(2) {
        steps.push(Step::take_all());
    }
    Visit::new(name, steps, random)
}

fn fragments(random: &mut Random) -> Visit {
    let unit = frames::frame(0x00, &vec![b'f'; random.pick(&[0, 1, 100])]).repeat(32);
    let mut steps = open(random.pick(&["/t/flood-0?mode=pub", "/t/unheard"]));
    steps.push(Step::send(frames::frame(random.pick(&[0x01, 0x02]), b"f")));
    steps.push(Step::Flood { unit, total: total(random), takes: true });
    Visit::new("flood of fragments", steps, random)
}

/// Floods the echo route, and receives the echoes in half of the visits.
fn echo(random: &mut Random, most: usize) -> Visit {
    let unit = frames::valid(random, most);
    let mut steps = open("/echo");
    steps.push(Step::Flood { unit, total: total(random), takes: random.once_in(2) });
    Visit::new("flood of echoes", steps, random)
}

/// Publishes bodies of every size on one connection.
fn posts(random: &mut Random, most: usize) -> Visit {
    let unit: Vec<u8> = (0..4).flat_map(|_| post("/t/flood-1", &vec![b'b'; frames::size(random, most)])).collect();
    let takes = !random.once_in(4);
    Visit::new("flood of posts", vec![Step::Flood { unit, total: total(random), takes }, Step::take_all()], random)
}

fn gets(random: &mut Random) -> Visit {
    let target = random.pick(&["/healthz", "/readyz", "/metrics", "/", "/site/large.txt", "/nothing", "/t/x"]);
    let unit = bare(random.pick(&["GET", "GET", "HEAD", "OPTIONS"]), target, "").repeat(20);
    let takes = !random.once_in(4);
    let total = 1 + total(random) / 64;
    Visit::new("flood of gets", vec![Step::Flood { unit, total, takes }, Step::take_all()], random)
}

/// Draws the length of a flood in bytes.
fn total(random: &mut Random) -> usize {
    1 + random.pick(&[10_000, 100_000, 1_000_000, 4_000_000])
}
