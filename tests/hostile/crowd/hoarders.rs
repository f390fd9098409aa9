//! Hoarders: they hold places, and begin messages that do not end.

use super::{
    Random, Scene, frames,
    requests::{bare, post, upgrade},
    visit::{Step, Visit, open},
};

pub(super) fn visit(random: &mut Random, scene: &Scene) -> Visit {
    let most = scene.message_max;
    let (name, mut steps) = match random.below(10) {
        0 => ("silent connection", Vec::new()),
        1 => {
            let head = upgrade("/t/hoard");
            let cut = random.below(head.len());
            ("unfinished head", vec![Step::send(&head[..cut])])
        }
        2 => {
            let body = post("/t/hoard", &vec![b'h'; frames::size(random, most).min(most)]);
            let cut = body.len() - 1 - random.below(30).min(body.len() / 2);
            ("unfinished body", vec![Step::send(&body[..cut])])
        }
        3 => {
            let mut steps = open("/t/hoard?mode=pub");
            let frame = frames::frame(random.pick(&[0x81, 0x82]), &vec![b'h'; frames::size(random, most).min(most)]);
            let cut = 1 + random.below(frame.len() - 1);
            steps.push(Step::send(&frame[..cut]));
            ("unfinished frame", steps)
        }
        4 => {
            let mut steps = open("/t/hoard?mode=pub");
            let begun = [frames::frame(0x01, &vec![b'h'; random.below(most)]), frames::frame(0x00, b"h").repeat(20)];
            steps.push(Step::send(begun.concat()));
            ("unfinished message", steps)
        }
        5 => {
            let mut steps = open("/t/hoard");
            steps.push(Step::send(frames::announced(0x82, random.pick(&[1, 126, 65_535, most as u64]))));
            ("announced frame", steps)
        }
        6 => {
            // Each topic is new.
            let topics = open(&format!("/t/hoard-{}-{}?mode=sub", random.below(100_000), random.below(100_000)));
            ("held subscription", topics)
        }
        7 => {
            // Each message is the only one of its topic.
            let posts = (0..150).flat_map(|_| post(&format!("/t/hoard-{}", random.below(1_000_000)), b"h"));
            ("messages to new topics", vec![Step::send(posts.collect::<Vec<u8>>()), Step::take_all()])
        }
        8 => {
            let target = random.pick(&["/healthz", "/readyz", "/metrics", "/nothing", "/site/index.html"]);
            ("kept-alive connection", vec![Step::send(bare("GET", target, ""))])
        }
        _ => {
            let mut steps = open("/t/hoard?mode=sub");
            steps.push(Step::Finish);
            ("half-open connection", steps)
        }
    };
    steps.push(Step::hold(random, scene.patience_ms));
    Visit::new(name, steps, random)
}
