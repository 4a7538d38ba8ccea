//! Environments of Python plugins.
//!
//! Programs in an environment name their interpreter by its path, so it cannot be made elsewhere
//! and moved. It is made in its place, under a lock, and counts only once a file in it says that it
//! is complete; one that was begun and not finished is made anew.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use xxhash_rust::xxh64::xxh64;

use super::{Environments, PrepareError};
use crate::host::cache;
use crate::host::discovery::REQUIREMENTS;
use crate::host::errand::{self, Outcome};
use crate::host::manifest::{Manifest, ManifestError, read_text};
use crate::host::program;
use crate::id::PluginId;
use crate::net::clock;

/// What has to be installed.
#[derive(Debug)]
pub(super) struct Packages {
    /// Requirements, one a line.
    lines: Vec<String>,
    /// A file with more of them.
    file: Option<PathBuf>,
    /// All that decides what gets installed.
    key: String,
}

impl Packages {
    pub(super) fn of(manifest: &Manifest) -> Result<Option<Self>, ManifestError> {
        let lines = manifest.requires.packages.python.clone();
        // A single file carries its own; what lies beside it may be another plugin's.
        let entry = manifest.run.entry.as_ref().filter(|entry| **entry != manifest.path);
        let file = entry
            .and_then(|entry| entry.parent())
            .map(|folder| folder.join(REQUIREMENTS))
            .filter(|file| file.exists());
        let mut key = lines.join("\n");
        if let Some(file) = &file {
            add_content(file, 0, &mut key)?;
        }
        let is_empty = lines.is_empty() && file.is_none();
        Ok((!is_empty).then_some(Self { lines, file, key }))
    }
}

/// A file of requirements, with the files that it names: `-r other.txt`, `-c limits.txt`.
fn add_content(file: &Path, depth: usize, key: &mut String) -> Result<(), ManifestError> {
    let text = read_text(file)?;
    key.push('\n');
    key.push_str(&text);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let names_file =
            matches!(words.next(), Some("-r" | "-c" | "--requirement" | "--constraint"));
        if let (true, Some(name)) = (names_file, words.next())
            && depth < INCLUDES_MAX
            && !name.contains("://")
        {
            add_content(&file.with_file_name(name), depth + 1, key)?;
        }
    }
    Ok(())
}

/// Making one environment.
pub(super) struct Work<'a> {
    pub(super) id: &'a PluginId,
    pub(super) packages: &'a Packages,
    /// The interpreter.
    pub(super) python: &'a Path,
    pub(super) environments: &'a Environments,
    /// When it has taken too long.
    pub(super) until: Instant,
}

impl Work<'_> {
    /// The environment, made if it is not there.
    pub(super) fn provide(&self, search: Option<&OsStr>) -> Result<PathBuf, PrepareError> {
        let cache = self.environments.cache.as_deref();
        let cache = cache.ok_or_else(|| PrepareError::NoCache(self.id.clone()))?;
        let key = format!("{}\n{}", self.python_identity()?, self.packages.key);
        // Two seeds, so that no two of them ever meet by chance.
        let name =
            format!("env-{:016x}{:016x}", xxh64(key.as_bytes(), 0), xxh64(key.as_bytes(), 1));
        let directory = cache.join(&name);
        let failed =
            |source| PrepareError::Cache { id: self.id.clone(), path: directory.clone(), source };
        cache::prepare(cache).map_err(failed)?;
        let lock = File::create(cache.join(format!("{name}.lock"))).map_err(failed)?;
        // Another broker may be making the same one.
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        let mark = directory.join(COMPLETE);
        if fs::read_to_string(&mark).is_ok_and(|found| found == key) {
            return Ok(directory);
        }
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => (),
        }
        log::info!("plugin `{}`: making its Python environment {}", self.id, directory.display());
        if let Err(error) = self.make(&directory, search) {
            // What is left is of no use, and it may be large.
            if let Err(error) = fs::remove_dir_all(&directory) {
                log::debug!("{}: {error}", directory.display());
            }
            return Err(error);
        }
        fs::write(&mark, key).map_err(failed)?;
        Ok(directory)
    }

    /// Which Python it is: packages with machine code fit one version only.
    fn python_identity(&self) -> Result<String, PrepareError> {
        let script = "import sys; print(sys.implementation.cache_tag, sys.version, \
                      sys.base_prefix, sep='\\n')";
        let outcome = self.run(Command::new(self.python).args(["-I", "-c", script]))?;
        Ok(outcome.said)
    }

    fn make(&self, directory: &Path, search: Option<&OsStr>) -> Result<(), PrepareError> {
        let python = directory.join("bin/python3");
        let mut install = match program::find("uv".as_ref(), search) {
            Ok(uv) => {
                let mut make = Command::new(&uv);
                make.arg("venv").arg("--quiet").arg("--python").arg(self.python).arg(directory);
                let mut install = Command::new(&uv);
                install.args(["pip", "install", "--quiet", "--python"]).arg(&python);
                if self.environments.is_offline {
                    make.arg("--offline");
                    install.arg("--offline");
                }
                self.run(&mut make)?;
                install
            }
            Err(_) => {
                self.run(Command::new(self.python).args(["-I", "-m", "venv"]).arg(directory))?;
                let mut install = Command::new(&python);
                install.args(["-m", "pip", "install", "--quiet", "--no-input"]);
                install.arg("--disable-pip-version-check");
                if self.environments.is_offline {
                    install.arg("--no-index");
                }
                install
            }
        };
        if !self.packages.lines.is_empty() {
            let list = directory.join("plugbus-requirements.txt");
            fs::write(&list, self.packages.lines.join("\n") + "\n").map_err(|source| {
                PrepareError::Cache { id: self.id.clone(), path: list.clone(), source }
            })?;
            install.arg("-r").arg(list);
        }
        if let Some(file) = &self.packages.file {
            install.arg("-r").arg(file);
            // Paths in it are relative to it.
            install.current_dir(file.parent().unwrap_or_else(|| Path::new("/")));
        }
        self.run(&mut install).map(drop)
    }

    fn run(&self, command: &mut Command) -> Result<Outcome, PrepareError> {
        // The settings of somebody's shell are about another environment.
        for name in ["PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"] {
            command.env_remove(name);
        }
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(OsStr::to_string_lossy)
            .collect();
        let shown = words.join(" ");
        let failed = |how, said: &str| PrepareError::Failed {
            id: self.id.clone(),
            command: shown.clone(),
            how,
            said: last_lines(said),
            is_offline: self.environments.is_offline,
        };
        match errand::run(command, self.until.saturating_duration_since(clock::instant())) {
            Ok(outcome) if outcome.timed_out => Err(failed("took too long", &outcome.said)),
            Ok(outcome) if !outcome.success => Err(failed("failed", &outcome.said)),
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(failed("cannot be run", &error.to_string())),
        }
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES_MAX)..].join("\n")
}

/// Says in an environment that nothing is missing in it, and what it was made for.
pub(super) const COMPLETE: &str = "plugbus-complete";

/// Lines of an error that are shown.
const LINES_MAX: usize = 20;

/// Files of requirements that name others.
const INCLUDES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::super::tests::manifest;
    use super::*;

    #[test]
    fn what_is_asked_for_decides_which_environment_it_is() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
        let mut manifest = manifest(place.path(), "main.py");
        let key = |manifest: &Manifest| Packages::of(manifest).unwrap().map(|it| it.key);
        assert_eq!(key(&manifest), None);
        let mut keys = Vec::new();
        write("requirements.txt", "a\n-r more.txt");
        write("more.txt", "b\n-r requirements.txt");
        keys.push(key(&manifest));
        write("more.txt", "c");
        keys.push(key(&manifest));
        manifest.requires.packages.python.push("d".to_owned());
        keys.push(key(&manifest));
        fs::remove_file(place.path().join("requirements.txt")).unwrap();
        keys.push(key(&manifest));
        for (index, key) in keys.iter().enumerate() {
            assert!(key.is_some() && !keys[..index].contains(key), "{keys:?}");
        }
        write("requirements.txt", "-c none.txt");
        assert!(Packages::of(&manifest).unwrap_err().to_string().contains("none.txt: No such"));
    }
}
