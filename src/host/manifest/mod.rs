//! What a plugin says of itself before it runs: `plugin.toml`, a header of a Python file, or a
//! LogoMesh manifest.
//!
//! All of them are read into one [`Manifest`]. Errors name the file, the line, and what would be
//! right; a key that nobody knows is an error, because a setting that is silently ignored is worse
//! than none. `docs/manifest.md` explains every key and `docs/manifest.schema.json`, generated from
//! the types in here, describes them to editors.
//!
//! Nothing is looked up or executed here: a manifest can be read where its plugin could not run.

mod health;
mod lifecycle;
mod limits;
mod logomesh;
mod requires;
mod run;
mod script;
mod units;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use semver::Version;
use thiserror::Error;

use crate::host::document::{self, Entry, Problem, entries_to_json};
use crate::id::PluginId;
use crate::limit;

pub use self::health::{Health, Threshold};
pub use self::lifecycle::{Alerts, Backoff, Intensity, Lifecycle, Restart};
pub use self::limits::Limits;
pub use self::requires::{Packages, Requirement, Requires, Tool};
pub use self::run::Run;
pub(crate) use self::run::check_one_way;
pub use self::units::{ByteSize, CpuShare};

/// What a plugin says of itself before it runs.
#[derive(Clone, Debug, JsonSchema, PartialEq)]
#[schemars(title = "plugin.toml", deny_unknown_fields)]
#[non_exhaustive]
pub struct Manifest {
    /// What others call it: a lower-case letter, then up to 62 of a-z, 0-9 and -.
    #[schemars(with = "String", regex(pattern = "^[a-z][a-z0-9-]{0,62}$"))]
    pub id: PluginId,
    /// Its version, as in Semantic Versioning.
    #[schemars(with = "Option<String>")]
    pub version: Option<Version>,
    /// What it is for, in a line.
    pub description: Option<String>,
    /// How it is started.
    pub run: Run,
    /// What has to be there before it starts.
    #[schemars(default)]
    pub requires: Requires,
    /// What it asks to be allowed. Kept as it is.
    #[schemars(default)]
    pub permissions: serde_json::Map<String, serde_json::Value>,
    /// What it may use at most.
    #[schemars(default)]
    pub limits: Limits,
    /// When it starts, and what happens when it ends.
    #[schemars(default)]
    pub lifecycle: Lifecycle,
    /// What of it others may see. Kept as it is.
    #[schemars(default)]
    pub expose: serde_json::Map<String, serde_json::Value>,
    /// The file that says all this.
    #[schemars(skip)]
    pub path: PathBuf,
}

/// Why there is no manifest.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory without one.
    #[error("there is no plugin.toml and no manifest.json in {}", .0.display())]
    Missing(PathBuf),
    /// It cannot be used.
    #[error("{}:{line}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl ManifestError {
    /// The file or directory that it is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Unreadable { path, .. } | Self::Missing(path) | Self::Wrong { path, .. } => path,
        }
    }
}

impl Manifest {
    /// A manifest with nothing in it but a name, for an application that fills in the rest itself.
    /// Relative paths start where `path`, the file that it stands for, is.
    #[must_use]
    pub fn new(id: PluginId, path: impl Into<PathBuf>) -> Self {
        Self {
            id,
            version: None,
            description: None,
            run: Run::default(),
            requires: Requires::default(),
            permissions: serde_json::Map::new(),
            limits: Limits::default(),
            lifecycle: Lifecycle::default(),
            expose: serde_json::Map::new(),
            path: path.into(),
        }
    }

    /// Reads a `plugin.toml`, a LogoMesh `manifest.json`, the header of a Python file, or what of
    /// the first two is in a directory.
    ///
    /// # Errors
    ///
    /// Everything that [`ManifestError`] says; the first thing that is wrong in the file.
    pub fn load(path: &Path) -> Result<Self, ManifestError> {
        let unreadable = |source| ManifestError::Unreadable { path: path.to_owned(), source };
        let path = std::path::absolute(path).map_err(unreadable)?;
        if path.is_dir() {
            let files = FILE_NAMES.map(|name| path.join(name));
            let found = files.iter().find(|file| file.exists());
            return Self::load(found.ok_or(ManifestError::Missing(path))?);
        }
        let text = read_text(&path)?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Self::parse_logomesh(&text, &path),
            Some("py") => Self::parse_script(&text, &path),
            _ => Self::parse(&text, &path),
        }
    }

    /// Reads the text of a `plugin.toml`, which `path` names in errors and for relative paths.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Wrong`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ManifestError> {
        read_document(text, path).map_err(|problem| located(path, text, 0, problem))
    }

    /// Reads the text of a LogoMesh manifest, version 2.0.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Wrong`], also for what has no counterpart here.
    pub fn parse_logomesh(text: &str, path: &Path) -> Result<Self, ManifestError> {
        logomesh::read(text, path).map_err(|problem| located(path, text, 0, problem))
    }

    /// Reads the header of a Python file (`# /// script`). A file without one is a plugin that its
    /// name names, and needs nothing.
    ///
    /// # Errors
    ///
    /// [`ManifestError::Wrong`].
    pub fn parse_script(text: &str, path: &Path) -> Result<Self, ManifestError> {
        script::read(text, path)
    }

    /// The JSON Schema of a `plugin.toml`.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        let mut schema = schemars::schema_for!(Self).to_value();
        let format = serde_json::json!({
            "description": "The format of this file.",
            "const": FORMAT,
        });
        schema["properties"]["manifest"] = format;
        if let Some(required) = schema["required"].as_array_mut() {
            required.insert(0, "manifest".into());
        }
        schema
    }

    /// Where relative paths start.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new("/"))
    }

    /// Takes what a table says. Relative paths in it start at `base`; `place` names it in errors.
    /// False if the key is none of a manifest.
    pub(crate) fn read_key(
        &mut self,
        entry: &Entry,
        place: &str,
        base: &Path,
    ) -> Result<bool, Problem> {
        let inner = match place {
            "" => entry.key.clone(),
            place => format!("{place}.{}", entry.key),
        };
        match entry.key.as_str() {
            "version" => {
                let text = entry.string()?;
                let version = Version::parse(text).map_err(|error| {
                    entry.wrong(format!(
                        "`version` {text:?}: {error}; write three numbers, like \"1.4.2\""
                    ))
                })?;
                self.version = Some(version);
            }
            "description" => self.description = Some(entry.string()?.to_owned()),
            "run" => {
                check_one_way(entry.table()?)?;
                self.run.read(entry.table()?, &inner, base)?;
            }
            "requires" => self.requires.read(entry.table()?, &inner)?,
            "permissions" => self.permissions = entries_to_json(entry.table()?),
            "limits" => self.limits.read(entry.table()?, &inner)?,
            "lifecycle" => self.lifecycle.read(entry.table()?, &inner)?,
            "expose" => self.expose = entries_to_json(entry.table()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The keys of a manifest besides `manifest` and `id`.
    pub(crate) const KEYS: [&str; 8] = [
        "version",
        "description",
        "run",
        "requires",
        "permissions",
        "limits",
        "lifecycle",
        "expose",
    ];
}

/// Reads a file of at most [`limit::MANIFEST_MAX`] bytes.
pub(crate) fn read_text(path: &Path) -> Result<String, ManifestError> {
    let unreadable = |source| ManifestError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(limit::MANIFEST_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > limit::MANIFEST_MAX {
        let message = format!("it has more than {} bytes", limit::MANIFEST_MAX);
        return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, message)));
    }
    Ok(text)
}

/// A problem in `text`, which follows `lines_before` lines of the file.
fn located(path: &Path, text: &str, lines_before: usize, problem: Problem) -> ManifestError {
    let line = lines_before + problem.line(text);
    ManifestError::Wrong { path: path.to_owned(), line, message: problem.message }
}

fn read_document(text: &str, path: &Path) -> Result<Manifest, Problem> {
    let entries = document::parse_toml(text)?;
    let find = |key: &str| entries.iter().find(|entry| entry.key == key);
    match find("manifest") {
        Some(format) if format.as_integer() == Some(FORMAT) => (),
        Some(format) => {
            let message = format!("`manifest` must be {FORMAT}, the only format so far");
            return Err(format.wrong(message));
        }
        None => {
            let message = format!("the format is missing: add `manifest = {FORMAT}` at the top");
            return Err(Problem::new(0, message));
        }
    }
    let Some(id) = find("id") else {
        return Err(Problem::new(0, "the plugin's name is missing: add `id = \"my-plugin\"`"));
    };
    let id = PluginId::parse(id.string()?).map_err(|fault| id.wrong(fault.message))?;
    let mut manifest = Manifest::new(id, path);
    read_tables(&mut manifest, &entries, "", &["manifest", "id"])?;
    if !manifest.run.is_complete() {
        let message = format!("plugin `{}` has nothing to start: {ADD_RUN}", manifest.id);
        return Err(match find("run") {
            Some(run) => run.wrong_key(message),
            None => Problem::new(0, message),
        });
    }
    Ok(manifest)
}

/// Reads all tables of a manifest; `others` are keys that the caller has dealt with.
fn read_tables(
    manifest: &mut Manifest,
    entries: &[Entry],
    place: &str,
    others: &[&str],
) -> Result<(), Problem> {
    let base = manifest.dir().to_owned();
    for entry in entries {
        let known =
            others.contains(&entry.key.as_str()) || manifest.read_key(entry, place, &base)?;
        if !known {
            let keys: Vec<_> = others.iter().copied().chain(Manifest::KEYS).collect();
            let place = match place {
                "" => "a manifest".to_owned(),
                place => format!("[{place}]"),
            };
            return Err(entry.unknown(&place, &keys));
        }
    }
    Ok(())
}

/// What a directory is searched for, in this order.
pub(crate) const FILE_NAMES: [&str; 2] = ["plugin.toml", "manifest.json"];

const FORMAT: i64 = 1;
const ADD_RUN: &str =
    "add `[run]` with `entry = \"main.py\"`, or with `command = [\"program\", …]`";

#[cfg(test)]
mod tests;
