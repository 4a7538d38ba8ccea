//! The files of this repository.
//!
//! A walk with a short list of exceptions instead of `git ls-files`, so that it works on an
//! unpacked archive and sees a new file before it is committed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Every text file of the repository, in memory.
///
/// The tests build one by hand, so that a check never has to know where a file comes from.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) root: PathBuf,
    /// Sorted by path.
    pub(crate) files: Vec<File>,
}

/// A file with its path from the root, whose parts are separated by `/`.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Tree {
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for path in paths(root)? {
            let bytes =
                fs::read(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
            // What is not text is no business of any check.
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(File { path, text });
            }
        }
        Ok(Self { root: root.to_owned(), files })
    }

    pub(crate) fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Files in `folder`, which ends with `/` or is empty, whose name ends with `ending`.
    pub(crate) fn below<'a>(
        &'a self,
        folder: &'a str,
        ending: &'a str,
    ) -> impl Iterator<Item = &'a File> {
        self.files
            .iter()
            .filter(move |file| file.path.starts_with(folder) && file.path.ends_with(ending))
    }

    /// Whether a file or a folder of that name exists.
    pub(crate) fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        self.files.iter().any(|file| file.path == path || file.path.starts_with(&folder))
            || self.root.join(path).exists()
    }
}

impl File {
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

/// The root of the repository this program was built from.
pub(crate) fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the package lies in the repository").to_owned()
}

/// Paths of all files below `root`, sorted, without what is built or kept by tools.
pub(crate) fn paths(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let shown = root.join(&folder);
        for entry in fs::read_dir(&shown).with_context(|| format!("cannot list {shown:?}"))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if is_built(&name) {
                continue;
            }
            let path = format!("{folder}{name}");
            match entry.file_type()? {
                kind if kind.is_dir() => folders.push(format!("{path}/")),
                kind if kind.is_file() => found.push(path),
                _ => (),
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Copies the files at `paths` from `root` to `target` and removes what else is there. A file that
/// is the same already is not touched, so that a build in `target` stays warm.
pub(crate) fn copy(root: &Path, target: &Path) -> Result<()> {
    fs::create_dir_all(target)?;
    let wanted = paths(root)?;
    for path in paths(target)? {
        if wanted.binary_search(&path).is_err() {
            fs::remove_file(target.join(path))?;
        }
    }
    for path in wanted {
        copy_file(&root.join(&path), &target.join(&path))
            .with_context(|| format!("cannot copy {path}"))?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from)?;
    if fs::read(to).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    fs::create_dir_all(to.parent().expect("a file lies in a folder"))?;
    fs::write(to, bytes)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    Ok(())
}

fn is_built(name: &str) -> bool {
    matches!(name, ".git" | "target" | "build" | "__pycache__" | ".mypy_cache" | ".venv")
        || name.ends_with(".egg-info")
}

#[cfg(test)]
pub(crate) fn tree_of(files: &[(&str, &str)]) -> Tree {
    let mut files: Vec<File> = files
        .iter()
        .map(|&(path, text)| File { path: path.to_owned(), text: text.to_owned() })
        .collect();
    files.sort_unstable_by(|left, right| left.path.cmp(&right.path));
    Tree { root: PathBuf::from("/nonexistent"), files }
}
