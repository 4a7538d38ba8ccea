//! The header of a Python file: PEP 723's `# /// script` block.
//!
//! ```python
//! # /// script
//! # requires-python = ">=3.9"
//! # dependencies = ["numpy"]
//! #
//! # [tool.plugbus]
//! # version = "1.0.0"
//! # lifecycle = { restart = "on-failure" }
//! # ///
//! ```
//!
//! `[tool.plugbus]` is a manifest in which `id` may be left out, because the file has a name, and
//! `[run]` names neither runtime nor entry, because the file is the plugin. Tables of other tools
//! are theirs.

use std::path::Path;

use super::requires::Tool;
use super::{Manifest, ManifestError, located, read_tables};
use crate::host::document::{self, Entry, Problem};
use crate::id::PluginId;

/// Reads the header, if there is one.
pub(super) fn read(text: &str, path: &Path) -> Result<Manifest, ManifestError> {
    let block = match Block::find(text) {
        Ok(block) => block.unwrap_or_default(),
        Err(problem) => return Err(located(path, text, 0, problem)),
    };
    read_block(&block.toml, path)
        .map_err(|problem| located(path, &block.toml, block.lines_before, problem))
}

/// The content of the block, its comment signs removed.
#[derive(Debug, Default)]
struct Block {
    toml: String,
    /// Lines of the file before it.
    lines_before: usize,
}

impl Block {
    fn find(text: &str) -> Result<Option<Self>, Problem> {
        let mut place = 0;
        let mut found: Option<Self> = None;
        let mut open: Option<(usize, Self)> = None;
        for (index, line) in text.split_inclusive('\n').enumerate() {
            let content = line.trim_end();
            open = match open.take() {
                None if content == "# /// script" => {
                    if found.is_some() {
                        return Err(Problem::new(place, "a second `# /// script` block"));
                    }
                    Some((place, Self { toml: String::new(), lines_before: index + 1 }))
                }
                None => None,
                Some((_, block)) if content == "# ///" => {
                    found = Some(block);
                    None
                }
                Some((start, mut block)) => {
                    let Some(line) = content.strip_prefix('#') else {
                        return Err(Problem::new(start, UNCLOSED));
                    };
                    block.toml += line.strip_prefix(' ').unwrap_or(line);
                    block.toml.push('\n');
                    Some((start, block))
                }
            };
            place += line.len();
        }
        match open {
            Some((start, _)) => Err(Problem::new(start, UNCLOSED)),
            None => Ok(found),
        }
    }
}

const UNCLOSED: &str = "this block has no end: add a line `# ///` below it";

fn read_block(toml: &str, path: &Path) -> Result<Manifest, Problem> {
    let entries = document::parse_toml(toml)?;
    let find = |entries: &[Entry], key: &str| -> Option<Entry> {
        entries.iter().find(|entry| entry.key == key).cloned()
    };
    let tool = match find(&entries, "tool") {
        Some(tools) => find(tools.table()?, "plugbus"),
        None => None,
    };
    let tables: &[Entry] = match &tool {
        Some(tool) => tool.table()?,
        None => &[],
    };
    let id = match find(tables, "id") {
        Some(id) => PluginId::parse(id.string()?).map_err(|fault| id.wrong(fault.message))?,
        None => id_of(path).map_err(|message| Problem::new(0, message))?,
    };
    let mut manifest = Manifest::new(id, path);
    if let Some(run) = find(tables, "run") {
        for key in run.table()? {
            if ["entry", "command"].contains(&key.key.as_str()) {
                let message = format!("`{}` has no meaning here: this file is the plugin", key.key);
                return Err(key.wrong_key(message));
            }
        }
    }
    if let Some(format) = find(tables, "manifest")
        && format.as_integer() != Some(super::FORMAT)
    {
        let message = format!("`manifest` must be {}, the only format so far", super::FORMAT);
        return Err(format.wrong(message));
    }
    read_tables(&mut manifest, tables, "tool.plugbus", &["manifest", "id"])?;
    manifest.run.entry = Some(path.to_owned());
    manifest.run.runtime.get_or_insert_with(|| "python".to_owned());
    if let Some(range) = find(&entries, "requires-python") {
        let tool = python(range.string()?).map_err(|reason| range.wrong(reason))?;
        manifest.requires.tools.push(tool);
    }
    if let Some(packages) = find(&entries, "dependencies") {
        let packages = packages.strings("[\"numpy >= 2\"]")?;
        manifest.requires.packages.python.extend(packages.into_iter().map(ToOwned::to_owned));
    }
    Ok(manifest)
}

/// A plugin's id from the name of its file.
pub(crate) fn id_of(path: &Path) -> Result<PluginId, String> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    PluginId::parse(&stem.replace('_', "-"))
        .map_err(|fault| format!("{} cannot name a plugin: {fault}", path.display()))
}

/// Python writes its ranges a little differently.
fn python(range: &str) -> Result<Tool, String> {
    let wrong = |reason: &str| {
        format!("`requires-python` {range:?}: {reason}; write it like \">=3.9\" or \">=3.9,<4\"")
    };
    let parts: Result<Vec<_>, _> = range
        .split(',')
        .map(|part| {
            let part = part.trim();
            match part.strip_prefix("~=").map(str::trim) {
                // Compatible with 3.9 is any 3 from 3.9 on, compatible with 3.9.2 any such 3.9.
                Some(version) => match version.matches('.').count() {
                    1 => Ok(format!("^{version}")),
                    2 => Ok(format!("~{version}")),
                    _ => Err(wrong("`~=` wants two or three numbers")),
                },
                None if part.starts_with("!=") => Err(wrong("`!=` is not understood")),
                None => Ok(part.trim_end_matches(".*").to_owned()),
            }
        })
        .collect();
    let version =
        super::requires::parse_range(&parts?.join(", ")).map_err(|reason| wrong(&reason))?;
    Ok(Tool { name: "python3".to_owned(), version })
}
