//! The files that are notes, and what changed in them since they were last looked at.
//!
//! Looks when it is asked to; who asks, and when, is decided in [`super::reader`]. A file counts as
//! changed when its content did: editors touch files, and notices of the system come twice.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use xxhash_rust::xxh64::xxh64;

/// Folders and files, and the contents that are known.
#[derive(Debug)]
pub(crate) struct Folder {
    roots: Vec<Root>,
    /// Hash of what was read last, by name.
    known: BTreeMap<String, u64>,
}

/// Why there is nothing to read.
#[derive(Debug, Error)]
pub(crate) enum FolderError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} and {} would have the same name", .0.display(), .1.display())]
    SameName(PathBuf, PathBuf),
}

/// A part of a file, as it travels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Part<'a> {
    /// Number of its first line.
    pub(crate) line: u32,
    /// Its lines, without the end of the last one.
    pub(crate) text: &'a str,
    /// Whether nothing follows.
    pub(crate) last: bool,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// The first word of the names of its files.
    name: String,
}

impl Folder {
    /// Files or folders. A name of a file begins with the last word of the path that leads to it,
    /// so that it can be found without being as long as the path.
    pub(crate) fn new(paths: &[PathBuf]) -> Result<Self, FolderError> {
        let mut roots: Vec<Root> = Vec::new();
        for path in paths {
            let path = fs::canonicalize(path)
                .map_err(|source| FolderError::Unreadable { path: path.clone(), source })?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Some(other) = roots.iter().find(|other| other.name == name) {
                return Err(FolderError::SameName(other.path.clone(), path));
            }
            roots.push(Root { path, name });
        }
        Ok(Self { roots, known: BTreeMap::new() })
    }

    /// What has to be watched, and whether everything below it too. A file is watched through its
    /// folder, because editors put a new file in the place of the old one.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (&Path, bool)> {
        self.roots.iter().map(|root| match root.path.parent() {
            Some(parent) if !root.path.is_dir() => (parent, false),
            _ => (root.path.as_path(), true),
        })
    }

    /// Names and paths of all notes that there are now, in the order of their names.
    pub(crate) fn list(&self) -> BTreeMap<String, PathBuf> {
        let mut files = BTreeMap::new();
        for root in &self.roots {
            if root.path.is_dir() {
                list_into(&mut files, &root.path, &root.name, 0);
            } else if root.path.is_file() {
                files.insert(root.name.clone(), root.path.clone());
            }
        }
        files
    }

    /// The text of a note, if it is not the one that is known.
    pub(crate) fn read(&mut self, name: &str, path: &Path) -> io::Result<Option<String>> {
        let size = fs::metadata(path)?.len();
        if size > FILE_SIZE_MAX {
            let message = format!("{size} bytes are over the limit of {FILE_SIZE_MAX}");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
        let bytes = fs::read(path)?;
        let hash = xxh64(&bytes, 0);
        if self.known.insert(name.to_owned(), hash) == Some(hash) {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&bytes);
        Ok(Some(text.trim_start_matches('\u{feff}').replace("\r\n", "\n")))
    }

    /// Forgets and names those that were known and are no more.
    pub(crate) fn take_missing(&mut self, listed: &BTreeMap<String, PathBuf>) -> Vec<String> {
        let missing: Vec<_> =
            self.known.keys().filter(|name| !listed.contains_key(*name)).cloned().collect();
        for name in &missing {
            self.known.remove(name);
        }
        missing
    }

    /// Whether a note has been read before.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    /// Takes all for unknown.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }

    /// How many are known.
    pub(crate) fn file_count(&self) -> usize {
        self.known.len()
    }
}

/// Cuts a text between lines. There is always a last part, be it empty.
pub(crate) fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = Some(text.strip_suffix('\n').unwrap_or(text));
    let mut line = 1;
    std::iter::from_fn(move || {
        let text = rest?;
        let cut = text.as_bytes().get(PART_SIZE_MIN..).and_then(|tail| {
            let end = tail.iter().position(|byte| *byte == b'\n')?;
            Some(PART_SIZE_MIN + end)
        });
        let text = cut.map_or(text, |cut| &text[..cut]);
        rest = cut.and_then(|cut| rest?.get(cut + 1..));
        let part = Part { line, text, last: rest.is_none() };
        line += 1 + u32::try_from(text.matches('\n').count()).unwrap_or(u32::MAX - line);
        Some(part)
    })
}

/// Folders that cannot be read are left out with a warning: others may be fine. Links to folders
/// are not followed, because they may lead in circles.
fn list_into(files: &mut BTreeMap<String, PathBuf>, folder: &Path, name: &str, depth: usize) {
    let entries = match fs::read_dir(folder) {
        Ok(entries) if depth <= DEPTH_MAX => entries,
        Ok(_) => return log::warn!("{} is too deep", folder.display()),
        Err(error) => return log::warn!("cannot read {}: {error}", folder.display()),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if is_hidden(&path) {
            continue;
        }
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            list_into(files, &path, &name, depth + 1);
        } else if is_note(&path) && path.is_file() {
            files.insert(name, path);
        }
    }
}

fn is_note(path: &Path) -> bool {
    let extension = path.extension().and_then(|it| it.to_str());
    extension.is_some_and(|it| EXTENSIONS.iter().any(|known| it.eq_ignore_ascii_case(known)))
}

/// Hidden files are settings, histories and half-written copies of editors.
fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

const EXTENSIONS: [&str; 5] = ["md", "markdown", "txt", "text", "rst"];

/// Nobody writes this much into one note; it is data.
const FILE_SIZE_MAX: u64 = 8 << 20;

/// Deeper trees are loops that the system does not show as such.
const DEPTH_MAX: usize = 64;

/// A part is at least this long, unless the file ends. Small enough that several fit a window.
const PART_SIZE_MIN: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_lines_and_all_of_them() {
        let long = "x".repeat(99) + "\n";
        let cases =
            ["", "\n", "one", "one\n", "\n\none\n\n", &long.repeat(1_000), &"y".repeat(100_000)];
        for text in cases {
            let parts: Vec<_> = parts(text).collect();
            assert!(parts.len() <= 1 + text.len() / PART_SIZE_MIN);
            let joined: Vec<_> = parts.iter().map(|part| part.text).collect();
            assert_eq!(joined.join("\n"), text.strip_suffix('\n').unwrap_or(text));
            assert!(parts.iter().rev().skip(1).all(|part| !part.last), "one is the last");
            assert!(parts.last().unwrap().last);
            let mut line = 1;
            for part in parts {
                assert_eq!(part.line, line);
                line += u32::try_from(part.text.split('\n').count()).unwrap();
            }
        }
    }

    #[test]
    fn notes_are_found_changed_ones_are_read_and_missing_ones_named() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("notes");
        fs::create_dir_all(root.join("deep/.git")).unwrap();
        for (file, text) in [
            ("b.md", "\u{feff}b\r\nb"),
            ("a.TXT", "a"),
            ("deep/c.markdown", "c"),
            ("deep/.git/d.md", "hidden"),
            (".e.md", "hidden"),
            ("picture.png", "no note"),
        ] {
            fs::write(root.join(file), text).unwrap();
        }
        let single = place.path().join("README.md");
        fs::write(&single, "r").unwrap();

        let mut folder = Folder::new(&[root.clone(), single.clone()]).unwrap();
        let all = ["README.md=r", "notes/a.TXT=a", "notes/b.md=b\nb", "notes/deep/c.markdown=c"];
        check(&mut folder, &all);
        check(&mut folder, &[]);
        fs::write(root.join("a.TXT"), "A").unwrap();
        fs::write(root.join("b.md"), "\u{feff}b\r\nb").unwrap();
        check(&mut folder, &["notes/a.TXT=A"]);
        fs::remove_dir_all(root.join("deep")).unwrap();
        fs::remove_file(&single).unwrap();
        check(&mut folder, &["-README.md", "-notes/deep/c.markdown"]);
        assert_eq!(folder.file_count(), 2);
    }

    #[test]
    fn two_folders_need_two_names() {
        let place = tempfile::tempdir().unwrap();
        let paths = ["a/notes", "b/notes"].map(|path| place.path().join(path));
        paths.iter().for_each(|path| fs::create_dir_all(path).unwrap());
        assert!(Folder::new(&paths).is_err());
        assert!(Folder::new(&[place.path().join("none")]).is_err());
    }

    #[track_caller]
    fn check(folder: &mut Folder, expected: &[&str]) {
        let listed = folder.list();
        let mut changes: Vec<_> =
            folder.take_missing(&listed).into_iter().map(|name| format!("-{name}")).collect();
        for (name, path) in &listed {
            if let Some(text) = folder.read(name, path).unwrap() {
                changes.push(format!("{name}={text}"));
            }
        }
        assert_eq!(changes, expected);
    }
}
