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
    let check = |fake: Fake, refused: &str| {
        let error = probe_by(&fake).expect_err(refused);
        assert_eq!(error.refused(), refused);
        assert_eq!(error.to_string(), format!("io_uring cannot be used: {refused}"));
    };
    for (code, name) in [
        (libc::EPERM, "EPERM"),
        (libc::EACCES, "EACCES"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
        (libc::EINVAL, "EINVAL"),
        (libc::EMFILE, "EMFILE"),
    ] {
        check(Fake { ring: Some(code), ..Fake::default() }, &format!("io_uring_setup fails with {name}"));
        check(Fake { register: Some(code), ..Fake::default() }, &format!("io_uring_register fails with {name}"));
        // Linux 5.15 has io_uring, and refuses the flags of a hot ring with EINVAL.
        check(Fake { hot_ring: Some(code), ..Fake::default() }, &format!("io_uring_setup fails with {name}"));
        check(Fake { run: Some(code), ..Fake::default() }, &format!("io_uring_setup fails with {name}"));
    }
    check(Fake { unknown: OPERATIONS.last(), ..Fake::default() }, "it lacks sendmsg");
    let skipped = "skipped completions";
    check(Fake { lacks: Some(skipped), ..Fake::default() }, "it lacks skipped completions");
}

/// The answers of Linux 5.15, which has io_uring and not all that a shard needs of it.
fn linux_5_15() -> Fake {
    // `IORING_FEAT_CQE_SKIP` came with 5.17; the flags of a hot ring came with 5.18, 5.19 and 6.0.
    Fake { lacks: Some("skipped completions"), hot_ring: Some(libc::EINVAL), ..Fake::default() }
}

#[test]
fn linux_5_15_is_told_by_its_first_answer() {
    let error = probe_by(&linux_5_15()).expect_err("it lacks something");
    assert_eq!(error.label(), "no skipped completions");
    let with_the_feature = Fake { lacks: None, ..linux_5_15() };
    let error = probe_by(&with_the_feature).expect_err("it knows no flag of a hot ring");
    assert_eq!(error.label(), "io_uring_setup EINVAL");
    assert_eq!(with_the_feature.later.get(), 1);
}

/// Returns the outcome of the probe on kernels that refuse something, each with what is refused.
pub(crate) fn refusals() -> Vec<(String, ProbeError)> {
    let refused_by = |fake: Fake, what: String| (what, probe_by(&fake).expect_err("a refusal"));
    let setup = |code, name| {
        let what = format!("io_uring_setup fails with {name}");
        [
            refused_by(Fake { ring: Some(code), ..Fake::default() }, what.clone()),
            refused_by(Fake { hot_ring: Some(code), ..Fake::default() }, what.clone()),
            refused_by(Fake { run: Some(code), ..Fake::default() }, what),
        ]
    };
    let mut refusals: Vec<(String, ProbeError)> = OPERATIONS
        .iter()
        .map(|operation| {
            let fake = Fake { forbidden: Some(operation.code), ..Fake::default() };
            refused_by(fake, format!("IORING_OP_{} fails with EACCES", operation.constant))
        })
        .collect();
    refusals.extend(setup(libc::ENOMEM, "ENOMEM"));
    refusals.extend(setup(libc::EPERM, "EPERM"));
    let register = Fake { register: Some(libc::EPERM), ..Fake::default() };
    refusals.push(refused_by(register, "io_uring_register fails with EPERM".into()));
    refusals.push(refused_by(linux_5_15(), "it lacks skipped completions".into()));
    let flags = Fake { lacks: None, ..linux_5_15() };
    refusals.push(refused_by(flags, "io_uring_setup fails with EINVAL".into()));
    refusals
}

/// A filter on single operations lets the ring be set up, and answers EACCES to one of them.
#[test]
fn a_single_operation_may_be_refused() {
    for Operation { code, constant, .. } in OPERATIONS {
        let fake = Fake { forbidden: Some(*code), ..Fake::default() };
        let error = probe_by(&fake).expect_err(constant);
        assert_eq!(error.refused(), format!("IORING_OP_{constant} fails with EACCES"));
        assert_eq!(error.label(), format!("IORING_OP_{constant} EACCES"));
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
    assert!(text.contains("(a socket is open)"));
    let text = ProbeError::ShortSend("3 bytes reported, 5 arrived".into()).to_string();
    assert!(text.contains("(3 bytes reported, 5 arrived)"));
}
