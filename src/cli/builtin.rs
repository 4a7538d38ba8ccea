//! Plugins that come in this program, which executes itself for them: `plugbus builtin NAME`.
//!
//! A `plugbus.toml` names them like any other command; `plugbus` there means this very program.

use std::path::PathBuf;

use super::demo::{peer, speed};
use super::failure::{Failure, Result};
use super::notes::{reader, search};
use super::terminal::Terminal;

/// Runs a plugin that comes with this program.
#[derive(Debug, clap::Args)]
pub(super) struct BuiltinArgs {
    #[command(subcommand)]
    plugin: Builtin,
}

#[derive(Debug, clap::Subcommand)]
enum Builtin {
    /// Of the notes example: reads folders and files
    NotesReader {
        /// Folders and files; the variable NOTES names others
        paths: Vec<PathBuf>,
    },
    /// Of the notes example: keeps an index and answers
    NotesSearch,
    /// Of the demo: a plugin
    DemoPeer {
        /// Its id
        id: String,
    },
    /// Of the demo: the far end of the bare relay
    DemoReceiver {
        /// The relay's socket
        path: PathBuf,
    },
}

pub(super) async fn run(terminal: Terminal, args: BuiltinArgs) -> Result<()> {
    match args.plugin {
        Builtin::NotesReader { paths } => {
            let chosen = std::env::var_os("NOTES").filter(|paths| !paths.is_empty());
            let paths = chosen.map_or(paths, |chosen| std::env::split_paths(&chosen).collect());
            if paths.is_empty() {
                return Err(Failure::usage("name folders or files to read"));
            }
            reader::run(&paths).await.map_err(Failure::failed)
        }
        Builtin::NotesSearch => search::run().await.map_err(Failure::failed),
        Builtin::DemoPeer { id } => peer::run(&id).await.map_err(Failure::failed),
        Builtin::DemoReceiver { path } => {
            let say = |line: String| drop(terminal.line(line));
            speed::receive(&path, say).map_err(Failure::failed)
        }
    }
}
