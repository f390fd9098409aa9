//! The owner of a process: its user and its groups.

use std::{fs, io};

use rustix::{
    process::{Gid, Uid, geteuid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

/// The user and the groups of a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    user: u32,
    group: u32,
    groups: Vec<u32>,
}

impl Owner {
    /// Reads the effective user and groups of a process. The owner of its folder in `/proc` may be another one.
    pub(crate) fn of(pid: i32) -> io::Result<Owner> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        Owner::in_status(&status).ok_or_else(|| io::Error::other("the status of the process has no user"))
    }

    /// Reads lines such as "Uid:   1000    1000    1000    1000": the real, effective, saved and file system's user.
    fn in_status(status: &str) -> Option<Owner> {
        let numbers = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()
        };
        let effective = |name| numbers(name)?.get(1).copied();
        Some(Owner { user: effective("Uid:")?, group: effective("Gid:")?, groups: numbers("Groups:")? })
    }

    /// Returns whether root may take a process of this owner, which nobody has named, for the server that is meant.
    pub(crate) fn may_be_meant_by_root(&self, pid: i32) -> bool {
        // No user of the machine or container has started process 1, whatever user it runs as.
        pid == 1 || !self.is_ordinary()
    }

    /// Returns whether the user is neither root, nor a user of the system (1 to 999), nor one that systemd makes for a
    /// service (`DynamicUser`). It may be a person, or the user of a container that a person has started.
    ///
    /// The bounds are those of systemd's list of ranges, <https://systemd.io/UIDS-GIDS/>. Beyond 60000 there are users
    /// of directories (LDAP), of home directories that systemd manages, and of containers. `nobody` (65534) is ordinary
    /// too: the kernel shows users that a user namespace does not map as 65534.
    fn is_ordinary(&self) -> bool {
        self.user >= 1_000 && !(61_184..=65_519).contains(&self.user)
    }

    /// Gives this thread the rights of the user, if it has those of root.
    pub(crate) fn assume(&self) -> rustix::io::Result<()> {
        if !geteuid().is_root() || self.user == 0 {
            return Ok(());
        }
        let groups: Vec<Gid> = self.groups.iter().map(|&group| Gid::from_raw(group)).collect();
        let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.group));
        set_thread_groups(&groups)?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The owner is read from the status of a process. Root takes no ordinary user's process for the server that is
    /// meant, unless it is process 1.
    #[test]
    fn the_user_of_a_server_is_known() {
        let status = "Name:\tringhub\nUid:\t0\t1000\t0\t0\nGid:\t0\t7\t0\t0\nGroups:\t4 24 27 \nNoNewPrivs:\t0\n";
        let owner = Owner::in_status(status).expect("a user");
        assert_eq!(owner, Owner { user: 1_000, group: 7, groups: vec![4, 24, 27] });
        let of = |user| Owner { user, group: 0, groups: Vec::new() };
        for system in [0, 999, 61_184, 65_519] {
            assert!(of(system).may_be_meant_by_root(2), "{system}");
        }
        for ordinary in [1_000, 60_000, 61_183, 65_520, 65_534, 100_000, 200_000, 524_288, u32::MAX] {
            assert!(!of(ordinary).may_be_meant_by_root(2) && of(ordinary).may_be_meant_by_root(1), "{ordinary}");
        }
        assert_eq!(Owner::in_status("Name:\tringhub\nUid:\tx\n"), None);
        let own = Owner::of(std::process::id() as i32).expect("this process has a status");
        assert_eq!(own.user, geteuid().as_raw());
    }
}
