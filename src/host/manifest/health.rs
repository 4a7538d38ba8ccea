//! `[lifecycle.health]`: what is watched while a plugin runs.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::lifecycle::read_command;
use super::units::{ByteSize, CpuShare, Read, Time, read_count};
use crate::host::document::{Entry, Problem};
use crate::limit;

/// What is watched while a plugin runs.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Health {
    /// How often.
    #[schemars(with = "Time", extend("default" = "5s"))]
    pub interval: Duration,
    /// How long an answer may take.
    #[schemars(with = "Time", extend("default" = "5s"))]
    pub timeout: Duration,
    /// So many failed checks in a row mean that it hangs, and it is restarted.
    #[schemars(extend("default" = 3))]
    pub misses: u32,
    /// Age of the oldest message that it has taken and not answered.
    #[schemars(with = "Threshold<Time>", extend("default" = {"alert": "1m"}))]
    pub oldest: Threshold<Duration>,
    /// Memory that it holds.
    pub memory: Threshold<ByteSize>,
    /// Processor that it uses.
    pub cpu: Threshold<CpuShare>,
    /// Files and sockets that it has open.
    pub fds: Threshold<u64>,
    /// Whether its method `health` is called.
    pub method: bool,
    /// A program that ends with 0 when the plugin is well. Runs in the plugin's directory.
    pub command: Vec<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            interval: limit::HEALTH_INTERVAL,
            timeout: limit::HEALTH_INTERVAL,
            misses: limit::HEALTH_MISSES,
            oldest: Threshold { alert: Some(limit::HEALTH_OLDEST), restart: None },
            memory: Threshold::default(),
            cpu: Threshold::default(),
            fds: Threshold::default(),
            method: false,
            command: Vec::new(),
        }
    }
}

/// From where on somebody is told, and from where on the plugin is restarted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Threshold<T> {
    /// Somebody is told.
    pub alert: Option<T>,
    /// The plugin is restarted.
    pub restart: Option<T>,
}

impl<T> Default for Threshold<T> {
    fn default() -> Self {
        Self { alert: None, restart: None }
    }
}

impl<T> Threshold<T> {
    /// The same in another unit.
    pub(crate) fn map<U>(self, mut to: impl FnMut(T) -> U) -> Threshold<U> {
        Threshold { alert: self.alert.map(&mut to), restart: self.restart.map(to) }
    }
}

impl Health {
    pub(super) fn read(&mut self, entries: &[Entry], place: &str) -> Result<(), Problem> {
        for entry in entries {
            match entry.key.as_str() {
                "interval" => self.interval = Duration::read(entry)?,
                "timeout" => self.timeout = Duration::read(entry)?,
                "misses" => self.misses = read_count(entry)?,
                "oldest" => self.oldest = read_threshold(entry, place)?,
                "memory" => self.memory = read_threshold(entry, place)?,
                "cpu" => self.cpu = read_threshold(entry, place)?,
                "fds" => self.fds = read_threshold(entry, place)?,
                "method" => self.method = entry.boolean()?,
                "command" => self.command = read_command(entry)?,
                _ => return Err(entry.unknown(&format!("[{place}]"), &Self::KEYS)),
            }
        }
        Ok(())
    }

    pub(super) const KEYS: [&str; 9] =
        ["interval", "timeout", "misses", "oldest", "memory", "cpu", "fds", "method", "command"];
}

/// A bare value is the one for the alert.
fn read_threshold<T: Read + Ord>(entry: &Entry, place: &str) -> Result<Threshold<T>, Problem> {
    let Some(entries) = entry.as_table() else {
        return Ok(Threshold { alert: Some(T::read(entry)?), restart: None });
    };
    let mut threshold = Threshold::default();
    for inner in entries {
        match inner.key.as_str() {
            "alert" => threshold.alert = Some(T::read(inner)?),
            "restart" => threshold.restart = Some(T::read(inner)?),
            _ => {
                let place = format!("[{place}.{}]", entry.key);
                return Err(inner.unknown(&place, &["alert", "restart"]));
            }
        }
    }
    match (threshold.alert, threshold.restart) {
        (Some(alert), Some(restart)) if alert > restart => Err(entry.wrong_key(format!(
            "`{}`: nobody can be alerted beyond the value at which it is restarted",
            entry.key
        ))),
        _ => Ok(threshold),
    }
}

impl<T: JsonSchema> JsonSchema for Threshold<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Threshold_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({
            "description": "From where on somebody is told (a bare value is this), and from where \
                            on the plugin is restarted.",
            "anyOf": [value, {
                "type": "object",
                "properties": {"alert": value, "restart": value},
                "additionalProperties": false,
            }],
        })
    }
}
