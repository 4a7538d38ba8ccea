//! `cargo xtask docs`: the API documentation, and what documents quote from a running program.
//!
//! The README shows what `plugbus demo` prints. That transcript stands between the comments
//! `<!-- demo -->` and `<!-- /demo -->`, as one `console` block whose first line is the command;
//! this command replaces the lines below it. `cargo xtask test` compares them with a run.
//!
//! The JSON Schema of `plugin.toml` is generated from the types that read it: a test makes and
//! compares it, and writes it with `PLUGBUS_BLESS=1`.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::args::Args;
use crate::{process, tree};

pub(crate) const HELP: &str = "
cargo xtask docs [--schema]

Builds the API documentation with every warning an error, writes docs/manifest.schema.json, and
writes the transcript of `plugbus demo` into README.md, between <!-- demo --> and <!-- /demo -->.

  --schema   only write the schema
";

pub(crate) fn run(args: &mut Args) -> Result<ExitCode> {
    let is_schema_only = args.flag("--schema");
    args.finish()?;
    let root = tree::root();
    process::run(&mut schema_command(&root))?;
    if is_schema_only {
        return Ok(ExitCode::SUCCESS);
    }
    process::run(&mut api_command(&root))?;

    let readme = root.join("README.md");
    let Ok(text) = fs::read_to_string(&readme) else {
        println!("README.md does not exist yet, so there is no transcript to write");
        return Ok(ExitCode::SUCCESS);
    };
    process::run(process::cargo().current_dir(&root).args(["build", "--release"]))?;
    let printed = process::stdout(Command::new(root.join("target/release/plugbus")).arg("demo"))?;
    let updated = with_transcript(&text, &printed)?;
    if updated == text {
        println!("README.md is up to date");
    } else {
        fs::write(&readme, updated)?;
        println!("wrote the transcript in README.md");
    }
    Ok(ExitCode::SUCCESS)
}

fn schema_command(root: &Path) -> Command {
    let mut command = process::cargo();
    command
        .current_dir(root)
        .args(["test", "--quiet", "--package=plugbus", "--lib"])
        .arg("the_published_schema_is_that_of_the_types")
        .env("PLUGBUS_BLESS", "1");
    command
}

pub(crate) fn api_command(root: &Path) -> Command {
    let mut command = process::cargo();
    command
        .current_dir(root)
        .args(["doc", "--no-deps", "--package=plugbus"])
        .env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// `text` with `printed` below the command between the marks.
fn with_transcript(text: &str, printed: &str) -> Result<String> {
    let start = text.find(OPEN).with_context(|| format!("README.md has no {OPEN}"))? + OPEN.len();
    let size = text[start..].find(CLOSE).with_context(|| format!("README.md has no {CLOSE}"))?;
    let command = text[start..start + size]
        .lines()
        .find(|line| line.starts_with("$ "))
        .context("the block between the marks shows no command")?;
    let printed = printed.trim_end();
    Ok(format!(
        "{}\n```console\n{command}\n{printed}\n```\n{}",
        &text[..start],
        &text[start + size..]
    ))
}

const OPEN: &str = "<!-- demo -->";
const CLOSE: &str = "<!-- /demo -->";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_transcript_is_replaced() {
        let text = "a\n<!-- demo -->\n```console\n$ plugbus demo\nold\n```\n<!-- /demo -->\nb\n";
        let updated = with_transcript(text, "new\nlines\n").unwrap();
        assert_eq!(updated, text.replace("old", "new\nlines"));
        assert_eq!(with_transcript(&updated, "new\nlines\n").unwrap(), updated);
        assert!(with_transcript("no marks", "new").is_err());
    }
}
