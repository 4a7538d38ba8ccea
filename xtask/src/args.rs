//! Command-line arguments: flags with and without a value, and positionals.
//!
//! A command takes what it knows and then calls [`Args::finish`], so that a misspelt flag is an
//! error instead of being ignored.

use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

#[derive(Debug)]
pub(crate) struct Args {
    rest: Vec<String>,
}

impl Args {
    pub(crate) fn from_command_line() -> Self {
        Self { rest: std::env::args().skip(1).collect() }
    }

    /// Takes `--name` if it is there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.rest.len();
        self.rest.retain(|arg| arg != name);
        self.rest.len() < before
    }

    /// Takes `--name VALUE` or `--name=VALUE`.
    pub(crate) fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let assigned = format!("{name}=");
        let Some(index) =
            self.rest.iter().position(|arg| arg == name || arg.starts_with(&assigned))
        else {
            return Ok(None);
        };
        let flag = self.rest.remove(index);
        let text = match flag.strip_prefix(&assigned) {
            Some(text) => text.to_owned(),
            None if index < self.rest.len() => self.rest.remove(index),
            None => bail!("{name} wants a value"),
        };
        let value = text.parse().ok().with_context(|| format!("{name} cannot be `{text}`"))?;
        Ok(Some(value))
    }

    /// Takes the first argument that is no flag.
    pub(crate) fn positional(&mut self) -> Option<String> {
        let index = self.rest.iter().position(|arg| !arg.starts_with('-'))?;
        Some(self.rest.remove(index))
    }

    pub(crate) fn help(&mut self) -> bool {
        self.flag("--help") | self.flag("-h")
    }

    /// Refuses what no one has taken.
    pub(crate) fn finish(&self) -> Result<()> {
        match self.rest.first() {
            None => Ok(()),
            Some(arg) => bail!("`{arg}` is not understood here; --help lists what is"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_flags_values_and_positionals_in_any_order() {
        let mut args = args(&["--seconds", "5", "decoder", "--check", "--seeds=7"]);
        assert!(args.flag("--check"));
        assert!(!args.flag("--check"));
        assert_eq!(args.value::<u64>("--seconds").unwrap(), Some(5));
        assert_eq!(args.value::<u64>("--seeds").unwrap(), Some(7));
        assert_eq!(args.value::<u64>("--seeds").unwrap(), None);
        assert_eq!(args.positional().as_deref(), Some("decoder"));
        args.finish().unwrap();
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert!(args(&["--sedes", "5"]).finish().is_err());
        assert!(args(&["--seeds"]).value::<u64>("--seeds").is_err());
        assert!(args(&["--seeds", "many"]).value::<u64>("--seeds").is_err());
    }

    fn args(words: &[&str]) -> Args {
        Args { rest: words.iter().map(|&word| word.to_owned()).collect() }
    }
}
