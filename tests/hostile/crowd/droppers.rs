//! Droppers: they reset their connections in every state.

use super::{
    Random, Scene, foreign, frames,
    requests::{bare, post, post_in_chunks, upgrade},
    visit::{Step, Visit, open},
};

pub(super) fn visit(random: &mut Random, scene: &Scene) -> Visit {
    let honest = scene.honest_targets[random.below(scene.honest_targets.len())].clone();
    let (name, steps) = match random.below(11) {
        0 => ("reset before the head", vec![Step::hold(random, 20)]),
        1 => ("reset within the head", vec![sent_in_part(upgrade(&honest), random)]),
        2 => ("reset before the answer", vec![Step::send_only(upgrade(&honest))]),
        3 => ("reset after the answer", open(&honest)),
        4 => {
            let mut steps = open(&honest);
            // No part of the message may reach a subscriber.
            steps.push(sent_in_part(frames::frame(0x81, &foreign(random.below(3_000))), random));
            ("reset within a frame", steps)
        }
        5 => {
            let mut steps = open(&honest);
            let begun = [frames::frame(0x01, b"foreign 100 y"), frames::frame(0x00, b"yyy").repeat(random.below(20))];
            steps.push(Step::send_only(begun.concat()));
            ("reset within a message", steps)
        }
        6 => {
            let mut steps = open(&format!("{honest}?mode=pub"));
            steps.push(Step::send_only(frames::frame(0x81, &foreign(random.below(3_000)))));
            steps.push(Step::send_only(frames::close(random)));
            ("reset in closing", steps)
        }
        7 => {
            let mut steps = open("/t/flood-0");
            steps.push(Step::send_only(frames::close(random)));
            steps.push(Step::Take { total: 2, piece: 2, pause: std::time::Duration::ZERO });
            ("reset in the answer to a close frame", steps)
        }
        8 => {
            let body = vec![b'd'; 1 + random.below(scene.message_max)];
            let request = if random.once_in(2) { post(&honest, &body) } else { post_in_chunks(&honest, &body, 100) };
            // The last byte of the body never comes.
            let most = request.len() - 1;
            ("reset within a body", vec![sent_in_part(request[..most].to_vec(), random)])
        }
        9 => {
            let requests =
                bare("GET", random.pick(&["/", "/site/large.txt", "/metrics"]), "").repeat(1 + random.below(8));
            let some = Step::Take { total: 1 + random.below(5_000), piece: 1_000, pause: std::time::Duration::ZERO };
            ("reset within an answer", vec![Step::send_only(requests), some])
        }
        _ => {
            let mut steps = open(random.pick(&["/t/flood-0?mode=sub", "/t/flood-1?mode=sub"]));
            steps.push(Step::hold(random, 300));
            ("reset with unread messages", steps)
        }
    };
    Visit::new(name, steps, random).with_reset()
}

/// Sends a part of the bytes, at least one and never all.
fn sent_in_part(bytes: Vec<u8>, random: &mut Random) -> Step {
    let cut = 1 + random.below(bytes.len() - 1);
    if random.once_in(3) { Step::crawl(&bytes[..cut], random) } else { Step::send_only(&bytes[..cut]) }
}
