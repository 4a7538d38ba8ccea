//! Which plugins' files change, for plugins that are known already.
//!
//! Folders of plugins are watched by [`watch`](super::discovery::watch()); this is for plugins that
//! somebody named: in the tables of a configuration, and single files. It reads no manifest:
//! whoever knows where a plugin was named reads it again there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::discovery::DiscoveryError;
use super::discovery::watch::{files_of, hash_of, is_source, settled};
use crate::host::changes::Changes;
use crate::host::manifest::{FILE_NAMES, Manifest};
use crate::id::PluginId;

/// Watches the files of plugins until it is dropped.
#[derive(Debug)]
pub(crate) struct Sources {
    changes: Changes,
    plugins: Vec<Manifest>,
    /// Looked at as well; they are no plugin's.
    others: Vec<PathBuf>,
    known: BTreeMap<Option<PluginId>, Hashes>,
}

/// What was edited.
#[derive(Debug, Default)]
pub(crate) struct Edited {
    /// Files of plugins, sorted.
    pub(crate) plugins: BTreeMap<PluginId, Vec<PathBuf>>,
    /// Whether one of the other files was.
    pub(crate) others: bool,
}

type Hashes = BTreeMap<PathBuf, u64>;

impl Sources {
    /// Watches what plugins consist of, and other files.
    ///
    /// # Errors
    ///
    /// [`DiscoveryError::Watch`].
    pub(crate) fn watch(
        plugins: Vec<Manifest>,
        others: Vec<PathBuf>,
    ) -> Result<Self, DiscoveryError> {
        // With all below, where that is one plugin's.
        let mut folders: BTreeMap<PathBuf, bool> = BTreeMap::new();
        let files = plugins.iter().flat_map(|plugin| files(plugin, &plugins));
        for file in files.chain(others.iter().cloned()) {
            folders.entry(folder_of(&file)).or_insert(false);
        }
        for plugin in plugins.iter().filter(|plugin| has_folder(plugin)) {
            folders.insert(plugin.dir().to_owned(), true);
        }
        let watched = folders.iter().map(|(folder, below)| (folder.as_path(), *below));
        let changes = Changes::watch(watched).map_err(|source| {
            let path = source.paths.first().cloned().unwrap_or_default();
            DiscoveryError::Watch { path, source }
        })?;
        let mut sources = Self { changes, plugins, others, known: BTreeMap::new() };
        sources.known = sources.look();
        Ok(sources)
    }

    /// Waits for the next edit. Several that come together are one.
    pub(crate) async fn next(&mut self) -> Edited {
        loop {
            settled(&self.changes).await;
            let now = self.look();
            let mut edited = Edited::default();
            for (plugin, files) in &now {
                let before = self.known.get(plugin);
                let both = files.keys().chain(before.into_iter().flat_map(BTreeMap::keys));
                let changed: BTreeSet<&PathBuf> = both
                    .filter(|file| files.get(*file) != before.and_then(|it| it.get(*file)))
                    .collect();
                match plugin {
                    _ if changed.is_empty() => (),
                    None => edited.others = true,
                    Some(plugin) => {
                        let changed = changed.into_iter().cloned().collect();
                        edited.plugins.insert(plugin.clone(), changed);
                    }
                }
            }
            self.known = now;
            if edited.others || !edited.plugins.is_empty() {
                return edited;
            }
        }
    }

    fn look(&self) -> BTreeMap<Option<PluginId>, Hashes> {
        let hashes = |files: BTreeSet<PathBuf>| {
            files.into_iter().filter_map(|file| Some((file.clone(), hash_of(&file).ok()?)))
        };
        let mut all = BTreeMap::new();
        for plugin in &self.plugins {
            let files = files(plugin, &self.plugins);
            all.insert(Some(plugin.id.clone()), hashes(files).collect());
        }
        all.insert(None, hashes(self.others.iter().cloned().collect()).collect());
        all
    }
}

/// What a plugin consists of. One in a table of a configuration has its programs, and what lies
/// beside them and is nobody else's.
fn files(plugin: &Manifest, all: &[Manifest]) -> BTreeSet<PathBuf> {
    if has_folder(plugin) || is_source(&plugin.path) {
        return files_of(plugin).into_keys().collect();
    }
    let mut files = programs(plugin);
    let is_of_another = |file: &PathBuf| {
        all.iter().any(|other| other.id != plugin.id && programs(other).contains(file))
    };
    let folders: BTreeSet<PathBuf> =
        files.iter().filter(|file| is_source(file)).map(|file| folder_of(file)).collect();
    for entry in folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let path = entry.path();
        if is_source(&path) && path.is_file() && !is_of_another(&path) {
            files.insert(path);
        }
    }
    files
}

/// The words of its command that are files.
fn programs(plugin: &Manifest) -> BTreeSet<PathBuf> {
    let dir = plugin.working_dir();
    let words = plugin.run.command.iter().chain(&plugin.run.args).map(|word| dir.join(word));
    words.chain(plugin.run.entry.clone()).filter(|word| word.is_file()).collect()
}

/// Whether its folder is its own.
fn has_folder(plugin: &Manifest) -> bool {
    let name = plugin.path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| FILE_NAMES.contains(&name))
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or_else(|| Path::new("/")).to_owned()
}
