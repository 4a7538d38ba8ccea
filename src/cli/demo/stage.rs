//! Where the tour takes place: a directory, a broker, processes. All of it ends with the [`Stage`].

use std::collections::VecDeque;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use super::peer;
use super::report::Finding;
use super::steps;
use crate::broker::Broker;
use crate::cli::config::Config;
use crate::cli::failure::{Failure, Result};
use crate::cli::{notes, python, sdk};
use crate::host::{Exit, Manifest, PluginEvent, PluginSpec, Plugins, PluginsBuilder};
use crate::id::PluginId;
use crate::plugin::{Client, Subscription, connect_to};

/// Everything that the tour needs, and all that has to be gone afterwards.
///
/// Plugins come before the directory, because fields are dropped in their order.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) client: Client,
    /// What the index says, from the beginning.
    pub(super) indexed: Subscription,
    plugins: Option<Plugins>,
    broker: Broker,
    seen: Arc<Mutex<Seen>>,
    program: PathBuf,
    place: TempDir,
}

/// What the plugins did.
#[derive(Debug, Default)]
struct Seen {
    processes: Vec<(String, u32)>,
    ready: Vec<(String, Duration)>,
    output: VecDeque<String>,
}

impl Stage {
    /// Starts a broker, the notes example, and a few plugins more.
    pub(super) async fn set() -> Result<Self> {
        let place = directory()?;
        let program = env::current_exe()
            .map_err(|error| Failure::failed(format_args!("cannot find this program: {error}")))?;
        let socket = place.path().join("run/plugbus/default.sock");
        let broker = Broker::builder()
            .name("demo")
            .socket(&socket)
            .start()
            .await
            .map_err(Failure::failed)?;
        let client = connect_to(&socket).await.map_err(Failure::failed)?;
        let indexed = client.subscribe("notes.indexed").await.map_err(Failure::failed)?;
        let seen = Arc::default();
        let mut stage = Self { client, indexed, plugins: None, broker, seen, program, place };
        let config = Config::read(&stage.path("example")).map_err(Failure::failed)?;
        let notes = config.plan().map_err(Failure::failed)?;
        let mut peers = vec![stage.rust_peer("ant")];
        peers.extend(["bee", "moth", "snail"].map(|id| stage.python_peer(id)));
        stage.start(notes, peers).await.map_err(Failure::failed)?;
        Ok(stage)
    }

    /// Starts plugins and waits until they are ready.
    async fn start(
        &mut self,
        notes: Vec<(Manifest, Vec<PluginId>)>,
        peers: Vec<PluginSpec>,
    ) -> steps::Result<()> {
        let path = python::search_path(&self.path("sdk"));
        let private = PRIVATE.map(|(name, directory)| (name, self.path(directory)));
        let seen = Arc::clone(&self.seen);
        let mut builder = Plugins::builder(&self.broker)
            .observe(move |event| seen.lock().add(event))
            .dress(move |spec| {
                let spec = private.iter().fold(spec, |spec, (name, path)| spec.env(*name, path));
                // Settings of whoever runs the demo are not part of it.
                spec.env("PYTHONPATH", &path).env("PYTHONDONTWRITEBYTECODE", "1").env("NOTES", "")
            });
        for (manifest, needs) in notes {
            builder = builder.manifest(manifest, needs);
        }
        let plugins = peers.into_iter().fold(builder, PluginsBuilder::plugin).start().await?;
        self.plugins = Some(plugins.clone());
        Ok(plugins.all_ready().await?)
    }

    /// Starts a new process of a plugin, which takes over from the old one.
    pub(super) fn replace(&self, id: &str) -> steps::Result<()> {
        let plugins = self.plugins.as_ref().ok_or("there are no plugins")?;
        plugins.replace_plugin(id)?;
        Ok(())
    }

    /// Sends a signal to a plugin's process.
    pub(super) fn signal(&self, id: &str, signal: Signal) -> steps::Result<()> {
        let seen = self.seen.lock();
        let process = seen.processes.iter().rev().find(|(plugin, _)| plugin == id);
        let (_, process) = process.ok_or("there is no such process")?;
        let process = Pid::from_raw(process.cast_signed()).ok_or("there is no such process")?;
        Ok(kill_process(process, signal)?)
    }

    /// Stops everything and looks for what is left.
    pub(super) async fn strike(self) -> steps::Result<Finding> {
        let Self { client, indexed, plugins, broker, seen, place, .. } = self;
        drop(indexed);
        client.close().await;
        let mut exits = Vec::new();
        if let Some(plugins) = plugins {
            exits = plugins.stop().await;
        }
        broker.shutdown().await;
        let mut finding = Finding::default();
        for (id, exit) in &exits {
            finding.holds(*exit == Exit::Code(0), format_args!("plugin {id} {exit}"));
        }
        let processes = std::mem::take(&mut seen.lock().processes);
        for (id, process) in &processes {
            let there = Pid::from_raw(process.cast_signed()).map(test_kill_process);
            let gone = matches!(there, Some(Err(rustix::io::Errno::SRCH)));
            finding.holds(gone, format_args!("process {process} of {id} is still there"));
        }
        let path = place.path().to_owned();
        place.close()?;
        finding.holds(!path.exists(), "the directory is still there");
        finding.fact("processes", processes.len());
        let count = processes.len();
        Ok(finding.says(format!(
            "the plugins stopped in order; none of the {count} processes and no file is left"
        )))
    }

    /// Plugins in the order in which they became ready, and how long each took.
    pub(super) fn ready(&self) -> Vec<(String, Duration)> {
        self.seen.lock().ready.clone()
    }

    /// The last lines that plugins printed.
    pub(super) fn output(&self) -> Vec<String> {
        self.seen.lock().output.iter().cloned().collect()
    }

    /// A plugin of the demo in Python.
    pub(super) fn python_peer(&self, id: &str) -> PluginSpec {
        PluginSpec::command(id, ["python3".into(), self.path("peer.py")])
    }

    fn rust_peer(&self, id: &str) -> PluginSpec {
        let words = ["builtin", "demo-peer", id].map(Into::into);
        PluginSpec::command(id, [self.program.clone()].into_iter().chain(words))
    }

    /// This program.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// A place in the directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }
}

impl Seen {
    fn add(&mut self, event: PluginEvent) {
        match event {
            PluginEvent::Started { id, pid } => self.processes.push((id.to_string(), pid)),
            PluginEvent::Ready { id, after } => self.ready.push((id.to_string(), after)),
            PluginEvent::Printed { id, line, .. } => self.say(format!("{id} | {line}")),
            PluginEvent::Exited { id, exit, .. } => self.say(format!("{id} {exit}")),
            PluginEvent::Changed { id, to, cause, .. } => {
                self.say(format!("{id} is {to}: {cause}"));
            }
            PluginEvent::Compared { .. } => (),
        }
    }

    fn say(&mut self, line: String) {
        if self.output.len() == OUTPUT_MAX {
            self.output.pop_front();
        }
        self.output.push_back(line);
    }
}

/// The directory with everything in it that is a file.
fn directory() -> Result<TempDir> {
    let make = || {
        // A socket's path has little room, and some have long names for their temporary files.
        let root = Some(env::temp_dir()).filter(|it| it.as_os_str().len() <= ROOT_SIZE_MAX);
        let root = root.unwrap_or_else(|| "/tmp".into());
        let place = tempfile::Builder::new().prefix("plugbus-demo-").tempdir_in(root)?;
        for (_, directory) in PRIVATE {
            fs::create_dir_all(place.path().join(directory))?;
        }
        notes::unpack(&place.path().join("example"))?;
        fs::create_dir(place.path().join("sdk"))?;
        sdk::unpack(&place.path().join("sdk"))?;
        fs::write(place.path().join("peer.py"), peer::PYTHON)?;
        Ok(place)
    };
    make().map_err(|error: std::io::Error| {
        Failure::failed(format_args!("cannot make a directory for the demo: {error}"))
    })
}

/// Where programs would leave something.
const PRIVATE: [(&str, &str); 7] = [
    ("HOME", "home"),
    ("TMPDIR", "tmp"),
    ("XDG_CACHE_HOME", "home/.cache"),
    ("XDG_CONFIG_HOME", "home/.config"),
    ("XDG_DATA_HOME", "home/.local/share"),
    ("XDG_RUNTIME_DIR", "run"),
    ("XDG_STATE_HOME", "home/.local/state"),
];

/// What is left for the socket's name of the 108 bytes that its path may have.
const ROOT_SIZE_MAX: usize = 48;

/// Enough to see why something failed.
const OUTPUT_MAX: usize = 50;
