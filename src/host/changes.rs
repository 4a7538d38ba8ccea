//! Which files may have changed, as the system tells it.
//!
//! The watching thread only writes down paths and wakes the reader; several changes of one file
//! become one. Beyond a number of paths it is cheaper, and bounded, to look at everything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Paths to look at.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Changed {
    pub(crate) paths: BTreeSet<PathBuf>,
    /// Whether others may have changed too.
    pub(crate) all: bool,
}

/// The system's notices, until this is dropped.
#[derive(Debug)]
pub(crate) struct Changes {
    shared: Arc<Shared>,
    _watcher: RecommendedWatcher,
}

#[derive(Debug, Default)]
struct Shared {
    changed: Mutex<Changed>,
    news: Notify,
}

impl Changes {
    /// Watches paths, with everything below where that is said.
    pub(crate) fn watch<'a>(
        paths: impl IntoIterator<Item = (&'a Path, bool)>,
    ) -> notify::Result<Self> {
        let shared = Arc::<Shared>::default();
        let told = Arc::clone(&shared);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if told.changed.lock().add(event) {
                told.news.notify_one();
            }
        })?;
        for (path, with_all_below) in paths {
            let mode = match with_all_below {
                true => RecursiveMode::Recursive,
                false => RecursiveMode::NonRecursive,
            };
            watcher.watch(path, mode)?;
        }
        Ok(Self { shared, _watcher: watcher })
    }

    /// Waits until something changed and takes it.
    pub(crate) async fn next(&self) -> Changed {
        loop {
            self.shared.news.notified().await;
            let changed = self.take();
            if changed != Changed::default() {
                return changed;
            }
        }
    }

    /// Takes what has changed by now.
    pub(crate) fn take(&self) -> Changed {
        std::mem::take(&mut *self.shared.changed.lock())
    }
}

impl Changed {
    /// Adds what an event says. False if it says nothing.
    fn add(&mut self, event: notify::Result<Event>) -> bool {
        match event {
            // Files are opened and read by ourselves too.
            Ok(Event { kind: EventKind::Access(kind), .. })
                if kind != AccessKind::Close(AccessMode::Write) =>
            {
                return false;
            }
            Ok(event) if !event.need_rescan() => self.paths.extend(event.paths),
            Ok(_) => self.all = true,
            Err(error) => {
                log::warn!("a notice of a change is lost: {error}");
                self.all = true;
            }
        }
        if self.paths.len() > PATHS_MAX {
            self.all = true;
        }
        if self.all {
            self.paths.clear();
        }
        true
    }

    /// Adds what somebody else knows.
    pub(crate) fn join(&mut self, other: Self) {
        self.paths.extend(other.paths);
        self.all |= other.all;
    }
}

const PATHS_MAX: usize = 1_024;

#[cfg(test)]
mod tests {
    use notify::event::{Flag, ModifyKind};

    use super::*;

    #[test]
    fn reading_is_no_change_and_too_many_are_all() {
        let mut changed = Changed::default();
        let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
        assert!(!changed.add(Ok(Event::new(open).add_path("a".into()))));
        let modify = EventKind::Modify(ModifyKind::Any);
        for path in ["a", "b", "a"] {
            assert!(changed.add(Ok(Event::new(modify).add_path(path.into()))));
        }
        assert_eq!(changed, Changed { paths: ["a", "b"].map(PathBuf::from).into(), all: false });
        for number in 0..PATHS_MAX {
            changed.add(Ok(Event::new(modify).add_path(number.to_string().into())));
        }
        assert_eq!(changed, Changed { paths: BTreeSet::new(), all: true });

        let mut changed = Changed::default();
        changed.add(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan)));
        assert!(changed.all);
    }

    #[tokio::test]
    async fn a_written_file_is_told() {
        let place = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(place.path()).unwrap();
        let changes = Changes::watch([(root.as_path(), true)]).unwrap();
        std::fs::write(root.join("a.md"), "a").unwrap();
        let mut changed = Changed::default();
        while !changed.paths.contains(&root.join("a.md")) {
            changed.join(changes.next().await);
        }
    }
}
