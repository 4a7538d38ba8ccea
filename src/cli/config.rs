//! Reads `plugbus.toml`.
//!
//! ```toml
//! [broker]
//! name = "notes"              # also the name of the socket, unless that is given
//! socket = "run/notes.sock"
//! limits = { sessions = 1_000 }
//! starts = { per_second = 10, burst = 20, at_once = 4 }    # how fast plugins are started
//!
//! [runtimes.python]           # what starts the file of a plugin; see docs/manifest.md
//! command = ["python3", "-X", "dev", "{entry}"]
//!
//! [plugins.extract]           # they start in the order of this file
//! command = ["python3", "extract.py"]
//! dir = "extract"
//! env = { LANG = "C" }
//! pass_env = ["API_TOKEN"]    # variables that it may see, beside PATH, HOME and their like
//!
//! [plugins.index]             # … but for those that require each other
//! manifest = "index"          # a plugin.toml, or the folder of one
//! requires = { plugins = { extract = "*" } }
//!
//! [discover]                  # folders of plugins; `[plugins.ID]` adds to what is found there
//! dirs = ["plugins"]
//! ```
//!
//! A folder of plugins is as good as such a file.
//!
//! Paths are relative to the file; a plugin runs in the file's directory, or that of its manifest,
//! unless `dir` names another. What a table says goes before what the manifest says. A key that
//! nobody knows is an error: a setting that is silently ignored is worse than none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::engine::supervise::Governor;
use crate::host::dependencies::{self, DependencyErrors};
use crate::host::discovery::{DiscoveryError, discover};
use crate::host::document::{self, Entry, Problem};
use crate::host::environment::PrepareError;
use crate::host::manifest::{Run, check_one_way, read_text};
use crate::host::{Manifest, ManifestError, Runtimes};
use crate::id::PluginId;
use crate::limit::{Limits, SETTINGS};

/// What `plugbus.toml` says.
#[derive(Debug, Default)]
pub(crate) struct Config {
    pub(crate) name: Option<String>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) starts: Governor,
    pub(crate) runtimes: Runtimes,
    pub(crate) plugins: Vec<Manifest>,
    /// Where plugins were looked for.
    pub(crate) folders: Vec<PathBuf>,
}

/// Who says which plugins are in a folder.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Finder<'a> {
    /// The folder as it is now.
    Disk,
    /// Somebody who watches the folders, and keeps what is broken for a while as it was.
    Known(&'a [Manifest]),
}

impl Finder<'_> {
    /// All plugins of a folder. One that is wrong is an error: whoever starts them wants all.
    fn find(self, folder: &Path) -> Result<Vec<Manifest>, ConfigError> {
        let known = match self {
            Self::Disk => {
                let found =
                    discover(folder).map_err(|error| ConfigError::Discovery(vec![error]))?;
                return match found.problems.is_empty() {
                    true => Ok(found.manifests),
                    false => Err(ConfigError::Discovery(found.problems)),
                };
            }
            Self::Known(known) => known,
        };
        let unreadable = |source| ConfigError::Unreadable { path: folder.to_owned(), source };
        let folder = std::path::absolute(folder).map_err(unreadable)?;
        Ok(known.iter().filter(|plugin| plugin.path.starts_with(&folder)).cloned().collect())
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("there is no plugbus.toml in {}, and no plugin", .0.display())]
    Missing(PathBuf),
    #[error("{}:{line}: {message}", path.display())]
    Wrong { path: PathBuf, line: usize, message: String },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("{}", lines(.0))]
    Discovery(Vec<DiscoveryError>),
    #[error(transparent)]
    Dependencies(#[from] DependencyErrors),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
}

fn lines(errors: &[DiscoveryError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl Config {
    /// Reads a file, or the `plugbus.toml` of a directory.
    pub(crate) fn read(target: &Path) -> Result<Self, ConfigError> {
        Self::read_with(target, Finder::Disk)
    }

    /// As [`read`](Self::read), with plugins in folders from somebody else.
    pub(crate) fn read_with(target: &Path, finder: Finder<'_>) -> Result<Self, ConfigError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| ConfigError::Unreadable { path, source }
        };
        let target = std::path::absolute(target).map_err(unreadable(target))?;
        let is_directory = fs::metadata(&target).map_err(unreadable(&target))?.is_dir();
        let path = if is_directory { target.join(FILE_NAME) } else { target.clone() };
        match read_text(&path) {
            Ok(text) => Self::parse_with(&text, &path, finder),
            Err(ManifestError::Unreadable { source, .. })
                if is_directory && source.kind() == io::ErrorKind::NotFound =>
            {
                Self::of_folder(&target, finder)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The plugins, each after those that it requires and with their names. What cannot be made
    /// into a command is an error here; what its program lacks is found out when it is started.
    pub(crate) fn plan(&self) -> Result<Vec<(Manifest, Vec<PluginId>)>, ConfigError> {
        let order = dependencies::order(&self.plugins)?;
        let find = |id: &PluginId| self.plugins.iter().find(|plugin| plugin.id == *id);
        let mut plan = Vec::new();
        for plugin in order.sequence.iter().filter_map(find) {
            let _startable = plugin.to_spec(&self.runtimes).map_err(PrepareError::from)?;
            let needs = order.after.get(&plugin.id).cloned().unwrap_or_default();
            plan.push((plugin.clone(), needs));
        }
        Ok(plan)
    }

    /// A folder of plugins without a configuration.
    fn of_folder(folder: &Path, finder: Finder<'_>) -> Result<Self, ConfigError> {
        let plugins = finder.find(folder)?;
        // Whoever watches a folder saw plugins in it once.
        if plugins.is_empty() && matches!(finder, Finder::Disk) {
            return Err(ConfigError::Missing(folder.to_owned()));
        }
        Ok(Self { plugins, folders: vec![folder.to_owned()], ..Self::default() })
    }

    #[cfg(test)]
    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        Self::parse_with(text, path, Finder::Disk)
    }

    fn parse_with(text: &str, path: &Path, finder: Finder<'_>) -> Result<Self, ConfigError> {
        read_document(text, path, finder).map_err(|fault| match fault {
            Fault::Problem(problem) => ConfigError::Wrong {
                path: path.to_owned(),
                line: problem.line(text),
                message: problem.message,
            },
            Fault::Elsewhere(error) => error,
        })
    }
}

/// What is wrong in this file, or in one that it names.
enum Fault {
    Problem(Problem),
    Elsewhere(ConfigError),
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<ManifestError> for Fault {
    fn from(error: ManifestError) -> Self {
        Self::Elsewhere(error.into())
    }
}

fn read_document(text: &str, path: &Path, finder: Finder<'_>) -> Result<Config, Fault> {
    let base = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut config = Config::default();
    let entries = document::parse_toml(text)?;
    // What is found comes first, wherever the file names it: `[plugins.ID]` may add to it.
    let mut found = Vec::new();
    if let Some(discover) = entries.iter().find(|entry| entry.key == "discover") {
        (config.folders, found) = read_discover(discover, base, finder)?;
    }
    for entry in &entries {
        match entry.key.as_str() {
            "broker" => read_broker(&mut config, entry, base)?,
            "runtimes" => read_runtimes(&mut config.runtimes, entry)?,
            "discover" => (),
            "plugins" => {
                for plugin in entry.table()? {
                    let position =
                        found.iter().position(|it: &Manifest| it.id.as_str() == plugin.key);
                    let found = position.map(|position| found.remove(position));
                    config.plugins.push(read_plugin(plugin, found, path, base)?);
                }
            }
            _ => {
                let keys = ["broker", "runtimes", "discover", "plugins"];
                return Err(entry.unknown("this file", &keys).into());
            }
        }
    }
    config.plugins.append(&mut found);
    Ok(config)
}

/// The folders, and what is in them.
fn read_discover(
    discover: &Entry,
    base: &Path,
    finder: Finder<'_>,
) -> Result<(Vec<PathBuf>, Vec<Manifest>), Fault> {
    let mut folders = Vec::new();
    let mut found: Vec<Manifest> = Vec::new();
    for entry in discover.table()? {
        if entry.key != "dirs" {
            return Err(entry.unknown("[discover]", &["dirs"]).into());
        }
        for dir in entry.strings("[\"plugins\"]")? {
            let folder = base.join(dir);
            let plugins = finder.find(&folder).map_err(Fault::Elsewhere)?;
            folders.push(folder);
            for plugin in plugins {
                if let Some(first) = found.iter().find(|first| first.id == plugin.id) {
                    let twice = DiscoveryError::Twice {
                        id: plugin.id,
                        first: first.path.clone(),
                        second: plugin.path,
                    };
                    return Err(Fault::Elsewhere(ConfigError::Discovery(vec![twice])));
                }
                found.push(plugin);
            }
        }
    }
    Ok((folders, found))
}

fn read_broker(config: &mut Config, broker: &Entry, base: &Path) -> Result<(), Problem> {
    for entry in broker.table()? {
        match entry.key.as_str() {
            "name" => {
                // The same grammar as a plugin's, because it becomes a file name too.
                let name = entry.string()?;
                PluginId::parse(name).map_err(|_| {
                    entry.wrong(format!(
                        "{name:?} is not a valid broker name: \
                         a lower-case letter, then up to 62 of a-z, 0-9 and -"
                    ))
                })?;
                config.name = Some(name.to_owned());
            }
            "socket" => config.socket = Some(base.join(entry.string()?)),
            "limits" => config.limits = read_limits(entry)?,
            "starts" => config.starts = read_starts(entry)?,
            _ => {
                let keys = ["name", "socket", "limits", "starts"];
                return Err(entry.unknown("[broker]", &keys));
            }
        }
    }
    Ok(())
}

fn read_limits(limits: &Entry) -> Result<Limits, Problem> {
    let mut read = Limits::default();
    for entry in limits.table()? {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name() == entry.key) else {
            let known: Vec<_> = SETTINGS.iter().map(|setting| setting.name()).collect();
            return Err(entry.unknown("[broker.limits]", &known));
        };
        read.set(setting, entry.number()?).map_err(|error| entry.wrong(error.to_string()))?;
    }
    // Two that do not go together are both in here, or one of them is and the other the default.
    read.check().map_err(|error| limits.wrong_key(error.to_string()))?;
    Ok(read)
}

fn read_starts(starts: &Entry) -> Result<Governor, Problem> {
    let (mut per_second, mut burst, mut at_once) = (10, 20, 4);
    for entry in starts.table()? {
        let number = match entry.key.as_str() {
            "per_second" => &mut per_second,
            "burst" => &mut burst,
            "at_once" => &mut at_once,
            _ => return Err(entry.unknown("[broker.starts]", &["per_second", "burst", "at_once"])),
        };
        *number = match entry.number()? {
            read @ 1..=STARTS_MAX => u32::try_from(read).expect("it is at most `STARTS_MAX`"),
            read => {
                let key = &entry.key;
                let range = format!("must be from 1 to {STARTS_MAX}");
                return Err(entry.wrong(format!("`{key}` is {read}, but {range}")));
            }
        };
    }
    Ok(Governor::new(per_second, burst, at_once))
}

fn read_runtimes(runtimes: &mut Runtimes, entry: &Entry) -> Result<(), Problem> {
    for runtime in entry.table()? {
        let place = format!("[runtimes.{}]", runtime.key);
        let mut command = None;
        for entry in runtime.table()? {
            match entry.key.as_str() {
                "command" => command = Some(entry),
                _ => return Err(entry.unknown(&place, &["command"])),
            }
        }
        let example = "[\"python3\", \"{entry}\"]";
        let command = command.ok_or_else(|| {
            runtime.wrong_key(format!("{place} has no command: add `command = {example}`"))
        })?;
        runtimes
            .set(runtime.key.as_str(), &command.strings(example)?)
            .map_err(|reason| command.wrong(reason))?;
    }
    Ok(())
}

/// `found` is the plugin of this name in the folders that were scanned.
fn read_plugin(
    plugin: &Entry,
    found: Option<Manifest>,
    path: &Path,
    base: &Path,
) -> Result<Manifest, Fault> {
    let id = PluginId::parse(&plugin.key).map_err(|fault| plugin.wrong_key(fault.message))?;
    let entries = plugin.table()?;
    let mut manifest = match entries.iter().find(|entry| entry.key == "manifest") {
        Some(entry) => Manifest { id, ..Manifest::load(&base.join(entry.string()?))? },
        None => found.unwrap_or_else(|| Manifest::new(id, path)),
    };
    check_one_way(entries)?;
    let place = format!("plugins.{}", plugin.key);
    for entry in entries {
        let known = entry.key == "manifest"
            || manifest.run.read_key(entry, base)?
            || manifest.read_key(entry, &place, base)?;
        if !known {
            let keys: Vec<_> =
                ["manifest"].into_iter().chain(Run::KEYS).chain(Manifest::KEYS).collect();
            return Err(entry.unknown(&format!("[{place}]"), &keys).into());
        }
    }
    let run = &mut manifest.run;
    if run.command.is_empty() && run.entry.is_none() {
        let message = format!(
            "plugin `{}` has no command: add `command = [\"program\", …]`, `entry = \"FILE\"` or \
             `manifest = \"FOLDER\"`",
            plugin.key
        );
        return Err(plugin.wrong_key(message).into());
    }
    // This very program, wherever it is: it may not be in PATH, and another one may.
    if let Some(program) = run.command.first_mut().filter(|program| *program == "plugbus")
        && let Some(this) =
            std::env::current_exe().ok().and_then(|path| path.to_str().map(Into::into))
    {
        *program = this;
    }
    Ok(manifest)
}

/// More starts than any machine could make of it.
const STARTS_MAX: u64 = 10_000;

/// What a directory is searched for.
pub(crate) const FILE_NAME: &str = "plugbus.toml";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::PluginSpec;

    /// What would be started, in order.
    fn specs(config: &Config) -> Result<Vec<PluginSpec>, ConfigError> {
        let plan = config.plan()?;
        let specs = plan.iter().map(|(plugin, _)| plugin.to_spec(&config.runtimes));
        Ok(specs.collect::<Result<_, _>>().map_err(PrepareError::from)?)
    }

    #[test]
    fn a_complete_file_is_read_in_its_order() {
        let text = r#"
            [broker]
            name = "notes"
            socket = "run/notes.sock"
            limits = { sessions = 1_000 }

            [plugins.zebra]
            command = ["python3", "zebra.py"]

            [plugins.ant]
            command = ["bin/ant", "--fast"]
            dir = "data"
            env = { COLOUR = "blue" }
        "#;
        let config = Config::parse(text, Path::new("/app/plugbus.toml")).unwrap();
        assert_eq!(config.name.as_deref(), Some("notes"));
        assert_eq!(config.socket.as_deref(), Some(Path::new("/app/run/notes.sock")));
        let limits = Limits { sessions_max: 1_000, ..Limits::default() };
        assert_eq!(config.limits, limits);
        let specs = specs(&config).unwrap();
        let [zebra, ant] = &specs[..] else { panic!("{specs:?}") };
        assert_eq!((zebra.id(), ant.id()), ("zebra", "ant"));
        assert_eq!(zebra.command_line(), ["python3", "zebra.py"]);
        assert_eq!(zebra.directory(), Some(Path::new("/app")));
        assert_eq!(ant.command_line(), ["/app/bin/ant", "--fast"]);
        assert_eq!(ant.directory(), Some(Path::new("/app/data")));
        assert_eq!(ant.variable("COLOUR").as_deref(), Some("blue".as_ref()));
    }

    /// Each case: the file, the line that is wrong, what the message must contain.
    #[test]
    fn errors_name_the_line_and_what_would_be_right() {
        let cases: &[(&str, usize, &str)] = &[
            ("[brocker]", 1, "unknown key `brocker` in this file; did you mean `broker`?"),
            (
                "[server]",
                1,
                "unknown key `server` in this file; it has broker, runtimes, discover, plugins",
            ),
            ("[broker]\nsoket = 1", 2, "unknown key `soket` in [broker]; did you mean `socket`?"),
            ("[broker]\nname = 7", 2, "`name` must be a string"),
            ("[broker]\nname = \"../x\"", 2, "not a valid broker name"),
            ("[broker]\nlimits = { heartbeatms = 1 }", 2, "did you mean `heartbeat_ms`?"),
            ("[broker.limits]\nsessions = 0", 2, "`sessions` is 0, but must be from 1 to 16777216"),
            ("[broker.limits]\nsessions = -1", 2, "`sessions` must be a whole number"),
            ("[broker.limits]\nrequests = 1.5", 2, "`requests` must be a whole number"),
            ("[broker.limits]\nwindow = 7", 2, "unknown key `window` in [broker.limits]"),
            ("[broker.limits]\nwindow_massages = 7", 2, "did you mean `window_messages`?"),
            (
                "[broker]\nname = \"x\"\n[broker.limits]\nsessions = 3\nwindow_bytes = 300_000_000",
                3,
                "`window_bytes` (300000000) must not be over `retained_bytes` (268435456)",
            ),
            (
                "[broker]\nlimits = { message_bytes = 1_000 }",
                2,
                "`message_bytes` is 1000, but must be from 1048576 to 1073741824",
            ),
            ("[broker.starts]\nat_onse = 1", 2, "did you mean `at_once`?"),
            ("[broker.starts]\nburst = 0", 2, "`burst` is 0, but must be from 1 to 10000"),
            ("plugins = 3", 1, "`plugins` must be a table"),
            ("[runtimes.x]\ncommand = [\"x\"]", 2, "the command has no `{entry}`"),
            ("[runtimes.x]", 1, "[runtimes.x] has no command: add `command = "),
            ("[runtimes.x]\ncomand = []", 2, "in [runtimes.x]; did you mean `command`?"),
            ("[plugins.a]\nentry = \"x\"\ncommand = [\"x\"]", 2, "remove one of them"),
            ("[plugins.a]\nlimits = { fds = 1 }", 2, "at least 8"),
            ("[plugins.a.limits]\nmem = 1", 2, "in [plugins.a.limits]; did you mean `memory`?"),
            ("[plugins.Hello]\ncommand = [\"x\"]", 1, "\"Hello\" is not a valid plugin id"),
            ("\n\n[plugins.hello]", 3, "plugin `hello` has no command"),
            ("[plugins.a]\ncomand = []", 2, "in [plugins.a]; did you mean `command`?"),
            ("[plugins.a]\ncommand = \"x y\"", 2, "must be a list"),
            ("[plugins.a]\ncommand = []", 2, "must be a list"),
            ("[plugins.a]\ncommand = [\"x\",\n 3]", 3, "a list of strings"),
            ("[plugins.a]\ncommand = [\"x\"]\nenv = { A = 1 }", 3, "`A` must be a string"),
            ("[plugins.a]\ncommand = [\"x\"]\n[plugins.a]\n", 3, "duplicate key"),
            ("[broker\n", 1, "]"),
        ];
        for (text, line, wanted) in cases {
            let error = Config::parse(text, Path::new("/app/plugbus.toml")).unwrap_err();
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("/app/plugbus.toml:{line}: ")),
                "{text}: {message}"
            );
            assert!(message.contains(wanted), "{text}: {message}");
        }
    }

    #[test]
    fn what_bounds_starts_is_what_is_given_beside_the_defaults() {
        let starts = |text: &str| {
            let config = Config::parse(text, Path::new("/app/plugbus.toml")).unwrap();
            format!("{:?}", config.starts)
        };
        let usual = format!("{:?}", Governor::default());
        assert_eq!(starts(""), usual);
        assert_eq!(starts("[broker.starts]"), usual);
        let faster = format!("{:?}", Governor::new(1_000, 100, 4));
        assert_eq!(starts("[broker.starts]\nper_second = 1_000\nburst = 100"), faster);
    }

    #[test]
    fn a_directory_without_the_file_and_a_missing_path_are_named() {
        let place = tempfile::tempdir().unwrap();
        let error = Config::read(place.path()).unwrap_err().to_string();
        assert!(error.starts_with("there is no plugbus.toml in /"), "{error}");
        assert!(error.ends_with(", and no plugin"), "{error}");
        let missing = place.path().join("none");
        let error = Config::read(&missing).unwrap_err().to_string();
        assert!(error.starts_with(missing.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_table_goes_before_the_manifest_that_it_names() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("geo")).unwrap();
        let manifest = "manifest = 1\nid = \"geo\"\nversion = \"1.2.0\"\n\
                        run = { entry = \"geo.py\", env = { A = \"1\", B = \"2\" } }\n\
                        [limits]\nmemory = \"1M\"\nfds = 64\n";
        fs::write(place.path().join("geo/plugin.toml"), manifest).unwrap();
        let text = "[runtimes.python]\ncommand = [\"python9\", \"{entry}\"]\n\
                    [plugins.earth]\nmanifest = \"geo\"\nenv = { B = \"3\" }\n\
                    limits = { memory = \"2M\" }\n";
        let file = place.path().join(FILE_NAME);
        fs::write(&file, text).unwrap();
        let config = Config::read(place.path()).unwrap();
        let [earth] = &config.plugins[..] else { panic!("{:?}", config.plugins) };
        assert_eq!(earth.id.as_str(), "earth");
        assert_eq!(earth.version.as_ref().map(ToString::to_string).as_deref(), Some("1.2.0"));
        assert_eq!(earth.limits.memory.map(|size| size.to_string()).as_deref(), Some("2M"));
        assert_eq!(earth.limits.fds, Some(64));
        fs::write(place.path().join("geo/geo.py"), "").unwrap();
        let spec = &specs(&config).unwrap()[0];
        let entry = place.path().join("geo/geo.py");
        assert_eq!(spec.command_line(), ["python9".as_ref(), entry.as_os_str()]);
        assert_eq!(spec.directory(), Some(place.path().join("geo").as_path()));
        assert_eq!(spec.variable("A").as_deref(), Some("1".as_ref()));
        assert_eq!(spec.variable("B").as_deref(), Some("3".as_ref()));

        fs::write(place.path().join("geo/plugin.toml"), "manifest = 1\nid = 1").unwrap();
        let error = Config::read(place.path()).unwrap_err().to_string();
        assert!(error.contains("geo/plugin.toml:2: `id` must be a string"), "{error}");
    }

    #[test]
    fn plugins_are_found_and_start_after_what_they_require() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let manifest = |id: &str, requires: &str| {
            format!(
                "manifest = 1\nid = '{id}'\nrun.command = ['{id}']\n\
                 requires.plugins = {{ {requires} }}\n"
            )
        };
        write("plugins/app/plugin.toml", &manifest("app", "geo = '*', log = '*'"));
        write("plugins/geo/plugin.toml", &manifest("geo", ""));
        let ids = |config: &Config| -> Vec<String> {
            specs(config).unwrap().iter().map(|spec| spec.id().to_owned()).collect()
        };

        // Without a file of ours, a plugin that is required is missing.
        let folder = Config::read(&place.path().join("plugins")).unwrap();
        let error = specs(&folder).unwrap_err().to_string();
        assert_eq!(error, "plugin `app` requires `log`, which is not there");

        // The file adds one, and something to another.
        write(
            FILE_NAME,
            "[plugins.log]\ncommand = ['log']\n[plugins.geo]\nargs = ['--fast']\n\
             [discover]\ndirs = ['plugins']\n",
        );
        let config = Config::read(place.path()).unwrap();
        assert_eq!(ids(&config), ["log", "geo", "app"]);
        assert_eq!(specs(&config).unwrap()[1].command_line(), ["geo", "--fast"]);

        write("more/geo/plugin.toml", &manifest("geo", ""));
        write(FILE_NAME, "[discover]\ndirs = ['plugins', 'more']\n");
        let error = Config::read(place.path()).unwrap_err().to_string();
        assert!(error.contains("plugin `geo` is in "), "{error}");
        write("plugins/geo/plugin.toml", "manifest = 1");
        let error = Config::read(place.path()).unwrap_err().to_string();
        assert!(error.contains("plugins/geo/plugin.toml:1: the plugin's name is"), "{error}");
        write(FILE_NAME, "[discover]\ndir = 'plugins'\n");
        let error = Config::read(place.path()).unwrap_err().to_string();
        assert!(error.contains("in [discover]; did you mean `dirs`?"), "{error}");
    }
}
