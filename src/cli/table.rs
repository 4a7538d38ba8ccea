//! Supervised plugins as a table, for `up` and `top`.

use std::time::Duration;

use anstyle::Style;

use super::status::age;
use super::terminal::{BOLD, BOLD_RED, DIM, GREEN, YELLOW};
use crate::host::PluginReport;

/// The lines of the table: a head, then one for each process.
pub(crate) fn table(plugins: &[PluginReport]) -> Vec<String> {
    let rows: Vec<[String; COLUMNS]> = plugins.iter().map(row).collect();
    let width = |column: usize| {
        let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        longest.max(HEAD[column].len())
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let head = cells(&HEAD.map(str::to_owned), &widths, |_| BOLD);
    let lines = plugins.iter().zip(&rows).map(|(plugin, row)| {
        cells(row, &widths, |column| if column == STATE { colour(&plugin.state) } else { PLAIN })
    });
    std::iter::once(head).chain(lines).collect()
}

fn row(plugin: &PluginReport) -> [String; COLUMNS] {
    let name = match plugin.instance {
        0 => plugin.id.clone(),
        instance => format!("{}#{instance}", plugin.id),
    };
    let load = plugin.load.as_ref();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let note = match plugin.next_try_ms {
        Some(next) => format!("again in {}; {}", age(Duration::from_millis(next)), plugin.reason),
        None if matches!(plugin.state.as_str(), "ready" | "busy") => String::new(),
        None => plugin.reason.clone(),
    };
    [
        name,
        plugin.state.clone(),
        age(Duration::from_millis(plugin.since_ms)),
        or_dash(plugin.pid.map(|pid| pid.to_string())),
        plugin.restarts.to_string(),
        or_dash(load.map(|load| format!("{} MiB", load.memory >> 20))),
        or_dash(load.map(|load| format!("{:.1} %", load.cpu_percent))),
        or_dash(load.map(|load| load.messages.to_string())),
        note.chars().take(NOTE_MAX).collect(),
    ]
}

fn cells(
    row: &[String; COLUMNS],
    widths: &[usize; COLUMNS],
    style: impl Fn(usize) -> Style,
) -> String {
    let mut line = String::new();
    for (column, text) in row.iter().enumerate() {
        let style = style(column);
        let fill = widths[column] - text.chars().count();
        line += &match RIGHT[column] {
            true => format!("{:fill$}{style}{text}{style:#}  ", ""),
            false => format!("{style}{text}{style:#}{:fill$}  ", ""),
        };
    }
    line.trim_end().to_owned()
}

fn colour(state: &str) -> Style {
    match state {
        "ready" | "busy" => GREEN,
        "failed" | "disabled" | "quarantined" => BOLD_RED,
        "sleeping" | "stopped" => DIM,
        _ => YELLOW,
    }
}

const COLUMNS: usize = 9;
const HEAD: [&str; COLUMNS] =
    ["PLUGIN", "STATE", "SINCE", "PID", "RESTARTS", "MEMORY", "CPU", "MESSAGES", ""];
const STATE: usize = 1;
const RIGHT: [bool; COLUMNS] = [false, false, true, true, true, true, true, true, false];
const PLAIN: Style = Style::new();

/// What of a reason fits a line.
const NOTE_MAX: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_is_in_them() {
        let mut short =
            PluginReport { id: "a".into(), state: "ready".into(), ..Default::default() };
        short.pid = Some(7);
        let long = PluginReport {
            id: "weather-forecast".into(),
            state: "backing-off".into(),
            reason: "exited with code 1".into(),
            next_try_ms: Some(1_500),
            ..Default::default()
        };
        let plain = |line: &String| anstream::adapter::strip_str(line).to_string();
        let lines: Vec<String> = table(&[short, long]).iter().map(plain).collect();
        assert_eq!(lines.len(), 3);
        let column = lines[0].find("STATE").unwrap();
        assert_eq!(lines[1].find("ready"), Some(column));
        assert_eq!(lines[2].find("backing-off"), Some(column));
        assert!(lines[2].ends_with("again in 1s; exited with code 1"), "{}", lines[2]);
    }
}
