//! Dependencies are what `deny.toml` allows: their licences, their sources, one version of each.
//!
//! `cargo metadata` knows all of it, so that no other tool has to be installed. Only what is built
//! on this kind of machine counts, with every feature.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::Finding;
use crate::process;
use crate::tree::Tree;

pub(super) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let rules = Rules::parse(&tree.file(RULES).context("deny.toml is missing")?.text)?;
    let host = process::stdout(Command::new("rustc").arg("-vV"))?;
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or_default();
    let metadata = process::stdout(
        process::cargo()
            .args(["metadata", "--format-version=1", "--all-features", "--locked"])
            .args(["--filter-platform", host])
            .current_dir(&tree.root),
    )?;
    let metadata = serde_json::from_str(&metadata).context("cannot read `cargo metadata`")?;
    Ok(judge(&rules, &packages(&metadata)))
}

fn judge(rules: &Rules, packages: &[Package]) -> Vec<Finding> {
    let mut messages = Vec::new();
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Package { name, version, licence, source } in packages {
        if !Expression::new(licence).holds(&rules.licences) {
            messages.push(format!("`{name} {version}` has licence `{licence}`"));
        }
        if !source.is_empty() && source != CRATES_IO {
            messages.push(format!("`{name} {version}` comes from `{source}`"));
        }
        if !rules.skipped.contains(&format!("{name}@{version}")) {
            versions.entry(name).or_default().push(version);
        }
    }
    for (name, versions) in versions {
        if versions.len() > 1 {
            messages.push(format!("`{name}` is built in versions {}", versions.join(" and ")));
        }
    }
    messages
        .into_iter()
        .map(|message| Finding::new(RULES, 1, format!("{message}, which is not allowed here")))
        .collect()
}

#[derive(Debug)]
struct Rules {
    licences: Vec<String>,
    /// `name@version` of what may be there beside another version of itself.
    skipped: Vec<String>,
}

impl Rules {
    fn parse(text: &str) -> Result<Self> {
        let rules: toml::Table = text.parse().context("deny.toml is not TOML")?;
        let list = |section: &str, key: &str| {
            let value = rules.get(section).and_then(|section| section.get(key));
            value.and_then(toml::Value::as_array).cloned().unwrap_or_default()
        };
        let text_of = |value: &toml::Value| value.as_str().map(str::to_owned);
        let licences = list("licenses", "allow").iter().filter_map(text_of).collect();
        let skipped = list("bans", "skip")
            .iter()
            .filter_map(|entry| entry.get("crate").and_then(text_of))
            .collect();
        Ok(Self { licences, skipped })
    }
}

#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    licence: String,
    /// Empty for a package of this repository.
    source: String,
}

/// The packages that the resolver chose, in its order.
fn packages(metadata: &Value) -> Vec<Package> {
    let nodes = metadata["resolve"]["nodes"].as_array().map_or(&[][..], Vec::as_slice);
    let is_used = |id: &Value| nodes.iter().any(|node| &node["id"] == id);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    metadata["packages"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter(|package| is_used(&package["id"]))
        .map(|package| Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: text(&package["license"]),
            source: text(&package["source"]),
        })
        .collect()
}

/// A licence expression: names joined with `AND`, `OR` (or the older `/`) and parentheses.
struct Expression {
    words: Vec<String>,
    index: usize,
}

impl Expression {
    fn new(text: &str) -> Self {
        let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        // `A WITH B` is one name.
        let spaced = spaced.replace(" WITH ", "\u{0}WITH\u{0}");
        let words = spaced.split_whitespace().map(|word| word.replace('\u{0}', " ")).collect();
        Self { words, index: 0 }
    }

    /// Whether the licences in `allowed` are enough to use the package.
    fn holds(mut self, allowed: &[String]) -> bool {
        let holds = self.any(allowed);
        holds && self.index == self.words.len()
    }

    fn any(&mut self, allowed: &[String]) -> bool {
        let mut holds = self.all(allowed);
        while self.take("OR") {
            holds |= self.all(allowed);
        }
        holds
    }

    fn all(&mut self, allowed: &[String]) -> bool {
        let mut holds = self.one(allowed);
        while self.take("AND") {
            holds &= self.one(allowed);
        }
        holds
    }

    fn one(&mut self, allowed: &[String]) -> bool {
        if self.take("(") {
            return self.any(allowed) & self.take(")");
        }
        let word = self.words.get(self.index);
        self.index += 1;
        word.is_some_and(|word| allowed.contains(word))
    }

    fn take(&mut self, wanted: &str) -> bool {
        let is_there = self.words.get(self.index).is_some_and(|word| word == wanted);
        self.index += usize::from(is_there);
        is_there
    }
}

const RULES: &str = "deny.toml";
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions() {
        let allowed = ["MIT", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
        let cases = [
            ("MIT", true),
            ("MIT OR GPL-3.0", true),
            ("GPL-3.0/MIT", true),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
            ("MIT AND GPL-3.0", false),
            ("GPL-3.0 OR MIT AND GPL-2.0", false),
            ("Apache-2.0", false),
            ("(MIT", false),
            ("MIT MIT", false),
            ("", false),
        ];
        for (text, holds) in cases {
            assert_eq!(Expression::new(text).holds(&allowed), holds, "{text}");
        }
    }

    #[test]
    fn what_is_not_allowed_is_found() {
        let rules = Rules::parse(
            "[licenses]\nallow = [\"MIT\"]\n\
             [bans]\nskip = [{ crate = \"b@1.0.0\", reason = \"\" }]",
        )
        .unwrap();
        let package = |name: &str, version: &str, licence: &str, source: &str| Package {
            name: name.to_owned(),
            version: version.to_owned(),
            licence: licence.to_owned(),
            source: source.to_owned(),
        };
        let fine = [
            package("a", "1.0.0", "MIT", ""),
            package("b", "1.0.0", "MIT", CRATES_IO),
            package("b", "2.0.0", "MIT", CRATES_IO),
        ];
        assert_eq!(judge(&rules, &fine), []);
        let wrong = [
            package("a", "1.0.0", "GPL-3.0", CRATES_IO),
            package("c", "1.0.0", "MIT", "git+https://example.org/c"),
            package("c", "2.0.0", "MIT", CRATES_IO),
        ];
        assert_eq!(judge(&rules, &wrong).len(), 3);
    }
}
