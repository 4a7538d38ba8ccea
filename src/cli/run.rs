//! `plugbus run`: single-file plugins, with nothing installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Context;
use super::failure::{Failure, Result, Status};
use super::python;
use super::serve::{self, Served};
use crate::host::PluginSpec;
use crate::id::PluginId;

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
    let sdk = Sdk::unpack(&args.files)?;
    let plugins = args.files.iter().map(|file| sdk.plugin(file)).collect::<Result<_>>()?;
    let served = Served { name: None, socket: None, limits: Vec::new(), plugins };
    serve::run(context, served).await
}

/// The embedded SDK, unpacked for as long as the plugins run.
struct Sdk {
    directory: Option<tempfile::TempDir>,
}

impl Sdk {
    fn unpack(files: &[PathBuf]) -> Result<Self> {
        if !files.iter().any(|file| is_python(file)) {
            return Ok(Self { directory: None });
        }
        python::require()?;
        Ok(Self { directory: Some(python::unpack_to_temporary()?) })
    }

    fn plugin(&self, file: &Path) -> Result<PluginSpec> {
        let id = plugin_id(file)?;
        let file = std::path::absolute(file)
            .map_err(|error| Failure::failed(format_args!("{}: {error}", file.display())))?;
        if !file.exists() {
            let message = format!("there is no file {}", file.display());
            return Err(Failure::new(Status::Usage, message));
        }
        Ok(match &self.directory {
            Some(directory) if is_python(&file) => {
                PluginSpec::command(id.as_str(), ["python3".into(), file])
                    .env("PYTHONPATH", python::search_path(directory.path()))
            }
            _ => PluginSpec::command(id.as_str(), [file]),
        })
    }
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
