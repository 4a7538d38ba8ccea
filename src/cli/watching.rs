//! Applies what changes on disk while `up` and `dev` run.
//!
//! Folders of plugins are watched by both: what is added, removed or has another manifest is
//! applied. `dev` also watches the files of every plugin and the configuration; a plugin whose
//! files changed is replaced. What is broken is told and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinSet;

use super::config::{Config, FILE_NAME, Finder};
use super::failure::{Failure, Result};
use super::run;
use super::show::Show;
use crate::host::control::{Reload, ReloadReport};
use crate::host::discovery::{Change, Watch, watch};
use crate::host::manifest::FILE_NAMES;
use crate::host::sources::{Edited, Sources};
use crate::host::{CommandError, Manifest, Ordered, Plugins};
use crate::id::PluginId;

/// What is started, and read again when it changes.
#[derive(Clone, Debug)]
pub(super) enum Target {
    /// A plugbus.toml, or a folder with one or with plugins.
    Config(PathBuf),
    /// Single files.
    Files(Vec<PathBuf>),
}

impl Target {
    pub(super) fn read(&self, finder: Finder<'_>) -> Result<Config> {
        match self {
            Self::Config(path) => Config::read_with(path, finder).map_err(Failure::usage),
            Self::Files(files) => run::config(files),
        }
    }

    /// The file that names the plugins, if there is one.
    fn file(&self) -> Option<PathBuf> {
        let Self::Config(path) = self else { return None };
        let path = std::path::absolute(path).ok()?;
        let file = if path.is_dir() { path.join(FILE_NAME) } else { path };
        file.is_file().then_some(file)
    }
}

/// Watches a target.
pub(super) struct Watching {
    target: Target,
    /// Whether plugins are replaced when their files change.
    replaces: bool,
    /// In watched folders, by the paths of their manifests, as they last were in order.
    found: BTreeMap<PathBuf, Manifest>,
    /// Somebody else has read the configuration again.
    reread: Arc<Notify>,
    told: mpsc::Receiver<Told>,
    teller: mpsc::Sender<Told>,
    /// Those who tell. They end with this.
    tasks: JoinSet<()>,
    /// Edited while they could not be replaced.
    pending: BTreeSet<PluginId>,
    /// What is read first is applied first.
    turn: Arc<Mutex<()>>,
}

/// What somebody has seen.
enum Told {
    Folders(Vec<Change>),
    Sources(Edited),
}

impl Watching {
    /// Reads a target and begins to watch it. Nothing that changes from now on is missed.
    pub(super) fn start(target: Target, replaces: bool) -> Result<(Self, Config)> {
        let config = target.read(Finder::Disk)?;
        let (teller, told) = mpsc::channel(1);
        let mut watching = Self {
            target,
            replaces,
            found: BTreeMap::new(),
            reread: Arc::default(),
            told,
            teller,
            tasks: JoinSet::new(),
            pending: BTreeSet::new(),
            turn: Arc::default(),
        };
        watching.watch(&config)?;
        let config = watching.read()?;
        Ok((watching, config))
    }

    /// What `plugbus reload` and SIGHUP do.
    pub(super) fn reload(&self) -> Reload {
        let (target, reread) = (self.target.clone(), Arc::clone(&self.reread));
        let turn = Arc::clone(&self.turn);
        Arc::new(move |plugins| {
            let (target, reread) = (target.clone(), Arc::clone(&reread));
            let turn = Arc::clone(&turn);
            Box::pin(async move {
                let _one_at_a_time = turn.lock().await;
                // Folders are as strictly read as at the start: whoever asks wants all of them.
                let read = tokio::task::spawn_blocking(move || {
                    target.read(Finder::Disk).map_err(|failure| failure.message().to_owned())
                });
                let config = read.await.map_err(|panic| panic.to_string())??;
                let report = apply(&plugins, config).await?;
                reread.notify_one();
                Ok(report)
            })
        })
    }

    /// Applies changes for as long as it is polled.
    pub(super) async fn run(mut self, plugins: Plugins, show: Show) {
        loop {
            tokio::select! {
                told = self.told.recv() => match told {
                    Some(Told::Folders(changes)) => {
                        self.handle_folders(changes, &plugins, &show).await;
                    }
                    Some(Told::Sources(edited)) => self.handle_edit(edited, &plugins, &show).await,
                    // It has a sender itself.
                    None => return,
                },
                () = self.reread.notified() => self.watch_again(&show),
                () = tokio::time::sleep(PENDING_INTERVAL), if !self.pending.is_empty() => {
                    self.replace_pending(&plugins, &show);
                }
            }
        }
    }

    async fn handle_folders(&mut self, changes: Vec<Change>, plugins: &Plugins, show: &Show) {
        let mut edited = Edited::default();
        let mut is_broken = true;
        for change in changes {
            match change {
                Change::Broken(error) => {
                    show.broken(&error.to_string());
                    continue;
                }
                Change::Added(manifest) => {
                    self.found.insert(manifest.path.clone(), *manifest);
                }
                Change::Changed { manifest, files } => {
                    edited.plugins.insert(manifest.id.clone(), files);
                    self.found.insert(manifest.path.clone(), *manifest);
                }
                Change::Removed { path, .. } => drop(self.found.remove(&path)),
            }
            is_broken = false;
        }
        if !is_broken {
            self.handle_edit(edited, plugins, show).await;
        }
    }

    /// Reads everything again, applies it, and replaces those of which only the files changed.
    async fn handle_edit(&mut self, edited: Edited, plugins: &Plugins, show: &Show) {
        let turn = Arc::clone(&self.turn);
        let _one_at_a_time = turn.lock().await;
        let config = self.read().map_err(|failure| failure.message().to_owned());
        let folders = config.as_ref().map(|config| config.folders.clone()).unwrap_or_default();
        let applied = match config {
            Ok(config) => apply(plugins, config).await,
            Err(why) => Err(why),
        };
        let report = match applied {
            Ok(report) => report,
            Err(why) => return show.broken(&why),
        };
        if self.replaces {
            for (id, files) in &edited.plugins {
                show.edited(id, files);
            }
        }
        let ReloadReport { added, removed, replaced, .. } = &report;
        let is_changed = [added, removed, replaced].into_iter().any(|ids| !ids.is_empty());
        if is_changed || edited.others {
            show.reloaded(Some(Ok(report.clone())));
        }
        if self.replaces {
            let is_unchanged = |id: &PluginId| report.unchanged.iter().any(|it| it == id.as_str());
            let more = edited.plugins.into_iter().filter(|(id, files)| {
                is_unchanged(id) && files.iter().any(|file| !is_manifest(file))
            });
            self.pending.extend(more.map(|(id, _)| id));
            self.replace_pending(plugins, show);
        }
        let is_named = |id: &String| self.found.values().all(|found| found.id.as_str() != id);
        // What is in a watched folder is watched with it.
        if edited.others || self.replaces && (added.iter().chain(replaced).any(is_named)) {
            log::debug!("watching {folders:?} anew");
            self.watch_again(show);
        }
    }

    /// One that is just being started or replaced is replaced when that is over.
    fn replace_pending(&mut self, plugins: &Plugins, show: &Show) {
        let reports = plugins.reports();
        self.pending.retain(|id| {
            let state = |wanted: &[&str]| {
                let mut own = reports.iter().filter(|report| report.id == id.as_str());
                own.any(|report| wanted.contains(&report.state.as_str()))
            };
            let command: fn(&Plugins, &str) -> std::result::Result<Ordered, CommandError> =
                if state(&["starting", "replacing", "stopping"]) {
                    return true;
                } else if state(&["ready", "busy"]) {
                    Plugins::replace_plugin
                } else if state(&["sleeping", "stopped"]) {
                    // The next start finds the new files.
                    return false;
                } else {
                    Plugins::start_plugin
                };
            if let Err(error) = command(plugins, id.as_str()) {
                show.broken(&error.to_string());
            }
            false
        });
    }

    fn read(&self) -> Result<Config> {
        let found: Vec<Manifest> = self.found.values().cloned().collect();
        self.target.read(Finder::Known(&found))
    }

    fn watch_again(&mut self, show: &Show) {
        let config = self.target.read(Finder::Disk).or_else(|_| self.read());
        if let Err(failure) = config.and_then(|config| self.watch(&config)) {
            show.broken(failure.message());
        }
    }

    /// Has folders and files watched, in the place of those that were.
    fn watch(&mut self, config: &Config) -> Result<()> {
        let mut tasks = JoinSet::new();
        let mut found = BTreeMap::new();
        if !config.folders.is_empty() {
            let (folders, now) = watch(&config.folders).map_err(Failure::failed)?;
            found = now.manifests.into_iter().map(|it| (it.path.clone(), it)).collect();
            tasks.spawn(tell_folders(folders, self.teller.clone()));
        }
        if self.replaces {
            let is_found = |plugin: &&Manifest| !found.contains_key(&plugin.path);
            let named = config.plugins.iter().filter(is_found).cloned().collect();
            let others = self.target.file().into_iter().collect();
            let sources = Sources::watch(named, others).map_err(Failure::failed)?;
            tasks.spawn(tell_sources(sources, self.teller.clone()));
        }
        (self.tasks, self.found) = (tasks, found);
        Ok(())
    }
}

async fn tell_folders(mut folders: Watch, teller: mpsc::Sender<Told>) {
    while teller.send(Told::Folders(folders.next().await)).await.is_ok() {}
}

async fn tell_sources(mut sources: Sources, teller: mpsc::Sender<Told>) {
    while teller.send(Told::Sources(sources.next().await)).await.is_ok() {}
}

async fn apply(plugins: &Plugins, config: Config) -> std::result::Result<ReloadReport, String> {
    let plan = config.plan().map_err(|error| error.to_string())?;
    plugins.apply(plan, config.runtimes).await.map_err(|error| error.to_string())
}

fn is_manifest(file: &Path) -> bool {
    file.file_name().and_then(|name| name.to_str()).is_some_and(|name| FILE_NAMES.contains(&name))
}

/// How often somebody looks whether a plugin can be replaced by now.
const PENDING_INTERVAL: Duration = Duration::from_millis(100);
