//! `cargo xtask vectors`: the protocol's test vectors in `docs/protocol/vectors/`.
//!
//! The test `vectors` makes them from `wire` and compares; with `PLUGBUS_BLESS=1` it writes them.
//! So they can neither be forgotten nor be written by anything but the code they describe.

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::args::Args;
use crate::{process, tree};

pub(crate) const HELP: &str = "
cargo xtask vectors [--check]

Writes docs/protocol/vectors from src/wire. Vectors computed by hand are never written.

  --check   only compare, and fail where they differ
";

pub(crate) fn run(args: &mut Args) -> Result<ExitCode> {
    let is_check = args.flag("--check");
    args.finish()?;
    process::run(&mut command(is_check))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn command(is_check: bool) -> Command {
    let mut command = process::cargo();
    command.current_dir(tree::root()).args(["test", "--test", "vectors"]);
    if is_check {
        command.env_remove("PLUGBUS_BLESS");
    } else {
        command.env("PLUGBUS_BLESS", "1");
    }
    command
}
