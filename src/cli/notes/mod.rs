//! The Rust plugins of the notes example, and its files.
//!
//! They are plugins like any other: processes of their own that know the broker through
//! [`crate::plugin`] only. That they come in this program means that the example needs nothing
//! else; `examples/notes/README.md` says what it does.

mod folder;
mod index;
mod intake;
pub(crate) mod reader;
pub(crate) mod search;

use std::fs;
use std::io;
use std::path::Path;

/// Writes the example into a directory that does not exist yet, with the sample notes in the place
/// of this project's documents.
pub(crate) fn unpack(directory: &Path) -> io::Result<()> {
    fs::create_dir(directory)?;
    fs::create_dir(directory.join("notes"))?;
    fs::write(directory.join("plugbus.toml"), CONFIG.replace(PROJECT_DOCUMENTS, "\"notes\""))?;
    fs::write(directory.join("extract.py"), EXTRACT)?;
    for (name, text) in SAMPLES {
        fs::write(directory.join("notes").join(name), text)?;
    }
    Ok(())
}

const CONFIG: &str = include_str!("../../../examples/notes/plugbus.toml");
const EXTRACT: &str = include_str!("../../../examples/notes/extract.py");

/// What the reader reads where the example stands in the project.
const PROJECT_DOCUMENTS: &str = "\"../../README.md\", \"../../docs\"";

macro_rules! samples {
    ($($name:literal,)*) => {
        &[$(($name, include_str!(concat!("../../../examples/notes/notes/", $name))),)*]
    };
}

/// The sample notes, sorted. A test compares them with the directory.
pub(crate) const SAMPLES: &[(&str, &str)] = samples! {
    "bread.md",
    "garden.md",
    "money.md",
    "networks.md",
    "queues.md",
    "reading.md",
    "shelf.txt",
    "sourdough.md",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_embedded() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/notes/notes");
        let mut files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let embedded: Vec<_> = SAMPLES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(embedded, files);
    }

    #[test]
    fn the_unpacked_example_reads_its_samples() {
        let place = tempfile::tempdir().unwrap();
        unpack(&place.path().join("notes")).unwrap();
        let config = fs::read_to_string(place.path().join("notes/plugbus.toml")).unwrap();
        assert!(config.contains("\"notes-reader\", \"notes\"]"), "{config}");
        assert!(unpack(&place.path().join("notes")).is_err(), "nothing is overwritten");
    }
}
