//! `[lifecycle]`: when a plugin starts, and what its end means.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::health::Health;
use super::units::{Read as _, Time, read_count, read_time_with_zero};
use crate::host::document::{Entry, Problem};
use crate::host::suggest::did_you_mean;
use crate::limit;

/// When a plugin starts and sleeps, and what happens when it ends.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Lifecycle {
    /// Whether it is started again after it ended.
    pub restart: Restart,
    /// Whether it starts with the first message for it, not with the broker.
    pub lazy: bool,
    /// It is stopped when nothing has been asked of it for so long, and started again by the next
    /// message. Unless given, it never sleeps.
    #[schemars(with = "Option<Time>")]
    pub idle_sleep: Option<Duration>,
    /// From the notice that it shall end to SIGTERM.
    #[schemars(with = "Time", extend("default" = "5s"))]
    pub stop_grace: Duration,
    /// From its start, when it has been prepared, to *ready*.
    #[schemars(with = "Time", extend("default" = "30s"))]
    pub start_timeout: Duration,
    /// How long it may take to prepare its start: to ask its tools for their versions and to
    /// install its packages.
    #[schemars(with = "Time", extend("default" = "15m"))]
    pub prepare_timeout: Duration,
    /// Whether the application cannot do without it: it is not ready while this one does not serve.
    pub critical: bool,
    /// How long new calls wait for it while it starts again. 0 refuses them at once.
    #[schemars(with = "Time", extend("default" = "2s"))]
    pub hold: Duration,
    /// The delays between restarts.
    pub backoff: Backoff,
    /// How many restarts are too many.
    pub intensity: Intensity,
    /// What is watched while it runs.
    pub health: Health,
    /// Who is told beside the log.
    pub alerts: Alerts,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self {
            restart: Restart::default(),
            lazy: false,
            idle_sleep: None,
            stop_grace: limit::STOP_NOTICE_TIMEOUT,
            start_timeout: limit::START_TIMEOUT,
            prepare_timeout: limit::PREPARE_TIMEOUT,
            critical: false,
            hold: limit::RESTART_HOLD,
            backoff: Backoff::default(),
            intensity: Intensity::default(),
            health: Health::default(),
            alerts: Alerts::default(),
        }
    }
}

/// Whether a plugin that ended by itself is started again.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Restart {
    /// Always.
    #[default]
    Permanent,
    /// Unless it ended with code 0.
    Transient,
    /// Never.
    Temporary,
}

/// What follows on crashes: delays between restarts (the first, then twice that, and so on), and
/// rest where they do not help.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Backoff {
    /// The first delay that is not 0; the restart after a stable run comes at once.
    #[schemars(with = "Time", extend("default" = "1s"))]
    pub first: Duration,
    /// No delay is longer.
    #[schemars(with = "Time", extend("default" = "16s"))]
    pub max: Duration,
    /// A run of this length is stable: its end is no longer held against the plugin.
    #[schemars(with = "Time", extend("default" = "10s"))]
    pub stable: Duration,
    /// How long it is left alone when too many restarts came in a short time, before one trial.
    #[schemars(with = "Time", extend("default" = "30s"))]
    pub quarantine: Duration,
    /// Each trial that fails doubles the quarantine, up to this.
    #[schemars(with = "Time", extend("default" = "5m"))]
    pub quarantine_max: Duration,
    /// Restarts since the last stable run; the next one disables it until somebody starts it.
    #[schemars(extend("default" = 10))]
    pub disable_after: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: limit::RESTART_DELAY,
            max: limit::RESTART_DELAY_MAX,
            stable: limit::STABLE_RUN,
            quarantine: limit::QUARANTINE,
            quarantine_max: limit::QUARANTINE_MAX,
            disable_after: limit::RESTARTS_MAX,
        }
    }
}

/// More than so many restarts within the time put the plugin into quarantine.
#[derive(Clone, Debug, Eq, JsonSchema, PartialEq)]
#[schemars(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Intensity {
    /// Restarts.
    #[schemars(extend("default" = 6))]
    pub restarts: u32,
    /// The time.
    #[schemars(with = "Time", extend("default" = "1m"))]
    pub within: Duration,
}

impl Default for Intensity {
    fn default() -> Self {
        Self { restarts: limit::RESTARTS_WITHIN, within: limit::RESTART_WINDOW }
    }
}

/// Who is told when something needs a person, beside the log and the event.
#[derive(Clone, Debug, Default, Eq, JsonSchema, PartialEq)]
#[schemars(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Alerts {
    /// A program that gets the alert as JSON on its input. Runs in the directory of the broker.
    pub command: Vec<String>,
    /// An address that gets the alert as JSON by POST.
    pub webhook: Option<String>,
}

impl Lifecycle {
    pub(super) fn read(&mut self, entries: &[Entry], place: &str) -> Result<(), Problem> {
        for entry in entries {
            let inner = || format!("{place}.{}", entry.key);
            match entry.key.as_str() {
                "restart" => self.restart = Restart::read(entry)?,
                "lazy" => self.lazy = entry.boolean()?,
                "idle_sleep" => self.idle_sleep = Some(Duration::read(entry)?),
                "stop_grace" => self.stop_grace = read_time_with_zero(entry)?,
                "start_timeout" => self.start_timeout = Duration::read(entry)?,
                "prepare_timeout" => self.prepare_timeout = Duration::read(entry)?,
                "critical" => self.critical = entry.boolean()?,
                "hold" => self.hold = read_time_with_zero(entry)?,
                "backoff" => self.backoff.read(entry, &inner())?,
                "intensity" => self.intensity.read(entry, &inner())?,
                "health" => self.health.read(entry.table()?, &inner())?,
                "alerts" => self.alerts.read(entry.table()?, &inner())?,
                _ => return Err(entry.unknown(&format!("[{place}]"), &Self::KEYS)),
            }
        }
        Ok(())
    }

    pub(super) const KEYS: [&str; 12] = [
        "restart",
        "lazy",
        "idle_sleep",
        "stop_grace",
        "start_timeout",
        "prepare_timeout",
        "critical",
        "hold",
        "backoff",
        "intensity",
        "health",
        "alerts",
    ];
}

impl Restart {
    fn read(entry: &Entry) -> Result<Self, Problem> {
        let name = entry.string()?;
        let known = || RESTARTS.iter().flat_map(|(names, _)| names.iter().copied());
        match RESTARTS.iter().find(|(names, _)| names.contains(&name)) {
            Some(&(_, restart)) => Ok(restart),
            None => {
                let mut hint = did_you_mean(name, known());
                if hint.is_empty() {
                    hint = format!("; use {}", known().collect::<Vec<_>>().join(", "));
                }
                Err(entry.wrong(format!("`restart` cannot be {name:?}{hint}")))
            }
        }
    }
}

impl Backoff {
    fn read(&mut self, entry: &Entry, place: &str) -> Result<(), Problem> {
        for entry in entry.table()? {
            match entry.key.as_str() {
                "first" => self.first = Duration::read(entry)?,
                "max" => self.max = Duration::read(entry)?,
                "stable" => self.stable = Duration::read(entry)?,
                "quarantine" => self.quarantine = Duration::read(entry)?,
                "quarantine_max" => self.quarantine_max = Duration::read(entry)?,
                "disable_after" => self.disable_after = read_count(entry)?,
                _ => return Err(entry.unknown(&format!("[{place}]"), &Self::KEYS)),
            }
        }
        for (name, shorter, other, longer) in [
            ("first", self.first, "max", self.max),
            ("quarantine", self.quarantine, "quarantine_max", self.quarantine_max),
        ] {
            if shorter > longer {
                let message = format!(
                    "`{name}` ({shorter:?}) must not be longer than `{other}` ({longer:?})"
                );
                return Err(entry.wrong_key(message));
            }
        }
        Ok(())
    }

    pub(super) const KEYS: [&str; 6] =
        ["first", "max", "stable", "quarantine", "quarantine_max", "disable_after"];
}

impl Intensity {
    fn read(&mut self, entry: &Entry, place: &str) -> Result<(), Problem> {
        for entry in entry.table()? {
            match entry.key.as_str() {
                "restarts" => self.restarts = read_count(entry)?,
                "within" => self.within = Duration::read(entry)?,
                _ => return Err(entry.unknown(&format!("[{place}]"), &Self::KEYS)),
            }
        }
        Ok(())
    }

    pub(super) const KEYS: [&str; 2] = ["restarts", "within"];
}

impl Alerts {
    fn read(&mut self, entries: &[Entry], place: &str) -> Result<(), Problem> {
        for entry in entries {
            match entry.key.as_str() {
                "command" => self.command = read_command(entry)?,
                "webhook" => {
                    let address = entry.string()?;
                    if !address.starts_with("http://") {
                        let message = "`webhook` must be an address like \
                                       \"http://127.0.0.1:8080/alerts\"; TLS is not spoken here";
                        return Err(entry.wrong(message));
                    }
                    self.webhook = Some(address.to_owned());
                }
                _ => return Err(entry.unknown(&format!("[{place}]"), &Self::KEYS)),
            }
        }
        Ok(())
    }

    pub(super) const KEYS: [&str; 2] = ["command", "webhook"];
}

pub(super) fn read_command(entry: &Entry) -> Result<Vec<String>, Problem> {
    let words = entry.strings(COMMAND_EXAMPLE)?;
    if words.first().is_none_or(|program| program.is_empty()) {
        return Err(entry.mismatch(&format!("a list: {COMMAND_EXAMPLE}")));
    }
    Ok(words.into_iter().map(ToOwned::to_owned).collect())
}

const COMMAND_EXAMPLE: &str = "[\"program\", \"argument\", …]";

/// What they are called here and elsewhere.
const RESTARTS: [(&[&str], Restart); 3] = [
    (&["permanent", "always"], Restart::Permanent),
    (&["transient", "on-failure"], Restart::Transient),
    (&["temporary", "never"], Restart::Temporary),
];

impl JsonSchema for Restart {
    fn schema_name() -> Cow<'static, str> {
        "Restart".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> = RESTARTS.iter().flat_map(|(names, _)| names.iter()).collect();
        json_schema!({
            "description": "Whether a plugin that ended by itself is started again: permanent \
                            (always), transient (on-failure: unless it ended with code 0) or \
                            temporary (never).",
            "enum": names,
            "default": "permanent",
        })
    }
}
