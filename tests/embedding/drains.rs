//! The end of a server, and its report.

use std::{
    sync::{Mutex, mpsc::channel},
    time::Duration,
};

use ringhub::{
    config::{Settings, Time},
    metrics::Counter,
    server::DrainReport,
};

use crate::{
    DEADLINE, Live, Script, builder,
    support::{Client, RESTART, Received, close},
};

/// During a drain the report counts the connections that have left. At its end it also counts the dropped ones.
#[test]
fn the_report_counts_connections_that_leave_and_that_are_dropped() {
    let settings = |settings: &mut Settings| {
        settings.drain_timeout = Time(Duration::from_secs(4));
        settings.close_timeout = Time(Duration::from_secs(3_600));
    };
    let mut server = Live::start(builder(2).topics().settings(settings));
    let mut clients = server.connect_to_all("/t/x", 2);
    let count = clients.len() as u64;
    clients[0].never_answer();
    let mut running = server.running.take().unwrap();
    let DrainReport { told, left, dropped, is_barrier_whole, .. } = running.drain_report();
    assert_eq!((told, left, dropped, is_barrier_whole), (0, 0, 0, true));
    running.stop();
    let (deaf, others) = clients.split_first_mut().unwrap();
    deaf.expect(close(1012, RESTART));
    others.iter_mut().for_each(|client| client.expect_close(1012, RESTART));
    drop(clients.split_off(1));
    crate::until("the others have left", || running.drain_report().left == count - 1);
    let DrainReport { told, dropped, .. } = running.drain_report();
    assert_eq!((told, dropped), (count, 0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(running.wait()).expect("an orderly end");
    let DrainReport { told, left, dropped, is_barrier_whole, .. } = running.drain_report();
    assert_eq!((told, left, dropped, is_barrier_whole), (count, count - 1, 1, true));
}

/// A handler blocks its shard. The drain closes the clients of other shards after a quarter of `drain_timeout`, and the
/// report says that they may have missed messages.
#[test]
fn a_handler_that_blocks_its_shard_does_not_keep_the_others() {
    let ((blocks, is_blocked), (let_go, is_let_go)) = (channel(), channel::<()>());
    let (blocks, is_let_go) = (Mutex::new(blocks), Mutex::new(is_let_go));
    let (script, _journal) = Script::<()>::by_message(move |connection, text| match text {
        "where" => _ = connection.send_text(connection.id().shard().to_string()),
        _ => {
            blocks.lock().unwrap().send(()).unwrap();
            is_let_go.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        }
    });
    let settings = |settings: &mut Settings| settings.drain_timeout = Time(Duration::from_secs(8));
    let mut server = Live::start(builder(2).route("/", script).settings(settings));
    let mut clients = server.connect_to_all("/", 1);
    let shard = |client: &mut Client| {
        client.send_text("where");
        let Received::Text(shard) = client.receive() else { panic!("no answer") };
        shard
    };
    let stuck = shard(&mut clients[0]);
    let (mut on_stuck, mut others) = (Vec::new(), Vec::new());
    for mut client in clients {
        let side = if shard(&mut client) == stuck { &mut on_stuck } else { &mut others };
        side.push(client);
    }
    on_stuck[0].send_text("block");
    is_blocked.recv_timeout(DEADLINE).unwrap();
    let running = server.running.take().unwrap();
    let counters = running.counters().to_vec();
    running.stop();
    others.iter_mut().for_each(|client| client.expect_close(1012, RESTART));
    let number: usize = stuck.parse().unwrap();
    assert_eq!(counters[number].get(Counter::DrainClosed), 0, "the shard is stuck");
    assert!(!DrainReport::of(&counters).is_barrier_whole);
    let_go.send(()).unwrap();
    on_stuck.iter_mut().for_each(|client| client.expect_close(1012, RESTART));
    let all = (on_stuck.len() + others.len()) as u64;
    drop((on_stuck, others));
    running.wait_blocking().expect("an orderly end");
    let DrainReport { told, left, dropped, is_barrier_whole, .. } = DrainReport::of(&counters);
    assert_eq!((told, left, dropped, is_barrier_whole), (all, all, 0, false));
}
