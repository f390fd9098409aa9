//! Servers with the routes of a settings file.

use std::{
    fs,
    io::{Read as _, Write as _},
    path::PathBuf,
};

use ringhub::proto::OpCode;

use crate::support::{
    Client, Server, binary, clean, dial, exchange, frame, pattern, post, program, published, text, upgrade_request,
};

/// A folder for one test, which a drop removes.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("ringhub-routes-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("site/private")).unwrap();
        fs::write(path.join("site/index.html"), "<!doctype html>home").unwrap();
        fs::write(path.join("site/private/plan.txt"), "secret plan").unwrap();
        Folder(path)
    }

    fn serve(&self, settings: &str) -> Server {
        let file = self.0.join("ringhub.toml");
        fs::write(&file, settings).unwrap();
        let mut command = clean(program());
        command.args(["serve", "--config"]).arg(file);
        Server::start_command(command)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn get(server: &Server, target: &str, headers: &str) -> crate::support::Response {
    exchange(server.address(), &format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"))
}

const SETTINGS: &str = r#"
    [[routes]]
    match = "/rooms/{topic}"
    handler = "hub"
    admit = "any"
    basic = { realm = "rooms", users = { alice = "secret" } }
    bearer = { tokens = { service = "a-word" } }

    [[routes]]
    match = "/echo"
    handler = "echo"
    protocols = ["v2.echo", "v1.echo"]
    max_message = "10B"

    [[routes]]
    match = "/"
    documents = "./site"

    [[routes]]
    match = "/private"
    documents = "./site/private"
    bearer = { tokens = { auditor = "let-me-in" } }
"#;

/// `alice:secret`.
const ALICE: &str = "Authorization: Basic YWxpY2U6c2VjcmV0\r\n";

#[test]
fn the_notes_at_the_start_name_the_routes() {
    let folder = Folder::new("start");
    let notes = |settings: &str| folder.serve(settings).notes().to_owned();
    let with_routes = notes(SETTINGS);
    let routes = "/rooms/{topic} (hub), /echo (echo), / (files), /private (files)";
    assert!(with_routes.contains(routes) && !with_routes.contains("/t/TOPIC"), "{with_routes}");
    let without = notes("metrics_listen = \"127.0.0.1:0\"");
    assert!(without.contains("/t/TOPIC") && !without.contains("routes:"), "{without}");
    // The notes name the actual port instead of port 0.
    assert!(without.contains("/metrics") && !without.contains(":0/metrics"), "{without}");
}

#[test]
fn a_hub_with_people() {
    let folder = Folder::new("hub");
    let server = folder.serve(SETTINGS);
    let open = |headers: &str| {
        let request = upgrade_request("/rooms/a%20b?echo=true").replacen("\r\n", &format!("\r\n{headers}"), 1);
        exchange(server.address(), &request)
    };
    // A shard refuses the first request, the control thread the second; each answer has a challenge for each
    // authenticator.
    for refused in [open(""), get(&server, "/rooms/x", "")] {
        assert_eq!(refused.status(), 401);
        let challenges: Vec<&[u8]> = refused.head.headers().get_all("www-authenticate").collect();
        assert_eq!(challenges, [&b"Basic realm=\"rooms\", charset=\"UTF-8\""[..], b"Bearer"]);
    }
    assert_eq!(get(&server, "/rooms/x", ALICE).status(), 426);
    // Topics have no other path.
    assert_eq!(get(&server, "/t/x", "").status(), 404);
    assert_eq!(exchange(server.address(), &upgrade_request("/t/x")).status(), 404);
    let mut client = {
        let (name, value) = ALICE.trim_end().split_once(": ").unwrap();
        Client::open_with(dial(server.address()), "/rooms/a%20b?echo=true", &[], &[(name, value)]).unwrap()
    };
    client.send_text("hello");
    client.expect(text("hello"));
    let post = post("/rooms/a%20b", "text/plain", "posted");
    assert_eq!(exchange(server.address(), &post).status(), 401);
    let (topic, _, offset) = published(&exchange(server.address(), &post.replacen("\r\n", &format!("\r\n{ALICE}"), 1)));
    assert_eq!((&*topic, offset), ("a b", 2));
    client.expect(text("posted"));
}

#[test]
fn an_echo_with_rules() {
    let folder = Folder::new("echoes");
    let server = folder.serve(SETTINGS);
    let offer = ["v1.echo", "v2.echo"];
    let mut client = Client::open_with(dial(server.address()), "/echo", &offer, &[]).unwrap();
    assert_eq!(client.protocol(), Some("v2.echo"));
    client.send_text("0123456789");
    client.expect(text("0123456789"));
    client.send_text("0123456789a");
    client.expect_close(1009, "a message is larger than 10 bytes");
    assert_eq!(get(&server, "/echo", "").status(), 426);
}

#[test]
fn files_and_what_is_private_among_them() {
    let folder = Folder::new("files");
    let server = folder.serve(SETTINGS);
    let home = get(&server, "/", "");
    assert_eq!((home.status(), &*home.body), (200, "<!doctype html>home"));
    for private in ["/private/plan.txt", "/%70rivate/plan.txt", "/private/", "/private"] {
        assert_eq!(get(&server, private, "").status(), 401, "{private}");
    }
    let plan = get(&server, "/private/plan.txt", "Authorization: Bearer let-me-in\r\n");
    assert_eq!((plan.status(), &*plan.body), (200, "secret plan"));
    for none in ["//private/plan.txt", "///private/plan.txt", "http://a//private/plan.txt", "/../ringhub.toml"] {
        assert_eq!(get(&server, none, "").status(), 400, "{none}");
    }
    for nothing in ["/%2Fprivate/plan.txt", "/private%2Fplan.txt", "/index.html/"] {
        assert_eq!(get(&server, nothing, "").status(), 404, "{nothing}");
    }
    assert_eq!(get(&server, "http://a/private/plan.txt", "").status(), 401);
    assert_eq!(get(&server, "/healthz", "").status(), 200);
    let delete = "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(exchange(server.address(), delete).status(), 405);
}

/// Clients that do not read their files use up the places for files; all other requests are still served.
#[test]
fn files_under_way_have_a_limit() {
    let folder = Folder::new("limit");
    fs::write(folder.0.join("site/large.bin"), vec![7; 16 << 20]).unwrap();
    let server = folder.serve(SETTINGS);
    let request = "GET /large.bin HTTP/1.1\r\nHost: a\r\n\r\n";
    let takers: Vec<_> = (0..64)
        .map(|_| {
            let mut taker = crate::support::dial_with(server.address(), Some(4_096));
            taker.write_all(request.as_bytes()).unwrap();
            // The answer has begun.
            taker.read_exact(&mut [0; 12]).unwrap();
            taker
        })
        .collect();
    let refused = get(&server, "/", "");
    assert_eq!((refused.status(), refused.header("retry-after")), (503, Some("1")));
    assert_eq!(get(&server, "/healthz", "").status(), 200);
    drop(takers);
    while get(&server, "/", "").status() != 200 {}
    assert!(server.counts().get("refused_total{cause=\"limit\"}") > 0);
}

/// A route's allowed origins replace the server's, also on a shard, on the control thread, and on a connection that the
/// control thread hands to a shard.
#[test]
fn origins_of_a_route_instead_of_the_servers() {
    let folder = Folder::new("origins");
    let server = folder.serve(
        "allowed_origins = [\"https://server.example\"]\n\
         [[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\nallowed_origins = [\"https://route.example\"]",
    );
    for (origin, is_allowed) in [("https://route.example", true), ("https://server.example", false)] {
        let header = format!("Origin: {origin}\r\n");
        let with = |request: String| request.replacen("\r\n", &format!("\r\n{header}"), 1);
        let status = |allowed: u16| if is_allowed { allowed } else { 403 };
        let posted = exchange(server.address(), &with(post("/t/x", "text/plain", "x")));
        assert_eq!(posted.status(), status(202), "{origin}");
        // With this header line a browser lets the page read the answer.
        assert_eq!(posted.header("access-control-allow-origin"), is_allowed.then_some(origin));
        assert_eq!(get(&server, "/t/x", &header).status(), status(426), "{origin}");
        let opened = Client::open_with(dial(server.address()), "/t/x", &[], &[("Origin", origin)]);
        assert_eq!(opened.is_ok(), is_allowed, "{origin}");
        let mut stream = dial(server.address());
        stream.write_all(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        crate::support::take_response(&mut stream, Vec::new(), true);
        let opened = Client::open_with(stream, "/t/x", &[], &[("Origin", origin)]);
        assert_eq!(opened.is_ok(), is_allowed, "{origin}, behind another request");
    }
}

/// Returns two statuses of a request: on a new connection, where a shard answers, and after another request on a kept
/// connection. There the control thread answers, or hands the request to a shard.
fn both_ways(server: &Server, request: &str) -> [u16; 2] {
    let mut kept = dial(server.address());
    kept.write_all(b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let (_, rest) = crate::support::take_response(&mut kept, Vec::new(), true);
    kept.write_all(request.as_bytes()).unwrap();
    let mut own = dial(server.address());
    own.write_all(request.as_bytes()).unwrap();
    [status(&mut own, Vec::new()), status(&mut kept, rest)]
}

/// Returns the status of a response. A 101 has no length, so only the status line is read.
fn status(stream: &mut std::net::TcpStream, mut begin: Vec<u8>) -> u16 {
    while begin.len() < STATUS_LINE.len() {
        let mut chunk = [0; 1_024];
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "no response");
        begin.extend_from_slice(&chunk[..count]);
    }
    str::from_utf8(&begin[STATUS_LINE.len() - 3..STATUS_LINE.len()]).unwrap().parse().unwrap()
}

const STATUS_LINE: &str = "HTTP/1.1 200";

/// The most precise route gets a path, not the first in the file, on every thread and for every kind of request.
#[test]
fn routes_within_routes() {
    let folder = Folder::new("within");
    let server = folder.serve(
        "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n\
         [[routes]]\nmatch = \"/t/admin/{topic...}\"\nhandler = \"hub\"\nbearer = { tokens = { admin = \"a-word\" } }\n\
         [[routes]]\nmatch = \"/t/echo\"\nhandler = \"echo\"\n\
         [[routes]]\nmatch = \"/t/files\"\ndocuments = \"./site\"\n",
    );
    let post = |target: &str| post(target, "text/plain", "x");
    assert_eq!(both_ways(&server, &post("/t/admin/x")), [401; 2]);
    assert_eq!(both_ways(&server, &upgrade_request("/t/admin/x")), [401; 2]);
    assert_eq!(both_ways(&server, &post("/t/admin/x?access_token=a-word")), [202; 2]);
    assert_eq!(both_ways(&server, &upgrade_request("/t/admin/x?access_token=a-word")), [101; 2]);
    // An echo takes any query, and no POST.
    assert_eq!(both_ways(&server, &upgrade_request("/t/echo?name=ann")), [101; 2]);
    assert_eq!(both_ways(&server, &post("/t/echo")), [405; 2]);
    // A route of files opens no WebSocket, and the server's own paths are no topics.
    assert_eq!(both_ways(&server, &upgrade_request("/t/files/index.html")), [404; 2]);
    assert_eq!(get(&server, "/t/files/index.html", "").body, "<!doctype html>home");
    for own in ["/healthz", "/readyz", "/metrics", "/"] {
        assert_eq!(both_ways(&server, &upgrade_request(own)), [404; 2], "{own}");
        assert_eq!(get(&server, own, "").status(), 200, "{own}");
    }
}

/// The rules of a topic hold for every route of the hub and every spelling of the topic's name. They hold for
/// WebSocket, POST and GET, on a shard and on the control thread.
#[test]
fn a_gate_protects_topics_and_not_paths() {
    let folder = Folder::new("topics");
    let server = folder.serve(
        "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n\
         [[routes]]\nmatch = \"/rooms/{topic}\"\nhandler = \"hub\"\n\
         [[routes]]\nmatch = \"/{topic...}\"\nhandler = \"hub\"\ntopic_prefix = \"public/\"\n\
         [[routes]]\nmatch = \"/staff/{topic...}\"\nhandler = \"hub\"\ntopic_prefix = \"staff/\"\n\
         bearer = { tokens = { auditor = \"let-me-in\" } }\nallowed_origins = [\"https://staff.example\"]\n",
    );
    let all = |target: &str, header: &str| {
        let with = |request: String| request.replacen("\r\n", &format!("\r\n{header}"), 1);
        let get = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        [upgrade_request(target), post(target, "text/plain", "x"), get]
            .map(|request| both_ways(&server, &with(request)))
    };
    let (refused, open) = ([[401; 2]; 3], [[101; 2], [202; 2], [426; 2]]);
    let reach_it = [
        "/staff/plan",
        "/t/staff/plan",
        "/t/st%61ff%2Fplan",
        "/rooms/staff%2Fplan",
        "/t/staff%2fplan",
        "/staff/%70lan",
    ];
    for target in reach_it {
        assert_eq!(all(target, ""), refused, "{target}");
        assert_eq!(all(target, "Authorization: Bearer let-me-in\r\n"), open, "{target}");
        let foreign = "Authorization: Bearer let-me-in\r\nOrigin: https://other.example\r\n";
        assert_eq!(all(target, foreign), [[403; 2]; 3], "{target}");
        let ours = "Authorization: Bearer let-me-in\r\nOrigin: https://staff.example\r\n";
        assert_eq!(all(target, ours), open, "{target}");
    }
    // If the rule is another route's, the error names that route.
    let error = |target: &str, header: &str| get(&server, target, header).error();
    assert_eq!(error("/staff/plan", ""), "this needs a bearer token");
    let elsewhere =
        "this needs a bearer token: by the rules of the route /staff/{topic...}, which leads to the same topic";
    assert_eq!(error("/t/staff/plan", ""), elsewhere);
    for target in ["/t/news", "/rooms/staf", "/rooms/staff", "/t/Staff/plan", "/public-plan", "/t/public/staff/plan"] {
        assert_eq!(all(target, ""), open, "{target}");
    }
    // The prefix of a route is a part of its topics' names.
    for (target, topic) in [("/t/staff/plan", "staff/plan"), ("/staff/plan", "staff/plan"), ("/news", "public/news")] {
        let post = post(target, "text/plain", "x").replacen("\r\n", "\r\nAuthorization: Bearer let-me-in\r\n", 1);
        assert_eq!(published(&exchange(server.address(), &post)).0, topic, "{target}");
    }
    // A page that may not use a topic may not read the answer either.
    let origin = "Origin: https://other.example\r\n";
    assert_eq!(get(&server, "/t/staff/plan", origin).header("access-control-allow-origin"), None);
    assert_eq!(get(&server, "/t/news", origin).header("access-control-allow-origin"), Some("https://other.example"));
}

/// GET, POST and an upgrade of the same target are judged alike, on a new connection and after another request.
#[test]
fn odd_targets_are_judged_alike() {
    let folder = Folder::new("odd");
    let server = folder.serve("[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"");
    let check = |target: &str, posted: u16, got: u16, opened: u16| {
        assert_eq!(both_ways(&server, &post(target, "text/plain", "x")), [posted; 2], "POST {target}");
        assert_eq!(both_ways(&server, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")), [got; 2], "GET {target}");
        assert_eq!(both_ways(&server, &upgrade_request(target)), [opened; 2], "upgrade {target}");
    };
    for target in ["/t/a", "/t/%61", "http://a/t/a", "/t/|\\{a}^", "/t/a%2F%2Fb", "/t/%3C", "/t/a?access_token=`"] {
        check(target, 202, 426, 101);
    }
    for target in [
        "/t/<",
        "/t/a>",
        "/t/`",
        "/t/\"",
        "/t/a?access_token=<",
        "/t/a?access_token=\"",
        "//t/a",
        "/t//a",
        "/t/../t/a",
        "/t/a/.",
        "/t/%2e%2e",
        "/t/",
        "/t/%",
        "/t/%ff",
        "/t/%0a",
        "http://u@a/t/a",
        "t/a",
    ] {
        check(target, 400, 400, 400);
    }
    // RFC 9110 10.1.1: an unknown expectation is refused for every kind of request.
    let expecting = |request: String| request.replacen("\r\n", "\r\nExpect: foo\r\n", 1);
    let get = "GET /t/a HTTP/1.1\r\nHost: a\r\n\r\n".to_string();
    for request in [post("/t/a", "text/plain", "x"), get, upgrade_request("/t/a")] {
        assert_eq!(both_ways(&server, &expecting(request)), [417; 2]);
    }
    let query = "/t/a?%6dode=s%75b&ech%6f=true&%61ccess_token=%78";
    assert_eq!(both_ways(&server, &upgrade_request(query)), [101; 2]);
    assert_eq!(both_ways(&server, &post("/t/a?%61ccess_token=x", "text/plain", "x")), [202; 2]);
    for target in ["/x", "/t", "/%2Ft/a", "*"] {
        check(target, 404, 404, 404);
    }
}

/// The largest message of a topic is the smallest limit of all routes that lead to the topic, for WebSocket and for
/// POST.
#[test]
fn a_topic_decides_how_large_a_message_may_be() {
    let folder = Folder::new("sizes");
    let server = folder.serve(
        "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\nmax_message = \"2KiB\"\n\
         [[routes]]\nmatch = \"/s/{topic...}\"\nhandler = \"hub\"\ntopic_prefix = \"small/\"\nmax_message = \"1KiB\"\n\
         [[routes]]\nmatch = \"/l/{topic...}\"\nhandler = \"hub\"\ntopic_prefix = \"large/\"\nmax_message = \"1MiB\"\n",
    );
    for (target, most) in [("/t/x", 2_048), ("/s/x", 1_024), ("/t/small/x", 1_024), ("/l/x", 2_048)] {
        let message = "x".repeat(most);
        let mut subscriber = server.connect(&format!("{target}?mode=sub"));
        published(&exchange(server.address(), &post(target, "text/plain", &message)));
        let mut publisher = server.connect(&format!("{target}?mode=pub"));
        publisher.send_text(&message);
        (0..2).for_each(|_| subscriber.expect(text(&message)));
        for more in [most + 1, 100_000] {
            let refused = exchange(server.address(), &post(target, "text/plain", &"x".repeat(more)));
            assert_eq!(refused.status(), 413, "{target} {more}");
            assert!(refused.error().ends_with(&format!(" {most} bytes")), "{target}: {}", refused.error());
            let mut publisher = server.connect(&format!("{target}?mode=pub"));
            publisher.send_text(&"x".repeat(more));
            publisher.expect_close(1009, &format!("a message is larger than {most} bytes"));
        }
    }
}

/// If the hub has its usual path and no other route has `/`, the page is at `/`.
#[test]
fn the_page_is_where_the_topics_are() {
    let folder = Folder::new("page");
    let server = folder.serve("[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"");
    let page = get(&server, "/", "");
    assert_eq!(page.status(), 200);
    assert!(page.body.contains("<title>"));
    let server = folder.serve("[[routes]]\nmatch = \"/rooms/{topic}\"\nhandler = \"hub\"");
    assert_eq!(get(&server, "/", "").status(), 404);
}

/// The page is where a route says, under that route's rules, and nowhere else.
#[test]
fn a_page_with_rules() {
    let folder = Folder::new("page-rules");
    let server = folder.serve(
        "[[routes]]\nmatch = \"/t/{topic...}\"\nhandler = \"hub\"\n\
         [[routes]]\nmatch = \"/watch\"\nhandler = \"page\"\nallowed_origins = [\"https://a.example\"]\n\
         basic = { realm = \"r\", users = { alice = \"secret\" } }\n",
    );
    assert!(server.notes().contains("/watch (page)"), "{}", server.notes());
    let refused = get(&server, "/watch", "");
    assert_eq!((refused.status(), refused.header("www-authenticate").is_some()), (401, true));
    assert_eq!(get(&server, "/watch", &format!("{ALICE}Origin: https://b.example\r\n")).status(), 403);
    let page = get(&server, "/watch", ALICE);
    assert_eq!((page.status(), page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    // One policy is the page's, the other that of all answers with restricted origins.
    assert_eq!(page.head.headers().get_all("content-security-policy").count(), 2);
    assert!(page.body.contains("<title>"));
    assert_eq!(both_ways(&server, &post("/watch", "text/plain", "x")), [405; 2]);
    assert_eq!(both_ways(&server, &upgrade_request("/watch")), [404; 2]);
    for nothing in ["/", "/watch/", "/watch/x"] {
        assert_eq!(get(&server, nothing, ALICE).status(), 404, "{nothing}");
    }
    // A route can also put the page at `/`, beside files.
    let server = folder
        .serve("[[routes]]\nmatch = \"/\"\nhandler = \"page\"\n[[routes]]\nmatch = \"/\"\ndocuments = \"./site\"\n");
    assert!(get(&server, "/", "").body.contains("<title>"));
    assert_eq!(get(&server, "/private/plan.txt", "").body, "secret plan");
}

/// A client that sends everything before it reads gets everything back: the server stops reading while the client does
/// not read.
#[test]
fn an_echo_loses_nothing() {
    const COUNT: usize = 4_000;
    let folder = Folder::new("echo-all");
    let server = folder.serve("listen = \"127.0.0.1:0\"\n[[routes]]\nmatch = \"/echo\"\nhandler = \"echo\"\n");
    let mut client = server.connect("/echo");
    let mut stream = client.stream().try_clone().unwrap();
    let (begin, may_begin) = std::sync::mpsc::channel();
    let sender = std::thread::spawn(move || {
        for number in 0..COUNT {
            stream.write_all(&frame(OpCode::Binary, true, &pattern(number, 16_384))).unwrap();
            if number == 1_000 {
                begin.send(()).unwrap();
            }
        }
    });
    // By then all messages are under way, which the sockets' buffers cannot hold, or the sender waits.
    if may_begin.recv_timeout(std::time::Duration::from_secs(2)).is_err() {
        println!("the sender waits");
    }
    for number in 0..COUNT {
        client.expect(binary(&pattern(number, 16_384)));
    }
    sender.join().unwrap();
    assert!(server.counts().get("parked_total") > 0, "the server never stopped reading");
    client.leave();
}
