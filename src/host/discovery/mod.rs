//! Finds the plugins of a folder, and what changes in it.
//!
//! A folder that is scanned holds plugins, each of which is a folder with a `plugin.toml` or a
//! LogoMesh `manifest.json`, or a single Python file that uses the SDK (`import plugbus`,
//! `from plugbus …`) or has a `[tool.plugbus]` table. What is hidden is not looked at, nor what
//! tools put beside sources.

pub(super) mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::manifest::{FILE_NAMES, Manifest, ManifestError, read_text};
use crate::id::PluginId;

pub use self::watch::{Change, Watch, watch};

/// The plugins of a folder.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Found {
    /// In the order of their ids.
    pub manifests: Vec<Manifest>,
    /// Manifests that cannot be used; the others can.
    pub problems: Vec<DiscoveryError>,
}

/// Why a plugin, or a whole folder, cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The folder cannot be read.
    #[error("cannot look for plugins in {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Two have the same id.
    #[error(
        "plugin `{id}` is in {} and in {}: give one of them another id",
        first.display(),
        second.display()
    )]
    Twice {
        /// The id.
        id: PluginId,
        /// The one that is used.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The system gives no notice of changes.
    #[error("cannot watch {}: {source}", path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
}

impl DiscoveryError {
    /// The file or folder that it is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Folder { path, .. } | Self::Watch { path, .. } => path,
            Self::Twice { second, .. } => second,
            Self::Manifest(error) => error.path(),
        }
    }
}

/// Finds the plugins of `folder`, which may be a plugin itself.
///
/// # Errors
///
/// [`DiscoveryError::Folder`]. A plugin that cannot be used is among the
/// [`problems`](Found::problems) instead.
pub fn discover(folder: &Path) -> Result<Found, DiscoveryError> {
    let failed = |source| DiscoveryError::Folder { path: folder.to_owned(), source };
    let folder = std::path::absolute(folder).map_err(failed)?;
    let mut files = Vec::new();
    find(&folder, 0, &mut BTreeSet::new(), &mut files).map_err(failed)?;
    let mut found = Found::default();
    let mut by_id: BTreeMap<PluginId, Manifest> = BTreeMap::new();
    for file in files {
        match Manifest::load(&file) {
            Ok(manifest) => match by_id.get(&manifest.id) {
                Some(first) => found.problems.push(DiscoveryError::Twice {
                    id: manifest.id,
                    first: first.path.clone(),
                    second: file,
                }),
                None => drop(by_id.insert(manifest.id.clone(), manifest)),
            },
            // Gone since it was listed.
            Err(ManifestError::Unreadable { source, .. })
                if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => found.problems.push(error.into()),
        }
    }
    found.manifests = by_id.into_values().collect();
    Ok(found)
}

/// Adds the manifests in and below `folder`, in the order of their names.
fn find(
    folder: &Path,
    depth: usize,
    seen: &mut BTreeSet<PathBuf>,
    files: &mut Vec<PathBuf>,
) -> io::Result<()> {
    // Links are followed, since developers link to where they work; but not in circles.
    if !seen.insert(fs::canonicalize(folder)?) {
        return Ok(());
    }
    if let Some(file) = FILE_NAMES.map(|name| folder.join(name)).into_iter().find(|it| is_ours(it))
    {
        files.push(file);
        return Ok(());
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    entries.sort();
    for path in entries {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if name.starts_with(['.', '_']) || NOT_OURS.contains(&name) {
            continue;
        }
        if path.is_dir() {
            if depth < DEPTH_MAX
                && let Err(error) = find(&path, depth + 1, seen, files)
            {
                log::warn!("cannot look for plugins in {}: {error}", path.display());
            }
        } else if depth == 0 && is_plugin_file(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// Whether it is a manifest. Others put files of the name `manifest.json` into folders too.
fn is_ours(file: &Path) -> bool {
    file.is_file()
        && (file.extension().is_none_or(|ending| ending != "json")
            || read_text(file)
                .is_ok_and(|text| LOGOMESH_MARKS.iter().any(|mark| text.contains(mark))))
}

fn is_plugin_file(file: &Path) -> bool {
    let uses_sdk = |line: &str| {
        let mut words = line.split([' ', '\t', '.', ',']).filter(|word| !word.is_empty());
        matches!(words.next(), Some("import" | "from")) && words.next() == Some("plugbus")
    };
    file.extension().is_some_and(|ending| ending == "py")
        && read_text(file).is_ok_and(|text| {
            text.lines().any(|line| uses_sdk(line) || line.starts_with("# [tool.plugbus"))
        })
}

/// Packages that a plugin in Python needs, beside its program.
pub(crate) const REQUIREMENTS: &str = "requirements.txt";

/// What tools put beside sources.
const NOT_OURS: [&str; 6] = ["__pycache__", "node_modules", "target", "venv", "dist", "build"];

const LOGOMESH_MARKS: [&str; 2] = ["\"entrypoint\"", "plugin-manifest"];

/// A folder of plugins has folders of plugins, and some people sort those into folders.
const DEPTH_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_found_wherever_they_are_and_nothing_else_is() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("weather/plugin.toml", &toml("weather"));
        write("weather/inner/plugin.toml", &toml("inner"));
        write("group/deep/geo/plugin.toml", &toml("geo"));
        write("mesh/manifest.json", LOGOMESH);
        write("web/manifest.json", "{\"manifest_version\": 3}");
        write("hello.py", "import sys\nfrom plugbus import plugin\n");
        write("single.py", "# /// script\n# [tool.plugbus]\n# id = 'other'\n# ///\n");
        write("common.py", "import sys\nimport plugbus_like\n# import plugbus\n");
        write("_private.py", "import plugbus\n");
        write(".hidden/plugin.toml", &toml("hidden"));
        write("node_modules/x/plugin.toml", &toml("module"));
        write("weather-old/plugin.toml", &toml("weather"));
        write("wrong/plugin.toml", "manifest = 1\nid = 'wrong'\nrun = 3\n");
        std::os::unix::fs::symlink(place.path(), place.path().join("group/circle")).unwrap();

        let found = discover(place.path()).unwrap();
        let ids: Vec<_> = found.manifests.iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["geo", "hello", "mesh", "other", "weather"]);
        let problems: Vec<_> = found.problems.iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("plugin `weather` is in "), "{problems:?}");
        assert!(problems[0].contains("weather-old/plugin.toml: give one"), "{problems:?}");
        assert!(problems[1].contains("wrong/plugin.toml:3: `run` must"), "{problems:?}");

        let one = discover(&place.path().join("weather")).unwrap();
        assert_eq!(one.manifests.len(), 1, "a plugin's own folder is that plugin");
        let error = discover(&place.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("cannot look for plugins in "), "{error}");
    }

    pub(super) fn toml(id: &str) -> String {
        format!("manifest = 1\nid = '{id}'\nrun.entry = 'main.py'\n")
    }

    const LOGOMESH: &str = r#"{
        "id": "mesh", "version": "1.0.0", "runtime": "python", "entrypoint": "x"
    }"#;
}
