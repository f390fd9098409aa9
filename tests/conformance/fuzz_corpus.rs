//! Every fuzz target runs over its corpus as an ordinary test. `cargo +nightly fuzz run TARGET` in this folder's
//! neighbour `fuzz/` goes on from there.

use std::{fs, path::Path};

use ringhub::proto::fuzz;

fn run(target: &str, body: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the target has a corpus") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        body(&fs::read(&path).expect("a readable file"));
        count += 1;
    }
    assert!(count >= 10, "{count} inputs in {}", folder.display());
}

#[test]
fn frame_header() {
    run("frame_header", fuzz::frame_header);
}

#[test]
fn receive() {
    run("receive", fuzz::receive);
}

#[test]
fn handshake() {
    run("handshake", fuzz::handshake);
}
