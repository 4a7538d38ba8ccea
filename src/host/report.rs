//! What is said of supervised plugins, to people and to programs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// One process of a plugin, as people see it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PluginReport {
    /// The plugin's id.
    pub id: String,
    /// Which of its processes, from 0.
    pub instance: u32,
    /// Where it is in its life; `docs/supervision.md` has the states.
    pub state: String,
    /// Since when, as RFC 3339 in UTC.
    pub since: String,
    /// How long ago that was, in milliseconds.
    pub since_ms: u64,
    /// Why it is in this state.
    pub reason: String,
    /// Its process, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The number of the process that runs or ran last, from 1.
    pub generation: u64,
    /// How often it was started again because it had ended.
    pub restarts: u64,
    /// Failures since it last ran stably.
    pub failures: u32,
    /// How it last ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// Milliseconds until it is tried again, where that is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_ms: Option<u64>,
    /// Plugins that it starts after.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Plugins that start after it.
    #[serde(default)]
    pub needed_by: Vec<String>,
    /// The version in its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether the application cannot do without it.
    #[serde(default)]
    pub critical: bool,
    /// What it uses, as of the last look.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
}

impl PluginReport {
    /// Whether it answers calls, at once or when they have woken it.
    fn serves(&self) -> bool {
        matches!(self.state.as_str(), "ready" | "busy" | "replacing" | "sleeping")
    }
}

/// The critical plugins none of whose processes serves, by their ids.
pub(crate) fn unready(reports: &[PluginReport]) -> Vec<String> {
    let critical = reports.iter().filter(|report| report.critical);
    let ids: BTreeSet<&str> = critical.map(|report| report.id.as_str()).collect();
    let is_served = |id: &str| reports.iter().any(|report| report.id == id && report.serves());
    ids.into_iter().filter(|id| !is_served(id)).map(ToOwned::to_owned).collect()
}

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Load {
    /// Resident memory in bytes.
    pub memory: u64,
    /// Share of one processor since the look before, in percent.
    pub cpu_percent: f64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Messages that the broker has handed to it, of all kinds.
    #[serde(default)]
    pub messages: u64,
}

/// One change of a child's state.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TimelineRow {
    /// When, as RFC 3339 in UTC.
    pub time: String,
    /// The state before.
    pub from: String,
    /// The state after.
    pub to: String,
    /// Why.
    pub cause: String,
}

/// All that one screen needs to say why a plugin is as it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Explanation {
    /// What it is like now.
    pub plugin: PluginReport,
    /// Its last changes, the oldest first.
    pub timeline: Vec<TimelineRow>,
    /// The last lines that it printed to standard error.
    pub stderr: Vec<String>,
    /// What to do next: a complete command, if there is one that helps.
    pub next_command: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_critical_plugin_is_ready_while_one_of_its_processes_serves() {
        check(&[], &[]);
        check(&[("a", false, "disabled"), ("b", true, "busy")], &[]);
        check(&[("a", true, "backing-off"), ("a", true, "ready")], &[]);
        let rows = [("a", true, "half-open"), ("b", true, "sleeping"), ("c", true, "failed")];
        check(&rows, &["a", "c"]);
    }

    /// Rows are ids, whether they are critical, and states.
    #[track_caller]
    fn check(rows: &[(&str, bool, &str)], expected: &[&str]) {
        let report = |&(id, critical, state): &(&str, bool, &str)| PluginReport {
            id: id.to_owned(),
            critical,
            state: state.to_owned(),
            ..PluginReport::default()
        };
        let reports: Vec<_> = rows.iter().map(report).collect();
        assert_eq!(unready(&reports), expected);
    }
}
