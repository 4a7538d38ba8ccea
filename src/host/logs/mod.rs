//! What plugins print and what becomes of them, kept on disk: JSON lines, one file a plugin.
//!
//! `ID.jsonl` is the newest file of a plugin; when it is full it becomes `ID.jsonl.1`, and so on up
//! to the number that is kept. Nothing here needs a running broker, so that what a plugin printed
//! before a crash can be read afterwards.

mod follow;
mod reader;
mod store;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

pub use follow::Follower;
pub use reader::{ReadError, logged_plugins, read_last};
pub use store::{LogSettings, LogStore};

/// One line of a log file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogLine {
    /// When it was printed, as RFC 3339 in UTC.
    pub time: String,
    /// The plugin's id.
    pub plugin: String,
    /// Where it comes from.
    pub stream: LogStream,
    /// The process, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The text, without the line end.
    pub line: String,
}

/// What a line of a log file is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogStream {
    /// The plugin printed it on its standard output.
    Stdout,
    /// The plugin printed it on its standard error.
    Stderr,
    /// A change of the plugin's state.
    Lifecycle,
    /// A remark of the log itself: lines that could not be kept.
    Log,
}

/// Where the logs of the broker at `socket` are: below the user's state directory, under the
/// socket's name and, where several sockets have that name, told apart by its path. `None` when no
/// variable says where the user's files are.
#[must_use]
pub fn directory(socket: &Path) -> Option<PathBuf> {
    directory_in(socket, |variable| std::env::var_os(variable))
}

fn directory_in(socket: &Path, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // The base directory specification says that a relative path is to be ignored.
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    let stem = socket.file_stem().unwrap_or_default().to_string_lossy();
    // The directory may be a link or not exist yet; the name must be the same before and after.
    let place = socket.parent().and_then(|parent| parent.canonicalize().ok());
    let place = match (place, socket.file_name()) {
        (Some(place), Some(name)) => place.join(name),
        _ => std::path::absolute(socket).ok()?,
    };
    let hash = xxh64(place.as_os_str().as_bytes(), 0);
    Some(base.join("plugbus").join("logs").join(format!("{stem}-{hash:016x}")))
}

/// The time now, as it stands in a log line.
pub(crate) fn time_now() -> String {
    let now = crate::net::clock::moment().unix;
    let time = jiff::Timestamp::from_nanosecond(i128::from(now)).unwrap_or_default();
    format!("{time:.3}")
}

/// The name of the newest file, from which the names of the older ones are made.
fn file_name(plugin: &str) -> String {
    format!("{plugin}.jsonl")
}

/// The files of a plugin, the oldest first. Some may be missing.
fn files(directory: &Path, plugin: &str) -> Vec<PathBuf> {
    let newest = file_name(plugin);
    let older = (1..=FILES_MAX).rev().map(|number| format!("{newest}.{number}"));
    older.chain([newest.clone()]).map(|name| directory.join(name)).collect()
}

/// Files of one plugin at most, whatever the settings say.
const FILES_MAX: usize = 99;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_one_log_directory() {
        let home = |name: &str| (name == "HOME").then(|| "/home/ann".into());
        let one = directory_in(Path::new("/nowhere/plugbus/default.sock"), home).unwrap();
        let two = directory_in(Path::new("/elsewhere/default.sock"), home).unwrap();
        assert!(one.starts_with("/home/ann/.local/state/plugbus/logs"), "{one:?}");
        assert!(one.file_name().unwrap().to_str().unwrap().starts_with("default-"), "{one:?}");
        assert_ne!(one, two);
        assert_eq!(directory_in(Path::new("/x/default.sock"), |_| None), None);
        let relative = |name: &str| (name == "HOME").then(|| "ann".into());
        assert_eq!(directory_in(Path::new("/x/default.sock"), relative), None);
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = time_now();
        assert_eq!(time.len(), "2026-01-02T03:04:05.678Z".len(), "{time}");
        assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    }
}
