//! Static documents over real sockets: which files are served, how, and which are not.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use hyper::{Request, Response as Answer, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use ringhub::{
    documents::{Body, Documents, whole},
    proto::{Refusal, RequestPath},
};

use crate::support::{Response, dial, exchange, read_response, text_pattern};

/// A folder, and a server that has it at `/site`. A drop ends both.
struct Site {
    folder: PathBuf,
    address: SocketAddr,
    end: Option<(tokio::sync::oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl Site {
    /// Serves these files; a name that ends in a slash is a folder.
    fn new(files: &[(&str, &str)]) -> Site {
        Site::with(files, |documents| documents)
    }

    fn with(files: &[(&str, &str)], set: impl FnOnce(Documents) -> Documents) -> Site {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("site-{}-{number}", std::process::id()));
        let root = folder.join("public");
        fs::create_dir_all(&root).unwrap();
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if name.ends_with('/') { fs::create_dir_all(path).unwrap() } else { fs::write(path, text).unwrap() }
        }
        let documents = set(Documents::new(&root).unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (end, ended) = tokio::sync::oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, documents) => {}
                    _ = ended => {}
                }
            });
        });
        Site { folder, address, end: Some((end, thread)) }
    }

    fn root(&self) -> PathBuf {
        self.folder.join("public")
    }

    /// Sends a request with these header lines, and returns the response.
    fn ask(&self, method: &str, target: &str, lines: &[&str]) -> Response {
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        exchange(self.address, &format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n"))
    }

    fn get(&self, target: &str) -> Response {
        self.ask("GET", target, &[])
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let (end, thread) = self.end.take().expect("a site is dropped once");
        drop(end);
        thread.join().expect("the server has not panicked");
        fs::remove_dir_all(&self.folder).expect("only this removes the folder");
    }
}

async fn serve(listener: std::net::TcpListener, documents: Documents) {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let documents = documents.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let documents = documents.clone();
            async move {
                let answer = match RequestPath::parse(request.uri().path()) {
                    Ok(path) => {
                        let below: Vec<&str> = path.segments().skip(1).collect();
                        documents.answer(&request, &below).await
                    }
                    Err(error) => Err(Refusal::new(400, error.to_string())),
                };
                let answer = answer.unwrap_or_else(|refusal| {
                    let mut answer =
                        Answer::builder().status(refusal.status).header("content-type", "application/json");
                    for (name, value) in &refusal.headers {
                        answer = answer.header(name, value);
                    }
                    answer.body(whole(refusal.body())).unwrap()
                });
                Ok::<Answer<Body>, std::convert::Infallible>(answer)
            }
        });
        tokio::spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
    }
}

#[track_caller]
fn check(response: &Response, status: u16, body: &str) {
    assert_eq!((response.status(), &*response.body), (status, body), "{response:?}");
}

#[test]
fn files_have_their_types() {
    let site = Site::new(&[
        ("index.html", "<p>start"),
        ("a.css", "a{}"),
        ("a.js", "1"),
        ("a.json", "{}"),
        ("a.svg", "<svg/>"),
        ("a.wasm", ""),
        ("plain.txt", "é"),
        ("a.b c+ü.txt", "odd"),
        ("unknown.xyzzy", "?"),
        ("none", "!"),
        ("sub/index.html", "sub"),
        (".well-known/security.txt", "mail us"),
    ]);
    for (target, content_type, body) in [
        ("/site/", "text/html; charset=utf-8", "<p>start"),
        ("/site/index.html", "text/html; charset=utf-8", "<p>start"),
        ("/site/?a=b", "text/html; charset=utf-8", "<p>start"),
        ("/site/a.css", "text/css; charset=utf-8", "a{}"),
        ("/site/a.js", "text/javascript; charset=utf-8", "1"),
        ("/site/a.json", "application/json", "{}"),
        ("/site/a.svg", "image/svg+xml", "<svg/>"),
        ("/site/a.wasm", "application/wasm", ""),
        ("/site/plain.txt", "text/plain; charset=utf-8", "é"),
        ("/site/%70lain%2Etxt", "text/plain; charset=utf-8", "é"),
        ("/site/a.b%20c+%C3%BC.txt", "text/plain; charset=utf-8", "odd"),
        ("/site/unknown.xyzzy", "application/octet-stream", "?"),
        ("/site/none", "application/octet-stream", "!"),
        ("/site/sub/", "text/html; charset=utf-8", "sub"),
        ("/site/.well-known/security.txt", "text/plain; charset=utf-8", "mail us"),
    ] {
        let response = site.get(target);
        check(&response, 200, body);
        assert_eq!(response.header("content-type"), Some(content_type), "{target}");
        assert_eq!(response.header("cache-control"), Some("no-cache"));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(response.header("accept-ranges"), Some("bytes"));
        assert!(response.header("last-modified").is_some(), "{response:?}");
    }
}

/// RFC 9110 9.3.2: the answer to HEAD is that to GET without the body.
#[test]
fn head_is_get_without_a_body() {
    let site = Site::new(&[("a.txt", "hello"), ("sub/", ""), ("index.html/", "")]);
    let (get, head) = (site.get("/site/a.txt"), site.ask("HEAD", "/site/a.txt", &[]));
    let lines = |response: &Response| {
        let lines = response.head.headers().iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date"));
        lines.map(|(name, value)| (name.to_string(), value.to_vec())).collect::<Vec<_>>()
    };
    assert_eq!((head.status(), lines(&head)), (200, lines(&get)));
    assert_eq!(head.header("content-length"), Some("5"));
    // RFC 9110 14.2: a range is for GET only.
    assert_eq!(site.ask("HEAD", "/site/a.txt", &["Range: bytes=1-2"]).header("content-length"), Some("5"));
    for (target, status) in [("/site/b", 404), ("/site/sub", 307), ("/site/sub/", 404), ("/site/", 404)] {
        assert_eq!(site.ask("HEAD", target, &[]).status(), status, "{target}");
        assert_eq!(site.get(target).status(), status, "{target}");
    }
}

/// RFC 9110 15.5.6.
#[test]
fn other_methods_are_not_allowed() {
    let site = Site::new(&[("a.txt", "hello")]);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let response = site.ask(method, "/site/a.txt", &["Content-Length: 0"]);
        assert_eq!((response.status(), response.header("allow")), (405, Some("GET, HEAD")), "{method}");
        assert_eq!(response.error(), "documents take GET and HEAD");
    }
}

/// RFC 9110 13.1.2, 13.1.3, 13.2.2.
#[test]
fn a_document_that_the_client_has_is_not_sent_again() {
    let site = Site::new(&[("a.txt", "hello")]);
    let response = site.get("/site/a.txt");
    let (tag, date) = (response.header("etag").unwrap(), response.header("last-modified").unwrap());
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    let known = |lines: &[&str]| {
        // An answer of 304 has no length, so it is read to its end.
        let mut stream = dial(site.address);
        let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
        write!(stream, "GET /site/a.txt HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.contains(&format!("etag: {tag}\r\n")) && answer.contains("cache-control: no-cache\r\n"),
            "{answer}"
        );
        assert_eq!(answer.starts_with("HTTP/1.1 304 "), answer.ends_with("\r\n\r\n"), "{answer}");
        answer.starts_with("HTTP/1.1 304 ")
    };
    assert!(known(&[&format!("If-None-Match: {tag}")]));
    assert!(known(&[&format!("If-None-Match: \"x\", W/{tag}")]));
    assert!(known(&["If-None-Match: *"]));
    assert!(known(&[&format!("If-Modified-Since: {date}")]));
    assert!(!known(&["If-None-Match: \"x\""]));
    assert!(!known(&["If-None-Match: \"x\"", &format!("If-Modified-Since: {date}")]));
    assert!(!known(&["If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"]));
    assert!(!known(&["If-Modified-Since: yesterday"]));
    let response = site.ask("GET", "/site/a.txt", &["If-Match: \"x\""]);
    assert_eq!((response.status(), &*response.error()), (412, "the document is not the one that was meant"));
    // A new text is another document, even with the same length.
    fs::write(site.root().join("a.txt"), "HELLO").unwrap();
    fs::File::open(site.root().join("a.txt")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let response = site.ask("GET", "/site/a.txt", &[&format!("If-None-Match: {tag}")]);
    check(&response, 200, "HELLO");
}

/// RFC 9110 14.
#[test]
fn ranges() {
    let site = Site::new(&[("a.txt", "0123456789"), ("empty.txt", "")]);
    let tag = site.get("/site/a.txt").header("etag").unwrap().to_string();
    let ask = |lines: &[&str]| site.ask("GET", "/site/a.txt", lines);
    for (range, bytes, body) in [
        ("0-0", "0-0", "0"),
        ("2-4", "2-4", "234"),
        ("7-", "7-9", "789"),
        ("-3", "7-9", "789"),
        ("5-99", "5-9", "56789"),
        ("-10", "0-9", "0123456789"),
    ] {
        let response = ask(&[&format!("Range: bytes={range}")]);
        check(&response, 206, body);
        assert_eq!(response.header("content-range"), Some(&*format!("bytes {bytes}/10")));
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(response.header("etag"), Some(&*tag));
    }
    for range in ["10-", "99-100", "-0", "5-2", "-", "x", "+1-2"] {
        let response = ask(&[&format!("Range: bytes={range}")]);
        assert_eq!((response.status(), response.header("content-range")), (416, Some("bytes */10")), "{range}");
        assert_eq!(response.error(), "the document has no such range of bytes");
    }
    for range in ["0-", "0-0", "-1"] {
        check(&site.ask("GET", "/site/empty.txt", &[&format!("Range: bytes={range}")]), 200, "");
    }
    // Unknown units, several ranges, and suffixes longer than the document give the whole document.
    for lines in [
        &["Range: bytes=-11"][..],
        &["Range: bytes=-99999999999999999999999"],
        &["Range: lines=1-2"],
        &["Range: bytes=0-1,4-5"],
        &["Range: bytes=0-1", "Range: bytes=2-3"],
    ] {
        check(&ask(lines), 200, "0123456789");
    }
    // RFC 9110 13.1.5: a range is only for the document that the client has a part of.
    check(&ask(&["Range: bytes=2-4", &format!("If-Range: {tag}")]), 206, "234");
    for other in ["\"x\"", &format!("W/{tag}"), "Thu, 01 Jan 1970 00:00:00 GMT"] {
        check(&ask(&["Range: bytes=2-4", &format!("If-Range: {other}")]), 200, "0123456789");
        check(&ask(&["Range: bytes=99-", &format!("If-Range: {other}")]), 200, "0123456789");
    }
}

/// A request has at most one file open at a time, as `descriptors` reserves one, even if it opens the file twice.
#[test]
fn a_request_has_one_file_open() {
    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
    let site = Site::new(&[("a.txt", "0123456789")]);
    let events = init(CreateFlags::empty()).unwrap();
    add_watch(&events, site.root().join("a.txt"), WatchFlags::OPEN | WatchFlags::CLOSE_NOWRITE).unwrap();
    check(&site.ask("GET", "/site/a.txt", &["Range: bytes=2-4", "If-Range: \"other\""]), 200, "0123456789");
    drop(site);
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4_096];
    let mut reader = Reader::new(&events, &mut buffer);
    let mut next = || reader.next().unwrap().events();
    let seen: Vec<ReadFlags> = std::iter::from_fn(|| Some(next()).filter(|seen| *seen != ReadFlags::IGNORED)).collect();
    // Each request opens the file for its metadata, then for its content. inotify merges equal events in a row.
    assert_eq!(seen, [ReadFlags::OPEN, ReadFlags::CLOSE_NOWRITE].repeat(4));
}

#[test]
fn folders_are_redirected_into() {
    let site = Site::new(&[("index.html", "start"), ("sub/index.html", "sub"), ("a:b/c/index.html", "deep")]);
    let check = |target: &str, location: &str| {
        let response = site.get(target);
        assert_eq!((response.status(), response.header("location")), (307, Some(location)), "{target}");
        check(&response, 307, "");
    };
    check("/site", "./site/");
    check("/site/sub", "./sub/");
    check("/site/sub?a=/b", "./sub/?a=/b");
    check("/site/s%75b", "./s%75b/");
    check("/site/a:b", "./a:b/");
    check("/site/a:b/c", "./c/");
}

#[test]
fn files_that_are_not_served_are_not_found() {
    let site = Site::new(&[
        ("index.html", "start"),
        ("a.txt", "text"),
        ("sub/b.txt", "b"),
        (".hidden", "secret"),
        (".git/config", "secret"),
        ("sub/.env", "secret"),
        ("back\\slash", "secret"),
        ("denied", "secret"),
        ("folder/index.html/", ""),
    ]);
    fs::write(site.folder.join("outside"), "secret").unwrap();
    fs::set_permissions(site.root().join("denied"), fs::Permissions::from_mode(0o000)).unwrap();
    let status = std::process::Command::new("mkfifo").arg(site.root().join("pipe")).status().unwrap();
    assert!(status.success());
    let socket = std::os::unix::net::UnixListener::bind(short(&site.root()).join("socket")).unwrap();
    for target in [
        "/site/nothing",
        "/site/a.txt/",
        "/site/a.txt/b",
        "/site/sub/",
        "/site/folder/",
        "/site/pipe",
        "/site/socket",
        "/site/.hidden",
        "/site/%2ehidden",
        "/site/.git/config",
        "/site/sub/.env",
        "/site/back%5cslash",
        "/site/..%2foutside",
        "/site/..%5coutside",
        "/site/sub%2fb.txt",
        &format!("/site/{}", "x".repeat(300)),
        &format!("/site/{}", "x/".repeat(3_000)),
    ] {
        let response = site.get(target);
        assert_eq!(response.status(), 404, "{target}: {response:?}");
        assert!(response.error().starts_with("no document is at \"/site/"), "{response:?}");
    }
    for target in [
        "/site//a.txt",
        "/site/sub//b.txt",
        "/site/../outside",
        "/site/%2e%2e/outside",
        "/site/sub/../../outside",
        "/site/sub/%2E%2E/%2E%2E/outside",
        "/site/.",
        "/site/./a.txt",
        "/site/a.txt%00",
        "/site/%00",
        "/site/%ff",
        "/site/%zz",
        "/site/%",
    ] {
        let response = site.get(target);
        assert_eq!(response.status(), 400, "{target}: {response:?}");
        assert!(response.error().starts_with("the path "), "{response:?}");
    }
    // A privileged user can read this file too.
    if fs::read(site.root().join("denied")).is_err() {
        assert_eq!(site.get("/site/denied").status(), 404);
    }
    check(&site.get("/site/sub/b.txt"), 200, "b");
    drop(socket);
}

#[test]
fn links_stay_within_the_folder() {
    let site = Site::new(&[("a.txt", "text"), ("sub/b.txt", "b"), ("v2/index.html", "new")]);
    let (root, outside) = (site.root(), site.folder.join("outside"));
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret.txt"), "secret").unwrap();
    for (target, link) in [
        ("sub/b.txt", "inside.txt"),
        ("../a.txt", "sub/up.txt"),
        ("v2", "current"),
        ("../outside/secret.txt", "file.txt"),
        ("../outside", "folder"),
        ("../public/a.txt", "round.txt"),
        ("loop", "loop"),
        ("nowhere", "broken"),
        ("/proc/self/root", "magic"),
    ] {
        symlink(target, root.join(link)).unwrap();
    }
    symlink(root.join("a.txt"), root.join("absolute.txt")).unwrap();
    check(&site.get("/site/inside.txt"), 200, "b");
    check(&site.get("/site/sub/up.txt"), 200, "text");
    check(&site.get("/site/current/"), 200, "new");
    for target in
        ["file.txt", "folder/secret.txt", "folder", "round.txt", "loop", "broken", "magic/etc/passwd", "absolute.txt"]
    {
        for method in ["GET", "HEAD"] {
            assert_eq!(site.ask(method, &format!("/site/{target}"), &[]).status(), 404, "{target}");
        }
    }
}

/// A file of several pieces goes to a client that reads nothing for a while. Then a second request comes on the
/// connection.
#[test]
fn large_files_are_streamed() {
    let large = text_pattern(8 << 20);
    let site = Site::new(&[("large.txt", &large), ("a.txt", "text")]);
    let mut stream = dial(site.address);
    write!(stream, "GET /site/large.txt HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let response = read_response(&mut stream, &[], true);
    assert!(response.status() == 200 && response.body == large);
    write!(stream, "GET /site/a.txt HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    check(&read_response(&mut stream, &[], true), 200, "text");
    let response = site.ask("GET", "/site/large.txt", &["Range: bytes=1000000-7000000"]);
    assert!(response.status() == 206 && response.body.as_bytes() == &large.as_bytes()[1_000_000..=7_000_000]);
}

#[test]
fn caching_can_be_set() {
    let site = Site::with(&[("a.txt", "text")], |documents| documents.cache_control("public, max-age=60").unwrap());
    assert_eq!(site.get("/site/a.txt").header("cache-control"), Some("public, max-age=60"));
    assert_eq!(site.get("/site").header("cache-control"), Some("public, max-age=60"));
    let documents = Documents::new(site.root()).unwrap();
    assert_eq!(documents.root(), site.root().canonicalize().unwrap());
    for bad in ["", "a\r\nb: c", "ü"] {
        assert!(documents.clone().cache_control(bad).unwrap_err().contains("cannot be sent"), "{bad:?}");
    }
}

#[test]
fn a_folder_that_cannot_be_served() {
    let site = Site::new(&[("a.txt", "text")]);
    let check = |path: PathBuf, what: &str| {
        let error = Documents::new(&path).unwrap_err().to_string();
        assert_eq!(error, format!("the folder {path:?} cannot be served: {what}"));
    };
    check(site.root().join("nothing"), "No such file or directory (os error 2)");
    check(site.root().join("a.txt"), "Not a directory (os error 20)");
}

/// Returns a relative path if possible, since the path of a socket must be short.
fn short(folder: &Path) -> PathBuf {
    let current = std::env::current_dir().unwrap();
    folder.strip_prefix(&current).map_or(folder.into(), Path::to_path_buf)
}
