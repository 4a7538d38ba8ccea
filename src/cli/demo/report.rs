//! The lines of the tour. Each stands for checks, and says what was checked.

use std::fmt::{Debug, Display};

use serde_json::{Map, Value, json};

use crate::cli::failure::Result;
use crate::cli::terminal::{BOLD, BOLD_RED, DIM, GREEN, Terminal};

/// What one step found out.
#[derive(Debug, Default)]
pub(super) struct Finding {
    text: String,
    facts: Map<String, Value>,
    problems: Vec<String>,
}

/// All lines so far.
#[derive(Debug)]
pub(super) struct Report {
    terminal: Terminal,
    passed: usize,
    failed: usize,
}

impl Finding {
    /// Notes a problem unless both are the same.
    pub(super) fn equal<T: PartialEq + Debug>(&mut self, what: &str, found: &T, expected: &T) {
        if found != expected {
            let (found, expected) = (short(found), short(expected));
            self.problems.push(format!("{what}: found {found}, expected {expected}"));
        }
    }

    /// Notes a problem unless this holds.
    pub(super) fn holds(&mut self, condition: bool, otherwise: impl Display) {
        if !condition {
            self.problems.push(otherwise.to_string());
        }
    }

    /// Notes that the step could not be done.
    pub(super) fn failed(error: impl Display) -> Self {
        Self { problems: vec![error.to_string()], ..Self::default() }
    }

    /// A number or a name that `--json` gives.
    pub(super) fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// What it means, for a person.
    pub(super) fn says(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    fn passed(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Report {
    pub(super) fn new(terminal: Terminal) -> Self {
        Self { terminal, passed: 0, failed: 0 }
    }

    /// Prints the line of a step.
    pub(super) fn line(&mut self, step: &str, finding: &Finding) -> Result<()> {
        let passed = finding.passed();
        *if passed { &mut self.passed } else { &mut self.failed } += 1;
        if self.terminal.json {
            return self.terminal.json(&json!({
                "step": step, "passed": passed, "text": finding.text,
                "facts": finding.facts, "problems": finding.problems,
            }));
        }
        if passed {
            let text = wrapped(&finding.text);
            return self.terminal.line(format_args!(
                "{GREEN}ok{GREEN:#}   {BOLD}{step:STEP_WIDTH$}{BOLD:#} {text}"
            ));
        }
        let text = finding.problems.join("\n");
        self.terminal.line(format_args!(
            "{BOLD_RED}FAIL{BOLD_RED:#} {BOLD}{step:STEP_WIDTH$}{BOLD:#} {}",
            wrapped(&text)
        ))
    }

    /// Prints the sum. True if every line held.
    pub(super) fn end(&self, seconds: f64) -> Result<bool> {
        let Self { passed, failed, .. } = *self;
        if self.terminal.json {
            let sum = json!({"passed": passed, "failed": failed, "seconds": seconds});
            self.terminal.json(&sum)?;
        } else if failed == 0 {
            self.terminal
                .line(format_args!("\n{GREEN}all {passed} held{GREEN:#}, in {seconds:.1} s"))?;
        } else {
            self.terminal.line(format_args!(
                "\n{BOLD_RED}{failed} of {} did not hold{BOLD_RED:#}, in {seconds:.1} s",
                passed + failed
            ))?;
        }
        Ok(failed == 0)
    }

    /// Whether a line did not hold.
    pub(super) fn has_failed(&self) -> bool {
        self.failed > 0
    }

    /// Prints what may explain a failure.
    pub(super) fn note(&self, text: &str) {
        self.terminal.note(format_args!("{DIM}{text}{DIM:#}"));
    }

    /// Prints something that is neither a check nor its result.
    pub(super) fn remark(&self, text: &str) -> Result<()> {
        if self.terminal.json {
            return Ok(());
        }
        self.terminal.line(format_args!("{DIM}{text}{DIM:#}"))
    }
}

/// Later lines begin below the first.
fn wrapped(text: &str) -> String {
    text.replace('\n', &format!("\n{:INDENT$}", ""))
}

fn short(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(SHORT_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

const STEP_WIDTH: usize = 10;
const INDENT: usize = STEP_WIDTH + 6;
const SHORT_CHARS: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_problem_is_enough_to_fail() {
        let mut finding = Finding::default();
        finding.equal("files", &8, &8);
        finding.holds(true, "never said");
        assert!(finding.passed());
        finding.equal("files", &vec![7; 500], &vec![8]);
        assert!(!finding.passed());
        assert!(
            finding.problems[0].starts_with("files: found [7, 7")
                && finding.problems[0].len() < 500
        );

        let mut report = Report::new(Terminal { json: true });
        report.line("files", &finding).unwrap();
        report.line("files", &Finding::default()).unwrap();
        assert!(!report.end(1.0).unwrap());
    }

    #[test]
    fn later_lines_are_indented() {
        assert_eq!(wrapped("one\ntwo"), format!("one\n{}two", " ".repeat(16)));
    }
}
