//! Keeps `docs/protocol/spec.md` true: when the code of `src/wire` changes, somebody has to look at
//! the specification and say so with `cargo xtask tidy --bless`.
//!
//! The file `docs/protocol/.coupled` has one line for each source file, so that two branches that
//! touch different files do not collide. What is hashed is the code without comments, layout and
//! tests: a change that cannot touch the wire asks nobody to look.

use std::fs;
use std::iter;

use anyhow::{Context as _, Result};

use super::Finding;
use crate::rust_source::Source;
use crate::tree::{File, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    if tree.file(SPEC).is_none() {
        return Vec::new();
    }
    let recorded = tree.file(RECORD).map_or("", |file| file.text.as_str());
    let mut findings: Vec<Finding> = coupled(tree)
        .filter(|file| !recorded.lines().any(|line| line == record_of(file)))
        .map(|file| {
            let message = format!(
                "changed since {SPEC} was last looked at: check that it is still true, \
                 then run `cargo xtask tidy --bless`"
            );
            Finding::new(&file.path, 1, message)
        })
        .collect();
    for (index, line) in recorded.lines().enumerate() {
        let path = line.split_whitespace().nth(1).unwrap_or_default();
        if tree.file(path).is_none() {
            let message =
                format!("`{path}` is gone: check {SPEC}, then `cargo xtask tidy --bless`");
            findings.push(Finding::new(RECORD, index + 1, message));
        }
    }
    findings
}

/// Records the code as it is, and returns where.
pub(super) fn bless(tree: &Tree) -> Result<&'static str> {
    let lines: String = coupled(tree).flat_map(|file| [record_of(file), "\n".to_owned()]).collect();
    fs::write(tree.root.join(RECORD), lines).with_context(|| format!("cannot write {RECORD}"))?;
    Ok(RECORD)
}

fn coupled(tree: &Tree) -> impl Iterator<Item = &File> {
    tree.below("src/wire", ".rs").filter(|file| !file.path.ends_with("/tests.rs"))
}

fn record_of(file: &File) -> String {
    let source = Source::parse(&file.text);
    let words = source.tokens.iter().flat_map(|token| token.text.bytes().chain(iter::once(0)));
    format!("{:016x}  {}", fnv1a(words), file.path)
}

/// The hash of Fowler, Noll and Vo, 64 bits: the same everywhere and for ever, which the hasher of
/// the standard library does not promise.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

const SPEC: &str = "docs/protocol/spec.md";
const RECORD: &str = "docs/protocol/.coupled";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree_of;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(fnv1a(b"".iter().copied()), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a".iter().copied()), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar".iter().copied()), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn only_a_change_of_the_code_asks_for_a_look() {
        let before = "const SIZE: usize = 36;\n";
        let record =
            tree_of(&[("src/wire/frame.rs", before)]).files.iter().map(record_of).collect();
        let cases = [
            (before, false),
            ("// Why.\nconst SIZE : usize\n = 36;\n#[cfg(test)]\nmod tests { }\n", false),
            ("const SIZE: usize = 37;\n", true),
        ];
        for (text, is_found) in cases {
            let record: &String = &record;
            let files = [("src/wire/frame.rs", text), (SPEC, ""), (RECORD, record.as_str())];
            assert_eq!(!check(&tree_of(&files)).is_empty(), is_found, "{text}");
        }
    }

    #[test]
    fn new_and_removed_files_ask_for_a_look() {
        assert_eq!(
            check(&tree_of(&[("src/wire/new.rs", "const A: u8 = 1;"), (SPEC, "")])).len(),
            1
        );
        assert_eq!(check(&tree_of(&[(SPEC, ""), (RECORD, "00  src/wire/old.rs\n")])).len(), 1);
    }
}
