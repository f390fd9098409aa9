//! Which CPUs this process may use, and pinning to one of them.

use std::io;

use core_affinity::CoreId;

/// Returns the CPUs of the process's affinity mask, in order.
#[must_use]
pub fn allowed() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Returns the quota of this process's cgroup in CPUs, as a container sees it, if one is set (`cpu.max` of cgroup v2,
/// or `cpu.cfs_quota_us` of v1).
#[must_use]
pub fn quota() -> Option<f64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    if let Some(text) = read("/sys/fs/cgroup/cpu.max") {
        return parse_quota(&text);
    }
    let quota = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")?;
    let period = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")?;
    parse_quota(&format!("{} {}", quota.trim(), period.trim()))
}

/// Keeps the calling thread on `cpu`.
///
/// # Errors
///
/// If the kernel refuses: the CPU does not exist or the affinity mask leaves it out.
pub fn pin(cpu: usize) -> io::Result<()> {
    let allowed = allowed();
    // This is checked first, since `core_affinity` panics for a number beyond the kernel's mask.
    if allowed.contains(&cpu) && core_affinity::set_for_current(CoreId { id: cpu }) {
        return Ok(());
    }
    Err(io::Error::other(format!("CPU {cpu} is not among those this process may use: {allowed:?}")))
}

/// Reads a quota: "200000 100000" is two CPUs; "max 100000" or "-1 100000" is no limit.
fn parse_quota(text: &str) -> Option<f64> {
    let mut fields = text.split_whitespace();
    let quota: f64 = fields.next()?.parse().ok()?;
    let period: f64 = fields.next()?.parse().ok()?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_a_number_of_cpus() {
        assert_eq!(parse_quota("200000 100000\n"), Some(2.0));
        assert_eq!(parse_quota("50000 100000"), Some(0.5));
        assert_eq!(parse_quota("max 100000"), None);
        assert_eq!(parse_quota("-1 100000"), None);
        assert_eq!(parse_quota(""), None);
    }

    #[test]
    fn a_cpu_that_does_not_exist_is_refused() {
        assert!(pin(1_000_000).is_err());
        assert!(!allowed().is_empty());
    }
}
