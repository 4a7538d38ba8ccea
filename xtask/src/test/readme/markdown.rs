//! The fenced blocks of a document, and whether an output shows what a block shows.

use anyhow::{Result, bail};

#[derive(Debug, Eq, PartialEq)]
pub(super) enum Block {
    /// To be saved under a name.
    File {
        name: String,
        text: String,
    },
    Session(Vec<Step>),
    /// A session that is left alone, and why.
    NotRun(String),
}

/// A command of a session.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Step {
    pub(super) line: usize,
    pub(super) command: String,
    pub(super) is_background: bool,
    pub(super) shown: Vec<String>,
}

pub(super) fn blocks(text: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    let mut not_run: Option<String> = None;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if let Some(why) = line.strip_prefix("<!-- not run: ") {
            not_run = Some(why.trim_end_matches("-->").trim().to_owned());
            continue;
        }
        let Some(info) = line.strip_prefix("```") else {
            // The mark stands directly above its block.
            if !line.trim().is_empty() {
                not_run = None;
            }
            continue;
        };
        let body: Vec<(usize, &str)> = lines
            .by_ref()
            .map(|(index, line)| (index + 1, line))
            .take_while(|(_, line)| !line.starts_with("```"))
            .collect();
        let mut words = info.split_whitespace();
        match (words.next(), words.next(), not_run.take()) {
            (Some("console"), _, Some(why)) => found.push(Block::NotRun(why)),
            (Some("console"), None, None) => found.push(Block::Session(steps(&body)?)),
            (Some(language), Some(name), None) if language != "rust" => {
                let text = body.iter().map(|(_, line)| format!("{line}\n")).collect();
                found.push(Block::File { name: name.to_owned(), text });
            }
            (Some("sh" | "bash" | "shell"), None, None) => {
                bail!("README.md:{}: commands stand in `console` blocks, behind `$ `", index + 1);
            }
            _ => (),
        }
    }
    Ok(found)
}

fn steps(body: &[(usize, &str)]) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_continued = false;
    for &(number, line) in body {
        if is_continued && let Some(step) = steps.last_mut() {
            step.command.push('\n');
            step.command.push_str(line);
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                line: number,
                command: command.to_owned(),
                is_background: false,
                shown: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            step.shown.push(line.to_owned());
        } else {
            bail!("README.md:{number}: a session starts with a command, behind `$ `");
        }
        is_continued =
            line.ends_with('\\') && steps.last().is_some_and(|step| step.shown.is_empty());
    }
    for step in &mut steps {
        if let Some(command) = step.command.strip_suffix(" &") {
            step.command = command.to_owned();
            step.is_background = true;
        }
    }
    Ok(steps)
}

/// The first of the `shown` lines that does not appear in `printed` behind the ones before it.
pub(super) fn first_missing<'a>(shown: &'a [String], printed: &str) -> Option<&'a str> {
    let mut printed = printed.lines().map(masked);
    shown
        .iter()
        .filter(|line| !line.trim().is_empty() && !matches!(line.trim(), "…" | "^C"))
        .find(|line| {
            let wanted = masked(line);
            !printed.any(|line| line == wanted)
        })
        .map(String::as_str)
}

/// A line without what differs between two runs: numbers, their units, the width of spaces.
fn masked(line: &str) -> String {
    let mut words = Vec::new();
    for word in line.split_whitespace() {
        let follows_number = words.last().is_some_and(|word: &String| word.ends_with('#'));
        if !(follows_number && UNITS.contains(&word.trim_end_matches([',', '.', ')', ';']))) {
            words.push(masked_word(word));
        }
    }
    words.join(" ")
}

fn masked_word(word: &str) -> String {
    let mut masked = String::new();
    let mut rest = word;
    while let Some(start) = rest.find(|letter: char| letter.is_ascii_digit()) {
        masked.push_str(&rest[..start]);
        masked.push('#');
        rest = &rest[start..];
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && !".,_".contains(letter));
        rest = &rest[end.unwrap_or(rest.len())..];
        let unit_end = rest.find(|letter: char| !letter.is_alphabetic()).unwrap_or(rest.len());
        if UNITS.contains(&&rest[..unit_end]) {
            rest = &rest[unit_end..];
        }
    }
    masked.push_str(rest);
    masked
}

const UNITS: [&str; 18] = [
    "ns", "µs", "us", "ms", "s", "min", "B", "kB", "KB", "KiB", "MB", "MiB", "GB", "GiB", "k", "M",
    "k/s", "M/s",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_gives_files_sessions_and_what_is_left_alone() {
        let text = "\
# Title
```python hello.py
import plugbus
```
```console
$ plugbus up a &
ready
$ plugbus call \\
    a.b
one

two
```
<!-- not run: needs a network -->
```console
$ curl x
```
```rust
fn main() {}
```
";
        let step = |line, command: &str, is_background, shown: &[&str]| Step {
            line,
            command: command.to_owned(),
            is_background,
            shown: shown.iter().map(|&line| line.to_owned()).collect(),
        };
        assert_eq!(
            blocks(text).unwrap(),
            [
                Block::File { name: "hello.py".to_owned(), text: "import plugbus\n".to_owned() },
                Block::Session(vec![
                    step(6, "plugbus up a", true, &["ready"]),
                    step(8, "plugbus call \\\n    a.b", false, &["one", "", "two"]),
                ]),
                Block::NotRun("needs a network".to_owned()),
            ]
        );
        assert!(blocks("```sh\nmake\n```\n").is_err());
        assert!(blocks("```console\noutput\n```\n").is_err());
    }

    #[test]
    fn shown_lines_appear_in_order_whatever_the_numbers() {
        let printed = "start\n  p50 12.5 µs  p99 1,024 ms\nother\ncalls: 2000 in 3.1s\nend\n";
        let cases: [(&[&str], Option<&str>); 6] = [
            (&[], None),
            (&["start", "", "end"], None),
            (&["p50 7 ms p99 3 s", "…", "calls: 9 in 870ms"], None),
            (&["end", "start"], Some("start")),
            (&["calls: 2000 in 3.1 hours"], Some("calls: 2000 in 3.1 hours")),
            (&["start", "start"], Some("start")),
        ];
        for (shown, missing) in cases {
            let shown: Vec<String> = shown.iter().map(|&line| line.to_owned()).collect();
            assert_eq!(first_missing(&shown, printed), missing, "{shown:?}");
        }
    }
}
