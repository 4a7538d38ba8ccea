//! Sizes of files and lines, and words that must not stay.

use super::Finding;
use crate::rust_source::Source;
use crate::tree::{File, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        if file.path.ends_with(".rs") {
            check_size(file, &mut findings);
            check_columns(file, &mut findings);
        }
        if CODE_ENDINGS.iter().any(|ending| file.path.ends_with(ending)) {
            check_unfinished(file, &mut findings);
        }
        if file.path != "Cargo.lock" {
            check_machine_paths(file, &mut findings);
        }
    }
    findings
}

fn check_size(file: &File, findings: &mut Vec<Finding>) {
    let is_test = file.path.split('/').any(|part| part == "tests" || part == "tests.rs");
    if is_test {
        return;
    }
    let source = Source::parse(&file.text);
    let count = file.text.lines().count() - source.test_line_count;
    if count > LINE_COUNT_MAX && !source.module_docs.contains("longer than") {
        let message = format!(
            "{count} lines without tests; split the file, or say in its module docs why it is \
             \"longer than\" {LINE_COUNT_MAX}"
        );
        findings.push(Finding::new(&file.path, 1, message));
    }
}

fn check_columns(file: &File, findings: &mut Vec<Finding>) {
    for (line, text) in file.lines() {
        let count = text.chars().count();
        // An address cannot be broken, and a text alone on its line reads better whole.
        let is_whole = text.contains("https://") || text.trim_start().starts_with('"');
        if count > COLUMN_COUNT_MAX && !is_whole {
            let message = format!("{count} columns, at most {COLUMN_COUNT_MAX}");
            findings.push(Finding::new(&file.path, line, message));
        }
    }
}

fn check_unfinished(file: &File, findings: &mut Vec<Finding>) {
    for (line, text) in file.lines() {
        for word in UNFINISHED {
            if text.contains(word) {
                let message = format!("`{word}` is not for finished code");
                findings.push(Finding::new(&file.path, line, message));
            }
        }
    }
}

fn check_machine_paths(file: &File, findings: &mut Vec<Finding>) {
    for (line, text) in file.lines() {
        for path in MACHINE_PATHS {
            let starts_here = text.match_indices(path).any(|(at, _)| {
                // Behind a letter or a slash it is part of an address.
                let before = text[..at].chars().next_back();
                before.is_none_or(|letter| !letter.is_alphanumeric() && !"/._-".contains(letter))
            });
            if starts_here {
                let message = format!("`{path}` is a path of one machine");
                findings.push(Finding::new(&file.path, line, message));
            }
        }
    }
}

const LINE_COUNT_MAX: usize = 400;
const COLUMN_COUNT_MAX: usize = 100;

const CODE_ENDINGS: [&str; 4] = [".rs", ".py", ".toml", ".sh"];

// Written in two parts each, so that this file does not contain what it looks for.
const UNFINISHED: [&str; 7] = [
    concat!("to", "do!("),
    concat!("unim", "plemented!("),
    concat!("db", "g!("),
    concat!("#[ig", "nore"),
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
];
const MACHINE_PATHS: [&str; 3] =
    [concat!("/wo", "rk/"), concat!("/tmp", "/wt"), concat!("/ro", "ot/")];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree_of;

    #[test]
    fn a_long_file_says_why() {
        let long = "fn f() {}\n".repeat(LINE_COUNT_MAX + 1);
        let explained = format!("//! It is longer than others because of its table.\n{long}");
        let tests = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(messages("src/a.rs", &long).len(), 1);
        assert_eq!(messages("src/a.rs", &explained), Vec::<String>::new());
        assert_eq!(messages("src/a.rs", &tests), Vec::<String>::new());
        assert_eq!(messages("tests/a.rs", &long), Vec::<String>::new());
    }

    #[test]
    fn a_long_line_is_found() {
        assert_eq!(messages("src/a.rs", &"ä".repeat(COLUMN_COUNT_MAX)), Vec::<String>::new());
        assert_eq!(messages("src/a.rs", &"ä".repeat(COLUMN_COUNT_MAX + 1)).len(), 1);
    }

    #[test]
    fn unfinished_code_is_found() {
        for word in UNFINISHED {
            assert_eq!(messages("src/a.rs", word).len(), 1, "{word}");
            assert_eq!(messages("docs/a.md", word), Vec::<String>::new(), "{word}");
        }
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        for path in MACHINE_PATHS {
            assert_eq!(messages("docs/a.md", &format!("see `{path}x`")).len(), 1, "{path}");
            let address = format!("https://example.org{path}x");
            assert_eq!(messages("docs/a.md", &address), Vec::<String>::new(), "{path}");
        }
    }

    fn messages(path: &str, text: &str) -> Vec<String> {
        check(&tree_of(&[(path, text)])).into_iter().map(|finding| finding.message).collect()
    }
}
