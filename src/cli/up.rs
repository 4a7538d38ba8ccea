//! `plugbus up`: the broker and the plugins of a `plugbus.toml` or a folder of plugins.

use std::path::PathBuf;

use super::Context;
use super::failure::{Failure, Result};
use super::serve::{self, Served};
use super::watching::{Target, Watching};
use crate::limit::SETTINGS;

/// Starts a broker and the plugins of a plugbus.toml, or of a folder of plugins, and stops them in
/// the reverse order on Ctrl-C or SIGTERM. A second Ctrl-C ends everything at once. Folders of
/// plugins are watched: what is added is started, what is removed stopped, and a changed manifest
/// applied.
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub(super) struct UpArgs {
    /// A directory with a plugbus.toml or with plugins, or such a file
    #[arg(default_value = ".", value_name = "DIR|FILE")]
    target: PathBuf,
}

/// An example, and what it leaves out.
fn help() -> String {
    let mut help = format!("{EXAMPLE}\n\nLimits, with their defaults:\n");
    for setting in SETTINGS {
        help +=
            &format!("\n  {:<22} {:>11}  {}", setting.name(), setting.default(), setting.help());
    }
    help
}

const EXAMPLE: &str = "\
A plugbus.toml:

  [broker]                    # all of it may be left out
  name = \"notes\"              # the socket is then notes.sock instead of default.sock
  socket = \"run/notes.sock\"   # or anywhere else
  limits = { sessions = 1000, heartbeat_ms = 15000 }
  starts = { per_second = 10, burst = 20, at_once = 4 }   # how fast plugins start: the defaults

  [plugins.extract]           # plugins start side by side …
  command = [\"python3\", \"extract.py\"]
  dir = \"extract\"             # where it runs; else the directory of the file
  env = { LANG = \"C\" }
  pass_env = [\"API_TOKEN\"]    # variables it may see, beside PATH, HOME and their like

  [plugins.index]             # … but each after those that it requires
  manifest = \"index\"          # a plugin.toml, or the folder of one
  limits = { memory = \"1G\" }  # any table of a plugin.toml goes before the manifest

  [discover]
  dirs = [\"plugins\"]          # folders whose plugins are found by themselves

docs/manifest.md explains plugin.toml, [runtimes] and what Python plugins need. Paths are relative
to the file. Where the program is python3, the SDK for Python that comes with plugbus is first on
its path, unless `env` sets PYTHONPATH; where it is plugbus, it is this one.";

pub(super) async fn run(context: &Context, args: UpArgs) -> Result<()> {
    let target = Target::Config(args.target);
    let (watching, config) = Watching::start(target, false).map_err(|failure| {
        failure.hint("`plugbus run FILE.py` starts a single file without one")
    })?;
    let served = Served {
        plugins: config.plan().map_err(Failure::usage)?,
        config,
        inherit_env: false,
        is_strict: false,
        reload: Some(watching.reload()),
        watching: Some(watching),
    };
    serve::run(context, served).await
}
