//! What it takes to start a plugin process.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::Resource;

use crate::id::PluginId;
use crate::sys::guardian::PLUGIN_SOCKET;

/// A plugin that runs as a process of its own, in a session and process group of its own.
///
/// Of the host's environment it sees only what programs in general need: where programs, the home
/// and temporary files are (`PATH`, `HOME`, `TMPDIR`, `XDG_*`), who the user is (`USER`,
/// `LOGNAME`, `SHELL`), language and time (`LANG`, `LANGUAGE`, `LC_*`, `TZ`). What else the host
/// was given, tokens and passwords among it, is not for every plugin; [`env`](Self::env) gives a
/// plugin a value, [`pass_env`](Self::pass_env) one of the host's, and
/// [`inherit_env`](Self::inherit_env) all of them.
///
/// Added are `PLUGBUS_FD`, `PLUGBUS_ID`, `PLUGBUS_INSTANCE`, `PLUGBUS_RUN` (different for every
/// start; it marks what the plugin starts), and `PYTHONUNBUFFERED=1` unless it is
/// set, so that what a Python plugin prints is seen when it prints it.
#[derive(Clone, Debug)]
#[must_use = "a specification does nothing until it is started"]
pub struct PluginSpec {
    id: String,
    command: Vec<OsString>,
    dir: Option<PathBuf>,
    env: BTreeMap<OsString, OsString>,
    inherit_env: bool,
    pass_env: BTreeSet<OsString>,
    limits: BTreeMap<Limit, u64>,
    instance: u32,
    scan: bool,
}

/// A limit that the system puts on each process of a plugin: `getrlimit(2)` has the details.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Limit {
    /// Open descriptors: the first number that is too large.
    OpenFiles,
    /// Processes and threads, of the whole user.
    Processes,
    /// Address space, in bytes: an upper bound of memory that interpreters with large reservations
    /// (Go, Java, Node) meet early.
    AddressSpace,
    /// Private writable memory, in bytes: data, heap and anonymous maps.
    Data,
    /// Processor time, in seconds.
    ProcessorTime,
    /// A file that it writes, in bytes.
    FileSize,
    /// A core file, in bytes. 0 for none.
    CoreSize,
    /// The stack, in bytes.
    Stack,
}

impl Limit {
    fn resource(self) -> Resource {
        match self {
            Self::OpenFiles => Resource::Nofile,
            Self::Processes => Resource::Nproc,
            Self::AddressSpace => Resource::As,
            Self::Data => Resource::Data,
            Self::ProcessorTime => Resource::Cpu,
            Self::FileSize => Resource::Fsize,
            Self::CoreSize => Resource::Core,
            Self::Stack => Resource::Stack,
        }
    }
}

/// What `ulimit` and manuals call it.
pub(crate) fn limit_name(resource: Resource) -> &'static str {
    match resource {
        Resource::Nofile => "nofile",
        Resource::Nproc => "nproc",
        Resource::As => "as",
        Resource::Data => "data",
        Resource::Cpu => "cpu",
        Resource::Fsize => "fsize",
        Resource::Core => "core",
        Resource::Stack => "stack",
        _ => "limit",
    }
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
            inherit_env: false,
            pass_env: BTreeSet::new(),
            limits: BTreeMap::new(),
            instance: 0,
            scan: false,
        }
    }

    /// Replaces the program, and keeps its arguments.
    pub(crate) fn program(mut self, program: impl Into<OsString>) -> Self {
        match self.command.first_mut() {
            Some(first) => *first = program.into(),
            None => self.command.push(program.into()),
        }
        self
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

    /// Lets it see the host's whole environment instead of the part that is named above, except
    /// variables that begin with `PLUGBUS_`: those are about the host.
    pub fn inherit_env(mut self, inherit: bool) -> Self {
        self.inherit_env = inherit;
        self
    }

    /// Lets it see this variable of the host, if the host has it.
    pub fn pass_env(mut self, name: impl Into<OsString>) -> Self {
        self.pass_env.insert(name.into());
        self
    }

    /// Sets a limit of its processes, as the soft and the hard one. The start fails when it is
    /// above the host's own hard limit.
    pub fn limit(mut self, limit: Limit, value: u64) -> Self {
        self.limits.insert(limit, value);
        self
    }

    /// Which of several instances of the plugin this is, from 0; it finds the number in
    /// `PLUGBUS_INSTANCE`.
    pub fn instance(mut self, instance: u32) -> Self {
        self.instance = instance;
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
    #[allow(dead_code, reason = "the command asks; the broker alone does not")]
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// Makes its guardian do without the kernel's list of children, which not all kernels have.
    #[cfg(test)]
    pub(crate) fn scan(mut self) -> Self {
        self.scan = true;
        self
    }

    /// Whether its guardian looks for children among all processes.
    pub(crate) fn scans(&self) -> bool {
        self.scan
    }

    /// A variable that is added.
    #[cfg(test)]
    pub(crate) fn variable(&self, name: &str) -> Option<OsString> {
        self.env.get(OsStr::new(name)).cloned()
    }

    /// The limits that are set.
    pub(crate) fn limits(&self) -> impl Iterator<Item = (Resource, u64)> {
        self.limits.iter().map(|(limit, value)| (limit.resource(), *value))
    }

    /// All of its environment.
    pub(crate) fn whole_environment(&self, id: &PluginId) -> BTreeMap<OsString, OsString> {
        self.environment_from(id, std::env::vars_os())
    }

    fn environment_from(
        &self,
        id: &PluginId,
        host: impl Iterator<Item = (OsString, OsString)>,
    ) -> BTreeMap<OsString, OsString> {
        let mut environment: BTreeMap<_, _> = host.filter(|(name, _)| self.may_see(name)).collect();
        environment.entry("PYTHONUNBUFFERED".into()).or_insert_with(|| "1".into());
        environment.extend(self.env.clone());
        environment.extend([
            ("PLUGBUS_FD".into(), PLUGIN_SOCKET.to_string().into()),
            ("PLUGBUS_ID".into(), id.as_str().into()),
            ("PLUGBUS_INSTANCE".into(), self.instance.to_string().into()),
        ]);
        environment
    }

    fn may_see(&self, name: &OsStr) -> bool {
        let bytes = name.as_bytes();
        let is_general = || {
            GENERAL.iter().any(|it| it.as_bytes() == bytes)
                || GENERAL_PREFIXES.iter().any(|it| bytes.starts_with(it.as_bytes()))
        };
        let is_ours = bytes.starts_with(b"PLUGBUS_");
        self.pass_env.contains(name) || !is_ours && (self.inherit_env || is_general())
    }
}

/// What every program may need and nobody keeps a secret in.
const GENERAL: [&str; 9] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"];

/// Language by category; directories of the user's session and files.
const GENERAL_PREFIXES: [&str; 2] = ["LC_", "XDG_"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_sees_the_general_part_of_the_environment_and_what_it_was_given() {
        let spec = PluginSpec::command("echo", ["true"]).env("COLOUR", "blue").instance(2);
        let plain = ["COLOUR=blue", "HOME=/h", "LC_TIME=C", "PATH=/p", "XDG_CACHE_HOME=/c"];
        assert_eq!(seen(&spec), plain);
        let all = ["API_TOKEN=x", "COLOUR=blue", "HOME=/h", "LC_TIME=C", "PATH=/p"];
        assert_eq!(seen(&spec.clone().inherit_env(true))[..5], all);
        assert!(seen(&spec.clone().pass_env("API_TOKEN")).contains(&"API_TOKEN=x".to_owned()));
        let path = seen(&spec.env("PATH", "/mine"));
        assert!(path.contains(&"PATH=/mine".to_owned()), "what it was given wins");
    }

    /// Without what is always added, which is checked here.
    fn seen(spec: &PluginSpec) -> Vec<String> {
        let host = [
            ("HOME", "/h"),
            ("PATH", "/p"),
            ("API_TOKEN", "x"),
            ("LC_TIME", "C"),
            ("XDG_CACHE_HOME", "/c"),
            ("PLUGBUS_SOCKET", "/run/s"),
            ("PLUGBUS_ID", "parent"),
        ];
        let host = host.map(|(name, value)| (name.into(), value.into()));
        let id = PluginId::parse("echo").unwrap();
        let mut environment = spec.environment_from(&id, host.into_iter());
        for (name, value) in [
            ("PLUGBUS_FD", "3"),
            ("PLUGBUS_ID", "echo"),
            ("PLUGBUS_INSTANCE", "2"),
            ("PYTHONUNBUFFERED", "1"),
        ] {
            assert_eq!(environment.remove(OsStr::new(name)).unwrap(), value);
        }
        let text = |value: OsString| value.into_string().unwrap();
        environment.into_iter().map(|(name, value)| text(name) + "=" + &text(value)).collect()
    }
}
