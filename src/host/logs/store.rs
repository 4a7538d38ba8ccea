//! The writing side: one thread for all plugins of a broker.
//!
//! Whoever logs never waits for the disk. When the disk is slower than the plugins, lines are
//! dropped, counted, and the count is written in their place. When it is full or fails, that is
//! said once and tried again with the next line.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::{FILES_MAX, LogLine, LogStream, file_name, time_now};
use crate::host::output::Stream;
use crate::host::plugins::PluginEvent;
use crate::id::PluginId;
use crate::limit;

/// How much is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogSettings {
    /// Bytes after which a file is full.
    pub file_size_max: u64,
    /// Full files kept beside the one that is being written; 99 at most.
    pub files_max: usize,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { file_size_max: limit::LOG_FILE_SIZE_MAX, files_max: limit::LOG_FILES_MAX }
    }
}

/// Writes log lines of plugins to files. Handles are cheap to clone; when the last one is dropped
/// the thread writes what is left and ends.
#[derive(Clone, Debug)]
pub struct LogStore {
    queue: Sender<Order>,
    dropped: Arc<AtomicU64>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

enum Order {
    Write(LogLine),
    /// Everything that was queued before is on its way to the disk when this is answered.
    Flush(Sender<()>),
}

impl LogStore {
    /// Makes the directory (mode 0700) if it is missing and starts the thread.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made or written.
    pub fn open(directory: &Path, settings: LogSettings) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
        let (queue, orders) = bounded(limit::LOG_QUEUE_LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            directory: directory.to_owned(),
            settings: LogSettings { files_max: settings.files_max.min(FILES_MAX), ..settings },
            files: BTreeMap::new(),
            dropped: Arc::clone(&dropped),
            failing: false,
        };
        let thread = std::thread::Builder::new()
            .name("plugbus-log".to_owned())
            .spawn(move || writer.run(&orders))?;
        Ok(Self { queue, dropped, thread: Arc::new(Mutex::new(Some(thread))) })
    }

    /// Queues a line; drops and counts it when the disk does not keep up.
    pub fn append(&self, plugin: &PluginId, stream: LogStream, pid: Option<u32>, line: &str) {
        let (plugin, line) = (plugin.as_str().to_owned(), line.to_owned());
        let line = LogLine { time: time_now(), plugin, stream, pid, line };
        if self.queue.try_send(Order::Write(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed); // A count for people; orders nothing.
        }
    }

    /// Keeps what happens to a plugin, in words.
    pub fn keep(&self, event: &PluginEvent) {
        match event {
            PluginEvent::Started { id, pid } => {
                self.append(id, LogStream::Lifecycle, Some(*pid), "its process runs");
            }
            PluginEvent::Ready { id, after } => {
                let text = format!("ready after {} ms", after.as_millis());
                self.append(id, LogStream::Lifecycle, None, &text);
            }
            PluginEvent::Printed { id, stream, line } => {
                let stream = match stream {
                    Stream::Stdout => LogStream::Stdout,
                    Stream::Stderr => LogStream::Stderr,
                };
                self.append(id, stream, None, line);
            }
            PluginEvent::Exited { id, exit, expected } => {
                let text = format!("{exit}{}", if *expected { ", as it was asked to" } else { "" });
                self.append(id, LogStream::Lifecycle, None, &text);
            }
            PluginEvent::Changed { id, from, to, cause, .. } => {
                let text = format!("{} -> {}: {cause}", from.name(), to.name());
                self.append(id, LogStream::Lifecycle, None, &text);
            }
            PluginEvent::Compared { id, difference } => {
                let text = serde_json::to_string(difference).unwrap_or_default();
                let text = format!("a successor is ready; what is different: {text}");
                self.append(id, LogStream::Lifecycle, None, &text);
            }
        }
    }

    /// Blocks until everything that was queued before has been written.
    pub fn flush(&self) {
        let (answer, written) = bounded(1);
        // The thread ends only after the last handle.
        if self.queue.send(Order::Flush(answer)).is_ok() {
            let _written = written.recv();
        }
    }

    /// Writes what is left and ends the thread, if this is the last handle.
    pub fn close(self) {
        let Self { queue, thread, .. } = self;
        let last = Arc::into_inner(thread);
        drop(queue);
        if let Some(Some(thread)) = last.map(Mutex::into_inner)
            && thread.join().is_err()
        {
            log::error!("the log thread panicked");
        }
    }
}

struct Writer {
    directory: PathBuf,
    settings: LogSettings,
    files: BTreeMap<String, Open>,
    dropped: Arc<AtomicU64>,
    failing: bool,
}

/// The file that is being written.
struct Open {
    file: File,
    size: u64,
    /// Lines of this batch, written together.
    waiting: Vec<u8>,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            let mut answers = Vec::new();
            let mut next = Some(order);
            // A batch is what is there: nothing waits for more to come.
            for _ in 0..limit::LOG_QUEUE_LINES_MAX {
                match next.take().map_or_else(|| orders.try_recv().ok(), Some) {
                    Some(Order::Write(line)) => self.write(line),
                    Some(Order::Flush(answer)) => answers.push(answer),
                    None => break,
                }
            }
            self.flush();
            for answer in answers {
                // Who asked may have stopped waiting.
                let _gone = answer.send(());
            }
        }
    }

    fn write(&mut self, line: LogLine) {
        let lost = self.dropped.swap(0, Ordering::Relaxed); // As in `LogStore::append`.
        if lost > 0 {
            let text = format!("{lost} lines of all plugins were not kept: the disk is too slow");
            let remark = LogLine { stream: LogStream::Log, line: text, pid: None, ..line.clone() };
            self.write_line(&remark);
        }
        self.write_line(&line);
    }

    fn write_line(&mut self, line: &LogLine) {
        let mut bytes = serde_json::to_vec(line).expect("a log line is strings and numbers");
        bytes.push(b'\n');
        let outcome = self.place(&line.plugin, bytes);
        self.note(outcome);
    }

    /// Puts a line into the batch of its file, which is changed for a fresh one when it is full.
    fn place(&mut self, plugin: &str, line: Vec<u8>) -> io::Result<()> {
        let max = self.settings.file_size_max;
        if let Some(open) = self.files.get(plugin)
            && open.size > 0
            && open.size + line.len() as u64 > max
        {
            let mut full = self.files.remove(plugin).expect("it was found just now");
            full.file.write_all(&full.waiting)?;
            drop(full);
            self.rotate(plugin)?;
        }
        if !self.files.contains_key(plugin) {
            if self.files.len() >= limit::LOG_FILES_OPEN_MAX {
                // Closed and opened again is slower, not wrong.
                self.flush();
                self.files.clear();
            }
            let open = self.open(plugin)?;
            self.files.insert(plugin.to_owned(), open);
        }
        let open = self.files.get_mut(plugin).expect("it is open now");
        open.size += line.len() as u64;
        open.waiting.extend_from_slice(&line);
        Ok(())
    }

    fn open(&self, plugin: &str) -> io::Result<Open> {
        let path = self.directory.join(file_name(plugin));
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        Ok(Open { file, size, waiting: Vec::new() })
    }

    /// Renames the files of a plugin so that its newest name is free. The oldest is gone then.
    fn rotate(&self, plugin: &str) -> io::Result<()> {
        let newest = self.directory.join(file_name(plugin));
        let older = |number: usize| self.directory.join(format!("{}.{number}", file_name(plugin)));
        match self.settings.files_max {
            0 => missing_is_fine(fs::remove_file(&newest)),
            count => {
                for number in (1..count).rev() {
                    missing_is_fine(fs::rename(older(number), older(number + 1)))?;
                }
                missing_is_fine(fs::rename(&newest, older(1)))
            }
        }
    }

    fn flush(&mut self) {
        let mut outcome = Ok(());
        for open in self.files.values_mut().filter(|open| !open.waiting.is_empty()) {
            let written = open.file.write_all(&open.waiting);
            open.waiting.clear();
            outcome = outcome.and(written);
        }
        self.note(outcome);
    }

    /// Says once that the disk does not take lines, and once that it does again.
    fn note(&mut self, outcome: io::Result<()>) {
        match outcome {
            Err(error) if !self.failing => {
                self.failing = true;
                let place = self.directory.display();
                log::error!("cannot write logs in {place}: {error}; lines are lost until it can");
            }
            Ok(()) if self.failing => {
                self.failing = false;
                log::warn!("logs in {} are written again", self.directory.display());
            }
            _ => (),
        }
    }
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{logged_plugins, read_last};
    use super::*;

    #[test]
    fn lines_are_kept_in_order_and_the_oldest_file_goes_first() {
        let place = tempfile::tempdir().unwrap();
        let settings = LogSettings { file_size_max: 1_000, files_max: 2 };
        let store = LogStore::open(place.path(), settings).unwrap();
        let id = PluginId::parse("talker").unwrap();
        for number in 0..100 {
            store.append(&id, LogStream::Stdout, Some(7), &format!("line {number}"));
        }
        store.flush();
        let mut names: Vec<_> = fs::read_dir(place.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["talker.jsonl", "talker.jsonl.1", "talker.jsonl.2"]);
        for name in &names {
            assert!(fs::metadata(place.path().join(name)).unwrap().len() <= 1_000);
        }
        let lines = read_last(place.path(), "talker", usize::MAX).unwrap();
        let last: Vec<_> = lines.iter().map(|line| line.line.as_str()).collect();
        let first = 100 - last.len();
        assert!(last.len() > 20, "three files hold more than one");
        let expected: Vec<_> = (first..100).map(|number| format!("line {number}")).collect();
        assert_eq!(last, expected);
    }

    #[test]
    fn a_store_that_is_opened_again_goes_on_where_it_was() {
        let place = tempfile::tempdir().unwrap();
        let id = PluginId::parse("again").unwrap();
        for round in ["first", "second"] {
            let store = LogStore::open(place.path(), LogSettings::default()).unwrap();
            store.append(&id, LogStream::Stderr, None, round);
            store.close();
        }
        let lines = read_last(place.path(), "again", 10).unwrap();
        assert_eq!(
            lines.iter().map(|line| &line.line[..]).collect::<Vec<_>>(),
            ["first", "second"]
        );
        assert_eq!(logged_plugins(place.path()).unwrap(), ["again"]);
    }

    #[test]
    fn more_plugins_than_open_files_lose_nothing() {
        let place = tempfile::tempdir().unwrap();
        let store = LogStore::open(place.path(), LogSettings::default()).unwrap();
        let count = limit::LOG_FILES_OPEN_MAX + 3;
        for round in 0..2 {
            for number in 0..count {
                let id = PluginId::parse(&format!("p{number}")).unwrap();
                store.append(&id, LogStream::Stdout, None, &round.to_string());
            }
            store.flush();
        }
        assert_eq!(logged_plugins(place.path()).unwrap().len(), count);
        assert_eq!(read_last(place.path(), "p0", 9).unwrap().len(), 2);
    }

    #[test]
    fn a_disk_that_takes_nothing_loses_lines_and_no_more() {
        let place = tempfile::tempdir().unwrap();
        let store = LogStore::open(place.path(), LogSettings::default()).unwrap();
        let id = PluginId::parse("lost").unwrap();
        // A directory where the file should be cannot be opened for writing, even by root.
        let blocked = place.path().join("lost.jsonl");
        fs::create_dir(&blocked).unwrap();
        store.append(&id, LogStream::Stdout, None, "into nothing");
        store.flush();
        fs::remove_dir(&blocked).unwrap();
        store.append(&id, LogStream::Stdout, None, "kept");
        store.flush();
        let lines = read_last(place.path(), "lost", 9).unwrap();
        assert_eq!(lines.iter().map(|line| &line.line[..]).collect::<Vec<_>>(), ["kept"]);
    }
}
