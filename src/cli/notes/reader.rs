//! The plugin `reader`: sends notes down the channel `extract/files`, at first all of them, then
//! each that changes.
//!
//! Every state of a file gets a revision, counting up. A send waits while the channel's window is
//! used up, so a slow receiver slows the reader and costs no memory. Files are read on the plugin's
//! only thread: while a file of some MiB is read, nothing else is worth doing here.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::Mutex;

use super::folder::{Folder, parts};
use crate::host::changes::{Changed, Changes};
use crate::plugin::{Client, Context, Error, Event, Plugin, Result};

/// Runs the plugin until it is told to stop.
pub(crate) async fn run(paths: &[PathBuf]) -> Result<()> {
    // Before the watching thread, so that the connection leaves the environment.
    let plugin = Plugin::new("reader");
    let folder = Folder::new(paths)?;
    // Before the first look, so that no change falls between.
    let changes = Changes::watch(folder.watched());
    let reader = Rc::new(Reader { state: Mutex::new(State { folder, revision: 0, dirty: false }) });
    let [a, b] = std::array::from_fn(|_| Rc::clone(&reader));
    plugin
        .method("scan", async move |(): (), context: &Context| a.pass(context, Pass::All).await)
        .help("Looks for changed files now, all of them.")
        // A new index is empty.
        .on("plugbus.lifecycle.search.ready", async move |_: Event, context: &Context| {
            b.pass(context, Pass::Anew).await.map(drop)
        })
        .background(async move |context: &Context| reader.follow(context, &changes).await)
        .run()
        .await
}

#[derive(Debug)]
struct Reader {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    folder: Folder,
    revision: u64,
    /// Whether something that was read may not have been sent.
    dirty: bool,
}

/// What to look at.
#[derive(Debug)]
enum Pass {
    /// All files, whatever was sent of them before.
    Anew,
    /// All files.
    All,
    /// These files, and those that came or went.
    Some(Changed),
}

impl Reader {
    /// The first pass, and one for each change. Ends with the connection only.
    async fn follow(&self, client: &Client, changes: &notify::Result<Changes>) -> Result<()> {
        self.pass(client, Pass::Anew).await?;
        let changes = match changes {
            Ok(changes) => changes,
            Err(error) => {
                log::warn!("changes are not noticed ({error}); `reader.scan` looks for them");
                return std::future::pending().await;
            }
        };
        loop {
            let mut changed = changes.next().await;
            // An editor writes a file in several steps; half of it is of no use.
            tokio::time::sleep(SETTLE).await;
            changed.join(changes.take());
            match self.pass(client, Pass::Some(changed)).await {
                Err(error @ Error::BrokerGone(_)) => return Err(error),
                Err(error) => log::error!("changes could not be sent: {error}"),
                Ok(_) => (),
            }
        }
    }

    /// One pass at a time, so that revisions arrive in order.
    async fn pass(&self, client: &Client, pass: Pass) -> Result<Scan> {
        let mut state = self.state.lock().await;
        let pass = if state.dirty { Pass::Anew } else { pass };
        state.dirty = true;
        let scan = state.send(client, &pass).await?;
        state.dirty = false;
        Ok(scan)
    }
}

impl State {
    async fn send(&mut self, client: &Client, pass: &Pass) -> Result<Scan> {
        let files = client.sender("extract/files").await?;
        if matches!(pass, Pass::Anew) {
            self.folder.forget();
            files.send_value(&Started { revision: self.revision, started: true }).await?;
        }
        let listed = self.folder.list();
        let mut changed = 0;
        for path in self.folder.take_missing(&listed) {
            self.revision += 1;
            changed += 1;
            let (path, revision) = (path.as_str(), self.revision);
            files.send_value(&Removed { path, revision, removed: true }).await?;
        }
        for (name, path) in &listed {
            let wanted = match pass {
                Pass::Some(changed) => changed.all || changed.paths.contains(path),
                Pass::Anew | Pass::All => true,
            };
            if !wanted && self.folder.knows(name) {
                continue;
            }
            let text = match self.folder.read(name, path) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(error) => {
                    log::warn!("cannot read {}: {error}", path.display());
                    continue;
                }
            };
            self.revision += 1;
            changed += 1;
            for part in parts(&text) {
                let (revision, line) = (self.revision, part.line);
                let part = Part { path: name, revision, line, text: part.text, last: part.last };
                files.send_value(&part).await?;
            }
        }
        let (count, revision) = (self.folder.file_count(), self.revision);
        if matches!(pass, Pass::Anew) {
            files.send_value(&Scanned { revision, scanned: count }).await?;
        }
        Ok(Scan { files: count, changed, revision })
    }
}

/// What a look at all files found.
#[derive(Debug, JsonSchema, Serialize)]
struct Scan {
    /// How many there are
    files: usize,
    /// How many were sent because they had changed
    changed: usize,
    /// Of the newest; `search.status at_least=…` waits until it is indexed
    revision: u64,
}

#[derive(Debug, Serialize)]
struct Part<'a> {
    path: &'a str,
    revision: u64,
    line: u32,
    text: &'a str,
    last: bool,
}

#[derive(Debug, Serialize)]
struct Removed<'a> {
    path: &'a str,
    revision: u64,
    removed: bool,
}

#[derive(Debug, Serialize)]
struct Started {
    revision: u64,
    started: bool,
}

#[derive(Debug, Serialize)]
struct Scanned {
    revision: u64,
    scanned: usize,
}

/// Long enough for an editor's next step, too short for a person to notice.
const SETTLE: Duration = Duration::from_millis(30);
