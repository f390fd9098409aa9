//! Stallers: they receive nothing, or stop within a message.

use super::{
    Random, Scene, foreign, frames,
    requests::{bare, post},
    visit::{Step, Visit, open},
};

pub(super) fn visit(random: &mut Random, scene: &Scene) -> Visit {
    let (name, mut steps) = match random.below(10) {
        0..=4 => {
            let target =
                random.pick(&["/t/flood-0?mode=sub", "/t/flood-0", "/t/flood-1?mode=sub", "/t/flood-0?echo=true"]);
            ("subscriber that receives nothing", open(target))
        }
        5 => {
            let mut steps = open("/echo");
            let unit = frames::frame(0x82, &vec![b's'; frames::size(random, scene.message_max).min(scene.message_max)]);
            steps.push(Step::Flood { unit, total: 3_000_000, takes: false });
            ("unread echoes", steps)
        }
        6 => {
            let mut steps = open("/t/stall");
            let unit = frames::frame(0x89, &[b'p'; 125]).repeat(20);
            steps.push(Step::Flood { unit, total: 2_000_000, takes: false });
            ("unread pongs", steps)
        }
        7 => {
            let unit = bare("GET", random.pick(&["/", "/site/large.txt", "/metrics"]), "").repeat(10);
            ("unread answers", vec![Step::Flood { unit, total: 20_000, takes: false }])
        }
        8 => {
            let unit = post("/t/stall", &vec![b's'; random.below(2_000)]).repeat(4);
            ("posts with unread answers", vec![Step::Flood { unit, total: 500_000, takes: false }])
        }
        _ => {
            let honest = &scene.honest_targets[random.below(scene.honest_targets.len())];
            let mut steps = open(&format!("{honest}?mode=pub"));
            let message = frames::frame(0x81, &foreign(10 + random.below(2_000)));
            let (begin, end) = message.split_at(1 + random.below(message.len() - 1));
            steps.push(Step::send_only(begin));
            steps.push(Step::hold(random, 1_000));
            steps.push(Step::send_only(end));
            ("stop within a message", steps)
        }
    };
    steps.push(Step::hold(random, scene.patience_ms));
    Visit::new(name, steps, random).with_small_buffer()
}
