//! What the tour shows, step by step.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::peer::Seen;
use super::report::Finding;
use super::stage::Stage;
use super::statistics::{Times, count_text, time_text};
use crate::cli::notes::SAMPLES;
use crate::net::clock;
use crate::plugin::{Client, Error, Received, connect_to};

/// A step that could not be done says why.
pub(super) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// All plugins are there, in both languages.
pub(super) async fn plugins(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    let ready = stage.ready();
    let ids: BTreeSet<_> = ready.iter().map(|(id, _)| id.as_str()).collect();
    finding.equal("plugins that are ready", &ids, &PLUGINS.into_iter().collect());
    let known = stage.client.query("plugins", None).await?;
    let known: Vec<Known> = serde_json::from_value(known["plugins"].clone())?;
    for id in PLUGINS {
        let state = known.iter().find(|it| it.id == id).map(|it| it.state.as_str());
        finding.equal(&format!("state of {id}"), &state, &Some("ready"));
    }
    let time = ready.iter().map(|(_, time)| *time).max().unwrap_or_default();
    finding.fact("plugins", json!(ids));
    finding.fact("ms", as_ms(time));
    Ok(finding.says(format!(
        "{} plugins are ready, 3 in Rust and 4 in Python, the slowest after {}",
        ready.len(),
        time_text(time)
    )))
}

/// Every note went from Rust through Python to Rust, in order.
pub(super) async fn files(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    let mut indexed = Vec::new();
    for _ in SAMPLES {
        indexed.push(next_indexed(stage).await?);
    }
    let paths: Vec<_> = indexed.iter().map(|it| it.path.clone()).collect();
    let expected: Vec<_> = SAMPLES.iter().map(|(name, _)| format!("notes/{name}")).collect();
    finding.equal("files, in order", &paths, &expected);
    let count = SAMPLES.len() as u64;
    let revisions: Vec<_> = indexed.iter().map(|it| it.revision).collect();
    finding.equal("revisions", &revisions, &(1..=count).collect());
    let status: Value = stage.client.call("search.status", &json!({"at_least": count})).await?;
    let words: u64 = indexed.iter().map(|it| it.words).sum();
    finding.equal("files in the index", &status["files"], &json!(count));
    finding.equal("words in the index", &status["words"], &json!(words));
    finding.equal("complete", &status["complete"], &json!(true));
    finding.fact("files", count);
    finding.fact("words", words);
    Ok(finding.says(format!(
        "{count} notes were read in Rust, taken apart in Python and indexed in Rust, in order:\n\
         {} words",
        count_text(words)
    )))
}

/// Questions are answered, and answers follow the files.
pub(super) async fn search(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    let hits = query(&stage.client, "credit").await?;
    let files: BTreeSet<_> = hits.iter().map(|hit| hit.file.as_str()).collect();
    let expected = SAMPLES.iter().filter(|(_, text)| text.to_lowercase().contains("credit"));
    let expected: Vec<_> = expected.map(|(name, _)| format!("notes/{name}")).collect();
    let expected: BTreeSet<_> = expected.iter().map(String::as_str).collect();
    finding.equal("files with `credit`", &files, &expected);
    let Some(best) = hits.first() else { return Ok(finding) };
    finding.equal("the best answer", &best.file.as_str(), &"notes/queues.md");

    // As editors do, so that nobody sees half of it.
    let [draft, note] = ["draft", "zebra.md"].map(|it| stage.path("example/notes").join(it));
    fs::write(&draft, "# Animals\n\nA zebra has stripes.\n")?;
    fs::rename(&draft, &note)?;
    let written = clock::instant();
    let indexed = next_indexed(stage).await?;
    let after = written.elapsed();
    finding.equal("a new note", &indexed.path.as_str(), &"notes/zebra.md");
    let hits = query(&stage.client, "zebra").await?;
    let lines: Vec<_> = hits.iter().map(|hit| (hit.file.as_str(), hit.line)).collect();
    finding.equal("where `zebra` is", &lines, &vec![("notes/zebra.md", 3)]);
    fs::remove_file(&note)?;
    let removed = next_indexed(stage).await?;
    finding.holds(removed.removed, "a deleted note is not reported");
    let hits = query(&stage.client, "zebra").await?;
    finding.equal("answers for `zebra`", &hits.len(), &0);
    finding.fact("best", format!("{}:{}", best.file, best.line));
    finding.fact("new_note_ms", as_ms(after));
    Ok(finding.says(format!(
        "`credit` is best explained in {}:{}; a note written now\n\
         was found after {}, and no longer once it was deleted",
        best.file,
        best.line,
        time_text(after)
    )))
}

/// Calls, one after the other.
pub(super) async fn calls(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    let mut texts = Vec::new();
    for (plugin, language, count) in [("ant", "Rust", 2_000), ("bee", "Python", 500)] {
        let times = echo(&stage.client, plugin, count).await?;
        finding.equal("answers", &times.count(), &count);
        let [p50, p99] = [50, 99].map(|percent| times.percentile(percent));
        finding.fact(language, json!({"calls": count, "p50_us": as_us(p50), "p99_us": as_us(p99)}));
        texts.push(format!(
            "{} to {language}: p50 {}, p99 {}",
            count_text(count as u64),
            time_text(p50),
            time_text(p99)
        ));
    }
    Ok(finding.says(format!("calls one after the other\n{}", texts.join("\n"))))
}

/// One publisher, many subscribers.
pub(super) async fn events(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    let mut subscribers = Vec::new();
    for _ in 0..CLIENTS {
        let client = connect_to(stage.path("run/plugbus/default.sock")).await?;
        subscribers.push(client.subscribe("demo.*").await?);
    }
    let expected: Vec<u64> = (1..=EVENTS).collect();
    for number in &expected {
        stage.client.publish("demo.news", number).await?;
    }
    for subscriber in &mut subscribers {
        let mut values = Vec::new();
        while values.len() < expected.len() {
            match subscriber.next().await.ok_or("a subscription ended")? {
                Received::Event(event) => values.push(event.parse()?),
                Received::Gap(gap) => return Err(format!("{} events were lost", gap.count).into()),
            }
        }
        finding.equal("events of a client", &values, &expected);
    }
    for plugin in PEERS {
        let seen = report(&stage.client, plugin, json!({"news": EVENTS})).await?;
        finding.equal(&format!("events of {plugin}"), &seen.news, &expected);
    }
    let count = CLIENTS + PEERS.len();
    finding.fact("events", EVENTS);
    finding.fact("subscribers", count);
    Ok(finding
        .says(format!("{EVENTS} events reached {count} subscribers, each of them all, in order")))
}

/// An event for everybody.
pub(super) async fn broadcast(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    stage.client.broadcast("demo.notice", &7).await?;
    for plugin in PEERS {
        let seen = report(&stage.client, plugin, json!({"notices": 1})).await?;
        finding.equal(&format!("broadcasts of {plugin}"), &seen.notices, &vec![7]);
    }
    finding.fact("listening", PEERS.len());
    Ok(finding.says(format!(
        "one broadcast reached each of the {} plugins that listen, once",
        PEERS.len()
    )))
}

/// Wrong calls are explained.
pub(super) async fn mistakes(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    let wrong = failure(&stage.client, "search.qeury", json!({"text": "credit"})).await?;
    match &wrong {
        Error::NotFound { suggestions, .. } => finding.holds(
            suggestions.iter().any(|it| it.ends_with("query")),
            format_args!("`search.query` is not suggested, but {suggestions:?}"),
        ),
        error => finding.holds(false, format_args!("a wrong name gave {error:?}")),
    }
    for plugin in ["ant", "bee"] {
        let error =
            failure(&stage.client, &format!("{plugin}.echo"), json!({"value": "x"})).await?;
        match &error {
            Error::InvalidArgument { field, .. } => {
                finding.equal(&format!("field that {plugin} names"), &field.as_str(), &"value");
            }
            error => finding.holds(false, format_args!("{plugin} gave {error:?}")),
        }
        finding.fact(plugin, error.to_string());
    }
    finding.fact("wrong_name", wrong.to_string());
    Ok(finding
        .says(format!("`search.qeury` → {wrong};\na wrong argument is named in both languages")))
}

/// A plugin that does not go on holds up nobody else, and loses nothing.
pub(super) async fn stall(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    let tasks = stage.client.sender("snail/tasks").await?;
    let expected: Vec<u64> = (1..=TASKS).collect();
    for number in &expected {
        tasks.send_value(number).await?;
    }
    tasks.flush().await?;
    let times = echo(&stage.client, "ant", 2_000).await?;
    finding.equal("answers of the others", &times.count(), &2_000);
    let before = report(&stage.client, "snail", json!({})).await?;
    finding.equal("tasks that were handled meanwhile", &before.tasks, &Vec::new());
    stage.client.call::<(), _>("snail.release", &json!({})).await?;
    tasks.completed().await?;
    let after = report(&stage.client, "snail", json!({"tasks": TASKS})).await?;
    finding.equal("tasks", &after.tasks, &expected);
    let p99 = times.percentile(99);
    finding.fact("others_p99_us", as_us(p99));
    finding.fact("tasks", TASKS);
    Ok(finding.says(format!(
        "while one plugin was stuck in the first of {TASKS} tasks, 2,000 calls to another were\n\
         answered (p99 {}); then it did all {TASKS}, in order",
        time_text(p99)
    )))
}

#[derive(Debug, Deserialize)]
struct Known {
    id: String,
    state: String,
}

#[derive(Debug, Deserialize)]
struct Indexed {
    path: String,
    revision: u64,
    words: u64,
    removed: bool,
}

#[derive(Debug, Deserialize)]
struct Hit {
    file: String,
    line: u32,
}

async fn query(client: &Client, text: &str) -> Result<Vec<Hit>> {
    let mut answer: BTreeMap<String, Value> =
        client.call("search.query", &json!({"text": text})).await?;
    Ok(serde_json::from_value(answer.remove("hits").unwrap_or_default())?)
}

async fn next_indexed(stage: &mut Stage) -> Result<Indexed> {
    match stage.indexed.next().await.ok_or("the subscription ended")? {
        Received::Event(event) => Ok(event.parse()?),
        Received::Gap(gap) => Err(format!("{} events were lost", gap.count).into()),
    }
}

async fn report(client: &Client, plugin: &str, wanted: Value) -> Result<Seen> {
    Ok(client.call(&format!("{plugin}.report"), &wanted).await?)
}

/// Calls one after the other; the times of those that gave back what was sent.
async fn echo(client: &Client, plugin: &str, count: usize) -> Result<Times> {
    let method = format!("{plugin}.echo");
    let mut times = Times::default();
    for value in 0..count {
        let began = clock::instant();
        let answer: usize = client.call(&method, &json!({"value": value})).await?;
        if answer == value {
            times.push(began.elapsed());
        }
    }
    Ok(times)
}

/// How a call fails that must not succeed.
pub(super) async fn failure(client: &Client, method: &str, arguments: Value) -> Result<Error> {
    match client.call::<Value, _>(method, &arguments).await {
        Err(error) => Ok(error),
        Ok(answer) => Err(format!("{method} was answered: {answer}").into()),
    }
}

pub(super) fn as_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn as_us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

const PLUGINS: [&str; 7] = ["extract", "search", "reader", "ant", "bee", "moth", "snail"];

/// Those of the demo itself: one in Rust, three in Python.
const PEERS: [&str; 4] = ["ant", "bee", "moth", "snail"];

const CLIENTS: usize = 12;
const EVENTS: u64 = 100;
const TASKS: u64 = 100;
