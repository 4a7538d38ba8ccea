//! From events about parts of files to changes of the index.
//!
//! A file is replaced when its last part is there, so that nobody who asks sees half of one. Parts
//! may come twice, when the extracting plugin was restarted in the middle: what is older than what
//! is known is ignored. No I/O.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;

use super::index::{Index, Note};

/// What the extracting plugin says of a part of a file, or hands on from the reader.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Extracted {
    /// What is in a part.
    Part {
        path: String,
        revision: u64,
        /// Number of its first line.
        line: u32,
        /// Whether it is the last one of the file.
        last: bool,
        #[serde(flatten)]
        found: Note,
    },
    /// The file is no more.
    Removed { path: String, revision: u64, removed: bool },
    /// A pass over all files begins: the reader is new, or somebody asked for it.
    Started { revision: u64, started: bool },
    /// The pass is complete.
    Scanned { revision: u64, scanned: usize },
}

/// The index and the files that are not complete yet.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    pub(crate) index: Index,
    unfinished: HashMap<String, Unfinished>,
    /// Files that the pass has not come to yet. Those that are left at its end are no more.
    stale: BTreeSet<String>,
    revision: u64,
    scanned: bool,
}

/// What changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Change {
    /// Nothing that anybody could ask for.
    None,
    /// A file is in the index as it is now.
    Indexed { path: String, revision: u64, lines: u32, words: usize },
    /// A file is no longer in the index.
    Removed { path: String, revision: u64 },
    /// A pass over all files is complete.
    Scanned { files: usize },
}

#[derive(Debug)]
struct Unfinished {
    revision: u64,
    /// Where the next part begins, at the least.
    line: u32,
    note: Note,
}

impl Intake {
    /// Takes the next event.
    pub(crate) fn handle(&mut self, extracted: Extracted) -> Change {
        match extracted {
            Extracted::Part { path, revision, line, last, found } => {
                self.handle_part(path, revision, line, last, found)
            }
            Extracted::Removed { path, revision, removed } => {
                self.unfinished.remove(&path);
                self.stale.remove(&path);
                self.revision = self.revision.max(revision);
                if removed && self.index.remove(&path) {
                    Change::Removed { path, revision }
                } else {
                    Change::None
                }
            }
            Extracted::Started { started: false, .. } => Change::None,
            Extracted::Started { revision, .. } => {
                // A new reader counts from the beginning.
                self.revision = revision;
                self.unfinished.clear();
                self.stale = self.index.paths().map(str::to_owned).collect();
                Change::None
            }
            Extracted::Scanned { revision, scanned } => {
                self.revision = self.revision.max(revision);
                self.scanned = true;
                for path in std::mem::take(&mut self.stale) {
                    self.index.remove(&path);
                }
                Change::Scanned { files: scanned }
            }
        }
    }

    /// The newest revision up to which everything is in the index.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether a pass over all files was completed.
    pub(crate) fn is_scanned(&self) -> bool {
        self.scanned
    }

    fn handle_part(
        &mut self,
        path: String,
        revision: u64,
        line: u32,
        last: bool,
        found: Note,
    ) -> Change {
        let known = self.unfinished.get(&path).map_or(0, |it| it.revision);
        if revision <= self.revision || revision < known {
            return Change::None;
        }
        if line == 1 || revision > known {
            let note = Note::default();
            self.unfinished.insert(path.clone(), Unfinished { revision, line: 0, note });
        }
        let file = self.unfinished.get_mut(&path).expect("inserted where there was none");
        if line > file.line {
            file.line = line;
            file.note.extend(found);
        }
        if !last {
            return Change::None;
        }
        let Unfinished { note, .. } = self.unfinished.remove(&path).expect("it was just there");
        let (lines, words) = (note.line_count(), note.word_count());
        self.stale.remove(&path);
        self.index.replace(&path, note);
        self.revision = revision;
        Change::Indexed { path, revision, lines, words }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_appears_with_its_last_part_and_not_before() {
        let mut intake = Intake::default();
        assert_eq!(intake.handle(part("a.md", 1, 1, false, "one")), Change::None);
        assert_eq!(intake.index.file_count(), 0);
        let change = intake.handle(part("a.md", 1, 2, true, "two"));
        let path = "a.md".to_owned();
        assert_eq!(change, Change::Indexed { path, revision: 1, lines: 2, words: 2 });
        assert_eq!(intake.index.query("two", None, 9).len(), 1);

        assert_eq!(intake.handle(part("a.md", 2, 1, false, "three")), Change::None);
        assert_eq!(intake.index.query("two", None, 9).len(), 1, "the old one answers until then");
        intake.handle(part("a.md", 2, 2, true, "four"));
        assert_eq!(intake.index.query("two", None, 9).len(), 0);
        assert_eq!((intake.revision(), intake.index.word_count()), (2, 2));
    }

    #[test]
    fn what_comes_again_changes_nothing() {
        let mut intake = Intake::default();
        for line in [1, 2, 1, 2] {
            intake.handle(part("a.md", 1, line, false, "word"));
        }
        intake.handle(part("a.md", 1, 3, true, "word"));
        assert_eq!(intake.index.word_count(), 3);
        assert_eq!(intake.handle(part("a.md", 1, 3, true, "word")), Change::None);
        assert_eq!(intake.index.word_count(), 3);
    }

    #[test]
    fn a_removed_file_is_gone_and_an_unfinished_one_too() {
        let mut intake = Intake::default();
        intake.handle(part("a.md", 1, 1, true, "word"));
        intake.handle(part("a.md", 2, 1, false, "word"));
        let removed = json!({"path": "a.md", "revision": 3, "removed": true});
        let removed: Extracted = serde_json::from_value(removed).unwrap();
        let path = "a.md".to_owned();
        assert_eq!(intake.handle(removed.clone()), Change::Removed { path, revision: 3 });
        assert_eq!(intake.handle(removed), Change::None);
        assert!(intake.unfinished.is_empty() && intake.index.file_count() == 0);
        assert_eq!(intake.revision(), 3);
    }

    #[test]
    fn the_end_of_the_first_pass_is_remembered() {
        let mut intake = Intake::default();
        assert!(!intake.is_scanned());
        let scanned = serde_json::from_value(json!({"revision": 7, "scanned": 7})).unwrap();
        assert_eq!(intake.handle(scanned), Change::Scanned { files: 7 });
        assert!(intake.is_scanned() && intake.revision() == 7);
    }

    #[test]
    fn a_new_reader_counts_anew_and_what_it_does_not_find_is_gone() {
        let mut intake = Intake::default();
        intake.handle(part("a.md", 8, 1, true, "old"));
        intake.handle(part("b.md", 9, 1, true, "old"));
        for event in [json!({"revision": 0, "started": true}), json!({"revision": 1, "scanned": 1})]
        {
            intake.handle(part("a.md", 1, 1, true, "new"));
            intake.handle(serde_json::from_value(event).unwrap());
        }
        assert_eq!(intake.index.paths().collect::<Vec<_>>(), ["a.md"]);
        assert_eq!(intake.index.query("new", None, 9).len(), 1);
        assert_eq!(intake.revision(), 1);
    }

    fn part(path: &str, revision: u64, line: u32, last: bool, word: &str) -> Extracted {
        serde_json::from_value(json!({
            "path": path, "revision": revision, "line": line, "last": last,
            "passages": [{"line": line, "heading": "", "lines": [word], "words": [[word]]}],
            "headings": [], "links": [], "tags": [{"line": 1, "tag": "t"}],
        }))
        .unwrap()
    }
}
