//! `plugbus new`: a plugin that runs, with its test.

use std::fs::{self, DirBuilder};
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::json;

use super::failure::{Failure, Result, Status};
use super::terminal::{BOLD, DIM, Terminal};
use crate::id::PluginId;

/// Writes a plugin that runs, with its manifest and its test, into a new directory.
#[derive(Debug, clap::Args)]
pub(super) struct NewArgs {
    /// Its id; the directory gets the same name
    name: String,
    /// The language
    #[arg(long, value_enum, default_value = "python")]
    lang: Language,
    /// Make the directory in this one
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Language {
    Python,
    Rust,
}

/// A file of a template: where it goes and what is in it. Both may name `{id}` and `{file}`.
type Template = (&'static str, &'static str);

const PYTHON: &[Template] = &[
    ("plugin.toml", include_str!("python/plugin.toml")),
    ("{file}.py", include_str!("python/plugin.py")),
    ("test_{file}.py", include_str!("python/test_plugin.py")),
];

const RUST: &[Template] = &[
    ("plugin.toml", include_str!("rust/plugin.toml")),
    ("Cargo.toml", include_str!("rust/package.toml")),
    ("src/main.rs", include_str!("rust/main.rs.txt")),
    ("tests/plugin.rs", include_str!("rust/tests.rs.txt")),
];

pub(super) fn run(terminal: Terminal, args: &NewArgs) -> Result<()> {
    let id = PluginId::parse(&args.name).map_err(|fault| {
        Failure::usage(fault.message).hint("an id is like `word-count`: lower case, digits and -")
    })?;
    let directory = args.dir.join(id.as_str());
    let templates = match args.lang {
        Language::Python => PYTHON,
        Language::Rust => RUST,
    };
    let files: Vec<_> = templates
        .iter()
        .map(|(path, content)| (directory.join(fill(path, &id)), fill(content, &id)))
        .collect();
    create_directory(&directory)?;
    for (path, content) in &files {
        write(path, content).map_err(|error| {
            Failure::failed(format_args!("cannot write {}: {error}", path.display()))
        })?;
    }
    report(terminal, args.lang, &id, &directory, &files)
}

fn report(
    terminal: Terminal,
    language: Language,
    id: &PluginId,
    directory: &Path,
    files: &[(PathBuf, String)],
) -> Result<()> {
    if terminal.json {
        let files: Vec<_> = files.iter().map(|(path, _)| path.display().to_string()).collect();
        return terminal.json(&json!({"plugin": id.as_str(), "files": files}));
    }
    for (path, _) in files {
        terminal.line(format_args!("{DIM}wrote{DIM:#} {}", path.display()))?;
    }
    let (start, test) = match language {
        Language::Python => {
            (format!("plugbus run {}.py", file_stem(id)), "python3 -m unittest".to_owned())
        }
        Language::Rust => {
            (format!("cargo build && plugbus run target/debug/{id}"), "cargo test".to_owned())
        }
    };
    terminal.line(format_args!(
        "\nIn {}:\n  {BOLD}{start}{BOLD:#}\n  {BOLD}plugbus call {id}.greet name=Ann{BOLD:#}   \
         {DIM}in another terminal{DIM:#}\n  {BOLD}{test}{BOLD:#}",
        directory.display()
    ))
}

/// Somebody's files are never written over.
fn create_directory(directory: &Path) -> Result<()> {
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })
            .map_err(|error| Failure::failed(format_args!("{}: {error}", parent.display())))?;
    }
    DirBuilder::new().create(directory).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let message = format!("{} exists already", directory.display());
            Failure::new(Status::Refused, message).hint("choose another name, or --dir")
        }
        _ => Failure::failed(format_args!("cannot make {}: {error}", directory.display())),
    })
}

fn write(path: &Path, content: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().expect("a file of a template is in a directory"))?;
    fs::write(path, content)
}

fn fill(template: &str, id: &PluginId) -> String {
    template
        .replace("{id}", id.as_str())
        .replace("{file}", &file_stem(id))
        .replace("{class}", &class_name(id))
        .replace("{sdk}", &rust_sdk())
}

/// Modules of Python have no `-` in their names.
fn file_stem(id: &PluginId) -> String {
    id.as_str().replace('-', "_")
}

/// `WordCount` for `word-count`.
fn class_name(id: &PluginId) -> String {
    let words = id.as_str().split('-').filter(|word| !word.is_empty());
    words.map(|word| word[..1].to_uppercase() + &word[1..]).collect()
}

/// What stands in Cargo.toml: the source from which this program was built, while it is there.
fn rust_sdk() -> String {
    let source = env!("CARGO_MANIFEST_DIR");
    let version = env!("CARGO_PKG_VERSION");
    let place = match Path::new(source).join("Cargo.toml").is_file() {
        true => format!("path = {}", toml::Value::from(source)),
        false => format!("version = \"{version}\""),
    };
    format!("{{ {place}, default-features = false, features = [\"plugin\"] }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_language() {
        let id = PluginId::parse("word-count-2").unwrap();
        assert_eq!((file_stem(&id), class_name(&id)), ("word_count_2".into(), "WordCount2".into()));
    }

    #[test]
    fn no_placeholder_is_left_and_every_manifest_names_the_plugin() {
        let id = PluginId::parse("word-count").unwrap();
        for (path, content) in PYTHON.iter().chain(RUST) {
            let content = fill(content, &id);
            for name in ["{id}", "{file}", "{class}", "{sdk}"] {
                assert!(!content.contains(name) && !fill(path, &id).contains(name), "{path}");
            }
            if *path == "plugin.toml" {
                let manifest: toml::Table = content.parse().unwrap();
                assert_eq!(manifest["id"].as_str(), Some("word-count"));
            }
        }
    }
}
