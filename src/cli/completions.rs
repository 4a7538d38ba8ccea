//! `plugbus completions`: scripts for shells.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::failure::Result;
use super::terminal::Terminal;

/// Prints a script that completes commands and options in a shell.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub(super) struct CompletionsArgs {
    /// For this shell
    shell: Shell,
}

const EXAMPLE: &str = "\
Examples:
  plugbus completions bash > ~/.local/share/bash-completion/completions/plugbus
  plugbus completions zsh > \"${fpath[1]}/_plugbus\"
  plugbus completions fish > ~/.config/fish/completions/plugbus.fish";

pub(super) fn run(terminal: Terminal, args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "plugbus", &mut script);
    terminal.line(String::from_utf8_lossy(&script).trim_end())
}
