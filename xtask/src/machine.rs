//! What this machine is, in one line, for records of what ran on it.

use std::fs;

/// Cores, processor, kernel: what somebody needs to judge a number, and nothing that names the
/// machine.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    let processor = fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| value_of(&text, "model name"))
        .unwrap_or_else(|| "unknown processor".to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, {processor}, Linux {}", version_of(&kernel))
}

fn value_of(text: &str, key: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    let (_, value) = line.split_once(':')?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The numbers of a kernel's release, without what its builder added.
fn version_of(release: &str) -> &str {
    release.split(|letter: char| !letter.is_ascii_digit() && letter != '.').next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_value() {
        let text = "processor\t: 0\nmodel name\t: Some  CPU @ 2GHz\n";
        assert_eq!(value_of(text, "model name").as_deref(), Some("Some CPU @ 2GHz"));
        assert_eq!(value_of(text, "bogomips"), None);
    }

    #[test]
    fn a_kernel_release_is_cut_to_its_numbers() {
        assert_eq!(version_of("6.8.0-45-generic\n"), "6.8.0");
        assert_eq!(version_of("6.1\n"), "6.1");
    }
}
