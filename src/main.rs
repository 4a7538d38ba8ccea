//! The `plugbus` command; `plugbus::cli` is all of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    plugbus::cli::main()
}
