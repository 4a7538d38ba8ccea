//! The reading side, which needs no broker.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{LogLine, files};

/// Why logs cannot be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The plugin has none there.
    #[error("there are no logs of plugin `{plugin}` in {}", directory.display())]
    NoLogs {
        /// Which plugin.
        plugin: String,
        /// Where they would be.
        directory: PathBuf,
    },
    /// The system said no.
    #[error("cannot read {}: {source}", path.display())]
    System {
        /// What was to be read.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The plugins that have logs in a directory, in alphabetical order. None when it does not exist.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn logged_plugins(directory: &Path) -> Result<Vec<String>, ReadError> {
    let system = |source| ReadError::System { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(system)?,
    };
    let mut plugins = Vec::new();
    for entry in entries {
        let name = entry.map_err(system)?.file_name();
        if let Some(plugin) = name.to_str().and_then(|name| name.strip_suffix(".jsonl")) {
            plugins.push(plugin.to_owned());
        }
    }
    plugins.sort();
    Ok(plugins)
}

/// The last `count` lines of a plugin, the oldest first. A line that is no log line (cut by a full
/// disk) is left out.
///
/// # Errors
///
/// When it has none, or a file cannot be read.
pub fn read_last(directory: &Path, plugin: &str, count: usize) -> Result<Vec<LogLine>, ReadError> {
    let mut newest_first: Vec<Vec<LogLine>> = Vec::new();
    let (mut found, mut have) = (false, 0);
    for path in files(directory, plugin).into_iter().rev() {
        if have >= count && found {
            break;
        }
        let Some(lines) = read_file(&path)? else { continue };
        found = true;
        have += lines.len();
        newest_first.push(lines);
    }
    if !found {
        return Err(ReadError::NoLogs { plugin: plugin.to_owned(), directory: directory.into() });
    }
    let mut lines: Vec<_> = newest_first.into_iter().rev().flatten().collect();
    drop(lines.drain(..lines.len().saturating_sub(count)));
    Ok(lines)
}

/// `None` where there is no such file.
fn read_file(path: &Path) -> Result<Option<Vec<LogLine>>, ReadError> {
    let system = |source| ReadError::System { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(system)?,
    };
    let mut lines = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        lines.extend(parse(&line.map_err(system)?));
    }
    Ok(Some(lines))
}

/// One line of a file, without its end.
pub(super) fn parse(line: &[u8]) -> Option<LogLine> {
    serde_json::from_slice(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_and_what_is_broken_is_left_out() {
        let place = tempfile::tempdir().unwrap();
        let error = read_last(place.path(), "none", 5).unwrap_err().to_string();
        assert!(error.starts_with("there are no logs of plugin `none` in /"), "{error}");
        assert!(logged_plugins(&place.path().join("missing")).unwrap().is_empty());
        let whole = r#"{"time":"t","plugin":"cut","stream":"stdout","line":"whole"}"#;
        fs::write(place.path().join("cut.jsonl"), format!("{whole}\n{{\"time\":\"t\"\n{whole}"))
            .unwrap();
        let lines = read_last(place.path(), "cut", 5).unwrap();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].line, "whole");
    }
}
