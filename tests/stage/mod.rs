//! A broker in this process with supervised plugins, and everything that happens to them.
//!
//! What happened is kept for each plugin, so that a test can ask for it before or after it has
//! happened, and in any order.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod witness;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plugbus::host::PluginEvent;
use plugbus::host::manifest::Manifest;
use plugbus::id::PluginId;
use plugbus::plugin::{self, Client};
use plugbus::supervise::{Governor, State};
use plugbus::{Broker, Plugins};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::zoo::{self, Herd};

/// A plugin as a test describes it: lines of a manifest.
#[derive(Clone, Debug)]
pub struct Part {
    id: String,
    lines: String,
    needs: Vec<String>,
    files: Vec<String>,
}

impl Part {
    /// A plugin that this command starts, in the directory that all plugins of the test share.
    pub fn new(id: &str, command: &[&str]) -> Self {
        let lines = format!("manifest = 1\nid = {id:?}\nrun.command = {command:?}\n");
        Self { id: id.to_owned(), lines, needs: Vec::new(), files: Vec::new() }
    }

    /// One of the zoo, with arguments.
    pub fn python(id: &str, animal: &str, arguments: &[&str]) -> Self {
        let file = zoo::file(animal);
        Self::new(id, &[&["python3", file.to_str().unwrap()], arguments].concat())
    }

    /// Another line of the manifest.
    pub fn line(mut self, line: &str) -> Self {
        self.lines += line;
        self.lines += "\n";
        self
    }

    /// It starts after this one.
    pub fn needs(mut self, plugin: &str) -> Self {
        self.needs.push(plugin.to_owned());
        self
    }

    /// An empty file that is there before it starts.
    pub fn file(mut self, name: &str) -> Self {
        self.files.push(name.to_owned());
        self
    }
}

/// Something that happened, and when it was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Instant,
    pub event: PluginEvent,
}

type Journal = watch::Sender<Vec<Seen>>;

/// The broker, its plugins, and a client.
pub struct Stage {
    pub broker: Broker,
    pub plugins: Plugins,
    pub client: Client,
    journals: Arc<BTreeMap<String, Journal>>,
    herd: Herd,
    place: tempfile::TempDir,
}

impl Stage {
    pub async fn start(parts: Vec<Part>, governor: Governor) -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("plugins")).unwrap();
        let socket = place.path().join("broker/stage.sock");
        let broker = Broker::builder().socket(&socket).start().await.unwrap();
        let client = plugin::connect_to(&socket).await.unwrap().with_timeout(PATIENCE);
        let journals = parts.iter().map(|part| (part.id.clone(), Journal::default())).collect();
        let journals: Arc<BTreeMap<String, Journal>> = Arc::new(journals);
        let kept = Arc::clone(&journals);
        let observe = move |event: PluginEvent| {
            let seen = Seen { at: now(), event };
            kept[id_of(&seen.event)].send_modify(|journal| journal.push(seen));
        };
        let herd = Herd::new();
        let mut builder = Plugins::builder(&broker).observe(observe).governor(governor);
        let environment = format!(
            "run.env = {{ PYTHONPATH = {:?}, {} = {:?} }}\n",
            zoo::sdk(),
            Herd::VARIABLE,
            herd.value(),
        );
        for part in parts {
            for file in &part.files {
                fs::write(place.path().join("plugins").join(file), "").unwrap();
            }
            let text = part.lines + &environment;
            let path = place.path().join("plugins/plugin.toml");
            let manifest = Manifest::parse(&text, &path).unwrap();
            let needs = part.needs.iter().map(|id| PluginId::parse(id).unwrap()).collect();
            builder = builder.manifest(manifest, needs);
        }
        let plugins = builder.start().await.unwrap();
        Self { broker, plugins, client, journals, herd, place }
    }

    /// A file in the directory that the plugins share.
    pub fn file(&self, name: &str) -> PathBuf {
        self.place.path().join("plugins").join(name)
    }

    /// What has happened to a plugin so far.
    pub fn journal(&self, plugin: &str) -> Vec<Seen> {
        self.journals[plugin].borrow().clone()
    }

    /// Waits until `find` finds something in what has happened to a plugin.
    pub async fn until<T>(
        &self,
        plugin: &str,
        what: &str,
        find: impl Fn(&[Seen]) -> Option<T>,
    ) -> T {
        let mut journal = self.journals[plugin].subscribe();
        let found = async { find(&journal.wait_for(|seen| find(seen).is_some()).await.unwrap()) };
        match tokio::time::timeout(PATIENCE, found).await {
            Ok(found) => found.unwrap(),
            Err(_elapsed) => panic!("{plugin}: no {what} in {}", self.told(plugin)),
        }
    }

    /// Waits until a plugin has gone into this state so often, and gives the cause of the last.
    pub async fn enters(&self, plugin: &str, state: State, count: usize) -> String {
        self.until(plugin, &format!("{state} ({count})"), |seen| {
            let mut changes = seen.iter().filter_map(|seen| match &seen.event {
                PluginEvent::Changed { from, to, cause, .. } if *to == state && from != to => {
                    Some(cause.clone())
                }
                _ => None,
            });
            changes.nth(count - 1)
        })
        .await
    }

    /// The states of the first process of a plugin, in the order in which it had them.
    pub fn path(&self, plugin: &str) -> Vec<State> {
        self.path_of(plugin, 0)
    }

    /// The same of another of its processes.
    pub fn path_of(&self, plugin: &str, wanted: u32) -> Vec<State> {
        let seen = self.journal(plugin);
        let states = seen.iter().filter_map(|seen| match seen.event {
            PluginEvent::Changed { instance, from, to, .. } if instance == wanted && from != to => {
                Some(to)
            }
            _ => None,
        });
        states.collect()
    }

    /// All of it, for a test that fails.
    pub fn told(&self, plugin: &str) -> String {
        let seen = self.journal(plugin);
        seen.iter().map(|seen| format!("\n  {:?}", seen.event)).collect()
    }

    pub async fn call(&self, method: &str) -> plugin::Result<Value> {
        self.client.call(method, &json!({})).await
    }

    /// What people see of the first process of a plugin.
    pub fn report(&self, plugin: &str) -> Value {
        self.reports(plugin).remove(0)
    }

    /// What people see of all its processes.
    pub fn reports(&self, plugin: &str) -> Vec<Value> {
        let explanations = self.plugins.explain(plugin).into_iter();
        explanations.map(|it| serde_json::to_value(it.plugin).unwrap()).collect()
    }

    /// Waits until every message that the broker took has had its end; each of them one.
    pub async fn settle(&self) {
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            let status = self.broker.status().await.unwrap();
            let classes = status["tally"].as_object().unwrap();
            for (class, tally) in classes {
                let count = |end: &str| tally[end].as_u64().unwrap();
                let ends = ["completed", "cancelled", "expired", "shed", "dead", "quarantined"];
                let sum: u64 = ends.iter().map(|end| count(end)).sum();
                assert_eq!(count("accepted"), sum + count("pending"), "{class}: {tally}");
            }
            if classes.values().all(|tally| tally["pending"] == 0) {
                return;
            }
        }
    }

    /// Ends everything and looks for what is left: no process, and no file of the broker.
    pub async fn end(self) {
        let Self { broker, plugins, client, herd, place, .. } = self;
        client.close().await;
        // What is not found afterwards could be found before. Those that retire are not shown.
        assert!(herd.guardians().len() >= plugins.running().len());
        plugins.stop().await;
        broker.shutdown().await;
        assert_eq!(herd.left(), Vec::<i32>::new(), "processes are left");
        assert_eq!(herd.guardians(), Vec::<i32>::new(), "guardians are left");
        let left: Vec<_> = fs::read_dir(place.path().join("broker")).unwrap().collect();
        assert!(left.is_empty(), "files are left: {left:?}");
    }
}

#[expect(clippy::disallowed_methods, reason = "a test says when it saw something")]
pub fn now() -> Instant {
    Instant::now()
}

fn id_of(event: &PluginEvent) -> &str {
    match event {
        PluginEvent::Started { id, .. }
        | PluginEvent::Ready { id, .. }
        | PluginEvent::Printed { id, .. }
        | PluginEvent::Exited { id, .. }
        | PluginEvent::Changed { id, .. }
        | PluginEvent::Compared { id, .. } => id.as_str(),
        event => panic!("an event that tests do not know: {event:?}"),
    }
}

/// A test that waits for what never comes fails instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(120);
