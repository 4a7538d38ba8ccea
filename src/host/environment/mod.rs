//! What has to be made before a plugin can start: for a Python plugin that names packages, an
//! environment of its own.
//!
//! A plugin names packages in a `requirements.txt` beside its program, in the header of a single
//! file (PEP 723), or in `[requires.packages]`. They are installed by `uv` where it is in `PATH`,
//! and else by Python's own `venv` and `pip`, into the user's cache: `env-…`, named by what was
//! asked for and by which Python. An environment that is there is used without looking at the
//! network; `PLUGBUS_OFFLINE=1` forbids the network altogether.

mod python;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use self::python::{Packages, Work};
use super::cache;
use super::manifest::{Manifest, ManifestError};
use super::program::{self, ProgramError};
use super::requirements::{self, ToolError};
use super::runtime::{RuntimeError, Runtimes};
use super::spec::PluginSpec;
use crate::id::PluginId;
use crate::net::clock;

/// Where environments are kept, and whether they may be fetched for.
#[derive(Clone, Debug)]
pub struct Environments {
    cache: Option<PathBuf>,
    is_offline: bool,
}

/// Why a plugin is not ready to be started. Starting it again would not help.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// Programs that it requires will not do.
    #[error("plugin `{id}`: {}", lines(errors))]
    Tools {
        /// Which plugin.
        id: PluginId,
        /// All of them.
        errors: Vec<ToolError>,
    },
    /// It is not known how to start it.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Its file is not there.
    #[error(
        "plugin `{id}`: its file {} does not exist (`entry` in {})",
        entry.display(),
        manifest.display()
    )]
    NoEntry {
        /// Which plugin.
        id: PluginId,
        /// The file.
        entry: PathBuf,
        /// What names it.
        manifest: PathBuf,
    },
    /// There is no Python to make an environment with.
    #[error("plugin `{id}` needs Python packages: {source}")]
    NoPython {
        /// Which plugin.
        id: PluginId,
        /// Why.
        source: ProgramError,
    },
    /// The list of its packages cannot be read.
    #[error("plugin `{id}`: {source}")]
    Requirements {
        /// Which plugin.
        id: PluginId,
        /// Why.
        source: ManifestError,
    },
    /// There is nowhere to put an environment.
    #[error("plugin `{0}` needs an environment, and neither XDG_CACHE_HOME nor HOME says where")]
    NoCache(PluginId),
    /// The cache cannot be used.
    #[error("plugin `{id}`: the environment {}: {source}", path.display())]
    Cache {
        /// Which plugin.
        id: PluginId,
        /// The environment.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A step of making the environment failed.
    #[error("plugin `{id}`: `{command}` {how}{}{}", offline_hint(*is_offline), indented(said))]
    Failed {
        /// Which plugin.
        id: PluginId,
        /// What was run.
        command: String,
        /// How it ended.
        how: &'static str,
        /// The end of what it said.
        said: String,
        /// Whether the network was forbidden.
        is_offline: bool,
    },
}

impl Environments {
    /// In the user's cache; without the network if `PLUGBUS_OFFLINE` is set and neither empty nor
    /// 0.
    #[must_use]
    pub fn of_user() -> Self {
        let offline = std::env::var_os("PLUGBUS_OFFLINE");
        Self {
            cache: cache::directory(|name| std::env::var_os(name)),
            is_offline: offline.is_some_and(|value| !value.is_empty() && value != "0"),
        }
    }

    /// In a directory of the application's own.
    #[must_use]
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self { cache: Some(directory.into()), ..Self::of_user() }
    }

    /// Forbids the network, or permits it.
    #[must_use]
    pub fn offline(self, is_offline: bool) -> Self {
        Self { is_offline, ..self }
    }

    /// Checks what a plugin requires, makes its environment if it needs one, and says what it takes
    /// to start it.
    ///
    /// Blocks, for minutes where packages have to be fetched: in an asynchronous program it belongs
    /// on a thread for such work. Once made, an environment takes some milliseconds.
    ///
    /// # Errors
    ///
    /// [`PrepareError`].
    pub fn prepare(
        &self,
        manifest: &Manifest,
        runtimes: &Runtimes,
    ) -> Result<PluginSpec, PrepareError> {
        let id = || manifest.id.clone();
        requirements::check(manifest).map_err(|errors| PrepareError::Tools { id: id(), errors })?;
        let spec = manifest.to_spec(runtimes)?;
        let Some(entry) = &manifest.run.entry else { return Ok(spec) };
        if !entry.exists() {
            return Err(PrepareError::NoEntry {
                id: id(),
                entry: entry.clone(),
                manifest: manifest.path.clone(),
            });
        }
        // Only where our runtime starts Python itself; `uv run` and the like see to it themselves.
        let Some(program) = spec.command_line().first().filter(|program| is_python(program)) else {
            return Ok(spec);
        };
        let Some(packages) = Packages::of(manifest)
            .map_err(|source| PrepareError::Requirements { id: id(), source })?
        else {
            return Ok(spec);
        };
        let search = manifest.run.env.get("PATH").map(OsString::from);
        let search = search.or_else(|| std::env::var_os("PATH"));
        let python = program::find(program, search.as_deref())
            .map_err(|source| PrepareError::NoPython { id: id(), source })?;
        let until = clock::instant() + manifest.lifecycle.prepare_timeout;
        let (id, environments) = (&manifest.id, self);
        let work = Work { id, packages: &packages, python: &python, environments, until };
        let directory = work.provide(search.as_deref())?;
        Ok(inside(spec, &directory, search))
    }
}

impl Default for Environments {
    fn default() -> Self {
        Self::of_user()
    }
}

/// The plugin inside its environment, as `activate` would have it.
fn inside(spec: PluginSpec, directory: &Path, search: Option<OsString>) -> PluginSpec {
    let bin = directory.join("bin");
    let mut path = bin.clone().into_os_string();
    if let Some(rest) = search.filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    spec.program(bin.join("python3")).env("VIRTUAL_ENV", directory).env("PATH", path)
}

/// `python3`, `/usr/bin/python3.11`, …
fn is_python(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.strip_prefix("python")
        .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'))
}

fn lines(errors: &[ToolError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("\n  {line}")).collect()
}

fn offline_hint(is_offline: bool) -> &'static str {
    if is_offline { " (PLUGBUS_OFFLINE is set, so nothing was fetched)" } else { "" }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::python::COMPLETE;
    use super::*;

    /// All of it in one test, because making an environment takes seconds.
    #[test]
    fn a_plugin_finds_its_packages_and_an_environment_is_made_once() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("plugin");
        fs::create_dir(&folder).unwrap();
        make_wheel(&folder);
        fs::write(folder.join("requirements.txt"), "-r more.txt\n").unwrap();
        fs::write(folder.join("more.txt"), format!("./{WHEEL}\n")).unwrap();
        fs::write(
            folder.join("main.py"),
            "import greeting, sys; print(greeting.WORD, *sys.argv[1:])",
        )
        .unwrap();
        let mut manifest = manifest(&folder, "main.py");
        manifest.run.args.push("Ann".to_owned());
        let environments = Environments::in_directory(place.path().join("cache")).offline(true);

        let spec = environments.prepare(&manifest, &Runtimes::default()).unwrap();
        assert_eq!(run(&spec), "hello Ann\n");
        let made = directory_of(&spec);
        let before = fs::metadata(made.join(COMPLETE)).unwrap().modified().unwrap();

        // What it was made from is not needed again.
        fs::rename(folder.join(WHEEL), folder.join("elsewhere")).unwrap();
        let spec = environments.prepare(&manifest, &Runtimes::default()).unwrap();
        assert_eq!(directory_of(&spec), made);
        assert_eq!(run(&spec), "hello Ann\n");
        let after = fs::metadata(made.join(COMPLETE)).unwrap().modified().unwrap();
        assert_eq!(before, after);

        // One that somebody was killed over is made anew, which the missing package prevents.
        fs::remove_file(made.join(COMPLETE)).unwrap();
        let error = environments.prepare(&manifest, &Runtimes::default()).unwrap_err().to_string();
        assert!(error.contains("plugin `test`: `"), "{error}");
        assert!(error.contains("PLUGBUS_OFFLINE is set"), "{error}");
        assert!(error.contains(WHEEL), "{error}");
        assert!(!made.exists());
    }

    #[test]
    fn who_names_no_packages_gets_no_environment() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("main.py"), "").unwrap();
        let environments = Environments::in_directory(place.path().join("cache"));
        let mut manifest = manifest(place.path(), "main.py");
        let prepare = |manifest: &Manifest| environments.prepare(manifest, &Runtimes::default());
        assert_eq!(prepare(&manifest).unwrap().command_line()[0], "python3");
        assert!(!place.path().join("cache").exists());

        // A single file has its own list.
        fs::write(place.path().join("requirements.txt"), "absent").unwrap();
        manifest.path = place.path().join("main.py");
        assert_eq!(prepare(&manifest).unwrap().command_line()[0], "python3");

        manifest.run.entry = Some(place.path().join("none.py"));
        let error = prepare(&manifest).unwrap_err().to_string();
        assert!(error.contains("none.py does not exist (`entry` in "), "{error}");
        manifest.requires.tools = vec![crate::host::manifest::Tool::parse("absent").unwrap()];
        let error = prepare(&manifest).unwrap_err().to_string();
        assert!(error.contains("plugin `test`: `absent` is required: there is no"), "{error}");
    }

    #[test]
    fn pythons_are_known_by_their_names() {
        for (program, expected) in [
            ("python", true),
            ("python3", true),
            ("/usr/bin/python3.11", true),
            ("pythonic", false),
            ("uv", false),
            ("", false),
        ] {
            assert_eq!(is_python(program.as_ref()), expected, "{program}");
        }
    }

    pub(super) fn manifest(folder: &Path, entry: &str) -> Manifest {
        let id = PluginId::parse("test").unwrap();
        let mut manifest = Manifest::new(id, folder.join("plugin.toml"));
        manifest.run.entry = Some(folder.join(entry));
        manifest
    }

    fn directory_of(spec: &PluginSpec) -> PathBuf {
        let variable = spec.environment().find(|(name, _)| *name == "VIRTUAL_ENV");
        variable.unwrap().1.into()
    }

    fn run(spec: &PluginSpec) -> String {
        let command = spec.command_line();
        let mut process = Command::new(&command[0]);
        process.args(&command[1..]).envs(spec.environment()).env_remove("PYTHONPATH");
        let output = process.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A package of one line, as `pip` wants it.
    fn make_wheel(folder: &Path) {
        let script = "import sys, zipfile\n\
            info = 'greeting-1.0.dist-info/'\n\
            with zipfile.ZipFile(sys.argv[1], 'w') as wheel:\n\
            \x20wheel.writestr('greeting.py', \"WORD = 'hello'\")\n\
            \x20wheel.writestr(info + 'METADATA',\n\
            \x20 'Metadata-Version: 2.1\\nName: greeting\\nVersion: 1.0\\n')\n\
            \x20wheel.writestr(info + 'WHEEL',\n\
            \x20 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n\
            \x20wheel.writestr(info + 'RECORD', '')\n";
        let status =
            Command::new("python3").args(["-c", script]).arg(folder.join(WHEEL)).status().unwrap();
        assert!(status.success());
    }

    const WHEEL: &str = "greeting-1.0-py3-none-any.whl";
}
