//! Files that must exist: those that a reader or a tool looks for by name.

use super::Finding;
use crate::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    REQUIRED
        .iter()
        .filter(|(path, when)| tree.file(path).is_none() && tree.has(when))
        .map(|(path, _)| Finding::new(path, 1, "this file is missing"))
        .collect()
}

/// A path, and what has to exist for it to be missed.
const REQUIRED: [(&str, &str); 11] = [
    ("CHANGELOG.md", "Cargo.toml"),
    ("LICENSE-APACHE", "Cargo.toml"),
    ("LICENSE-MIT", "Cargo.toml"),
    ("deny.toml", "Cargo.toml"),
    ("docs/decisions/README.md", "Cargo.toml"),
    ("docs/style.md", "Cargo.toml"),
    ("docs/protocol/CHANGES.md", "src/wire"),
    ("docs/protocol/names.md", "src/cli"),
    ("docs/protocol/spec.md", "src/wire"),
    ("README.md", "src/cli"),
    ("docs/architecture.md", "src/cli"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree_of;

    #[test]
    fn a_missing_file_is_found() {
        let all: Vec<(&str, &str)> = REQUIRED.iter().map(|&(path, _)| (path, "")).collect();
        let mut files = vec![("Cargo.toml", ""), ("src/wire/frame.rs", ""), ("src/cli.rs", "")];
        files.extend(&all);
        assert_eq!(check(&tree_of(&files)), []);

        files.retain(|(path, _)| *path != "docs/protocol/CHANGES.md");
        let found = check(&tree_of(&files));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].file, "docs/protocol/CHANGES.md");
    }
}
