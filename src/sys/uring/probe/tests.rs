//! Tests of each answer that a kernel or a container may give in place of io_uring.

use std::cell::Cell;

use io_uring::register::Restriction;

use super::*;

#[test]
fn this_machine_passes() {
    if let Err(error) = probe() {
        panic!("{error}");
    }
}

/// A kernel that answers one of the probe's questions in its own way, and all other questions as this machine does.
#[derive(Default)]
struct Fake {
    ring: Option<i32>,
    register: Option<i32>,
    unknown: Option<&'static Operation>,
    lacks: Option<&'static str>,
    /// The operation that a filter forbids.
    forbidden: Option<u8>,
    hot_ring: Option<i32>,
    run: Option<i32>,
    /// The number of questions that came after the small ring.
    later: Cell<u32>,
}

fn refuse(code: Option<i32>) -> io::Result<()> {
    code.map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)))
}

impl Kernel for Fake {
    fn ring(&self) -> io::Result<IoUring> {
        refuse(self.ring)?;
        let Some(forbidden) = self.forbidden else { return ThisKernel.ring() };
        let ring: IoUring = IoUring::builder().setup_r_disabled().build(2)?;
        let allowed = OPERATIONS.iter().map(|operation| operation.code).filter(|code| *code != forbidden);
        let mut restrictions: Vec<Restriction> = allowed.map(Restriction::sqe_op).collect();
        restrictions.push(Restriction::sqe_flags_allowed(squeue::Flags::SKIP_SUCCESS.bits()));
        ring.submitter().register_restrictions(&mut restrictions)?;
        ring.submitter().register_enable_rings()?;
        Ok(ring)
    }

    fn unknown(&self, _ring: &IoUring) -> io::Result<Option<&'static Operation>> {
        refuse(self.register).map(|()| self.unknown)
    }

    fn lacks(&self, ring: &IoUring) -> Option<&'static str> {
        self.lacks.or_else(|| ThisKernel.lacks(ring))
    }

    fn hot_ring(&self) -> io::Result<HotRing> {
        self.later.update(|count| count + 1);
        refuse(self.hot_ring)?;
        HotRing::new()
    }

    fn run(&self) -> io::Result<()> {
        self.later.update(|count| count + 1);
        refuse(self.run)
    }
}

#[test]
fn each_call_is_named_with_its_error() {
    let check = |fake: Fake, refused: &str, told: &str| {
        let error = probe_by(&fake).expect_err(refused);
        assert_eq!(error.refused(), refused);
        assert!(error.to_string().contains(told), "{error}");
    };
    for (code, name, told) in [
        (libc::EPERM, "EPERM", "seccomp"),
        (libc::EACCES, "EACCES", "seccomp"),
        (libc::ENOSYS, "ENOSYS", "hides it"),
        (libc::ENOMEM, "ENOMEM", "memlock"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP", "sandbox"),
        (libc::EINVAL, "EINVAL", "6.1"),
        (libc::EMFILE, "EMFILE", "cannot be set up"),
    ] {
        check(Fake { ring: Some(code), ..Fake::default() }, &format!("io_uring_setup fails with {name}"), told);
        check(Fake { register: Some(code), ..Fake::default() }, &format!("io_uring_register fails with {name}"), told);
        // Linux 5.15 has io_uring, and refuses the flags of a hot ring with EINVAL.
        check(Fake { hot_ring: Some(code), ..Fake::default() }, &format!("io_uring_setup fails with {name}"), told);
        check(Fake { run: Some(code), ..Fake::default() }, &format!("io_uring_setup fails with {name}"), told);
    }
    check(Fake { unknown: OPERATIONS.last(), ..Fake::default() }, "it lacks sendmsg", "6.1");
    let skipped = "skipped completions";
    check(Fake { lacks: Some(skipped), ..Fake::default() }, "it lacks skipped completions", "6.1");
}

/// A filter on single operations lets the ring be set up, and answers EACCES to one of them.
#[test]
fn a_single_operation_may_be_refused() {
    for Operation { code, constant, .. } in OPERATIONS {
        let fake = Fake { forbidden: Some(*code), ..Fake::default() };
        let error = probe_by(&fake).expect_err(constant);
        assert_eq!(error.refused(), format!("IORING_OP_{constant} fails with EACCES"));
        assert_eq!(error.label(), format!("IORING_OP_{constant} EACCES"));
        assert!(error.to_string().contains("filter"), "{error}");
        assert_eq!(fake.later.get(), 0, "nothing else is set up");
    }
    let fake = Fake { forbidden: Some(opcode::Read::CODE), ..Fake::default() };
    if let Err(error) = probe_by(&fake) {
        panic!("an operation that is not used: {error}");
    }
    assert_eq!(fake.later.get(), 2, "both rings of a shard are set up");
}

#[test]
fn a_kernel_that_fails_the_self_test_is_named() {
    let text = ProbeError::Cancel("a socket is open".into()).to_string();
    assert!(text.contains("(a socket is open)") && text.contains("kernel"));
    let text = ProbeError::ShortSend("3 bytes reported, 5 arrived".into()).to_string();
    assert!(text.contains("(3 bytes reported, 5 arrived)") && text.contains("kernel"));
}
