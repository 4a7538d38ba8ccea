//! `plugbus run`: single-file plugins, with nothing installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Context;
use super::failure::{Failure, Result, Status};
use super::python;
use super::sdk::Sdk;
use super::serve::{self, Served};
use crate::host::PluginSpec;
use crate::id::PluginId;
use crate::limit::Limits;

/// Starts a broker and a plugin for each file. The SDK for Python comes with this program; other
/// files are executed as they are.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// Plugins; the id of each is its name without extension, with - for _
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) async fn run(context: &Context, args: RunArgs) -> Result<()> {
    let mut ids = BTreeMap::new();
    for file in &args.files {
        if let Some(other) = ids.insert(plugin_id(file)?, file) {
            return Err(Failure::usage(format_args!(
                "{} and {} would both be plugin `{}`",
                other.display(),
                file.display(),
                plugin_id(file)?
            )));
        }
    }
    let sdk = match args.files.iter().any(|file| is_python(file)) {
        true => {
            python::require()?;
            Some(Sdk::provide()?)
        }
        false => None,
    };
    let plugin = |file: &PathBuf| plugin(file, sdk.as_ref());
    let plugins = args.files.iter().map(plugin).collect::<Result<_>>()?;
    let served = Served { name: None, socket: None, limits: Limits::default(), plugins };
    serve::run(context, served).await
}

fn plugin(file: &Path, sdk: Option<&Sdk>) -> Result<PluginSpec> {
    let id = plugin_id(file)?;
    let file = std::path::absolute(file)
        .map_err(|error| Failure::failed(format_args!("{}: {error}", file.display())))?;
    if !file.exists() {
        let message = format!("there is no file {}", file.display());
        return Err(Failure::new(Status::Usage, message));
    }
    Ok(match sdk {
        Some(sdk) if is_python(&file) => PluginSpec::command(id.as_str(), ["python3".into(), file])
            .env("PYTHONPATH", python::search_path(sdk.path())),
        _ => PluginSpec::command(id.as_str(), [file]),
    }
    // As it would see it if the person had started it by hand.
    .inherit_env(true))
}

fn is_python(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "py")
}

fn plugin_id(file: &Path) -> Result<PluginId> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    PluginId::parse(&stem.replace('_', "-")).map_err(|fault| {
        Failure::usage(format_args!("{} cannot name a plugin: {fault}", file.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_file_names() {
        let cases = [
            ("hello.py", Some("hello")),
            ("/x/image_tools.py", Some("image-tools")),
            ("bin/ant", Some("ant")),
            ("Hello.py", None),
            ("7.py", None),
            ("..", None),
        ];
        for (file, expected) in cases {
            let id = plugin_id(Path::new(file)).ok();
            assert_eq!(id.as_ref().map(PluginId::as_str), expected, "{file}");
        }
    }
}
