//! What it takes to start a plugin process.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// A plugin that runs as a child process of the host.
///
/// It inherits the host's environment. Added are `PLUGBUS_FD` and `PLUGBUS_ID`, and
/// `PYTHONUNBUFFERED=1` unless it is set, so that what a Python plugin prints is seen when it
/// prints it; `PLUGBUS_SOCKET` is removed, because the plugin is connected already.
#[derive(Clone, Debug)]
#[must_use = "a specification does nothing until it is started"]
pub struct PluginSpec {
    id: String,
    command: Vec<OsString>,
    dir: Option<PathBuf>,
    env: BTreeMap<OsString, OsString>,
}

impl PluginSpec {
    /// A plugin called `id` that `command`, a program and its arguments, starts.
    ///
    /// A program without a slash is looked up in `PATH`; a relative one with a slash starts at the
    /// host's current directory.
    pub fn command(
        id: impl Into<String>,
        command: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Self {
        Self {
            id: id.into(),
            command: command.into_iter().map(Into::into).collect(),
            dir: None,
            env: BTreeMap::new(),
        }
    }

    /// The directory in which it runs. Defaults to the host's.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Adds or replaces an environment variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// The id, which is checked when the plugin starts.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The program and its arguments.
    pub(crate) fn command_line(&self) -> &[OsString] {
        &self.command
    }

    /// The directory in which it runs, if not the host's.
    pub(crate) fn directory(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// What is added to the environment.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// A variable as the plugin will see it.
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        self.env.get(OsStr::new(name)).cloned().or_else(|| std::env::var_os(name))
    }
}
