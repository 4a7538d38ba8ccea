//! Reads `plugbus.toml`.
//!
//! ```toml
//! [broker]
//! name = "notes"              # also the name of the socket, unless that is given
//! socket = "run/notes.sock"
//! limits = { sessions = 1_000 }
//!
//! [plugins.extract]           # they start in the order of this file
//! command = ["python3", "extract.py"]
//! dir = "extract"
//! env = { LANG = "C" }
//! ```
//!
//! Paths are relative to the file; a plugin runs in the file's directory unless `dir` names
//! another. A key that nobody knows is an error: a setting that is silently ignored is worse than
//! none.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::suggest::did_you_mean;
use crate::host::PluginSpec;
use crate::id::PluginId;
use crate::limit::{Limits, SETTINGS};

/// What `plugbus.toml` says.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) name: Option<String>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) plugins: Vec<PluginSpec>,
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ConfigError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("there is no plugbus.toml in {}", .0.display())]
    Missing(PathBuf),
    #[error("{}:{line}: {message}", path.display())]
    Wrong { path: PathBuf, line: usize, message: String },
}

impl Config {
    /// Reads a file, or the `plugbus.toml` of a directory.
    pub(crate) fn read(target: &Path) -> Result<Self, ConfigError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            move |source| ConfigError::Unreadable { path, source }
        };
        let target = std::path::absolute(target).map_err(unreadable(target))?;
        let is_directory = fs::metadata(&target).map_err(unreadable(&target))?.is_dir();
        let path = if is_directory { target.join(FILE_NAME) } else { target.clone() };
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path),
            Err(error) if is_directory && error.kind() == io::ErrorKind::NotFound => {
                Err(ConfigError::Missing(target))
            }
            Err(error) => Err(unreadable(&path)(error)),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        read_document(text, path.parent().unwrap_or_else(|| Path::new("/"))).map_err(|problem| {
            let line = text[..problem.at.min(text.len())].matches('\n').count() + 1;
            ConfigError::Wrong { path: path.to_owned(), line, message: problem.message }
        })
    }
}

/// What is wrong, and where in the text.
struct Problem {
    at: usize,
    message: String,
}

impl Problem {
    fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { at: span.start, message: message.into() }
    }
}

fn read_document(text: &str, base: &Path) -> Result<Config, Problem> {
    let document = DeTable::parse(text).map_err(|error| {
        Problem::new(error.span().unwrap_or_default(), error.message().to_owned())
    })?;
    let mut config =
        Config { name: None, socket: None, limits: Limits::default(), plugins: Vec::new() };
    for entry in entries(document.get_ref()) {
        match entry.key {
            "broker" => read_broker(&mut config, &entry, base)?,
            "plugins" => {
                for plugin in entries(entry.table()?) {
                    config.plugins.push(read_plugin(&plugin, base)?);
                }
            }
            _ => return Err(entry.unknown("this file", &["broker", "plugins"])),
        }
    }
    Ok(config)
}

fn read_broker(config: &mut Config, broker: &Entry<'_>, base: &Path) -> Result<(), Problem> {
    for entry in entries(broker.table()?) {
        match entry.key {
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
            "limits" => config.limits = read_limits(&entry)?,
            _ => return Err(entry.unknown("[broker]", &["name", "socket", "limits"])),
        }
    }
    Ok(())
}

fn read_limits(limits: &Entry<'_>) -> Result<Limits, Problem> {
    let mut read = Limits::default();
    for entry in entries(limits.table()?) {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name() == entry.key) else {
            let known: Vec<_> = SETTINGS.iter().map(|setting| setting.name()).collect();
            return Err(entry.unknown("[broker.limits]", &known));
        };
        read.set(setting, entry.number()?).map_err(|error| entry.wrong(error.to_string()))?;
    }
    // Two that do not go together are both in here, or one of them is and the other the default.
    read.check().map_err(|error| Problem::new(limits.key_span.clone(), error.to_string()))?;
    Ok(read)
}

fn read_plugin(plugin: &Entry<'_>, base: &Path) -> Result<PluginSpec, Problem> {
    let id = PluginId::parse(plugin.key)
        .map_err(|fault| Problem::new(plugin.key_span.clone(), fault.message))?;
    let mut command = None;
    let (mut dir, mut env) = (base.to_owned(), Vec::new());
    for entry in entries(plugin.table()?) {
        match entry.key {
            "command" => command = Some(read_command(&entry, base)?),
            "dir" => dir = base.join(entry.string()?),
            "env" => {
                for variable in entries(entry.table()?) {
                    let name = variable.key;
                    if name.is_empty() || name.contains(['=', '\0']) {
                        return Err(variable.wrong(format!("{name:?} cannot be a variable's name")));
                    }
                    env.push((name.to_owned(), variable.string()?.to_owned()));
                }
            }
            _ => {
                let place = format!("[plugins.{id}]");
                return Err(entry.unknown(&place, &["command", "dir", "env"]));
            }
        }
    }
    let Some(command) = command else {
        let message = format!("plugin `{id}` has no command: add `command = [\"program\", …]`");
        return Err(Problem::new(plugin.key_span.clone(), message));
    };
    let spec = PluginSpec::command(id.as_str(), command).dir(dir);
    Ok(env.into_iter().fold(spec, |spec, (name, value)| spec.env(name, value)))
}

/// The program is relative to the file where it is a path; its arguments are as they are.
fn read_command(entry: &Entry<'_>, base: &Path) -> Result<Vec<PathBuf>, Problem> {
    let expected = || entry.wrong("`command` must be a list: [\"program\", \"argument\", …]");
    let words = entry.array().ok_or_else(expected)?;
    let mut command = Vec::new();
    for word in words.iter() {
        let text = word
            .get_ref()
            .as_str()
            .ok_or_else(|| Problem::new(word.span(), "a command is a list of strings"))?;
        if text.contains('\0') {
            return Err(Problem::new(word.span(), "a command cannot contain a zero byte"));
        }
        let is_program = command.is_empty();
        command.push(match text {
            // This very program, wherever it is: it may not be in PATH, and another one may.
            "plugbus" if is_program => std::env::current_exe().unwrap_or_else(|_| text.into()),
            text if is_program && text.contains('/') => base.join(text),
            text => PathBuf::from(text),
        });
    }
    match command.first() {
        Some(program) if !program.as_os_str().is_empty() => Ok(command),
        _ => Err(expected()),
    }
}

/// One key and its value.
struct Entry<'a> {
    key: &'a str,
    key_span: Range<usize>,
    value: &'a Spanned<DeValue<'a>>,
}

/// In the order of the text.
fn entries<'a>(table: &'a DeTable<'a>) -> Vec<Entry<'a>> {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| Entry { key: key.get_ref(), key_span: key.span(), value })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    entries
}

impl<'a> Entry<'a> {
    fn table(&self) -> Result<&'a DeTable<'a>, Problem> {
        self.value.get_ref().as_table().ok_or_else(|| self.mismatch("a table"))
    }

    fn string(&self) -> Result<&'a str, Problem> {
        match self.value.get_ref().as_str() {
            Some(text) if text.contains('\0') => Err(self.wrong("a zero byte cannot be in here")),
            Some(text) => Ok(text),
            None => Err(self.mismatch("a string")),
        }
    }

    fn number(&self) -> Result<u64, Problem> {
        self.value
            .get_ref()
            .as_integer()
            .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok())
            .ok_or_else(|| self.mismatch("a whole number"))
    }

    fn array(&self) -> Option<&'a DeArray<'a>> {
        self.value.get_ref().as_array()
    }

    fn mismatch(&self, expected: &str) -> Problem {
        self.wrong(format!("`{}` must be {expected}", self.key))
    }

    fn wrong(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.value.span(), message)
    }

    fn unknown(&self, place: &str, known: &[&str]) -> Problem {
        let hint = did_you_mean(self.key, known.iter().copied());
        let hint = if hint.is_empty() { format!("; it has {}", known.join(", ")) } else { hint };
        Problem::new(self.key_span.clone(), format!("unknown key `{}` in {place}{hint}", self.key))
    }
}

/// What a directory is searched for.
pub(crate) const FILE_NAME: &str = "plugbus.toml";

#[cfg(test)]
mod tests {
    use super::*;

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
        let [zebra, ant] = &config.plugins[..] else { panic!("{:?}", config.plugins) };
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
            ("[server]", 1, "unknown key `server` in this file; it has broker, plugins"),
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
            ("plugins = 3", 1, "`plugins` must be a table"),
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
    fn a_directory_without_the_file_and_a_missing_path_are_named() {
        let place = tempfile::tempdir().unwrap();
        let error = Config::read(place.path()).unwrap_err().to_string();
        assert!(error.starts_with("there is no plugbus.toml in /"), "{error}");
        let missing = place.path().join("none");
        let error = Config::read(&missing).unwrap_err().to_string();
        assert!(error.starts_with(missing.to_str().unwrap()), "{error}");
    }
}
