//! What a process uses, from `/proc`.

use std::fs;
use std::io;
use std::time::Duration;

use super::report::Load;

/// Looks at one process from time to time.
#[derive(Debug)]
pub(crate) struct LoadProbe {
    pid: u32,
    /// Processor time at the last look, and when that was.
    last: Option<(Duration, Duration)>,
}

impl LoadProbe {
    pub(crate) fn new(pid: u32) -> Self {
        Self { pid, last: None }
    }

    /// What it uses at `now`; the share of a processor since the look before.
    ///
    /// # Errors
    ///
    /// When the process is gone, or `/proc` is not there.
    pub(crate) fn look(&mut self, now: Duration) -> io::Result<Load> {
        let pid = self.pid;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "unexpected text in /proc");
        let worked = worked(&stat).ok_or_else(malformed)?;
        let pages: u64 =
            statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).ok_or_else(malformed)?;
        let cpu_percent = match self.last {
            Some((before, at)) if now > at => {
                100.0 * worked.saturating_sub(before).as_secs_f64() / (now - at).as_secs_f64()
            }
            _ => 0.0,
        };
        self.last = Some((worked, now));
        let memory = pages * rustix::param::page_size() as u64;
        Ok(Load { memory, cpu_percent, descriptors, messages: 0 })
    }
}

/// What a process is doing, for people: `sleeping (S)`, and where in the kernel if that is told.
pub(crate) fn process_state(pid: u32) -> String {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return "gone".to_owned();
    };
    let letter = stat.rsplit_once(") ").and_then(|(_, fields)| fields.chars().next());
    let state = match letter {
        Some('R') => "running (R)",
        Some('S') => "sleeping (S)",
        Some('D') => "waiting in the kernel (D)",
        Some('T' | 't') => "stopped (T)",
        Some('Z') => "ended (Z)",
        _ => "in an unknown state",
    };
    match fs::read_to_string(format!("/proc/{pid}/wchan")) {
        Ok(place) if place.len() > 1 => format!("{state} in {place}"),
        _ => state.to_owned(),
    }
}

/// Processor time in user and kernel mode. The name of the program, in brackets, may itself hold
/// spaces and brackets, so that the fields are counted from its end.
fn worked(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(FIELDS_TO_UTIME);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    let ticks = rustix::param::clock_ticks_per_second();
    Some(Duration::from_nanos((user + kernel).saturating_mul(1_000_000_000 / ticks)))
}

/// Fields between the program's name and `utime`, as in `proc_pid_stat(5)`.
const FIELDS_TO_UTIME: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_uses_memory_and_descriptors() {
        let mut probe = LoadProbe::new(std::process::id());
        let load = probe.look(Duration::from_secs(1)).unwrap();
        assert!(load.memory > 100_000 && load.descriptors >= 3, "{load:?}");
        assert!(load.cpu_percent.abs() < f64::EPSILON, "there was no look before");
        probe.look(Duration::from_secs(2)).unwrap();
    }

    #[test]
    fn the_name_of_a_program_may_be_anything() {
        let stat = "7 (a) b 1 2) S 1 7 7 0 -1 4194304 100 0 0 0 30 20 0 0 20 0 1 0 5 1 2 3";
        let ticks = rustix::param::clock_ticks_per_second();
        assert_eq!(worked(stat), Some(Duration::from_nanos(50 * (1_000_000_000 / ticks))));
        assert_eq!(worked("nonsense"), None);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(LoadProbe::new(u32::MAX).look(Duration::ZERO).is_err());
    }
}
