//! The plugin `search`: keeps an index of what the events say, and answers.
//!
//! It subscribes with overflow `block`: an event that is shed would be a note that cannot be found,
//! and nobody would know. So a slow index makes the extracting plugin wait, that one leaves its
//! channel unacknowledged, and the reader stops at its window. Memory stays bounded and nothing is
//! lost.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::index::{Heading, Hit, Link};
use super::intake::{Change, Extracted, Intake};
use crate::plugin::{Context, Error, Event, Overflow, Plugin, Result};

/// Runs the plugin until it is told to stop.
pub(crate) async fn run() -> Result<()> {
    let search = Rc::new(Search::default());
    let [a, b, c, d, e] = std::array::from_fn(|_| Rc::clone(&search));
    Plugin::new("search")
        .method("query", async move |question: Question, _: &Context| a.query(question).await)
        .method("file", async move |wanted: File, _: &Context| b.file(&wanted.path))
        .method("tags", async move |(): (), _: &Context| Ok(c.tags()))
        .help("Tells every tag, and how many notes bear it.")
        .method("status", async move |wanted: Revision, _: &Context| d.status(wanted).await)
        .on("notes.extracted", async move |event: Event, context: &Context| {
            e.take(&event, context).await
        })
        .overflow(Overflow::Block)
        .run()
        .await
}

#[derive(Debug, Default)]
struct Search {
    intake: RefCell<Intake>,
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    revision: u64,
    complete: bool,
}

impl Search {
    /// Answers what is known at the time; at the very beginning it waits a while for the first
    /// pass.
    async fn query(&self, question: Question) -> Result<Answer> {
        let Question { text, tag, limit } = question;
        let mut progress = self.progress.subscribe();
        let complete = progress.wait_for(|it| it.complete);
        let complete = tokio::time::timeout(FIRST_PASS_TIMEOUT, complete).await.is_ok();
        let intake = self.intake.borrow();
        let hits = intake.index.query(&text, tag.as_deref(), limit.min(LIMIT_MAX));
        Ok(Answer { hits, files: intake.index.file_count(), complete })
    }

    fn file(&self, path: &str) -> Result<Outline> {
        let intake = self.intake.borrow();
        let Some(note) = intake.index.note(path) else {
            let similar = intake.index.paths().min_by_key(|known| strsim::levenshtein(known, path));
            let hint = similar.map_or_else(String::new, |it| format!("; did you mean `{it}`?"));
            return Err(Error::handler("no-such-file", format!("no file `{path}`{hint}")));
        };
        Ok(Outline {
            headings: note.headings.clone(),
            links: note.links.clone(),
            linked_from: intake.index.linked_from(path),
            words: note.word_count(),
        })
    }

    fn tags(&self) -> BTreeMap<String, usize> {
        self.intake.borrow().index.tags()
    }

    async fn status(&self, Revision { at_least }: Revision) -> Result<Status> {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|it| it.complete && it.revision >= at_least);
        let Progress { revision, complete } = *match at_least {
            0 => self.progress.borrow(),
            _ => reached.await?,
        };
        let intake = self.intake.borrow();
        let (files, words) = (intake.index.file_count(), intake.index.word_count());
        Ok(Status { files, words, revision, complete })
    }

    async fn take(&self, event: &Event, context: &Context) -> Result<()> {
        let change = self.intake.borrow_mut().handle(event.parse::<Extracted>()?);
        let (revision, complete) = {
            let intake = self.intake.borrow();
            (intake.revision(), intake.is_scanned())
        };
        let indexed = match change {
            Change::Indexed { path, revision, lines, words } => {
                Some(Indexed { path, revision, lines, words, removed: false })
            }
            Change::Removed { path, revision } => {
                Some(Indexed { path, revision, lines: 0, words: 0, removed: true })
            }
            Change::Scanned { files } => {
                log::info!("{files} files are indexed");
                None
            }
            Change::None => None,
        };
        self.progress.send_replace(Progress { revision, complete });
        match indexed {
            Some(indexed) => context.publish("notes.indexed", &indexed).await,
            None => Ok(()),
        }
    }
}

/// Finds passages of notes that fit some words, the best first.
#[derive(Debug, Deserialize, JsonSchema)]
struct Question {
    /// Words; one of them is enough, more of them rank higher
    text: String,
    /// Only notes with this tag
    #[serde(default)]
    tag: Option<String>,
    /// How many answers, at most
    #[serde(default = "limit_default")]
    limit: usize,
}

fn limit_default() -> usize {
    10
}

#[derive(Debug, JsonSchema, Serialize)]
struct Answer {
    hits: Vec<Hit>,
    /// How many files were searched
    files: usize,
    /// Whether those are all
    complete: bool,
}

/// Tells what is in one file and which others link to it.
#[derive(Debug, Deserialize, JsonSchema)]
struct File {
    /// As `query` names it
    path: String,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Outline {
    headings: Vec<Heading>,
    links: Vec<Link>,
    linked_from: Vec<String>,
    words: usize,
}

/// Tells how much is indexed.
#[derive(Debug, Deserialize, JsonSchema)]
struct Revision {
    /// Wait until this revision is indexed; `reader.scan` names the newest
    #[serde(default)]
    at_least: u64,
}

#[derive(Debug, JsonSchema, Serialize)]
struct Status {
    files: usize,
    words: usize,
    revision: u64,
    /// Whether all files have been read once
    complete: bool,
}

/// The event `notes.indexed`: from now on answers know this state of the file.
#[derive(Debug, Serialize)]
struct Indexed {
    path: String,
    revision: u64,
    lines: u32,
    words: usize,
    removed: bool,
}

/// Answers are for people and for prompts; nobody reads more.
const LIMIT_MAX: usize = 1_000;

/// Who asks right after the start wants the files, not an empty answer; who has a million files
/// wants an answer.
const FIRST_PASS_TIMEOUT: Duration = Duration::from_secs(10);
