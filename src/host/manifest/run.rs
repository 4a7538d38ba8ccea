//! `[run]`: how a plugin is started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;

use super::units::read_count;
use crate::host::document::{Entry, Problem};
use crate::limit;

/// How a plugin is started: by a command, or by a runtime that knows what to do with its file.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Run {
    /// What runs `entry`: python, node, lua, go, binary, … or one of `plugbus.toml`. Unless given,
    /// the ending of `entry` says it.
    pub runtime: Option<String>,
    /// The plugin's file, relative to the manifest.
    pub entry: Option<PathBuf>,
    /// A program and its arguments, in the place of `runtime` and `entry`. A program with a slash
    /// is relative to the manifest.
    pub command: Vec<String>,
    /// Arguments after those of the runtime or the command.
    pub args: Vec<String>,
    /// Variables that are added to its environment.
    pub env: BTreeMap<String, String>,
    /// Variables of the broker that it may see, beside `PATH`, `HOME`, `LANG` and their like.
    pub pass_env: Vec<String>,
    /// Where it runs, relative to the manifest. Unless given, where the manifest is.
    pub dir: Option<PathBuf>,
    /// Processes that share its requests.
    #[schemars(range(min = 1, max = 64), extend("default" = 1))]
    pub instances: u32,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            runtime: None,
            entry: None,
            command: Vec::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            pass_env: Vec::new(),
            dir: None,
            instances: 1,
        }
    }
}

impl Run {
    pub(super) fn read(
        &mut self,
        entries: &[Entry],
        place: &str,
        base: &Path,
    ) -> Result<(), Problem> {
        for entry in entries {
            if !self.read_key(entry, base)? {
                return Err(entry.unknown(&format!("[{place}]"), &Self::KEYS));
            }
        }
        Ok(())
    }

    /// False if it is no key of this table. What is there already is replaced: a configuration
    /// knows better than the manifest that it names.
    pub(crate) fn read_key(&mut self, entry: &Entry, base: &Path) -> Result<bool, Problem> {
        match entry.key.as_str() {
            "runtime" => {
                self.runtime = Some(entry.string()?.to_owned());
                self.command.clear();
            }
            "entry" => {
                let path = entry.string()?;
                if path.is_empty() {
                    return Err(entry.mismatch("the plugin's file"));
                }
                self.entry = Some(base.join(path));
                self.command.clear();
            }
            "command" => {
                self.command = read_command(entry, base)?;
                (self.runtime, self.entry) = (None, None);
            }
            "args" => self.args = owned(entry.strings("[\"--fast\"]")?),
            "env" => {
                for variable in entry.table()? {
                    let name = &variable.key;
                    if name.is_empty() || name.contains(['=', '\0']) {
                        return Err(variable.wrong(format!("{name:?} cannot be a variable's name")));
                    }
                    self.env.insert(name.clone(), variable.string()?.to_owned());
                }
            }
            "pass_env" => self.pass_env = owned(entry.strings("[\"API_TOKEN\"]")?),
            "dir" => self.dir = Some(base.join(entry.string()?)),
            "instances" => {
                let count = read_count(entry)?;
                if count > INSTANCES_MAX {
                    return Err(entry.mismatch(&format!("at most {INSTANCES_MAX}")));
                }
                self.instances = count;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Whether there is anything to start.
    pub(super) fn is_complete(&self) -> bool {
        !self.command.is_empty() || self.entry.is_some()
    }

    pub(crate) const KEYS: [&str; 8] =
        ["runtime", "entry", "command", "args", "env", "pass_env", "dir", "instances"];
}

/// One text names both a command and a runtime or an entry: which of them is meant is not for us to
/// guess.
pub(crate) fn check_one_way(entries: &[Entry]) -> Result<(), Problem> {
    let has = |key: &str| entries.iter().find(|entry| entry.key == key);
    match (has("command"), has("entry").or_else(|| has("runtime"))) {
        (Some(_), Some(other)) => Err(other.wrong_key(format!(
            "`command` says everything, so `{}` has no meaning beside it: remove one of them",
            other.key
        ))),
        _ => Ok(()),
    }
}

/// The program is relative to the file where it is a path; its arguments are as they are.
fn read_command(entry: &Entry, base: &Path) -> Result<Vec<String>, Problem> {
    let mut words = owned(entry.strings(EXAMPLE)?);
    let Some(program) = words.first_mut().filter(|program| !program.is_empty()) else {
        return Err(entry.mismatch(&format!("a list of strings: {EXAMPLE}")));
    };
    if program.contains('/') {
        *program = base
            .join(&*program)
            .into_os_string()
            .into_string()
            .map_err(|path| entry.wrong(format!("{} is not UTF-8", path.display())))?;
    }
    Ok(words)
}

fn owned(words: Vec<&str>) -> Vec<String> {
    words.into_iter().map(ToOwned::to_owned).collect()
}

const EXAMPLE: &str = "[\"program\", \"argument\", …]";

/// Each may have a successor beside it.
const INSTANCES_MAX: u32 = limit::INSTANCES_MAX as u32 / 2;
