//! Finds the paths by which a file of the library names other modules of it.
//!
//! Works on tokens: `crate::…` and `super::…` in `use` trees, types and expressions alike. Macro
//! bodies count too, because what they expand to is code of the module that defines them. Also
//! keeps the examples and the load test out of our sources: they use what everybody can use.

use super::Finding;
use crate::rust_source::{Source, Token, group_end, matches};
use crate::tree::Tree;

/// A path from the root of the crate, at least one segment long.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Import {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.below("examples/", ".rs").chain(tree.below("loadtest/", ".rs")) {
        let source = Source::parse(&file.text);
        let reaches = source.find(&["#", "[", "path"]).chain(source.find(&["include", "!"]));
        for line in reaches {
            let message = "examples and the load test use the public API only; \
                           name `plugbus::…` instead of reaching for a source file";
            findings.push(Finding::new(&file.path, line, message));
        }
    }
    findings
}

/// The module of a file below `src/`; empty for the roots of library and binary.
pub(super) fn module_of(path: &str) -> Vec<String> {
    let inner = path.strip_prefix("src/").unwrap_or(path);
    let inner = inner.strip_suffix(".rs").unwrap_or(inner);
    let mut module: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if matches!(module.last().map(String::as_str), Some("mod")) {
        module.pop();
    }
    if matches!(module.as_slice(), [root] if root == "lib") {
        module.clear();
    }
    module
}

/// All paths in `source`, a file of `module`, that start with `crate` or `super`.
pub(super) fn imports(source: &Source, module: &[String]) -> Vec<Import> {
    let tokens = &source.tokens;
    let mut found = Vec::new();
    let mut inline: Vec<(String, usize)> = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        inline.retain(|&(_, end)| index < end);
        if token.text == "mod" && tokens.get(index + 2).is_some_and(|next| next.text == "{") {
            inline.push((tokens[index + 1].text.clone(), group_end(tokens, index + 2)));
        }
        let is_continued = index > 0 && tokens[index - 1].text == ":";
        let opens_path = matches!(token.text.as_str(), "crate" | "super")
            && matches(&tokens[index + 1..], &[":", ":"]);
        if is_continued || !opens_path {
            continue;
        }
        let base = match token.text.as_str() {
            "crate" => Vec::new(),
            _ => {
                let mut base = module.to_vec();
                base.extend(inline.iter().map(|(name, _)| name.clone()));
                base.pop();
                base
            }
        };
        collect(tokens, index + 3, base, &mut found);
    }
    found
}

/// Reads the path or the `use` tree at `index` and returns the index behind it.
fn collect(
    tokens: &[Token],
    mut index: usize,
    mut path: Vec<String>,
    found: &mut Vec<Import>,
) -> usize {
    let line = tokens.get(index).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(index) {
        match token.text.as_str() {
            "{" => {
                let end = group_end(tokens, index);
                index += 1;
                while index + 1 < end {
                    index = collect(tokens, index, path.clone(), found);
                    // To the next branch, over a comma or `as name`.
                    while index < end && tokens[index - 1].text != "," {
                        index += 1;
                    }
                }
                return end;
            }
            "super" => {
                path.pop();
            }
            "self" => (),
            "*" => {
                index += 1;
                break;
            }
            // What is neither a name nor a group ends the path: `crate::<T>`, a macro variable.
            word if !word.starts_with(|letter: char| letter.is_alphabetic() || letter == '_') => {
                break;
            }
            word => path.push(word.to_owned()),
        }
        index += 1;
        if !matches(&tokens[index..], &[":", ":"]) {
            break;
        }
        index += 2;
    }
    if !path.is_empty() {
        found.push(Import { path, line });
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree_of;

    #[test]
    fn finds_paths_in_use_trees_and_code() {
        let text = "
            use crate::wire::{Frame, header::{self, Header as H}, *};
            use super::ledger::Charge;
            use crate::{error::Refused, id::SessionId};
            pub(crate) fn f() -> crate::limit::Limit { super::super::net::clock::now() }
            mod inner { use super::Sibling; use super::super::other::X; }
            use std::crate_like::x;
        ";
        let module = ["engine".to_owned(), "channel".to_owned()];
        let paths: Vec<String> =
            imports(&Source::parse(text), &module).iter().map(|i| i.path.join("::")).collect();
        assert_eq!(
            paths,
            [
                "wire::Frame",
                "wire::header",
                "wire::header::Header",
                "wire",
                "engine::ledger::Charge",
                "error::Refused",
                "id::SessionId",
                "limit::Limit",
                "net::clock::now",
                "engine::channel::Sibling",
                "engine::other::X",
            ]
        );
    }

    #[test]
    fn knows_the_module_of_a_file() {
        assert_eq!(module_of("src/lib.rs"), Vec::<String>::new());
        assert_eq!(module_of("src/engine/mod.rs"), ["engine"]);
        assert_eq!(module_of("src/engine.rs"), ["engine"]);
        assert_eq!(module_of("src/engine/sim/check.rs"), ["engine", "sim", "check"]);
    }

    #[test]
    fn examples_do_not_reach_into_the_sources() {
        let tree = tree_of(&[
            ("examples/good.rs", "use plugbus::Broker;"),
            ("examples/bad.rs", "\n#[path = \"../src/wire.rs\"]\nmod wire;"),
            ("loadtest/src/main.rs", "include!(\"../../src/wire.rs\");"),
        ]);
        let found: Vec<(String, usize)> =
            check(&tree).into_iter().map(|finding| (finding.file, finding.line)).collect();
        assert_eq!(
            found,
            [("examples/bad.rs".to_owned(), 2), ("loadtest/src/main.rs".to_owned(), 1)]
        );
    }
}
