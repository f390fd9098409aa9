//! The applications of `examples/login` in a real browser: a user logs in, watches an own topic and no other one.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use crate::{browser::Browser, support::Server};

/// Logs in to the application in Node.
pub(crate) fn in_node(browser: &mut Browser) {
    log_in(browser, |command, _| command.args(["node", "examples/login/server.mjs"]));
}

/// Logs in to the application in Python.
pub(crate) fn in_python(browser: &mut Browser) {
    log_in(browser, |command, _| command.args(["python3", "examples/login/server.py"]));
}

/// Logs in to the application in PHP.
pub(crate) fn in_php(browser: &mut Browser) {
    log_in(browser, |command, port| {
        command.args(["php", "-S", &format!("127.0.0.1:{port}"), "examples/login/server.php"])
    });
}

/// Starts a hub and an application, and uses the application's page as its user does.
fn log_in(browser: &mut Browser, program: impl FnOnce(&mut Command, u16) -> &mut Command) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hub = start_hub(port);
    let mut command = Command::new("env");
    command.arg(format!("HUB=http://{}", hub.address())).arg(format!("PORT={port}"));
    let application = Application::start(program(&mut command, port), port);
    let mut page = browser.page();
    page.open(&format!("http://127.0.0.1:{port}/"));
    page.type_into("password", "guess");
    page.click("#login button");
    page.until_says("said", "refused");
    page.type_into("password", "wonderland");
    page.click("#login button");
    page.until_says("own", "live");
    page.until_says("other", "not allowed");
    page.click("#pay");
    page.until_says("list", "paid");
    assert_eq!(page.eval("JSON.parse(document.querySelector('#list li').textContent).by"), "alice");
    assert_eq!(page.eval("document.querySelectorAll('#list li').length"), 1);
    drop(application);
}

/// Starts a hub with the settings of the example, whose application has another port here.
fn start_hub(port: u16) -> Server {
    let settings = fs::read_to_string("examples/login/ringhub.toml").unwrap();
    let own = settings.replace("http://127.0.0.1:8000", &format!("http://127.0.0.1:{port}"));
    assert_ne!(own, settings, "the example names the origin of its application");
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("login-{port}.toml"));
    fs::write(&path, own).unwrap();
    Server::start(&["--config", path.to_str().unwrap()])
}

/// An application that serves. A drop ends it.
struct Application(Child);

impl Application {
    /// Starts an application, and waits until it accepts connections.
    fn start(command: &mut Command, port: u16) -> Application {
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut application = Application(process);
        for _ in 0..300 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                // What the application writes later must not fill the pipe.
                let errors = application.0.stderr.take().unwrap();
                thread::spawn(move || BufReader::new(errors).lines().map_while(Result::ok).for_each(drop));
                return application;
            }
            if application.0.try_wait().unwrap().is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        _ = application.0.kill();
        let mut said = String::new();
        _ = application.0.stderr.take().unwrap().read_to_string(&mut said);
        panic!("the application does not serve: {said}");
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        // It may have ended by itself.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
