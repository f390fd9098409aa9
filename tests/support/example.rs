//! Starts the package's examples as processes.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use rustix::process::Signal;

use crate::support::{Client, program::Program};

/// A running example that is a server. A drop ends the example, and fails the test if its end was not orderly.
pub(crate) struct Example {
    program: Program,
    address: SocketAddr,
    has_ended: bool,
}

impl Example {
    /// Starts the example on a free port of the loopback.
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Example {
        Example::start_program(&example(name), arguments)
    }

    /// Starts an example that is built.
    pub(crate) fn start_program(path: &Path, arguments: &[&str]) -> Example {
        let mut command = Command::new(path);
        command.args(arguments).args(["--listen", "127.0.0.1:0"]).env("RUST_BACKTRACE", "1");
        let program = Program::start(command);
        let first = program.line().unwrap_or_else(|| panic!("{} did not start:\n{}", path.display(), program.log()));
        let authority = first.split("://").nth(1).and_then(|rest| rest.split('/').next());
        let address = authority.and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {first:?}"));
        Example { program, address, has_ended: false }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn connect(&self, target: &str) -> Client {
        Client::connect(self.address, target)
    }

    /// Returns the next line of standard output; the line with the address has been read.
    pub(crate) fn line(&self) -> Option<String> {
        self.program.line()
    }

    pub(crate) fn log_until(&self, what: &str) {
        self.program.log_until(what);
    }

    /// Sends SIGINT, as Ctrl-C does. The example closes its clients' connections before it ends.
    pub(crate) fn interrupt(&self) {
        self.program.signal(Signal::INT);
    }

    /// Waits for the example's end, which must be orderly.
    pub(crate) fn wait(&mut self) {
        self.has_ended = true;
        let (status, log) = (self.program.wait(), self.program.log());
        assert!(status.success() && !log.contains("panicked"), "the example ended with {status}:\n{log}");
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the example's log:\n{}", self.program.log());
        } else if !self.has_ended {
            self.program.signal(Signal::TERM);
            self.wait();
        }
    }
}

/// Builds an example of this package with the profile of this test, and returns its path.
pub(crate) fn example(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    // target/<profile>/deps/<this>
    let profile = this.ancestors().nth(2).unwrap();
    let target = profile.parent().unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--package", "ringhub", "--example", name]);
    build.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    // Cargo's variables describe the package of this test. With them, other packages' build scripts would run again.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            build.env_remove(name);
        }
    }
    if profile.file_name().is_some_and(|name| name == "release") {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the example does not compile");
    profile.join("examples").join(name)
}
