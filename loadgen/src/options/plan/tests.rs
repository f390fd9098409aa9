use super::*;
use crate::cli::Cli;
use crate::pattern::Values;
use clap::Parser as _;

fn plan(flags: &str) -> Result<Plan, String> {
    let words = ["ringhub-loadgen"].into_iter().chain(flags.split_ascii_whitespace());
    let options = Cli::try_parse_from(words).map_err(|error| error.to_string())?.into_options();
    options.ok_or("no scenario")?.plan().map_err(|error| error.to_string())
}

fn target_of(request: &Request) -> String {
    request.path.fill_text(&Values { topic: "bench", size: 0, connection: 0, id: 0 })
}

fn publish_target(plan: &Plan) -> String {
    match &plan.publishing {
        Publishing::Message { request, .. } => target_of(request),
        Publishing::Post(post) => post.path.fill_text(&Values { topic: "bench", size: 0, connection: 0, id: 0 }),
    }
}

#[test]
fn queries_join_the_path() {
    let plan = plan("--rate 1 --preset ringhub --url ws://localhost:99/t/a?scope=local --pub-query= ").unwrap();
    assert_eq!(plan.endpoint.address, "127.0.0.1:99".parse().unwrap());
    assert_eq!(plan.subscribe.host, "localhost:99");
    assert_eq!(target_of(&plan.subscribe), "/t/a?scope=local&mode=sub");
    assert_eq!(publish_target(&plan), "/t/a?scope=local");
}

#[test]
fn only_the_hubs_own_url_gets_the_hubs_queries() {
    let paths = |flags: &str| {
        let plan = plan(flags).unwrap();
        (target_of(&plan.subscribe), publish_target(&plan))
    };
    let both = |path: &str| (path.to_owned(), path.to_owned());
    assert_eq!(paths("--rate 1"), ("/t/bench?mode=sub".to_owned(), "/t/bench?mode=pub".to_owned()));
    assert_eq!(paths("--rate 1 --url ws://127.0.0.1:1/t/bench"), both("/t/bench"));
    assert_eq!(paths("--rate 1 --url ws://127.0.0.1:1"), both("/"));
    let nchan = ("/sub?id=bench".to_owned(), "/pub?id=bench".to_owned());
    assert_eq!(paths("--rate 1 --preset nchan --url ws://127.0.0.1:1"), nchan);
    let own = ("/live/bench".to_owned(), "/pub?id=bench".to_owned());
    assert_eq!(paths("--rate 1 --preset nchan --url ws://127.0.0.1:1/live/{topic}"), own);
}

#[test]
fn contradictions_are_refused() {
    for flags in [
        "",
        "--rate 0",
        "--in-flight 0",
        "--rate 1 --duration 0",
        "echo --duration 0",
        "ramp --duration 0ms",
        "storm --at-once 0",
        "ramp --steps 0",
        "ramp --factor 1",
        "--rate 1 --in-flight 1",
        "--rate 1 --size 16",
        "--rate 1 --unthrottled",
        "--hold 1s --unthrottled",
        "--rate 1 --url http://127.0.0.1/",
        "--rate 1 --url ws://name.invalid/",
        "--rate 1 --subscribers 0",
        "--hold 1s --verify sample",
        "--rate 1 --duration 3h",
        "--rate 1 --source-addresses 2 --url ws://10.0.0.1/",
        "--rate 1 --topics 2 --url ws://127.0.0.1:1/x",
        "--rate 1 --topics 2 --topics-per-connection 2",
        "--rate 1 --topics 2 --topics-per-connection 3 --subscribe-message {topic}",
        "--rate 1 --topics 0",
        "--rate 1 --topics 2 --url ws://127.0.0.1:1/{topic}",
        "--rate 1 --header x",
        "--rate 1 --reply x",
        "--rate 1 --hello x",
        "--rate 1 --delivery x",
        "--rate 1 --publish-message x",
        "--rate 1 --publish-http POST",
        "--rate 1 --publish-http POST --publish-message {payload}",
        "--rate 1 --preset pusher",
        "--rate 1 --preset pusher --set key=1 --set app=2",
        "--rate 1 --set x",
        "--rate 1 --verify sample --preset socketio",
        "--rate 1 --verify sample --url wss://127.0.0.1:1/ --insecure",
        "--rate 1 --cpu 0,1",
        "churn --in-flight 1",
        "--rate 1 --threads 0",
        "--rate 1 --subscribers 3 --threads 4",
        "churn --rate 1 --churn 0",
        "stall --rate 1 --share 1",
        "stall --rate 1 --share=-0.1",
        "ramp --from 0",
        "ramp --size 20",
        "ramp --in-flight 1",
        "ramp --rate 5",
        "stall --rate 1 --subscribers 5",
        "echo --preset nchan --url ws://127.0.0.1:1",
        "echo --topics 2 --url ws://127.0.0.1:1/{topic}",
        "--rate 1 --cpu 5000",
        "--rate 1 --server-pid 4000000000",
        "--rate 1 --messages 0",
        "--rate 1 --duration 1500m",
        "--rate 1 --total-order --topics 2 --url ws://127.0.0.1:1/{topic}",
        "churn --rate 1 --total-order",
        "--rate 1 --assert other_orders==0",
        "--rate 1 --size 20 --hgrm x",
        "idle --hgrm x",
        "--rate 1 --insecure",
        "--rate 1 --publish-body {payload}",
        "--rate 1 --acknowledgement x",
        r"--rate 1 --url ws://127.0.0.1:1/x\r\nX-Evil:1",
        "ramp --by connections",
        "idle --steps 0",
        "storm --rounds 0",
        "echo --depth 0",
        "echo --connections 70000",
        "replay /no/such/file",
    ] {
        assert!(plan(flags).is_err(), "{flags}");
    }
}

#[test]
fn scenarios_are_commands() {
    for (flags, name) in [
        ("--rate 1", "fanout"),
        ("fanout --rate 1", "fanout"),
        ("--hold 1s", "idle"),
        ("idle --connections 8", "idle"),
        ("echo", "echo"),
        ("storm", "storm"),
        ("churn --rate 1", "churn"),
        ("stall --rate 1", "stall"),
        ("stall --rate 1 --share 0", "stall"),
        ("ramp", "ramp"),
        ("ramp --p99 500us", "ramp"),
        ("echo --subscribers 8", "echo"),
        ("ramp --by connections --rate 10", "ramp"),
    ] {
        assert_eq!(plan(flags).map(|plan| plan.activity.name()), Ok(name), "{flags}");
    }
}

#[test]
fn a_host_of_ones_own_replaces_that_of_the_url() {
    let words = ["ringhub-loadgen", "--rate=1", "--url=ws://127.0.0.1:99/", "--header=host: chat.example"];
    let options = Cli::try_parse_from(words).unwrap().into_options().unwrap();
    let request = options.plan().unwrap().subscribe;
    assert_eq!((&*request.host, &*request.lines), ("chat.example", ""));
}

#[test]
fn braces_that_are_no_placeholder_are_told() {
    let warnings = |flags: &[&str]| {
        let words = ["ringhub-loadgen", "--rate=1"].iter().chain(flags);
        Cli::try_parse_from(words).unwrap().into_options().unwrap().warnings()
    };
    let join = r#"--subscribe-message={"join":"{topics}","id":{id},"more":{}}"#;
    assert_eq!(warnings(&[join]), ["--subscribe-message: {topics} is no placeholder, and stands for itself"]);
    assert_eq!(warnings(&[join, "--set=topics=x"]), [""; 0]);
    let url = "--url=ws://127.0.0.1:1/{room}/{topic}";
    assert_eq!(warnings(&[url]), ["--url: {room} is no placeholder, and stands for itself"]);
    assert_eq!(warnings(&["--hello=await:{any}", "--ignore={name}"]).len(), 1);
    assert_eq!(warnings(&["--preset=pusher", "--set=key=1", "--set=app=2", "--set=secret=3"]), [""; 0]);
}

#[test]
fn sample_is_exact_and_spread() {
    for (sample, count) in [(16, 1_000), (1, 7), (6, 7), (3, 3)] {
        let readers: Vec<usize> = (0..count).filter(|&at| Verify::Sample(sample).reads_frames(at, count)).collect();
        assert_eq!(readers.len(), sample);
        let widest = readers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        assert!(widest <= count.div_ceil(sample), "{sample} of {count}: {readers:?}");
    }
}

#[test]
fn shares_are_all_subscribers_once() {
    for (count, of) in [(10, 3), (1, 4), (8, 1), (7, 7)] {
        let mut all: Vec<usize> = (0..of)
            .map(|index| Share { index, of })
            .flat_map(|share| (0..share.size(count)).map(move |local| share.global(local)))
            .collect();
        all.sort_unstable();
        assert_eq!(all, (0..count).collect::<Vec<_>>(), "{count} of {of}");
    }
}

#[test]
fn many_sockets_spread_over_source_addresses() {
    assert!(plan("--rate 1").unwrap().source_addresses.is_empty());
    assert_eq!(plan("--hold 1 --subscribers 50001").unwrap().source_addresses.len(), 4);
}

#[test]
fn errors_name_the_flag() {
    for (flags, why) in [
        ("fanout", "--rate 100, --in-flight 16"),
        ("churn", "churn needs --rate"),
        ("stall --rate 1 --messages 5", "stall takes no --messages"),
        ("ramp --by connections", "ramp needs --rate"),
        ("storm --connections 0", "--connections must be above 0"),
        ("storm --rounds 0", "--rounds must be above 0"),
        ("storm --at-once 0", "--at-once must be above 0"),
        ("--rate 1 --assert knee>5", "--assert: knee is a figure of ramp"),
        ("--rate 0", "--rate must be above 0"),
        ("--in-flight 0", "--in-flight must be above 0"),
        ("echo --depth 0", "--depth must be above 0"),
        ("--rate 1 --duration 0", "--duration must be above 0"),
        ("ramp --from 0", "--from must be above 0"),
        ("ramp --steps 0", "--steps must be above 0"),
        ("ramp --factor 1", "--factor must be above 1"),
        ("ramp --rate 5", "the first rate of a ramp is --from: leave out --rate"),
        ("--rate 1 --server-pid 4000000000", "--server-pid: there is no process 4000000000"),
        ("ramp --by connections --rate 1 --from 0", "--from"),
        ("--rate 1 --subscribers 0", "--subscribers must be above 0"),
        ("--rate 1 --publishers 0", "--publishers must be above 0"),
        ("echo --connections 70000", "--connections of echo: at most 65535"),
        ("--rate 1 --publishers 70000", "--publishers: at most 65535"),
        ("--rate 1 --source-addresses 255", "--source-addresses is at most 254"),
        ("--rate 1 --duration 1h", "unknown unit `h`; there are us, ms, s and m"),
        ("--rate 1 --url http://h/", "the scheme is http"),
        ("--rate 1 --url ws://me@h/", "a user name stands in it"),
        (
            "--rate 1 --url ws://me:pw@h:1/x?access_token=SECRET",
            "ws://***@h:1/x?access_token=***: a user name stands in it",
        ),
        ("--rate 1 --url ws://h:1#part", "a space, a control character or a # stands in it"),
        ("--rate -5", "expected a whole number"),
        ("--rate 0.5", "expected a whole number"),
        ("--rate 1 --size 65MiB", "expected a whole number"),
        ("ramp --factor 50%", "expected a number, such as 1.5"),
        ("ramp --p99 10", "10 has no unit; there are us, ms, s and m"),
        ("--rate 1 --header Upgrade:x", "--header: the generator sends Upgrade itself"),
        (
            "--rate 1 --subprotocol a --header Sec-WebSocket-Protocol:b",
            "--header: Sec-WebSocket-Protocol is that of --subprotocol",
        ),
        ("--rate 1 --preset pusher", "give --set key=VALUE"),
        ("--rate 1 --delivery {any}{payload}", "--delivery: the pattern `{any}{payload}`: "),
        ("--rate 1 --ignore {any}{any}", "--ignore: the pattern"),
        ("--rate 1 --hello await:{any}{any}", "--hello: the pattern"),
    ] {
        assert!(plan(flags).is_err_and(|found| found.contains(why)), "{flags}: {:?}", plan(flags).map(drop));
    }
}
