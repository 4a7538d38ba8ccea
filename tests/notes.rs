//! The notes example as a person runs it: `plugbus up`, questions, edits.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod command;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use command::{Place, Serving};
use plugbus::plugin::{Client, Received, Subscription, connect_to};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The example, unpacked from the binary, with notes of its own.
struct Notes {
    place: Place,
    serving: Serving,
    client: Client,
    indexed: Subscription,
}

impl Notes {
    async fn serve(notes: &[(&str, &str)]) -> Self {
        let place = Place::new();
        place.run(&["demo", "--unpack", "example"]).expect(0, &["plugbus up example"]);
        fs::create_dir(place.path().join("mine")).unwrap();
        for (name, text) in notes {
            fs::write(place.path().join("mine").join(name), text).unwrap();
        }
        let mut command = place.command(&["up", "example", "--json"]);
        let mut serving = Serving::start(command.env("NOTES", place.path().join("mine")));
        serving.wait_for("serving");
        let client = connect_to(place.socket()).await.unwrap();
        let indexed = client.subscribe("notes.indexed").await.unwrap();
        // From here on only changes are told: the first pass is over.
        let count = notes.len();
        let status = call(&client, "search.status", json!({"at_least": count})).await;
        assert_eq!((&status["files"], &status["complete"]), (&json!(count), &json!(true)));
        let mut notes = Self { place, serving, client, indexed };
        notes.put("sync.md", "synchronised").await;
        notes
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join("mine").join(name)
    }

    /// Writes a note as editors do, and waits until answers know it.
    async fn put(&mut self, name: &str, text: &str) -> Value {
        let draft = self.path(".draft");
        fs::write(&draft, text).unwrap();
        fs::rename(&draft, self.path(name)).unwrap();
        self.told(name, false).await
    }

    /// What the index tells next of this file; what it tells of others comes before.
    async fn told(&mut self, name: &str, removed: bool) -> Value {
        loop {
            let Received::Event(event) = self.indexed.next().await.unwrap() else {
                panic!("events are missing");
            };
            let told: Value = event.parse().unwrap();
            if told["path"] == format!("mine/{name}") && told["removed"] == removed {
                return told;
            }
        }
    }

    /// File and line of each answer, the best first.
    async fn query(&self, arguments: Value) -> Vec<(String, u64)> {
        let answer = call(&self.client, "search.query", arguments).await;
        assert_eq!(answer["complete"], true);
        let place =
            |hit: &Value| (hit["file"].as_str().unwrap().to_owned(), hit["line"].as_u64().unwrap());
        answer["hits"].as_array().unwrap().iter().map(place).collect()
    }

    #[track_caller]
    fn check(found: &[(String, u64)], expected: &[(&str, u64)]) {
        let expected: Vec<_> =
            expected.iter().map(|(name, line)| (format!("mine/{name}"), *line)).collect();
        assert_eq!(found, expected);
    }
}

#[tokio::test]
async fn answers_have_file_and_line_and_follow_edits() {
    let mut notes = Notes::serve(&[
        ("b.md", "# Window\n\nThe credit of a window.\n"),
        ("a.txt", "nothing\nof it\n"),
        ("c.md", "# Other\n\n## Credit\n\nCredit, credit and again credit.\n"),
    ])
    .await;

    let found = notes.query(json!({"text": "credits"})).await;
    Notes::check(&found, &[("c.md", 5), ("c.md", 3), ("b.md", 3)]);
    let outcome = notes.place.run(&["call", "search.query", "text=credit", "limit=1"]);
    outcome.expect(0, &["mine/c.md", "\"line\": 5", "Credit, credit and again credit."]);

    let told = notes.put("b.md", "# Window\n\n\n\nThe zebra of a window.\n").await;
    assert_eq!(told["lines"], 5);
    Notes::check(&notes.query(json!({"text": "zebra"})).await, &[("b.md", 5)]);
    assert_eq!(notes.query(json!({"text": "credit"})).await.len(), 2);

    notes.put("new.md", "A zebra crossing. #road").await;
    let tagged = notes.query(json!({"text": "zebra", "tag": "road"})).await;
    Notes::check(&tagged, &[("new.md", 1)]);
    fs::remove_file(notes.path("b.md")).unwrap();
    notes.told("b.md", true).await;
    Notes::check(&notes.query(json!({"text": "zebra"})).await, &[("new.md", 1)]);

    fs::create_dir(notes.path("deep")).unwrap();
    notes.put("deep/d.md", "# D\n\n[back](../c.md)\n").await;
    let outline = call(&notes.client, "search.file", json!({"path": "mine/c.md"})).await;
    assert_eq!(outline["linked_from"], json!(["mine/deep/d.md"]));
    assert_eq!(outline["headings"][1], json!({"line": 3, "level": 2, "text": "Credit"}));
    let wrong = notes.place.run(&["call", "search.file", "path=mine/cc.md"]);
    wrong.expect(1, &["did you mean `mine/c.md`?"]);

    notes.serving.signal(Signal::TERM);
    let (code, exited) = notes.serving.end("exited");
    assert_eq!((code, exited.len()), (Some(0), 3));
}

/// More than fits any window or queue between the plugins, so every one of them has to wait.
#[tokio::test]
async fn every_file_is_indexed_in_order_however_many_there_are() {
    let notes = Notes::serve(&[("first.md", "first")]).await;
    let text = "some words to fill a line of a note, and to be found again\n".repeat(400);
    let names: Vec<_> = (0..300).map(|number| format!("many-{number:03}.md")).collect();
    for name in &names {
        fs::write(notes.path(name), &text).unwrap();
    }
    // Larger than a part.
    fs::write(notes.path("zz-large.md"), text.repeat(10) + "the very end\n").unwrap();
    let scan = call(&notes.client, "reader.scan", json!({})).await;
    assert_eq!(scan["files"], names.len() + 3);
    let status = call(&notes.client, "search.status", json!({"at_least": scan["revision"]})).await;
    assert_eq!(status["files"], scan["files"]);
    Notes::check(&notes.query(json!({"text": "very"})).await, &[("zz-large.md", 4_001)]);
}

#[test]
fn the_project_documents_are_what_is_read_by_default() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/notes/plugbus.toml");
    let config: toml::Table = fs::read_to_string(config).unwrap().parse().unwrap();
    let command = config["plugins"]["reader"]["command"].as_array().unwrap();
    let words: Vec<_> = command.iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(words, ["plugbus", "builtin", "notes-reader", "../../README.md", "../../docs"]);
}

#[test]
fn a_reader_without_notes_says_what_is_missing() {
    let place = Place::new();
    place.run(&["builtin", "notes-reader"]).expect(2, &["name folders or files to read"]);
    place.run(&["builtin", "notes-reader", "no-such"]).expect(1, &["cannot read no-such"]);
}

#[test]
fn what_is_extracted_from_notes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("python3")
        .args(["-B", "-m", "unittest"])
        .current_dir(root.join("examples/notes"))
        .env("PYTHONPATH", root.join("sdk/python"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("Ran 0 tests"), "{said}");
}

async fn call(client: &Client, method: &str, arguments: Value) -> Value {
    client.call(method, &arguments).await.unwrap()
}
