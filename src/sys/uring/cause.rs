//! The likely cause of a refusal of io_uring, and its remedy, from the signs that this machine shows.

use std::{fmt, fs, io, path::Path};

use super::probe::{Call, ProbeError, is_forbidden};

/// The likely cause of a refusal of io_uring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalCause {
    /// `kernel.io_uring_disabled` forbids io_uring. The value 1 forbids it to most processes, 2 to all.
    Disabled(u8),
    /// A seccomp profile forbids the system calls, or hides them.
    Seccomp,
    /// A filter forbids some operations of io_uring.
    Operations,
    /// Memory for the queues is used up.
    Memory,
    /// Descriptors are used up.
    Descriptors,
    /// The kernel is too old, or was built without io_uring. The value is the kernel's release, if it can be read.
    Kernel(Option<String>),
    /// The kernel has io_uring, and does not do what the hub relies on. The value is the kernel's release.
    Defect(Option<String>),
    /// No sign shows the cause.
    Unknown,
}

/// The signs by which a cause is found. A container may hide each of them.
#[derive(Debug, Default)]
struct Signs {
    /// The setting `kernel.io_uring_disabled`, since Linux 6.6.
    disabled: Option<u8>,
    /// The seccomp mode of this process; 2 is a filter.
    seccomp: Option<u8>,
    /// The kernel's release.
    release: Option<String>,
}

impl RefusalCause {
    /// Returns the likely cause of a refusal on this machine.
    #[must_use]
    pub fn of(error: &ProbeError) -> RefusalCause {
        Self::by(error, Signs::read(Path::new("/proc")))
    }

    fn by(error: &ProbeError, signs: Signs) -> RefusalCause {
        let Signs { disabled, seccomp, release } = signs;
        let is_filtered = seccomp == Some(2);
        match error {
            ProbeError::Refused(Call::Operation(_), error) if is_forbidden(error) => RefusalCause::Operations,
            ProbeError::Refused(_, error) => match (error.raw_os_error(), disabled) {
                // A filter may have refused the call before the kernel looked at the setting. But the value of the
                // setting is known, and a refusal by a filter is only a guess.
                (Some(libc::EPERM), Some(value @ 1..)) => RefusalCause::Disabled(value),
                (Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EOPNOTSUPP), _) if is_filtered => {
                    RefusalCause::Seccomp
                }
                (Some(libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP), _) => RefusalCause::Kernel(release),
                (Some(libc::ENOMEM), _) => RefusalCause::Memory,
                (Some(libc::EMFILE | libc::ENFILE), _) => RefusalCause::Descriptors,
                _ => RefusalCause::Unknown,
            },
            ProbeError::TooOld(_) => RefusalCause::Kernel(release),
            ProbeError::ShortSend(_) | ProbeError::Cancel(_) => RefusalCause::Defect(release),
            ProbeError::Thread(_) => RefusalCause::Unknown,
        }
    }

    /// Returns what lets the hub use io_uring. If that depends on how the hub is started, the text names each way.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            RefusalCause::Disabled(_) => "on the host: `sysctl -w kernel.io_uring_disabled=0`",
            RefusalCause::Seccomp | RefusalCause::Operations | RefusalCause::Unknown => SECCOMP_REMEDY,
            RefusalCause::Memory => {
                "Docker and Podman: `--ulimit memlock=-1`, or a larger `--memory`; compose: `ulimits: \
                 {memlock: -1}`; Kubernetes: a larger `resources.limits.memory`; systemd: `LimitMEMLOCK=infinity`"
            }
            RefusalCause::Descriptors => {
                "Docker and Podman: `--ulimit nofile=1048576`; compose: `ulimits: {nofile: 1048576}`; Kubernetes: the \
                 limit of the container runtime; systemd: `LimitNOFILE=1048576`"
            }
            RefusalCause::Kernel(_) => "Linux 6.1 or newer, built with CONFIG_IO_URING",
            RefusalCause::Defect(_) => "another kernel; please report the release of this one",
        }
    }
}

impl fmt::Display for RefusalCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefusalCause::Disabled(1) => {
                f.write_str("kernel.io_uring_disabled is 1, which leaves io_uring to privileged processes")
            }
            RefusalCause::Disabled(value) => write!(f, "kernel.io_uring_disabled is {value}, which forbids io_uring"),
            RefusalCause::Seccomp => {
                f.write_str("a seccomp profile forbids io_uring, as the default profiles of containers do")
            }
            RefusalCause::Operations => f.write_str("a filter forbids some operations of io_uring"),
            RefusalCause::Memory => f.write_str("locked memory, or the memory of the container, is used up"),
            RefusalCause::Descriptors => f.write_str("the limit of open descriptors is reached"),
            RefusalCause::Kernel(Some(release)) => {
                write!(f, "the kernel, {release}, is too old or was built without io_uring")
            }
            RefusalCause::Kernel(None) => f.write_str("the kernel is too old or was built without io_uring"),
            RefusalCause::Defect(release) => write!(
                f,
                "the kernel{} has a defect by which bytes could be lost or sockets stay open",
                release.as_ref().map(|release| format!(", {release},")).unwrap_or_default()
            ),
            RefusalCause::Unknown => {
                f.write_str("this machine does not show the cause; the usual cause is a seccomp profile")
            }
        }
    }
}

impl Signs {
    fn read(proc: &Path) -> Signs {
        let text = |path: &str| -> io::Result<String> { fs::read_to_string(proc.join(path)) };
        let disabled = text("sys/kernel/io_uring_disabled").ok().and_then(|text| text.trim().parse().ok());
        let status = text("self/status").unwrap_or_default();
        let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:")?.trim().parse().ok());
        let release = text("sys/kernel/osrelease").ok().map(|text| text.trim().to_string());
        Signs { disabled, seccomp, release: release.filter(|release| !release.is_empty()) }
    }
}

const SECCOMP_REMEDY: &str = "a seccomp profile that allows io_uring, such as `docker run --rm ringhub \
                              seccomp-profile >seccomp.json` writes (`ringhub seccomp-profile` without Docker). Docker \
                              and Podman: `--security-opt seccomp=seccomp.json`; compose: `security_opt: \
                              [\"seccomp=seccomp.json\"]`; Kubernetes: `localhostProfile: ringhub/minimal.json`, once \
                              that file is on every node under /var/lib/kubelet/seccomp/ \
                              (deploy/kubernetes/seccomp.yaml); systemd: `SystemCallFilter=@system-service`";

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(call: Call, code: i32) -> ProbeError {
        ProbeError::Refused(call, io::Error::from_raw_os_error(code))
    }

    fn signs(disabled: Option<u8>, seccomp: Option<u8>) -> Signs {
        Signs { disabled, seccomp, release: Some("5.15.0".into()) }
    }

    #[test]
    fn the_signs_decide_the_cause() {
        let setup = |code, disabled, seccomp| RefusalCause::by(&refused(Call::Setup, code), signs(disabled, seccomp));
        let of_kernel = || RefusalCause::Kernel(Some("5.15.0".into()));
        assert_eq!(setup(libc::EPERM, Some(0), Some(2)), RefusalCause::Seccomp);
        assert_eq!(setup(libc::EPERM, None, Some(2)), RefusalCause::Seccomp);
        assert_eq!(setup(libc::EPERM, Some(2), Some(2)), RefusalCause::Disabled(2));
        assert_eq!(setup(libc::EPERM, Some(1), Some(0)), RefusalCause::Disabled(1));
        assert_eq!(setup(libc::EPERM, Some(0), Some(0)), RefusalCause::Unknown);
        assert_eq!(setup(libc::EPERM, None, None), RefusalCause::Unknown);
        assert_eq!(setup(libc::EACCES, Some(0), Some(2)), RefusalCause::Seccomp);
        assert_eq!(setup(libc::ENOSYS, None, Some(2)), RefusalCause::Seccomp);
        assert_eq!(setup(libc::ENOSYS, None, Some(0)), of_kernel());
        assert_eq!(setup(libc::EINVAL, Some(0), Some(2)), of_kernel());
        assert_eq!(setup(libc::EOPNOTSUPP, None, None), of_kernel());
        assert_eq!(setup(libc::ENOMEM, Some(0), Some(2)), RefusalCause::Memory);
        assert_eq!(setup(libc::EMFILE, Some(0), Some(2)), RefusalCause::Descriptors);
        let operation = refused(Call::Operation("SEND"), libc::EACCES);
        assert_eq!(RefusalCause::by(&operation, signs(Some(0), Some(2))), RefusalCause::Operations);
        assert_eq!(RefusalCause::by(&ProbeError::TooOld("recv"), signs(None, Some(2))), of_kernel());
        assert_eq!(RefusalCause::by(&ProbeError::TooOld("recv"), Signs::default()), RefusalCause::Kernel(None));
    }

    /// A remedy that depends on how the hub is started names each way to start it.
    #[test]
    fn a_remedy_names_every_runtime() {
        for cause in [
            RefusalCause::Seccomp,
            RefusalCause::Operations,
            RefusalCause::Unknown,
            RefusalCause::Memory,
            RefusalCause::Descriptors,
        ] {
            for name in ["Docker", "Podman", "compose", "Kubernetes", "systemd"] {
                assert!(cause.remedy().contains(name), "{cause:?}: {name}");
            }
        }
        for cause in [RefusalCause::Seccomp, RefusalCause::Operations, RefusalCause::Unknown] {
            let remedy = cause.remedy();
            assert!(remedy.contains("`docker run --rm ringhub seccomp-profile >seccomp.json`"), "{cause:?}");
            // The kubelet takes the name from its own folder, where the DaemonSet puts the file.
            assert!(remedy.contains("`localhostProfile: ringhub/minimal.json`"), "{cause:?}");
            assert!(remedy.contains("/var/lib/kubelet/seccomp/"), "{cause:?}");
        }
        assert!(
            RefusalCause::Disabled(2).remedy().contains("sysctl")
                && RefusalCause::Kernel(None).remedy().contains("6.1")
        );
        let one_line = |cause: &RefusalCause| !format!("{cause} {}", cause.remedy()).contains(['\n', '\t']);
        assert!(
            one_line(&RefusalCause::Seccomp)
                && one_line(&RefusalCause::Memory)
                && one_line(&RefusalCause::Kernel(Some("6.0".into())))
        );
    }

    #[test]
    fn a_defect_of_the_kernel_is_not_its_age() {
        for error in [ProbeError::ShortSend("3 of 5".into()), ProbeError::Cancel("open".into())] {
            let cause = RefusalCause::by(&error, signs(Some(0), Some(2)));
            assert_eq!(cause, RefusalCause::Defect(Some("5.15.0".into())), "{error}");
            assert!(cause.to_string().starts_with("the kernel, 5.15.0, has a defect "), "{cause}");
            assert!(cause.remedy().contains("report"), "{cause}");
        }
        assert!(RefusalCause::Defect(None).to_string().starts_with("the kernel has a defect "));
    }

    /// A container may hide any of the files.
    #[test]
    fn signs_may_be_missing() {
        let folder = std::env::temp_dir().join(format!("ringhub-signs-{}", std::process::id()));
        let read = || {
            let Signs { disabled, seccomp, release } = Signs::read(&folder);
            (disabled, seccomp, release)
        };
        assert_eq!(read(), (None, None, None));
        fs::create_dir_all(folder.join("sys/kernel")).unwrap();
        fs::create_dir_all(folder.join("self")).unwrap();
        fs::write(folder.join("sys/kernel/osrelease"), "6.18.38\n").unwrap();
        fs::write(folder.join("self/status"), "Name:\tringhub\nSeccomp:\t2\nSeccomp_filters:\t1\n").unwrap();
        assert_eq!(read(), (None, Some(2), Some("6.18.38".into())));
        fs::write(folder.join("sys/kernel/io_uring_disabled"), "1\n").unwrap();
        fs::write(folder.join("self/status"), "Name:\tringhub\n").unwrap();
        assert_eq!(read(), (Some(1), None, Some("6.18.38".into())));
        fs::remove_dir_all(folder).unwrap();
    }
}
