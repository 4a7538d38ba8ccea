//! Log lines as they are written: all that are kept first, then those that come.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::reader::{ReadError, parse};
use super::{LogLine, file_name, files};
use crate::limit;

/// Reads what is added to the files of one plugin, across rotations. Whoever drives it calls
/// [`poll`](Self::poll) when the directory has changed, or from time to time.
#[derive(Debug)]
pub struct Follower {
    directory: PathBuf,
    plugin: String,
    open: Option<File>,
    /// The beginning of a line whose end has not been written yet.
    partial: Vec<u8>,
}

impl Follower {
    /// Begins with the oldest line that is kept. The plugin need not have logged anything yet.
    #[must_use]
    pub fn new(directory: &Path, plugin: &str) -> Self {
        let (directory, plugin) = (directory.to_owned(), plugin.to_owned());
        Self { directory, plugin, open: None, partial: Vec::new() }
    }

    /// The complete lines that have been added since the last time.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn poll(&mut self) -> Result<Vec<LogLine>, ReadError> {
        let mut lines = Vec::new();
        self.read(&mut lines)?;
        // After a rotation the old file, still open, has been read to its end just now.
        for file in self.newer()? {
            self.read(&mut lines)?;
            self.partial.clear();
            self.open = Some(file);
            self.read(&mut lines)?;
        }
        Ok(lines)
    }

    /// The files after the one that is open, the oldest first.
    fn newer(&self) -> Result<Vec<File>, ReadError> {
        let mut newer = Vec::new();
        let open = self.open.as_ref().map(inode).transpose().map_err(|error| self.error(error))?;
        for path in files(&self.directory, &self.plugin) {
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(|error| self.error(error))?,
            };
            if open.is_some() && open == inode(&file).ok() {
                newer.clear();
            } else {
                newer.push(file);
            }
        }
        Ok(newer)
    }

    fn read(&mut self, lines: &mut Vec<LogLine>) -> Result<(), ReadError> {
        let Some(file) = &mut self.open else { return Ok(()) };
        let mut buffer = vec![0; limit::OUTPUT_LINE_MAX];
        loop {
            let count = match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) => return Err(self.error(error)),
            };
            let mut rest = &buffer[..count];
            while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                self.partial.extend_from_slice(&rest[..end]);
                lines.extend(parse(&self.partial));
                self.partial.clear();
                rest = &rest[end + 1..];
            }
            self.partial.extend_from_slice(rest);
        }
    }

    fn error(&self, source: io::Error) -> ReadError {
        ReadError::System { path: self.directory.join(file_name(&self.plugin)), source }
    }
}

/// What tells a file from every other, whatever it is called.
fn inode(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|data| (data.dev(), data.ino()))
}

#[cfg(test)]
mod tests {
    use super::super::{LogSettings, LogStore, LogStream};
    use super::*;
    use crate::id::PluginId;

    #[test]
    fn lines_are_followed_across_rotations_without_loss_or_repetition() {
        let place = tempfile::tempdir().unwrap();
        let settings = LogSettings { file_size_max: 500, files_max: 3 };
        let store = LogStore::open(place.path(), settings).unwrap();
        let id = PluginId::parse("busy").unwrap();
        let mut follower = Follower::new(place.path(), "busy");
        let mut seen = Vec::new();
        for number in 0..40 {
            store.append(&id, LogStream::Stdout, None, &number.to_string());
            store.flush();
            // Sometimes the files turn more than once before somebody looks.
            if number % 13 > 0 && number < 39 {
                continue;
            }
            seen.extend(follower.poll().unwrap().into_iter().map(|line| line.line));
        }
        assert_eq!(seen, (0..40).map(|number| number.to_string()).collect::<Vec<_>>());
    }
}
