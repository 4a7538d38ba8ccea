//! Runtimes: what starts a plugin's file.
//!
//! A runtime is a command in which `{entry}`, `{dir}` and `{id}` stand for the plugin's file, the
//! directory in which it runs, and its name. Some are built in; `[runtimes.NAME]` of `plugbus.toml`
//! replaces them and adds others.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::manifest::Manifest;
use super::spec::{Limit, PluginSpec};
use super::suggest::did_you_mean;
use crate::id::PluginId;

/// The commands that start plugins' files, by name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Runtimes(BTreeMap<String, Template>);

/// Why it is not known how to start a plugin.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// Its manifest names a runtime that nobody knows.
    #[error("plugin `{id}`: there is no runtime `{runtime}`{hint}")]
    Unknown {
        /// Which plugin.
        id: PluginId,
        /// The name.
        runtime: String,
        /// What may have been meant, and what there is.
        hint: String,
    },
    /// There is neither a command nor a file.
    #[error("plugin `{0}` has nothing to start: it has neither `command` nor `entry`")]
    Nothing(PluginId),
}

impl Runtimes {
    /// Adds or replaces a runtime. `command` is a program and its arguments.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn set(
        &mut self,
        name: impl Into<String>,
        command: &[impl AsRef<str>],
    ) -> Result<(), String> {
        let words: Result<Vec<_>, _> =
            command.iter().map(|word| parse_word(word.as_ref())).collect();
        let words = words?;
        if words.first().is_none_or(Vec::is_empty) {
            return Err("a command begins with a program".to_owned());
        }
        if !words.iter().flatten().any(|part| *part == Part::Entry) {
            return Err("the command has no `{entry}`, so it would not run the plugin".to_owned());
        }
        self.0.insert(name.into(), Template(words));
        Ok(())
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The runtime of a plugin that has none in its manifest is told by the ending of its file.
    fn of(&self, manifest: &Manifest, entry: &Path) -> Result<&Template, RuntimeError> {
        let name = manifest.run.runtime.as_deref().unwrap_or_else(|| {
            let ending = entry.extension().and_then(OsStr::to_str).unwrap_or_default();
            ENDINGS.iter().find(|(_, endings)| endings.contains(&ending)).map_or(BINARY, |it| it.0)
        });
        self.0.get(name).ok_or_else(|| {
            let mut hint = did_you_mean(name, self.names());
            if hint.is_empty() {
                let names: Vec<_> = self.names().collect();
                hint = format!("; there is {}", names.join(", "));
            }
            hint += &format!("; `[runtimes.{name}]` in plugbus.toml would add it");
            RuntimeError::Unknown { id: manifest.id.clone(), runtime: name.to_owned(), hint }
        })
    }
}

impl Default for Runtimes {
    fn default() -> Self {
        let mut runtimes = Self(BTreeMap::new());
        for (name, command) in BUILT_IN {
            runtimes.set(name, command).expect("the built-in commands are right");
        }
        runtimes
    }
}

impl Manifest {
    /// What it takes to start the plugin, as far as the manifest says it; an environment of its own
    /// is not in it (see [`environment`](super::environment)).
    ///
    /// # Errors
    ///
    /// [`RuntimeError`].
    pub fn to_spec(&self, runtimes: &Runtimes) -> Result<PluginSpec, RuntimeError> {
        let dir = self.working_dir();
        let mut command: Vec<OsString> = match &self.run.entry {
            _ if !self.run.command.is_empty() => self.run.command.iter().map(Into::into).collect(),
            Some(entry) => runtimes.of(self, entry)?.fill(entry, &dir, self.id.as_str()),
            None => return Err(RuntimeError::Nothing(self.id.clone())),
        };
        command.extend(self.run.args.iter().map(Into::into));
        let spec = PluginSpec::command(self.id.as_str(), command).dir(dir);
        let spec = self.run.pass_env.iter().fold(spec, |spec, name| spec.pass_env(name));
        let limits = &self.limits;
        let limits = [
            (Limit::Data, limits.memory.map(|size| size.0)),
            (Limit::OpenFiles, limits.fds),
            (Limit::FileSize, limits.file_size.map(|size| size.0)),
            (Limit::CoreSize, limits.core.map(|size| size.0)),
        ];
        let limits = limits.into_iter().filter_map(|(limit, value)| Some((limit, value?)));
        let spec = limits.fold(spec, |spec, (limit, value)| spec.limit(limit, value));
        Ok(self.run.env.iter().fold(spec, |spec, (name, value)| spec.env(name, value)))
    }

    /// Where the plugin runs.
    #[must_use]
    pub fn working_dir(&self) -> PathBuf {
        self.run.dir.clone().unwrap_or_else(|| self.dir().to_owned())
    }
}

/// A command with places to fill.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Template(Vec<Vec<Part>>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Text(String),
    Entry,
    Dir,
    Id,
}

impl Template {
    fn fill(&self, entry: &Path, dir: &Path, id: &str) -> Vec<OsString> {
        let fill = |word: &Vec<Part>| {
            word.iter().fold(OsString::new(), |mut filled, part| {
                filled.push(match part {
                    Part::Text(text) => OsStr::new(text),
                    Part::Entry => entry.as_os_str(),
                    Part::Dir => dir.as_os_str(),
                    Part::Id => OsStr::new(id),
                });
                filled
            })
        };
        self.0.iter().map(fill).collect()
    }
}

/// `{{` and `}}` are braces.
fn parse_word(word: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['{', '}']) {
        text += &rest[..at];
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            text += brace;
            rest = after;
            continue;
        }
        let Some((name, after)) = rest.split_once('}').filter(|_| brace == "{") else {
            return Err(format!("{word:?} has a lone `{brace}`; write `{brace}{brace}` for one"));
        };
        let Some((_, part)) = PLACES.iter().find(|(known, _)| *known == name) else {
            let mut hint = did_you_mean(name, PLACES.map(|(known, _)| known));
            if hint.is_empty() {
                hint = "; there is {entry}, {dir}, {id}".to_owned();
            }
            return Err(format!("unknown place `{{{name}}}` in {word:?}{hint}"));
        };
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(part.clone());
        rest = after;
    }
    text += rest;
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

const PLACES: [(&str, Part); 3] = [("entry", Part::Entry), ("dir", Part::Dir), ("id", Part::Id)];

const BINARY: &str = "binary";

const BUILT_IN: [(&str, &[&str]); 10] = [
    (BINARY, &["{entry}"]),
    ("bun", &["bun", "{entry}"]),
    ("go", &["go", "run", "{entry}"]),
    ("java", &["java", "-jar", "{entry}"]),
    ("lua", &["lua", "{entry}"]),
    ("node", &["node", "{entry}"]),
    ("perl", &["perl", "{entry}"]),
    ("python", &["python3", "{entry}"]),
    ("ruby", &["ruby", "{entry}"]),
    ("sh", &["sh", "{entry}"]),
];

const ENDINGS: [(&str, &[&str]); 8] = [
    ("go", &["go"]),
    ("java", &["jar"]),
    ("lua", &["lua"]),
    ("node", &["js", "mjs", "cjs"]),
    ("perl", &["pl"]),
    ("python", &["py"]),
    ("ruby", &["rb"]),
    ("sh", &["sh"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_filled() {
        let mut runtimes = Runtimes::default();
        let command = ["wrap{{x}}", "--id={id}", "{dir}/lib:{entry}"];
        runtimes.set("wrapped", &command).unwrap();
        let mut manifest = manifest("main.py");
        manifest.run.runtime = Some("wrapped".to_owned());
        manifest.run.args = vec!["{id}".to_owned()];
        manifest.run.env.insert("A".to_owned(), "b".to_owned());
        let spec = manifest.to_spec(&runtimes).unwrap();
        assert_eq!(spec.command_line(), ["wrap{x}", "--id=test", "/app/lib:/app/main.py", "{id}"]);
        assert_eq!(spec.directory(), Some(Path::new("/app")));
        assert_eq!(spec.variable("A").as_deref(), Some("b".as_ref()));
    }

    #[test]
    fn the_ending_tells_the_runtime() {
        let cases = [
            ("main.py", "python3"),
            ("main.mjs", "node"),
            ("main.go", "go"),
            ("main", "/app/main"),
            ("main.unknown", "/app/main.unknown"),
        ];
        for (entry, program) in cases {
            let spec = manifest(entry).to_spec(&Runtimes::default()).unwrap();
            assert_eq!(spec.command_line()[0], program, "{entry}");
            assert_eq!(*spec.command_line().last().unwrap(), *format!("/app/{entry}"));
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        let mut wrong = manifest("main.py");
        wrong.run.runtime = Some("pyton".to_owned());
        let error = wrong.to_spec(&Runtimes::default()).unwrap_err().to_string();
        assert!(error.contains("no runtime `pyton`; did you mean `python`?"), "{error}");
        wrong.run.runtime = Some("cobol".to_owned());
        let error = wrong.to_spec(&Runtimes::default()).unwrap_err().to_string();
        assert!(error.contains("there is binary, bun, go,"), "{error}");
        assert!(error.contains("[runtimes.cobol]"), "{error}");
        wrong.run.entry = None;
        let error = wrong.to_spec(&Runtimes::default()).unwrap_err().to_string();
        assert!(error.contains("neither `command` nor `entry`"), "{error}");

        let mut runtimes = Runtimes::default();
        for (command, wanted) in [
            (&["x", "{entri}"][..], "did you mean `entry`?"),
            (&["x", "{args}"], "there is {entry}, {dir}, {id}"),
            (&["x", "{entry"], "a lone `{`"),
            (&["x", "entry}"], "a lone `}`"),
            (&["x"], "no `{entry}`"),
            (&["", "{entry}"], "begins with a program"),
        ] {
            let reason = runtimes.set("x", command).unwrap_err();
            assert!(reason.contains(wanted), "{command:?}: {reason}");
        }
    }

    fn manifest(entry: &str) -> Manifest {
        let mut manifest = Manifest::new(PluginId::parse("test").unwrap(), "/app/plugin.toml");
        manifest.run.entry = Some(Path::new("/app").join(entry));
        manifest
    }
}
