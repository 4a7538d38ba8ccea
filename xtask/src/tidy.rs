//! `cargo xtask tidy`: the rules of `docs/style.md` that a program can check.
//!
//! Each check is a function from the [`Tree`] to findings, so that a test can give it a tree made
//! by hand. The last test of this file runs all of them on the repository itself, which makes the
//! rules part of `cargo test`.

mod coupled;
mod imports;
mod layers;
mod licences;
mod links;
mod manifests;
mod required;
mod text;

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use crate::args::Args;
use crate::tree::{self, Tree};

pub(crate) const HELP: &str = "
cargo xtask tidy [--bless]

Checks the house rules: directions of imports, where unsafe code and feature gates may be, sizes of
files and lines, words that must not stay, the reason beside each dependency and its licence,
links of the documents, and that the specification was looked at when the wire format changed.
Each finding is printed as FILE:LINE: MESSAGE.

  --bless   record that docs/protocol/spec.md is true of src/wire as it is now
";

pub(crate) fn run(args: &mut Args) -> Result<ExitCode> {
    let bless = args.flag("--bless");
    args.finish()?;
    let root = tree::root();
    if bless {
        let written = coupled::bless(&Tree::read(&root)?)?;
        println!("wrote {written}");
    }
    let findings = check(&Tree::read(&root)?)?;
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} findings", findings.len());
    Ok(ExitCode::FAILURE)
}

pub(crate) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings: Vec<Finding> = CHECKS.iter().flat_map(|check| check(tree)).collect();
    findings.extend(licences::check(tree)?);
    findings.sort_unstable();
    findings.dedup();
    Ok(findings)
}

/// A rule that is broken, and where.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Finding {
    file: String,
    line: usize,
    message: String,
}

impl Finding {
    fn new(file: &str, line: usize, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}

const CHECKS: [fn(&Tree) -> Vec<Finding>; 7] = [
    coupled::check,
    imports::check,
    layers::check,
    links::check,
    manifests::check,
    required::check,
    text::check,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules hold for the repository. In particular imports point down only.
    #[test]
    fn the_repository_is_tidy() {
        let findings = check(&Tree::read(&tree::root()).unwrap()).unwrap();
        let shown: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(shown.is_empty(), "\n{}\n", shown.join("\n"));
    }
}
