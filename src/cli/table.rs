//! Supervised plugins as a table, for `up` and `top`.

use std::collections::BTreeMap;
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

/// The table as far as it fits into so many columns; one line that sums it up where there are too
/// many plugins for so many rows.
pub(crate) fn fitting(plugins: &[PluginReport], (columns, rows): (usize, usize)) -> Vec<String> {
    if plugins.is_empty() {
        return Vec::new();
    }
    let lines = match plugins.len() + 1 + ROWS_FOR_LINES > rows {
        true => vec![summary(plugins)],
        false => table(plugins),
    };
    lines.iter().map(|line| cut(line, columns)).collect()
}

/// How many are in which state.
fn summary(plugins: &[PluginReport]) -> String {
    let mut states = BTreeMap::new();
    for plugin in plugins {
        *states.entry(plugin.state.as_str()).or_insert(0_u32) += 1;
    }
    let counts = states.iter().map(|(state, count)| {
        let style = colour(state);
        format!("{style}{count} {state}{style:#}")
    });
    format!("{BOLD}plugins{BOLD:#} {}", counts.collect::<Vec<_>>().join(", "))
}

/// The first `columns` characters of a line. What selects colours takes no room.
fn cut(line: &str, columns: usize) -> String {
    let mut shown = String::new();
    let mut count = 0;
    let mut in_colour = false;
    for character in line.chars() {
        let is_colour = in_colour || character == '\x1b';
        if !is_colour {
            count += 1;
        }
        if is_colour || count <= columns {
            shown.push(character);
        }
        in_colour = is_colour && character != 'm';
    }
    shown
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
        // The reason may hold what a plugin printed.
        note.chars().filter(|it| !it.is_control()).take(NOTE_MAX).collect(),
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

/// What a small terminal keeps for the lines above the table.
const ROWS_FOR_LINES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_terminal_gets_what_fits_it() {
        let plugins = ["a", "b", "c"].map(|id| PluginReport {
            id: id.into(),
            state: if id == "c" { "failed" } else { "ready" }.into(),
            ..Default::default()
        });
        let plain = |line: &String| anstream::adapter::strip_str(line).to_string();
        let lines = |size| fitting(&plugins, size).iter().map(plain).collect::<Vec<_>>();
        assert_eq!(lines((80, 7)), ["plugins 1 failed, 2 ready"]);
        assert_eq!(lines((80, 8)).len(), 4);
        assert_eq!(lines((9, 8)), ["PLUGIN  S", "a       r", "b       r", "c       f"]);
        assert_eq!(lines((4, 2)), ["plug"]);
        assert_eq!(fitting(&[], (80, 24)), Vec::<String>::new());
        let coloured = fitting(&plugins, (9, 8));
        assert!(coloured[3].ends_with("\x1b[0m"), "a colour that begins also ends");
    }

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
