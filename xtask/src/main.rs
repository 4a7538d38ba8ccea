//! The automation of this repository: `cargo xtask COMMAND`.
//!
//! One file for each command. What several commands need lies in `args` (flags), `process`
//! (running programs), `tree` (the files of the repository), `rust_source` (Rust as tokens) and
//! `clock`. Nothing here is published, and nothing outside of this package does a job of its own:
//! continuous integration calls `cargo xtask test` and no more.

#![expect(clippy::print_stdout, reason = "a command line tool talks to a person")]

mod args;
mod bite;
mod clock;
mod docs;
mod fuzz;
mod machine;
mod process;
mod prove;
mod rust_source;
mod test;
mod tidy;
mod tree;
mod vectors;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::args::Args;

struct Command {
    name: &'static str,
    summary: &'static str,
    help: &'static str,
    run: fn(&mut Args) -> Result<ExitCode>,
}

const COMMANDS: [Command; 7] = [
    Command {
        name: "test",
        summary: "everything that must hold",
        help: test::HELP,
        run: test::run,
    },
    Command {
        name: "prove",
        summary: "the long counts, recorded in docs/proof.md",
        help: prove::HELP,
        run: prove::run,
    },
    Command { name: "tidy", summary: "the house rules", help: tidy::HELP, run: tidy::run },
    Command {
        name: "vectors",
        summary: "the protocol's test vectors",
        help: vectors::HELP,
        run: vectors::run,
    },
    Command { name: "fuzz", summary: "random input, at length", help: fuzz::HELP, run: fuzz::run },
    Command {
        name: "bite",
        summary: "faults that the simulator must catch",
        help: bite::HELP,
        run: bite::run,
    },
    Command { name: "docs", summary: "what is generated", help: docs::HELP, run: docs::run },
];

fn main() -> ExitCode {
    match dispatch() {
        Ok(code) => code,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch() -> Result<ExitCode> {
    let mut args = Args::from_command_line();
    let Some(name) = args.positional() else {
        print_overview();
        return Ok(ExitCode::from(if args.help() { 0 } else { 2 }));
    };
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else {
        print_overview();
        bail!("there is no command `{name}`");
    };
    if args.help() {
        println!("cargo xtask {}: {}\n\n{}", command.name, command.summary, command.help.trim());
        return Ok(ExitCode::SUCCESS);
    }
    (command.run)(&mut args)
}

fn print_overview() {
    println!("cargo xtask COMMAND [--help]\n");
    for command in &COMMANDS {
        println!("  {:8} {}", command.name, command.summary);
    }
    println!();
}
