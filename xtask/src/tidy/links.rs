//! Relative links of the Markdown files lead somewhere: to a file, and to a heading where they name
//! one.

use super::Finding;
use crate::tree::{File, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.below("", ".md") {
        for (line, target) in links(&file.text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if let Err(message) = follow(tree, file, target) {
                findings.push(Finding::new(&file.path, line, message));
            }
        }
    }
    findings
}

fn follow(tree: &Tree, file: &File, target: &str) -> Result<(), String> {
    let (path, heading) = target.split_once('#').unwrap_or((target, ""));
    let path = if path.is_empty() { file.path.clone() } else { resolve(&file.path, path) };
    if !tree.has(&path) {
        return Err(format!("the link to `{target}` leads nowhere"));
    }
    let Some(text) = tree.file(&path).map(|file| &file.text) else { return Ok(()) };
    if heading.is_empty() || !path.ends_with(".md") || anchors(text).any(|name| name == heading) {
        return Ok(());
    }
    Err(format!("`{path}` has no heading `#{heading}`"))
}

/// Targets of inline links and of link definitions, outside of code.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let mut rest = line;
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let Some(end) = rest.find([')', ' ']) else { break };
            // What stands between backticks is code and no link.
            let before = &line[..line.len() - rest.len()];
            if before.matches('`').count() % 2 == 0 {
                found.push((number, &rest[..end]));
            }
        }
        if let Some((name, target)) = line.split_once("]: ")
            && name.starts_with('[')
            && !name.starts_with("[^")
        {
            found.push((number, target.split(' ').next().unwrap_or_default()));
        }
    }
    found
}

/// Headings as they appear in addresses.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    prose(text).filter(|(_, line)| line.starts_with('#')).map(|(_, line)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        title
            .chars()
            .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
            .map(|letter| if letter == ' ' { '-' } else { letter })
            .collect()
    })
}

/// The lines outside of fenced code, counted from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((index + 1, line))
    })
}

/// `target` as seen from the folder of `from`.
fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => (),
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree_of;

    #[test]
    fn a_dead_link_is_found() {
        let cases = [
            ("[a](protocol/spec.md)", false),
            ("[a](./protocol/../protocol/spec.md#2-the-frame)", false),
            ("[a](../LICENSE)", false),
            ("[a](protocol)", false),
            ("[a](#here)\n\n## Here", false),
            ("[a](https://example.org/gone) and `[a](gone.md)`", false),
            ("```\n[a](gone.md)\n```", false),
            ("[a]: protocol/spec.md", false),
            ("[a](protocol/gone.md)", true),
            ("[a](protocol/spec.md) [b](gone.md)", true),
            ("[a](protocol/spec.md#gone)", true),
            ("[a](#gone)", true),
            ("[a]: gone.md", true),
        ];
        for (text, is_dead) in cases {
            let tree = tree_of(&[
                ("LICENSE", ""),
                ("docs/a.md", text),
                ("docs/protocol/spec.md", "# Spec\n\n## 2. The frame\n"),
            ]);
            let findings = check(&tree);
            assert_eq!(!findings.is_empty(), is_dead, "{text}: {findings:?}");
        }
    }
}
