//! Every dependency says why it is there, in a comment on its line.

use super::Finding;
use crate::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.below("", "Cargo.toml") {
        let mut section = "";
        let mut is_nested = false;
        for (number, line) in file.lines() {
            if let Some(header) = line.strip_prefix('[') {
                section = header.split(']').next().unwrap_or_default();
                continue;
            }
            let opens_value = line.starts_with(|letter: char| letter.is_ascii_alphanumeric());
            if !section.ends_with("dependencies") || !opens_value || is_nested {
                is_nested &= !line.starts_with(['}', ']']);
                continue;
            }
            is_nested = matches!(line.trim_end().as_bytes().last(), Some(b'{' | b'['));
            if comment_of(line).is_none_or(|comment| comment.trim().is_empty()) {
                let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
                let message = format!("say why `{name}` is needed, in a comment on its line");
                findings.push(Finding::new(&file.path, number, message));
            }
        }
    }
    findings
}

/// What stands behind a `#` that is not part of a string.
fn comment_of(line: &str) -> Option<&str> {
    let mut is_quoted = false;
    for (at, letter) in line.char_indices() {
        match letter {
            '"' => is_quoted = !is_quoted,
            '#' if !is_quoted => return Some(&line[at + 1..]),
            _ => (),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree_of;

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let text = "\
[package]
name = \"x\"

[dependencies]
good = \"1\"  # it does this
bad = \"1\"
worse = { version = \"1\", features = [\"a#b\"] }
empty = \"1\" #

[dev-dependencies]
bad = \"1\"
[features]
fine = []
";
        let lines: Vec<usize> = check(&tree_of(&[("loadtest/Cargo.toml", text)]))
            .into_iter()
            .map(|finding| finding.line)
            .collect();
        assert_eq!(lines, [6, 7, 8, 11]);
    }
}
