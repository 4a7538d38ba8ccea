//! What `cargo xtask test` tells the person who waits for it.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use super::{Job, Verdict};

#[derive(Debug)]
pub(super) struct Report {
    is_strict: bool,
    passed_count: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
    /// Lines of tests about what this machine does not offer.
    refused: Vec<String>,
    times: Vec<(Duration, &'static str)>,
}

impl Report {
    /// A strict report counts what could have been installed as failed.
    pub(super) fn new(is_strict: bool) -> Self {
        Self {
            is_strict,
            passed_count: 0,
            failed: Vec::new(),
            skipped: Vec::new(),
            refused: Vec::new(),
            times: Vec::new(),
        }
    }

    pub(super) fn start(&mut self, name: &str) {
        print!("{name:16} ");
        // Nobody is helped by an error about a lost terminal.
        drop(std::io::stdout().flush());
    }

    pub(super) fn finish(
        &mut self,
        name: &'static str,
        verdict: &Verdict,
        job: &Job,
        time: Duration,
    ) {
        let shown_time = format!("{:.1} s", time.as_secs_f64());
        self.times.push((time, name));
        self.refused.extend(refusals(&job.output));
        let failure = match verdict {
            Verdict::Passed => {
                self.passed_count += 1;
                let count = test_count(&job.output);
                let tests = if count > 0 { format!("  {count} tests") } else { String::new() };
                println!("ok      {shown_time:>9}{tests}");
                return;
            }
            Verdict::NotInstalled(what) if !self.is_strict => {
                println!("skipped {shown_time:>9}  {what}");
                self.skipped.push(format!("{name}: {what}"));
                return;
            }
            Verdict::NotInstalled(what) => format!("{what}, and CI=true allows no such skip"),
            Verdict::Failed(reason) => reason.clone(),
        };
        println!("FAILED  {shown_time:>9}  {failure}");
        for line in last_lines(&job.output) {
            println!("    {line}");
        }
        let log = job.log.strip_prefix(&job.root).unwrap_or(&job.log);
        if fs::metadata(&job.log).is_ok_and(|log| log.len() > 0) {
            println!("    (all of it: {})", log.display());
        }
        self.failed.push(format!("{name}: {failure}"));
    }

    pub(super) fn close(&mut self) {
        self.refused.sort_unstable();
        self.refused.dedup();
        self.times.sort_unstable_by(|left, right| right.cmp(left));
        let slowest = self.times.iter().take(SLOWEST_COUNT);
        let slowest: Vec<String> =
            slowest.map(|(time, name)| format!("{:8.1} s  {name}", time.as_secs_f64())).collect();
        for (title, lines) in [
            ("not checked on this machine", &self.refused),
            ("skipped", &self.skipped),
            ("slowest", &slowest),
            ("failed", &self.failed),
        ] {
            if !lines.is_empty() {
                println!("\n{title}:");
                lines.iter().for_each(|line| println!("  {line}"));
            }
        }
        println!(
            "\n{} passed, {} failed, {} skipped",
            self.passed_count,
            self.failed.len(),
            self.skipped.len()
        );
    }

    pub(super) fn is_good(&self) -> bool {
        self.failed.is_empty()
    }
}

/// The `skipped: WHAT: ERRNO` lines of tests.
fn refusals(output: &str) -> impl Iterator<Item = String> {
    output.lines().filter_map(|line| line.trim().strip_prefix("skipped: ")).map(str::to_owned)
}

/// How many tests passed, according to the summaries of Rust's and Python's test runners.
fn test_count(output: &str) -> usize {
    let number = |text: &str| text.split(' ').next().and_then(|word| word.parse::<usize>().ok());
    output
        .lines()
        .filter_map(|line| {
            line.strip_prefix("test result: ok. ").or_else(|| line.strip_prefix("Ran "))
        })
        .filter_map(number)
        .sum()
}

fn last_lines(output: &str) -> Vec<&str> {
    let lines: Vec<&str> = output.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_COUNT)..].to_vec()
}

const SLOWEST_COUNT: usize = 10;
const SHOWN_COUNT: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn summaries_are_counted_and_refusals_collected() {
        let output =
            "test result: ok. 12 passed; 0 failed;\nskipped: pidfd: ENOSYS\nRan 3 tests in 1s\n";
        assert_eq!(test_count(output), 15);
        assert_eq!(refusals(output).collect::<Vec<_>>(), ["pidfd: ENOSYS"]);
    }

    #[test]
    fn what_could_be_installed_fails_in_a_strict_report_only() {
        for is_strict in [false, true] {
            let mut report = Report::new(is_strict);
            let root = PathBuf::from("/nonexistent");
            let job = Job { log: root.join("x.log"), root, output: String::new() };
            let missing = Verdict::NotInstalled("python3-venv".to_owned());
            report.finish("missing", &missing, &job, Duration::ZERO);
            assert_eq!(report.is_good(), !is_strict);
        }
    }
}
