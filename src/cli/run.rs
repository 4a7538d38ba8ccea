//! `plugbus run`: single-file plugins, with nothing installed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Context;
use super::config::Config;
use super::failure::{Failure, Result, Status};
use super::python;
use super::serve::{self, Served};
use crate::host::Manifest;
use crate::id::PluginId;

/// Starts a broker and a plugin for each file. The SDK for Python comes with this program, and what
/// the header of a Python file (PEP 723) names is installed; other files are executed as they are.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// Plugins; the id of each is its name without extension, with - for _
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) async fn run(context: &Context, args: RunArgs) -> Result<()> {
    let config = config(&args.files)?;
    let served = Served {
        plugins: config.plan().map_err(Failure::usage)?,
        config,
        // As they would see it if the person had started them by hand.
        inherit_env: true,
        is_strict: true,
        reload: None,
        watching: None,
    };
    serve::run(context, served).await
}

/// What files are, each of which is a plugin.
pub(super) fn config(files: &[PathBuf]) -> Result<Config> {
    let plugins: Vec<_> = files.iter().map(|file| manifest(file)).collect::<Result<_>>()?;
    let mut seen = BTreeMap::new();
    for (plugin, file) in plugins.iter().zip(files) {
        if let Some(other) = seen.insert(&plugin.id, file) {
            return Err(Failure::usage(format_args!(
                "{} and {} would both be plugin `{}`",
                other.display(),
                file.display(),
                plugin.id
            )));
        }
    }
    if files.iter().any(|file| is_python(file)) {
        python::require()?;
    }
    Ok(Config { plugins, ..Config::default() })
}

/// What a file says of itself. One that is not Python says nothing.
fn manifest(file: &Path) -> Result<Manifest> {
    let failed = |error| Failure::failed(format_args!("{}: {error}", file.display()));
    let path = std::path::absolute(file).map_err(failed)?;
    if !path.exists() {
        let message = format!("there is no file {}", path.display());
        return Err(Failure::new(Status::Usage, message));
    }
    let mut manifest = if is_python(&path) {
        Manifest::load(&path).map_err(Failure::usage)?
    } else {
        let mut manifest = Manifest::new(plugin_id(&path)?, &path);
        manifest.run.command = vec![path.to_str().ok_or_else(|| not_utf8(&path))?.to_owned()];
        manifest
    };
    if manifest.run.dir.is_none() {
        manifest.run.dir = Some(std::env::current_dir().map_err(failed)?);
    }
    Ok(manifest)
}

fn not_utf8(path: &Path) -> Failure {
    Failure::usage(format_args!("{} is not UTF-8", path.display()))
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
