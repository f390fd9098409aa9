//! The filter on a thread of its own: what it refuses, and what it lets a server do.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixDatagram,
    process::Command,
    thread,
};

use seccompiler::apply_filter;

use super::*;

/// Calls `run` on a thread that has the filter. The other threads of the process have no filter.
fn under_the_filter<T: Send>(needs: &[Need], run: impl FnOnce() -> T + Send) -> T {
    let filter = SandboxFilter::new(needs, RefusedCall::Eperm).unwrap();
    let run = || {
        filter.programs.iter().for_each(|program| apply_filter(program).unwrap());
        run()
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// Makes the system call with this number and these arguments. Returns the number of its error; 0 if it succeeds.
fn error_of(call: libc::c_long, arguments: [libc::c_long; 4]) -> i32 {
    let [first, second, third, fourth] = arguments;
    // SAFETY: the filter refuses the calls of the tests, or the calls take only numbers and null pointers.
    let outcome = unsafe { libc::syscall(call, first, second, third, fourth) };
    if outcome < 0 { io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
}

fn errno<T>(outcome: io::Result<T>) -> Option<i32> {
    outcome.err().map(|error| error.raw_os_error().expect("an error of the kernel"))
}

#[test]
fn what_a_serving_server_does_not_do_is_refused() {
    under_the_filter(&[], || {
        let refused = Some(libc::EPERM);
        // SAFETY: the call takes only null pointers, and fails before it uses them.
        let execve = unsafe { libc::execve(std::ptr::null(), std::ptr::null(), std::ptr::null()) };
        assert_eq!((execve, io::Error::last_os_error().raw_os_error()), (-1, refused), "execve");
        assert_eq!(errno(Command::new("/bin/true").spawn()), refused, "a process");
        assert_eq!(errno(TcpListener::bind("127.0.0.1:0")), refused, "a socket of IPv4");
        assert_eq!(errno(UdpSocket::bind("[::1]:0")), refused, "a socket of IPv6");
        assert_eq!(errno(UnixDatagram::unbound()), refused, "a Unix socket");
        assert_eq!(errno(fs::File::create("/dev/null")), refused, "a file to write to");
        assert_eq!(errno(fs::OpenOptions::new().append(true).open("/dev/null")), refused, "a file to append to");
        for (name, call, arguments) in [
            ("ptrace", libc::SYS_ptrace, [libc::PTRACE_TRACEME as _, 0, 0, 0]),
            ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0]),
            ("io_uring_register", libc::SYS_io_uring_register, [-1, 0, 0, 0]),
            ("fork", libc::SYS_clone, [libc::SIGCHLD as _, 0, 0, 0]),
            ("a thread in a name space", libc::SYS_clone, [(libc::CLONE_THREAD | libc::CLONE_NEWUSER) as _, 0, 0, 0]),
            ("mmap of code", libc::SYS_mmap, [0, 4_096, libc::PROT_EXEC as _, libc::MAP_PRIVATE as _]),
            ("mprotect of code", libc::SYS_mprotect, [0, 4_096, (libc::PROT_READ | libc::PROT_EXEC) as _, 0]),
            ("prctl", libc::SYS_prctl, [libc::PR_SET_DUMPABLE as _, 1, 0, 0]),
            ("ioctl of a terminal", libc::SYS_ioctl, [0, libc::TIOCSTI as _, 0, 0]),
            ("kill", libc::SYS_kill, [1, 0, 0, 0]),
            ("tgkill of another process", libc::SYS_tgkill, [1, 1, 0, 0]),
            ("a limit of another process", libc::SYS_prlimit64, [1, 0, 0, 0]),
            ("a limit that is set", libc::SYS_prlimit64, [0, 0, 8, 0]),
            ("openat2", libc::SYS_openat2, [-1, 0, 0, 0]),
            ("unlinkat", libc::SYS_unlinkat, [-1, 0, 0, 0]),
            ("another filter", libc::SYS_seccomp, [1, 0, 0, 0]),
        ] {
            assert_eq!(error_of(call, arguments), libc::EPERM, "{name}");
        }
        assert_eq!(error_of(libc::SYS_clone3, [0, 0, 0, 0]), libc::ENOSYS, "the C library tries clone then");
    });
}

#[test]
fn a_filter_is_tried_out_on_a_thread_of_its_own() {
    let filter = SandboxFilter::new(&[], RefusedCall::Eperm).unwrap();
    filter.try_out().unwrap();
    // The filter would refuse this.
    assert_eq!(errno(UdpSocket::bind("127.0.0.1:0")), None);
    // A filter that allows no other is told.
    let told = under_the_filter(&[], || filter.try_out().unwrap_err().to_string());
    assert!(told.contains("the sandbox cannot be set up"), "{told}");
}

#[test]
fn a_serving_server_goes_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    under_the_filter(&[], || {
        thread::Builder::new().name("reader".into()).spawn(|| {}).unwrap().join().unwrap();
        assert!(fs::read_to_string("/proc/thread-self/status").unwrap().contains("\nSeccomp:\t2\n"));
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        assert_eq!(errno(accepted.peek(&mut [0])), Some(libc::EAGAIN));
        drop(accepted);
        // The allocator takes the memory of a large allocation by `mmap`.
        assert_eq!(vec![7_u8; 64 << 20].len(), 64 << 20);
        // Signal 0 is not delivered: the kernel only checks that the thread exists.
        let (process, thread) = (std::process::id(), rustix::thread::gettid().as_raw_nonzero().get());
        assert_eq!(error_of(libc::SYS_tgkill, [process.into(), thread.into(), 0, 0]), 0);
        let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert!(limits.current.is_some());
        assert!(std::panic::catch_unwind(|| panic!("with its backtrace")).is_err());
    });
    drop(client);
}

/// Each need allows the calls that it takes, and not the calls of another need.
#[test]
fn a_need_opens_what_it_takes() {
    let openat2 = || error_of(libc::SYS_openat2, [-1, 0, 0, 0]);
    under_the_filter(&[Need::Files], || {
        assert_ne!(openat2(), libc::EPERM);
        assert_eq!(errno(UnixDatagram::unbound()), Some(libc::EPERM));
    });
    under_the_filter(&[Need::Outbound], || {
        assert_eq!((openat2(), errno(UnixDatagram::unbound())), (libc::EPERM, Some(libc::EPERM)));
        assert_eq!(errno(UdpSocket::bind("127.0.0.1:0")), None);
        assert_eq!(errno(TcpListener::bind("127.0.0.1:0")), Some(libc::EPERM), "listen");
        assert_eq!(errno(std::net::TcpStream::connect("127.0.0.1:1")), Some(libc::ECONNREFUSED));
        // Raw sockets, and those of the kernel.
        assert_eq!(error_of(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_RAW.into(), 0, 0]), libc::EPERM);
        assert_eq!(error_of(libc::SYS_socket, [libc::AF_NETLINK.into(), libc::SOCK_RAW.into(), 0, 0]), libc::EPERM);
        use std::net::ToSocketAddrs as _;
        assert!("localhost:80".to_socket_addrs().unwrap().next().is_some());
    });
    under_the_filter(&[Need::ServiceManager], || {
        assert_eq!(openat2(), libc::EPERM);
        let socket = UnixDatagram::unbound().unwrap();
        assert_eq!(errno(socket.connect("/nowhere/notify")), Some(libc::ENOENT));
        let stream = [libc::AF_UNIX as i64, libc::SOCK_STREAM as i64, 0, 0];
        assert_eq!(error_of(libc::SYS_socket, stream), libc::EPERM);
        assert_eq!(errno(TcpListener::bind("127.0.0.1:0")), Some(libc::EPERM));
    });
}

/// Each call that [`at_start`] returns stands there once, and is also in [`SYSTEM_CALLS`]. The filter compiles for both
/// architectures.
#[test]
fn the_tables_fit_together() {
    let all: BTreeSet<&str> = SYSTEM_CALLS.iter().flat_map(|group| [group.names, group.of_x86_64].concat()).collect();
    let at_start: BTreeSet<&str> = super::at_start().collect();
    assert_eq!(at_start.len(), super::at_start().count());
    assert!(at_start.is_subset(&all), "{:?}", at_start.difference(&all));
    // These calls have conditions. `conditions` finds a call by its name, so a name must be the same there and in the
    // table. A call with a misspelt name would have no condition.
    let with_conditions =
        ["open", "openat", "openat2", "socket", "connect", "mmap", "mprotect", "clone", "prctl", "ioctl", "tgkill"];
    for name in with_conditions.into_iter().chain(["prlimit64"]) {
        assert!(all.contains(name) && !at_start.contains(name), "{name}");
        assert!(!matches!(conditions(name, &[]), Condition::Always), "{name}");
    }
    for target in [TargetArch::x86_64, TargetArch::aarch64] {
        let all_needs = rules(target, &[Need::Files, Need::ServiceManager]);
        let filter = filter(json!({ "errno": libc::EPERM }), json!("allow"), &all_needs);
        compile_from_json(filter.to_string().as_bytes(), target).unwrap();
    }
}

#[test]
fn a_sandbox_that_fails_says_why() {
    let told = |error| SandboxError::Filter(error).to_string();
    let seccomp = |code| told(seccompiler::Error::Seccomp(io::Error::from_raw_os_error(code)));
    assert!(seccomp(libc::EPERM).contains("profile does not allow") && seccomp(libc::EPERM).contains("sandbox"));
    assert!(seccomp(libc::EINVAL).contains("CONFIG_SECCOMP_FILTER"));
    let thread = told(seccompiler::Error::ThreadSync(17));
    assert!(thread.contains("the thread 17 has a seccomp filter"), "{thread}");
    assert!(SandboxError::Architecture("sparc").to_string().contains("not made for sparc"));
}
