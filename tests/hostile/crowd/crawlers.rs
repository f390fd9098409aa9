//! Crawlers: they send or receive a byte at a time.

use std::time::Duration;

use super::{
    Random, Scene, foreign, frames,
    requests::{bare, post, post_in_chunks, upgrade},
    visit::{Step, Visit, open},
};

pub(super) fn visit(random: &mut Random, scene: &Scene) -> Visit {
    match random.below(7) {
        0 => {
            let head = upgrade(random.pick(&["/t/flood-0", "/t/crawl", "/echo", "/nothing"]));
            let steps = vec![Step::crawl(head, random), Step::AwaitOpening, Step::hold(random, 500)];
            Visit::new("crawling head", steps, random)
        }
        1 => {
            let body = vec![b'c'; random.below(2_000)];
            let request =
                if random.once_in(2) { post("/t/crawl", &body) } else { post_in_chunks("/t/crawl", &body, 3) };
            // The head is sent at once, so that only the body crawls.
            let head = request.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
            let (head, body) = request.split_at(head);
            let steps = vec![Step::send(head), Step::crawl(body, random), Step::take_all()];
            Visit::new("crawling body", steps, random)
        }
        2 | 3 => {
            // Honest subscribers get the whole message.
            let target = &scene.honest_targets[random.below(scene.honest_targets.len())];
            let mut steps = open(&format!("{target}?mode=pub"));
            let message = foreign(random.below(600));
            let (begin, end) = message.split_at(random.below(message.len()));
            let bytes = if random.once_in(2) {
                [frames::frame(0x01, begin), frames::control(random), frames::frame(0x80, end)].concat()
            } else {
                frames::frame(0x81, &message)
            };
            steps.push(Step::crawl(bytes, random));
            steps.push(Step::send(frames::frame(0x88, b"\x03\xe8")));
            steps.push(Step::take_all());
            Visit::new("crawling message", steps, random)
        }
        4 => {
            let target = random.pick(&["/", "/metrics", "/site/large.txt"]);
            let requests = bare("GET", target, "").repeat(1 + random.below(6));
            let steps = vec![Step::send_only(requests), slow(random)];
            Visit::new("crawling reader of answers", steps, random).with_small_buffer()
        }
        5 => {
            let mut steps = open(random.pick(&["/t/flood-0?mode=sub", "/t/flood-1?mode=sub", "/t/flood-2"]));
            steps.push(slow(random));
            Visit::new("crawling subscriber", steps, random).with_small_buffer()
        }
        _ => {
            let mut steps = open("/echo");
            steps.push(Step::send_only(frames::frame(0x82, &vec![b'e'; frames::size(random, scene.message_max)])));
            steps.push(slow(random));
            Visit::new("crawling reader of echoes", steps, random).with_small_buffer()
        }
    }
}

/// Receives a few bytes at a time.
fn slow(random: &mut Random) -> Step {
    let (piece, pause) = random.pick(&[(1, 1), (1, 20), (100, 20), (2_000, 50)]);
    Step::Take { total: piece * (50 + random.below(200)), piece, pause: Duration::from_millis(pause) }
}
