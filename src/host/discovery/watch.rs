//! What changes in folders of plugins.
//!
//! A plugin counts as changed when the content of its manifest or of its program did: editors touch
//! files, and plugins write beside their programs. Notices of the system say only when to look.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh64::Xxh64;

use super::{DEPTH_MAX, DiscoveryError, Found, NOT_OURS, REQUIREMENTS, discover};
use crate::host::changes::{Changed, Changes};
use crate::host::manifest::{FILE_NAMES, Manifest};
use crate::id::PluginId;
use crate::limit;

/// What happened to the plugins of the folders that are watched.
#[derive(Debug)]
#[non_exhaustive]
pub enum Change {
    /// There is a new one.
    Added(Box<Manifest>),
    /// Its manifest or its program is another.
    Changed {
        /// As it is now.
        manifest: Box<Manifest>,
        /// Which files changed, sorted.
        files: Vec<PathBuf>,
    },
    /// It is gone.
    Removed {
        /// Its id.
        id: PluginId,
        /// Where its manifest was.
        path: PathBuf,
    },
    /// It cannot be used as it is now. One that was there before still counts as it was.
    Broken(DiscoveryError),
}

/// Watches folders of plugins until it is dropped.
#[derive(Debug)]
pub struct Watch {
    folders: Vec<PathBuf>,
    changes: Changes,
    /// By the path of the manifest.
    known: BTreeMap<PathBuf, Known>,
    /// What has been said of broken ones, so that it is said once.
    broken: BTreeMap<PathBuf, String>,
}

#[derive(Debug)]
struct Known {
    manifest: Manifest,
    files: BTreeMap<PathBuf, u64>,
}

/// Watches folders, and gives what is in them now.
///
/// # Errors
///
/// [`DiscoveryError::Folder`] and [`DiscoveryError::Watch`].
pub fn watch(folders: &[PathBuf]) -> Result<(Watch, Found), DiscoveryError> {
    let mut absolute = Vec::new();
    for path in folders {
        let failed = |source| DiscoveryError::Folder { path: path.clone(), source };
        fs::metadata(path).map_err(failed)?;
        // As `discover` names what it finds; whoever reads a configuration has those names too.
        absolute.push(std::path::absolute(path).map_err(failed)?);
    }
    let mut watched = Vec::new();
    for path in &absolute {
        watched.push((path.as_path(), true));
    }
    let changes = Changes::watch(watched).map_err(|source| {
        let path = source.paths.first().or_else(|| absolute.first()).cloned().unwrap_or_default();
        DiscoveryError::Watch { path, source }
    })?;
    let (known, broken) = (BTreeMap::new(), BTreeMap::new());
    let mut watch = Watch { folders: absolute, changes, known, broken };
    // Only after watching has begun, so that no change falls between the two.
    let mut found = Found::default();
    for change in watch.look()? {
        match change {
            Change::Added(manifest) => found.manifests.push(*manifest),
            Change::Broken(problem) => found.problems.push(problem),
            Change::Changed { .. } | Change::Removed { .. } => {
                unreachable!("nothing was known before")
            }
        }
    }
    Ok((watch, found))
}

impl Watch {
    /// Waits for the next changes. Several of one plugin that come together are one.
    pub async fn next(&mut self) -> Vec<Change> {
        loop {
            let changed = settled(&self.changes).await;
            if !self.matters(&changed) {
                continue;
            }
            match self.look() {
                Ok(changes) if changes.is_empty() => (),
                Ok(changes) => return changes,
                Err(error) => match self.tell_once(error) {
                    Some(change) => return vec![change],
                    None => continue,
                },
            }
        }
    }

    /// Whether the paths can have to do with a plugin's manifest or program. A plugin that writes
    /// beside its program would keep us busy otherwise.
    fn matters(&self, changed: &Changed) -> bool {
        changed.all
            || changed.paths.iter().any(|path| {
                let ending = path.extension().and_then(|ending| ending.to_str());
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| FILE_NAMES.contains(&name) || name == REQUIREMENTS)
                    || ending.is_some_and(|ending| SOURCE_ENDINGS.contains(&ending))
                    || self.known.values().any(|known| known.files.contains_key(path))
                    || !path.is_file()
            })
    }

    /// Compares what is there with what is known.
    fn look(&mut self) -> Result<Vec<Change>, DiscoveryError> {
        let mut changes = Vec::new();
        let mut present: BTreeMap<PathBuf, Manifest> = BTreeMap::new();
        let mut problems = Vec::new();
        for folder in &self.folders {
            let found = discover(folder)?;
            problems.extend(found.problems);
            for manifest in found.manifests {
                match present.values().find(|other| other.id == manifest.id) {
                    Some(first) => problems.push(DiscoveryError::Twice {
                        id: manifest.id,
                        first: first.path.clone(),
                        second: manifest.path,
                    }),
                    None => drop(present.insert(manifest.path.clone(), manifest)),
                }
            }
        }
        let broken: BTreeSet<PathBuf> =
            problems.iter().map(|problem| problem.path().to_owned()).collect();
        // Those that went come first, because another may have taken their ids.
        let gone: Vec<_> = self
            .known
            .keys()
            .filter(|path| !present.contains_key(*path) && !broken.contains(*path))
            .cloned()
            .collect();
        for path in gone {
            if let Some(known) = self.known.remove(&path) {
                changes.push(Change::Removed { id: known.manifest.id, path });
            }
        }
        for (path, manifest) in present {
            changes.extend(self.compare(path, manifest));
        }
        self.broken.retain(|path, _| broken.contains(path));
        for problem in problems {
            changes.extend(self.tell_once(problem));
        }
        Ok(changes)
    }

    fn compare(&mut self, path: PathBuf, manifest: Manifest) -> Vec<Change> {
        let files = files_of(&manifest);
        let (now, shown) = (Known { manifest: manifest.clone(), files }, Box::new(manifest));
        let Some(known) = self.known.get(&path) else {
            self.known.insert(path, now);
            return vec![Change::Added(shown)];
        };
        if known.manifest.id != now.manifest.id {
            let removed = Change::Removed { id: known.manifest.id.clone(), path: path.clone() };
            self.known.insert(path, now);
            return vec![removed, Change::Added(shown)];
        }
        let both = || known.files.keys().chain(now.files.keys());
        let changed: BTreeSet<_> =
            both().filter(|file| known.files.get(*file) != now.files.get(*file)).cloned().collect();
        // A comment in a manifest changes the file and not the plugin.
        let is_same_manifest = known.manifest == now.manifest;
        let matters =
            changed.iter().any(|file| *file != path || !is_same_manifest || is_source(file));
        self.known.insert(path, now);
        match matters {
            true => vec![Change::Changed { manifest: shown, files: changed.into_iter().collect() }],
            false => Vec::new(),
        }
    }

    fn tell_once(&mut self, error: DiscoveryError) -> Option<Change> {
        let (path, text) = (error.path().to_owned(), error.to_string());
        let said = self.broken.insert(path, text.clone());
        (said.as_ref() != Some(&text)).then_some(Change::Broken(error))
    }
}

/// Waits for changes and until it is quiet again.
///
/// An editor that saves writes a new file and renames it: for a moment there is none. Until it is
/// quiet nobody looks, but somebody who never stops does not prevent it.
pub(in crate::host) async fn settled(changes: &Changes) -> Changed {
    let mut changed = changes.next().await;
    for _ in 0..QUIET_ROUNDS_MAX {
        tokio::time::sleep(limit::CHANGE_QUIET).await;
        let more = changes.take();
        if more == Changed::default() {
            break;
        }
        changed.join(more);
    }
    changed
}

/// The files that make a plugin what it is, and hashes of their contents.
pub(in crate::host) fn files_of(manifest: &Manifest) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeSet::from([manifest.path.clone()]);
    files.extend(manifest.run.entry.clone());
    files.extend(manifest.run.command.iter().map(PathBuf::from).filter(|word| word.is_absolute()));
    if !is_source(&manifest.path) {
        files.insert(manifest.dir().join(REQUIREMENTS));
        add_sources(manifest.dir(), 0, &mut files);
    }
    files.into_iter().filter_map(|file| Some((file.clone(), hash_of(&file).ok()?))).collect()
}

/// Modules beside the program, which it may load.
fn add_sources(folder: &Path, depth: usize, files: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if files.len() >= FILES_MAX || name.starts_with('.') || NOT_OURS.contains(&name) {
            continue;
        }
        if path.is_dir() {
            // A folder with a manifest is another plugin.
            let is_other = FILE_NAMES.iter().any(|name| path.join(name).exists());
            if depth < DEPTH_MAX && !is_other {
                add_sources(&path, depth + 1, files);
            }
        } else if is_source(&path) {
            files.insert(path);
        }
    }
}

pub(in crate::host) fn is_source(file: &Path) -> bool {
    let ending = file.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| SOURCE_ENDINGS.contains(&ending))
}

/// Of what a program is by its length too: those that are long are not read on every look.
pub(in crate::host) fn hash_of(file: &Path) -> io::Result<u64> {
    let mut hash = Xxh64::new(0);
    let metadata = fs::metadata(file)?;
    if metadata.len() > HASHED_SIZE_MAX {
        hash.update(&metadata.len().to_le_bytes());
        let since = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
        hash.update(&since.unwrap_or_default().as_nanos().to_le_bytes());
        return Ok(hash.digest());
    }
    let mut file = File::open(file)?.take(HASHED_SIZE_MAX);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.digest()),
            count => hash.update(&buffer[..count]),
        }
    }
}

const SOURCE_ENDINGS: [&str; 14] =
    ["py", "js", "mjs", "cjs", "ts", "lua", "go", "rb", "pl", "sh", "jar", "so", "php", "wasm"];

/// Files of one plugin that are watched. One with more comes with its libraries.
const FILES_MAX: usize = 1_024;

const HASHED_SIZE_MAX: u64 = 8 << 20;

const QUIET_ROUNDS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::super::tests::toml;
    use super::*;

    #[tokio::test]
    async fn changes_are_told_by_what_they_mean() {
        let place = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(place.path()).unwrap();
        let at = |name: &str| root.join(name);
        fs::create_dir(at("geo")).unwrap();
        fs::write(at("geo/plugin.toml"), toml("geo")).unwrap();
        fs::write(at("geo/main.py"), "1").unwrap();
        let (mut watch, found) = watch(&[place.path().to_owned()]).unwrap();
        assert_eq!(found.manifests.len(), 1);

        // A folder is filled after it was made.
        fs::create_dir(at("weather")).unwrap();
        fs::write(at("weather/main.py"), "1").unwrap();
        fs::write(at("weather/plugin.toml"), toml("weather")).unwrap();
        assert_eq!(changes(&mut watch).await, ["+weather"]);

        // As an editor saves: another file takes the name.
        fs::write(at("weather/.main.py.new"), "2").unwrap();
        fs::rename(at("weather/main.py"), at("weather/main.py~")).unwrap();
        fs::rename(at("weather/.main.py.new"), at("weather/main.py")).unwrap();
        assert_eq!(changes(&mut watch).await, ["weather: main.py"]);

        // What does not change a plugin is not told: the next is what is.
        fs::write(at("weather/main.py"), "2").unwrap();
        fs::write(at("weather/data.json"), "{}").unwrap();
        fs::write(at("weather/plugin.toml"), format!("# Words.\n{}", toml("weather"))).unwrap();
        fs::write(at("geo/helper.py"), "1").unwrap();
        assert_eq!(changes(&mut watch).await, ["geo: helper.py"]);

        // A manifest that is wrong for a while leaves the plugin as it was.
        fs::write(at("geo/plugin.toml"), "manifest = 1\nid = 'geo'\nrun = 3").unwrap();
        assert_eq!(changes(&mut watch).await, ["!plugin.toml:3: `run` must be a table"]);
        fs::write(at("geo/plugin.toml"), toml("geo") + "version = '1.0.0'").unwrap();
        assert_eq!(changes(&mut watch).await, ["geo: plugin.toml"]);

        fs::write(at("geo/plugin.toml"), toml("earth")).unwrap();
        assert_eq!(changes(&mut watch).await, ["-geo", "+earth"]);
        fs::remove_dir_all(at("weather")).unwrap();
        assert_eq!(changes(&mut watch).await, ["-weather"]);
    }

    /// The next changes, which the system may tell in several parts.
    async fn changes(watch: &mut Watch) -> Vec<String> {
        let changes = watch.next().await;
        changes.into_iter().map(|change| show(&change)).collect()
    }

    fn show(change: &Change) -> String {
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        match change {
            Change::Added(manifest) => format!("+{}", manifest.id),
            Change::Removed { id, .. } => format!("-{id}"),
            Change::Changed { manifest, files } => {
                let files: Vec<_> = files.iter().map(name).collect();
                format!("{}: {}", manifest.id, files.join(" "))
            }
            Change::Broken(error) => {
                let text = error.to_string();
                format!("!{}", text.rsplit('/').next().unwrap())
            }
        }
    }
}
