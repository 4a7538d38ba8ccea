//! Whether the programs that a plugin requires are there, in a version that will do.
//!
//! A program is asked for its version once; the answer is remembered until its file changes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use parking_lot::Mutex;
use semver::{Version, VersionReq};
use thiserror::Error;

use super::errand;
use super::manifest::{Manifest, Tool};
use super::program::{self, ProgramError};
use crate::limit;

/// Why a program that is required will not do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ToolError {
    /// It cannot be executed.
    #[error("`{tool}` is required: {source}")]
    Missing {
        /// What is required.
        tool: Tool,
        /// Why.
        source: ProgramError,
    },
    /// It is another version.
    #[error("`{tool}` is required, but {} is {found}", path.display())]
    Version {
        /// What is required.
        tool: Tool,
        /// The program that was found.
        path: PathBuf,
        /// Its version.
        found: Version,
    },
    /// It does not say which version it is.
    #[error("`{tool}` is required, but {} does not say its version: {said}", path.display())]
    Silent {
        /// What is required.
        tool: Tool,
        /// The program that was found.
        path: PathBuf,
        /// What it said instead.
        said: String,
    },
}

/// Checks the programs that a plugin requires, looking for them where the plugin would.
///
/// Blocks for as long as they take to say their versions: at most some seconds for each, the first
/// time.
///
/// # Errors
///
/// Everything that is missing.
pub fn check(manifest: &Manifest) -> Result<(), Vec<ToolError>> {
    let path = match manifest.run.env.get("PATH") {
        Some(path) => Some(OsString::from(path)),
        None => std::env::var_os("PATH"),
    };
    let tools = manifest.requires.tools.iter();
    let errors: Vec<_> = tools.filter_map(|tool| check_tool(tool, path.as_deref()).err()).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn check_tool(tool: &Tool, search: Option<&OsStr>) -> Result<(), ToolError> {
    let path = program::find(tool.name.as_ref(), search)
        .map_err(|source| ToolError::Missing { tool: tool.clone(), source })?;
    if tool.version == VersionReq::STAR {
        return Ok(());
    }
    match version_of(&path) {
        Ok(found) if tool.version.matches(&found) => Ok(()),
        Ok(found) => Err(ToolError::Version { tool: tool.clone(), path, found }),
        Err(said) => Err(ToolError::Silent { tool: tool.clone(), path, said }),
    }
}

/// The version that a program says it is, or what it says instead.
fn version_of(path: &Path) -> Result<Version, String> {
    // The same file: its name, and when it was last written.
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    let stamp = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let key = (path.to_owned(), stamp, metadata.len());
    if let Some(version) = KNOWN.lock().get(&key) {
        return Ok(version.clone());
    }
    let version = ask(path)?;
    let mut known = KNOWN.lock();
    if known.len() >= limit::TOOLS_REMEMBERED_MAX {
        known.clear();
    }
    known.insert(key, version.clone());
    Ok(version)
}

/// Most programs answer the first; Go and Lua have customs of their own.
fn ask(path: &Path) -> Result<Version, String> {
    let mut reason: Option<String> = None;
    for question in ["--version", "version", "-v"] {
        let outcome = errand::run(Command::new(path).arg(question), limit::TOOL_TIMEOUT)
            .map_err(|error| error.to_string())?;
        if outcome.timed_out {
            return Err(format!("`{question}` took longer than {:?}", limit::TOOL_TIMEOUT));
        }
        if outcome.success
            && let Some(version) = first_version(&outcome.said)
        {
            return Ok(version);
        }
        let line = outcome.said.lines().next().unwrap_or_default().chars().take(200).collect();
        reason.get_or_insert(line);
    }
    let reason = reason.filter(|line| !line.is_empty());
    Err(reason.unwrap_or_else(|| "it says nothing".to_owned()))
}

/// The first number with a dot in it, or the first number. Programs have digits in their names.
fn first_version(text: &str) -> Option<Version> {
    let numbers = || {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').map(|number| number.trim_matches('.'))
    };
    let number = numbers()
        .find(|number| number.contains('.'))
        .or_else(|| numbers().find(|number| !number.is_empty()))?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    let mut next = || parts.next().unwrap_or(Some(0));
    Some(Version::new(next()?, next()?, next()?))
}

/// By path, time and size of the file.
static KNOWN: Mutex<BTreeMap<(PathBuf, SystemTime, u64), Version>> = Mutex::new(BTreeMap::new());

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::id::PluginId;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let cases = [
            ("Python 3.11.7", Some("3.11.7")),
            ("go version go1.22.1 linux/amd64", Some("1.22.1")),
            ("v20.1.0", Some("20.1.0")),
            ("g++ (Debian 12.2.0-14) 12.2.0", Some("12.2.0")),
            ("x264 0.164.3095", Some("0.164.3095")),
            ("Lua 5.4.6  Copyright", Some("5.4.6")),
            ("less 590 (GNU regular expressions)", Some("590.0.0")),
            ("tool 2024.01.02.03", Some("2024.1.2")),
            ("version 7.", Some("7.0.0")),
            ("nothing", None),
            ("99999999999999999999999.1", None),
        ];
        for (text, expected) in cases {
            let found = first_version(text).map(|version| version.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn errors_say_what_is_there_and_what_was_wanted() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().to_str().unwrap();
        tool(place.path(), "good", "[ \"$1\" = --version ] && echo 'Good 3.11.7'");
        tool(place.path(), "goish", "[ \"$1\" = version ] && echo 'go1.22' || exit 2");
        tool(place.path(), "silent", "echo hello");
        tool(place.path(), "unwell", "echo 'broken 9.9' >&2; exit 1");
        let cases = [
            ("good >= 3.9", None),
            ("good", None),
            ("unwell", None),
            ("goish >= 1.20", None),
            ("good >= 3.12", Some("`good >=3.12` is required, but PLACE/good is 3.11.7")),
            ("silent ^1", Some("PLACE/silent does not say its version: hello")),
            ("unwell ^9", Some("PLACE/unwell does not say its version: broken 9.9")),
            (
                "absent",
                Some("`absent` is required: there is no program \"absent\" in PATH (PLACE)"),
            ),
        ];
        for (text, expected) in cases {
            let mut manifest = Manifest::new(PluginId::parse("a").unwrap(), "/app/plugin.toml");
            manifest.run.env.insert("PATH".to_owned(), path.to_owned());
            manifest.requires.tools = vec![Tool::parse(text).unwrap()];
            let errors = check(&manifest).err().unwrap_or_default();
            let found: Vec<_> = errors.iter().map(ToString::to_string).collect();
            match expected {
                Some(expected) => {
                    assert_eq!(found.len(), 1, "{text}");
                    assert!(found[0].contains(&expected.replace("PLACE", path)), "{}", found[0]);
                }
                None => assert_eq!(found, Vec::<String>::new(), "{text}"),
            }
        }
    }

    #[test]
    fn a_program_is_asked_once_until_it_changes() {
        let place = tempfile::tempdir().unwrap();
        let asked = place.path().join("asked");
        let script = |version: &str| format!("echo x >> {}; echo {version}", asked.display());
        let path = tool(place.path(), "counted", &script("1.2.3"));
        let count = || fs::read_to_string(&asked).unwrap().lines().count();
        for _ in 0..3 {
            assert_eq!(version_of(&path).unwrap(), Version::new(1, 2, 3));
        }
        assert_eq!(count(), 1);
        tool(place.path(), "counted", &script("2.0.0.0"));
        assert_eq!(version_of(&path).unwrap(), Version::new(2, 0, 0));
        assert_eq!(count(), 2);
    }

    fn tool(place: &Path, name: &str, script: &str) -> PathBuf {
        let path = place.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}
