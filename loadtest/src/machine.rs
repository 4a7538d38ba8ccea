//! What the figures were taken on, without saying whose machine it is.

use std::fs;
use std::process::Command;

/// Processor, cores, kernel.
pub(crate) fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let is_virtual = cpuinfo.lines().any(|line| {
        line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "hypervisor")
    });
    let kind = if is_virtual { "virtual machine" } else { "machine" };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, {kind}, Linux {}", kernel.trim())
}

/// Of this project and of the compiler.
pub(crate) fn versions() -> String {
    let output = Command::new("rustc").arg("--version").output();
    let rustc = output.ok().and_then(|output| String::from_utf8(output.stdout).ok());
    let rustc = rustc.as_deref().map_or("rustc unknown", str::trim);
    let rustc = rustc.split(" (").next().unwrap_or(rustc);
    format!("plugbus {}, {rustc}", env!("CARGO_PKG_VERSION"))
}
