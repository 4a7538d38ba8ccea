//! A plugin in this process that knows who asked it for what.
//!
//! Whoever calls `wait` waits at a gate until the test opens it; what comes down the channel `held`
//! waits at the gate that is called like its sender.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread::JoinHandle;

use plugbus::plugin::{Context, Message, Plugin, Result};
use serde::Deserialize;
use tokio::sync::watch;

/// What the witness knows.
#[derive(Clone, Debug, Default)]
pub struct Known {
    open: BTreeSet<String>,
    /// Gates at which somebody waits or has waited.
    pub reached: BTreeSet<String>,
    /// Those of them who went away without having passed.
    pub gone: BTreeSet<String>,
    /// What came down the channel, by sender.
    pub heard: BTreeMap<String, Vec<u64>>,
}

/// The plugin `witness`, in a thread of its own.
#[derive(Debug)]
pub struct Witness {
    known: watch::Sender<Known>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Deserialize, schemars::JsonSchema)]
struct Gate {
    gate: String,
}

impl Witness {
    /// Joins the broker at this socket; ends with it.
    pub fn join(socket: &Path) -> Self {
        let known = watch::Sender::new(Known::default());
        let (socket, shared) = (socket.to_owned(), known.clone());
        let thread = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(plugin(&socket, shared).run())
        });
        Self { known, thread: Some(thread) }
    }

    /// Lets everybody pass a gate, now and later.
    pub fn open(&self, gate: &str) {
        self.known.send_modify(|known| known.open.extend([gate.to_owned()]));
    }

    /// Waits until what is known is as wanted.
    pub async fn until(&self, wanted: impl Fn(&Known) -> bool) {
        let mut known = self.known.subscribe();
        let found = known.wait_for(wanted);
        let found = tokio::time::timeout(super::PATIENCE, found).await;
        assert!(found.is_ok(), "it does not come: {:?}", self.known.borrow());
    }

    /// Waits until somebody is at a gate.
    pub async fn reached(&self, gate: &str) {
        self.until(|known| known.reached.contains(gate)).await;
    }

    pub fn known(&self) -> Known {
        self.known.borrow().clone()
    }

    /// Waits for its end, which is that of the broker.
    pub fn end(mut self) {
        self.thread.take().unwrap().join().unwrap().unwrap();
    }
}

fn plugin(socket: &Path, known: watch::Sender<Known>) -> Plugin {
    let hearing = known.clone();
    Plugin::new("witness")
        .socket(socket)
        .method("wait", async move |Gate { gate }: Gate, _: &Context| {
            pass(&known, gate).await;
            Ok(())
        })
        .method("hello", async |(), _: &Context| Ok(()))
        .channel("held", async move |message: Message, context: &Context| {
            let sender = context.caller().to_owned();
            let number = message.parse()?;
            pass(&hearing, sender.clone()).await;
            hearing.send_modify(|known| known.heard.entry(sender).or_default().push(number));
            Ok(())
        })
}

/// Waits at a gate. Whoever goes away meanwhile is noted.
async fn pass(known: &watch::Sender<Known>, gate: String) {
    known.send_modify(|known| known.reached.extend([gate.clone()]));
    let mut watch = known.subscribe();
    let mut visit = Visit { known: known.clone(), gate: Some(gate.clone()) };
    watch.wait_for(|known| known.open.contains(&gate)).await.unwrap();
    visit.gate = None;
}

struct Visit {
    known: watch::Sender<Known>,
    gate: Option<String>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            self.known.send_modify(|known| known.gone.extend([gate]));
        }
    }
}
