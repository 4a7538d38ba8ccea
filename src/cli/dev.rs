//! `plugbus dev`: as `up` or `run`, and plugins are replaced when their files change.

use std::path::{Path, PathBuf};

use super::Context;
use super::config::FILE_NAME;
use super::failure::{Failure, Result};
use super::serve::{self, Served};
use super::watching::{Target, Watching};

/// Starts a broker and plugins as `up` does, or `run` for files, and goes on with what you edit: a
/// plugin whose files change is replaced by a new process without losing a call, and the methods
/// that are new, gone or different are shown. If the new process fails, the old one goes on and the
/// reason is shown. A changed plugbus.toml is applied.
#[derive(Debug, clap::Args)]
pub(super) struct DevArgs {
    /// A directory with a plugbus.toml or with plugins, or such a file, or plugins that are files
    #[arg(default_value = ".", value_name = "DIR|FILE")]
    targets: Vec<PathBuf>,
}

pub(super) async fn run(context: &Context, args: DevArgs) -> Result<()> {
    let target = target(args.targets)?;
    let are_files = matches!(target, Target::Files(_));
    let (watching, config) = Watching::start(target, true)?;
    let served = Served {
        plugins: config.plan().map_err(Failure::usage)?,
        config,
        // As `run` does; whoever configures plugins says what they may see.
        inherit_env: are_files,
        is_strict: false,
        reload: Some(watching.reload()),
        watching: Some(watching),
    };
    serve::run(context, served).await
}

fn target(mut targets: Vec<PathBuf>) -> Result<Target> {
    let is_config = |path: &Path| {
        path.is_dir() || path.extension().is_some_and(|ending| ending == "toml" || ending == "json")
    };
    if !targets.iter().any(|path| is_config(path)) {
        return Ok(Target::Files(targets));
    }
    match targets.pop() {
        Some(only) if targets.is_empty() => Ok(Target::Config(only)),
        _ => Err(Failure::usage(format_args!(
            "name one directory or {FILE_NAME}, or several plugins that are files"
        ))),
    }
}
