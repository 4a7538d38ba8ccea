//! The search index: passages of notes, ranked by how well they fit a question.
//!
//! Ranking is Okapi BM25 as in S. Robertson and H. Zaragoza, *The Probabilistic Relevance
//! Framework: BM25 and Beyond* (2009), with passages as documents, the heading above a passage
//! counting as one more line of it, and plurals reduced as in D. Harman, *How effective is
//! suffixing?* (1991). No I/O and no clock: what is asked and what is known decide the answer.
//!
//! Invariant: postings, lengths and passages are those of the notes that are in, and of no other.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// All notes, by path.
#[derive(Debug, Default)]
pub(crate) struct Index {
    notes: BTreeMap<String, Note>,
    passages: HashMap<u32, Indexed>,
    postings: HashMap<String, Vec<Posting>>,
    next: u32,
    /// Words of all passages, headings included.
    length: u64,
}

/// What is known of one file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Note {
    pub(crate) passages: Vec<Passage>,
    pub(crate) headings: Vec<Heading>,
    pub(crate) links: Vec<Link>,
    pub(crate) tags: Vec<Tag>,
    #[serde(skip)]
    numbers: Vec<u32>,
}

/// Consecutive lines of a file.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Passage {
    /// Number of the first line.
    pub(crate) line: u32,
    /// The heading above, or an empty text.
    pub(crate) heading: String,
    pub(crate) lines: Vec<String>,
    /// The words of each line, in lower case.
    pub(crate) words: Vec<Vec<String>>,
}

/// A heading of a file.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub(crate) struct Heading {
    line: u32,
    level: u8,
    text: String,
}

/// A link from a file.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub(crate) struct Link {
    line: u32,
    target: String,
    text: String,
}

/// A tag of a file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub(crate) struct Tag {
    pub(crate) tag: String,
}

/// One answer.
#[derive(Clone, Debug, JsonSchema, PartialEq, Serialize)]
pub(crate) struct Hit {
    /// The file, as the reader names it.
    file: String,
    /// The line that fits best.
    line: u32,
    /// The heading above it, or an empty text.
    heading: String,
    /// The line, cut where it is long.
    snippet: String,
    /// Higher is better; comparable within one answer only.
    score: f64,
}

#[derive(Debug)]
struct Indexed {
    path: String,
    /// Which passage of the note.
    at: usize,
    length: u32,
}

#[derive(Clone, Copy, Debug)]
struct Posting {
    passage: u32,
    count: u32,
}

impl Index {
    /// Puts a note in the place of what was known under this path.
    pub(crate) fn replace(&mut self, path: &str, mut note: Note) {
        self.remove(path);
        note.numbers.clear();
        for (at, passage) in note.passages.iter().enumerate() {
            let number = self.next;
            self.next = self.next.wrapping_add(1);
            let counts = passage.counts();
            let length = counts.values().sum();
            for (word, count) in counts {
                self.postings.entry(word).or_default().push(Posting { passage: number, count });
            }
            self.length += u64::from(length);
            self.passages.insert(number, Indexed { path: path.to_owned(), at, length });
            note.numbers.push(number);
        }
        self.notes.insert(path.to_owned(), note);
    }

    /// Forgets a note. True if there was one.
    pub(crate) fn remove(&mut self, path: &str) -> bool {
        let Some(note) = self.notes.remove(path) else {
            return false;
        };
        let numbers: HashSet<_> = note.numbers.iter().copied().collect();
        let words: HashSet<_> = note.passages.iter().flat_map(|it| it.counts()).collect();
        for (word, _) in words {
            if let Some(postings) = self.postings.get_mut(&word) {
                postings.retain(|posting| !numbers.contains(&posting.passage));
                if postings.is_empty() {
                    self.postings.remove(&word);
                }
            }
        }
        for number in numbers {
            let passage = self.passages.remove(&number).expect("a note's passages are indexed");
            self.length -= u64::from(passage.length);
        }
        true
    }

    /// The best passages for these words, at most one for each place that a person would open
    /// separately. With a tag, only notes that bear it.
    pub(crate) fn query(&self, text: &str, tag: Option<&str>, count_max: usize) -> Vec<Hit> {
        let wanted: HashSet<_> = words(text).map(|word| stem(&word)).collect();
        let mut scores: HashMap<u32, f64> = HashMap::new();
        for word in &wanted {
            let Some(postings) = self.postings.get(word) else { continue };
            let weight = self.weight(postings.len());
            for posting in postings {
                *scores.entry(posting.passage).or_default() += weight * self.saturation(posting);
            }
        }
        let mut ranked: Vec<_> = scores
            .into_iter()
            .map(|(number, score)| (score, &self.passages[&number]))
            .filter(|(_, passage)| tag.is_none_or(|tag| self.has_tag(&passage.path, tag)))
            .collect();
        ranked.sort_by(|(a, left), (b, right)| {
            // Equal ones in the order in which a person reads.
            b.partial_cmp(a)
                .unwrap_or(Ordering::Equal)
                .then_with(|| (&left.path, left.at).cmp(&(&right.path, right.at)))
        });
        ranked.truncate(count_max);
        ranked.into_iter().map(|(score, passage)| self.hit(passage, score, &wanted)).collect()
    }

    /// A note.
    pub(crate) fn note(&self, path: &str) -> Option<&Note> {
        self.notes.get(path)
    }

    /// The paths of all notes, sorted.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.notes.keys().map(String::as_str)
    }

    /// The notes that link to a file, by its path or by its name as wikis do.
    pub(crate) fn linked_from(&self, path: &str) -> Vec<String> {
        let links_here = |from: &str, link: &Link| {
            let target = link.target.split('#').next().unwrap_or_default();
            let stem = path.rsplit('/').next().unwrap_or(path);
            let stem = stem.rsplit_once('.').map_or(stem, |(stem, _)| stem);
            !target.is_empty() && (resolve(from, target) == path || target == stem)
        };
        self.notes
            .iter()
            .filter(|(from, note)| note.links.iter().any(|link| links_here(from, link)))
            .map(|(from, _)| from.clone())
            .collect()
    }

    /// Every tag, with the number of notes that bear it.
    pub(crate) fn tags(&self) -> BTreeMap<String, usize> {
        let mut tags = BTreeMap::new();
        for note in self.notes.values() {
            let of_note: HashSet<_> = note.tags.iter().map(|it| &it.tag).collect();
            for tag in of_note {
                *tags.entry(tag.clone()).or_default() += 1;
            }
        }
        tags
    }

    /// How many notes there are.
    pub(crate) fn file_count(&self) -> usize {
        self.notes.len()
    }

    /// How many words they have.
    pub(crate) fn word_count(&self) -> usize {
        self.notes.values().map(Note::word_count).sum()
    }

    /// What a word that this many passages have says about them.
    fn weight(&self, passages: usize) -> f64 {
        let (all, with) = (self.passages.len() as f64, passages as f64);
        (1.0 + (all - with + 0.5) / (with + 0.5)).ln()
    }

    /// How much the repetition of a word says, in a passage of this length.
    fn saturation(&self, posting: &Posting) -> f64 {
        let average = self.length as f64 / self.passages.len() as f64;
        let length = f64::from(self.passages[&posting.passage].length) / average;
        let count = f64::from(posting.count);
        count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length))
    }

    fn has_tag(&self, path: &str, tag: &str) -> bool {
        let tag = tag.trim_start_matches('#');
        self.notes[path].tags.iter().any(|it| it.tag.eq_ignore_ascii_case(tag))
    }

    fn hit(&self, indexed: &Indexed, score: f64, wanted: &HashSet<String>) -> Hit {
        let passage = &self.notes[&indexed.path].passages[indexed.at];
        let found = |words: &Vec<String>| {
            words.iter().map(|it| stem(it)).filter(|it| wanted.contains(it)).collect::<HashSet<_>>()
        };
        // The first of those lines that have most of what is wanted.
        let best = (0..passage.lines.len())
            .rev()
            .max_by_key(|&at| passage.words.get(at).map_or(0, |words| found(words).len()))
            .unwrap_or(0);
        Hit {
            file: indexed.path.clone(),
            line: passage.line + u32::try_from(best).unwrap_or(0),
            heading: passage.heading.clone(),
            snippet: snippet(passage.lines.get(best).map_or("", |line| line), wanted),
            score: (score * 1_000.0).round() / 1_000.0,
        }
    }
}

impl Note {
    /// Adds what was found in the next part of the file.
    pub(crate) fn extend(&mut self, part: Self) {
        self.passages.extend(part.passages);
        self.headings.extend(part.headings);
        self.links.extend(part.links);
        self.tags.extend(part.tags);
    }

    /// The number of its last line with something on it.
    pub(crate) fn line_count(&self) -> u32 {
        let last = self.passages.last();
        last.map_or(0, |it| it.line - 1 + u32::try_from(it.lines.len()).unwrap_or(u32::MAX))
    }

    /// How many words it has.
    pub(crate) fn word_count(&self) -> usize {
        self.passages.iter().flat_map(|it| &it.words).map(Vec::len).sum()
    }
}

impl Passage {
    fn counts(&self) -> HashMap<String, u32> {
        let mut counts = HashMap::new();
        let own = self.words.iter().flatten();
        let heading: Vec<_> = words(&self.heading).collect();
        // The heading itself has its words already; twice they would outweigh what stands below.
        let is_heading = self.words.first() == Some(&heading);
        let above = heading.iter().filter(|_| !is_heading);
        for word in own.chain(above) {
            *counts.entry(stem(word)).or_default() += 1;
        }
        counts
    }
}

/// The words of a text in lower case, cut as the extracting plugin cuts them.
fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
}

/// A word without the ending of an English plural.
fn stem(word: &str) -> String {
    let ends = |endings: &[&str]| endings.iter().any(|ending| word.ends_with(ending));
    let cut = |count: usize| word[..word.len() - count].to_owned();
    match () {
        () if word.len() <= 3 => word.to_owned(),
        () if ends(&["ies"]) && !ends(&["eies", "aies"]) => cut(3) + "y",
        () if ends(&["es"]) && !ends(&["aes", "ees", "oes"]) => cut(1),
        () if ends(&["s"]) && !ends(&["us", "ss"]) => cut(1),
        () => word.to_owned(),
    }
}

/// The part of a line around the first word that was asked for.
fn snippet(line: &str, wanted: &HashSet<String>) -> String {
    let line = line.trim();
    if line.chars().count() <= SNIPPET_CHARS_MAX {
        return line.to_owned();
    }
    let is_wanted = |word: &str| words(word).any(|word| wanted.contains(&stem(&word)));
    let chars: Vec<_> = line.chars().collect();
    let mut at = 0;
    for word in line.split_inclusive(char::is_whitespace) {
        if is_wanted(word) {
            break;
        }
        at += word.chars().count();
    }
    let at = if at == chars.len() { 0 } else { at };
    let start = at.saturating_sub(SNIPPET_CHARS_MAX / 3).min(chars.len() - SNIPPET_CHARS_MAX);
    let end = start + SNIPPET_CHARS_MAX;
    let cut: String = chars[start..end].iter().collect();
    let before = if start > 0 { "…" } else { "" };
    let after = if end < chars.len() { "…" } else { "" };
    format!("{before}{}{after}", cut.trim())
}

/// The path that a relative link in a file means.
fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<_> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => (),
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

// The usual values; the paper finds 1.2 to 2 and 0.5 to 0.8 good for most collections.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// As much as fits a line of a terminal beside the file's name.
const SNIPPET_CHARS_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_and_repeated_words_rank_higher() {
        let index = index(&[
            ("a.md", &["credit and window", "window"]),
            ("b.md", &["window credit credit"]),
            ("c.md", &["the window of the house looks on the street and the garden"]),
        ]);
        check(&index, "credit", &[("b.md", 1), ("a.md", 1)]);
        check(&index, "window", &[("a.md", 2), ("a.md", 1), ("b.md", 1), ("c.md", 1)]);
        check(&index, "Credits, WINDOWS!", &[("b.md", 1), ("a.md", 1), ("a.md", 2), ("c.md", 1)]);
        check(&index, "nothing of it", &[("c.md", 1)]);
        check(&index, "", &[]);
    }

    /// Whatever came and went before, the index answers like one that has only what is there.
    #[test]
    fn what_is_gone_leaves_no_trace() {
        let first = [("a.md", &["one two", "two three"][..]), ("b.md", &["two"])];
        let mut index = index(&first);
        index.replace("a.md", note(&["three four"]));
        assert!(index.remove("b.md"));
        assert!(!index.remove("b.md"));
        index.replace("c.md", note(&["four"]));
        let fresh = self::index(&[("a.md", &["three four"]), ("c.md", &["four"])]);
        for word in ["one", "two", "three", "four", "three four"] {
            assert_eq!(index.query(word, None, 9), fresh.query(word, None, 9), "{word}");
        }
        assert_eq!(index.postings.len(), fresh.postings.len());
        assert_eq!(index.length, fresh.length);
        index.remove("a.md");
        index.remove("c.md");
        assert!(index.postings.is_empty() && index.passages.is_empty() && index.length == 0);
    }

    #[test]
    fn the_line_with_most_of_the_words_is_shown() {
        let mut passage = passage(7, "plain line");
        passage.lines.push("a credit".to_owned());
        passage.words.push(vec!["a".to_owned(), "credit".to_owned()]);
        passage.lines.push("credit for a window".to_owned());
        passage.words.push(words("credit for a window").collect());
        let mut index = Index::default();
        index.replace("a.md", Note { passages: vec![passage], ..Note::default() });
        check(&index, "credit", &[("a.md", 8)]);
        check(&index, "window credit", &[("a.md", 9)]);
    }

    #[test]
    fn tags_select_and_links_lead_back() {
        let mut index = index(&[("x/a.md", &["word"]), ("x/b.md", &["word"]), ("c.md", &["word"])]);
        let mut tagged = note(&["word"]);
        tagged.tags.push(Tag { tag: "blue".to_owned() });
        for target in ["../c.md#top", "./b.md", "https://example.org/c.md", "#here", ""] {
            tagged.links.push(Link { line: 1, target: target.to_owned(), text: String::new() });
        }
        index.replace("x/a.md", tagged);
        let mut wiki = note(&["word"]);
        wiki.links.push(Link { line: 1, target: "c".to_owned(), text: String::new() });
        index.replace("d.md", wiki);
        let files = |hits: Vec<Hit>| hits.into_iter().map(|hit| hit.file).collect::<Vec<_>>();
        assert_eq!(files(index.query("word", Some("#Blue"), 9)), ["x/a.md"]);
        assert_eq!(index.linked_from("c.md"), ["d.md", "x/a.md"]);
        assert_eq!(index.linked_from("x/b.md"), ["x/a.md"]);
        assert_eq!(index.tags(), BTreeMap::from([("blue".to_owned(), 1)]));
    }

    #[test]
    fn plurals_are_one_word_with_their_singular() {
        let cases = [
            ("credits", "credit"),
            ("queries", "query"),
            ("messages", "message"),
            ("status", "status"),
            ("less", "less"),
            ("goes", "goe"),
            ("gas", "gas"),
            ("größen", "größen"),
        ];
        for (word, expected) in cases {
            assert_eq!(stem(word), expected);
        }
    }

    #[test]
    fn long_lines_are_cut_around_the_word() {
        let line = format!("{} credit {}", "before ".repeat(40), "after ".repeat(40));
        let wanted = HashSet::from(["credit".to_owned()]);
        let cut = snippet(&line, &wanted);
        assert!(cut.contains("credit") && cut.starts_with('…') && cut.ends_with('…'), "{cut}");
        assert!(cut.chars().count() <= SNIPPET_CHARS_MAX + 2);
        assert_eq!(snippet("  short credit ", &wanted), "short credit");
        assert!(snippet(&"ü".repeat(500), &wanted).starts_with("üü"));
    }

    #[track_caller]
    fn check(index: &Index, text: &str, expected: &[(&str, u32)]) {
        let hits = index.query(text, None, 9);
        let found: Vec<_> = hits.iter().map(|hit| (hit.file.as_str(), hit.line)).collect();
        assert_eq!(found, expected, "{text}: {hits:?}");
        assert!(hits.is_sorted_by(|a, b| a.score >= b.score));
    }

    fn index(notes: &[(&str, &[&str])]) -> Index {
        let mut index = Index::default();
        for (path, lines) in notes {
            index.replace(path, note(lines));
        }
        index
    }

    /// A note with a passage for each line.
    fn note(lines: &[&str]) -> Note {
        let passages = (1..).zip(lines).map(|(number, line)| passage(number, line)).collect();
        Note { passages, ..Note::default() }
    }

    fn passage(line: u32, text: &str) -> Passage {
        let words = vec![words(text).collect()];
        Passage { line, heading: String::new(), lines: vec![text.to_owned()], words }
    }
}
