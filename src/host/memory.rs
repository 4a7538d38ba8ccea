//! Whether the system has killed processes because memory ran out.
//!
//! The kernel counts them and does not say whom. So the number says for a process that was killed
//! by nobody known what probably happened; another process of the same group may be meant.

use std::fs;
use std::path::{Path, PathBuf};

/// The count at one moment.
#[derive(Debug)]
pub(crate) struct OutOfMemory {
    count: Option<u64>,
}

impl OutOfMemory {
    pub(crate) fn now() -> Self {
        Self { count: count() }
    }

    /// Whether the system has killed somebody since.
    pub(crate) fn has_struck(&self) -> bool {
        matches!((self.count, count()), (Some(before), Some(now)) if now > before)
    }
}

/// Of the control group if it counts, which is what containers limit; or of the whole system.
fn count() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    counter_files(&groups)
        .iter()
        .find_map(|file| read(file))
        .or_else(|| read(Path::new("/proc/vmstat")))
}

/// Where each version of control groups has the count, for the lines of `/proc/self/cgroup`.
fn counter_files(groups: &str) -> Vec<PathBuf> {
    let file = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let (root, name) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.events"),
            _ if controllers.split(',').any(|it| it == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.oom_control")
            }
            _ => return None,
        };
        Some(Path::new(root).join(path.trim_start_matches('/')).join(name))
    };
    groups.lines().filter_map(file).collect()
}

fn read(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_either_version_of_control_groups_is_found() {
        let files = counter_files(
            "12:cpu,cpuacct:/a\n9:memory:/user.slice/x\n1:name=systemd:/b\n0::/user.slice/a:b\n",
        );
        let expected = [
            "/sys/fs/cgroup/memory/user.slice/x/memory.oom_control",
            "/sys/fs/cgroup/user.slice/a:b/memory.events",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
    }

    #[test]
    fn each_file_is_read_by_its_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let cases = [
            ("low 0\nhigh 0\nmax 3\noom 2\noom_kill 7\noom_group_kill 1\n", Some(7)),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n", Some(4)),
            ("nr_free_pages 5\n", None),
        ];
        for (text, expected) in cases {
            fs::write(file.path(), text).unwrap();
            assert_eq!(read(file.path()), expected);
        }
    }
}
