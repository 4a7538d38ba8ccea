//! `plugbus list`: who is there, and what they serve.

use serde::Deserialize;
use serde_json::Value;

use super::Context;
use super::arguments::Schema;
use super::client::{connect, failure};
use super::failure::{Failure, Result};
use super::terminal::{BOLD, DIM, Terminal};
use crate::host::control::CONTROL_ID;

/// Lists the plugins of the broker, or the methods and channels of one, with types and help.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Only this plugin or service, in detail
    plugin: Option<String>,
}

pub(super) async fn run(context: &Context, args: ListArgs) -> Result<()> {
    let terminal = context.terminal;
    let client = connect(context).await?;
    match args.plugin {
        None => {
            let answer = client.query("plugins", None).await.map_err(failure)?;
            if terminal.json {
                return terminal.json(&answer);
            }
            let plugins = Plugins::deserialize(&answer).map_err(not_understood)?.plugins;
            print_plugins(terminal, &plugins)
        }
        Some(id) => {
            let answer = client.query("plugin", Some(&id)).await.map_err(failure)?;
            if terminal.json {
                return terminal.json(&answer);
            }
            print_plugin(terminal, &PluginDetails::deserialize(&answer).map_err(not_understood)?)
        }
    }
}

fn print_plugins(terminal: Terminal, plugins: &[PluginRow]) -> Result<()> {
    // Clients come and go and offer nothing; what the broker itself offers is for its commands.
    let is_plugin = |plugin: &&PluginRow| plugin.role == "plugin" && plugin.id != CONTROL_ID;
    let plugins: Vec<_> = plugins.iter().filter(is_plugin).collect();
    if plugins.is_empty() {
        terminal.note("no plugins are there");
        return Ok(());
    }
    let width =
        |size: fn(&PluginRow) -> usize| plugins.iter().map(|it| size(it)).max().unwrap_or(0);
    let (id_width, state_width) = (width(|it| it.id.len()), width(|it| it.state.len()));
    for PluginRow { id, state, methods, channels, services, .. } in plugins {
        let methods = match methods {
            1 => "1 method".to_owned(),
            count => format!("{count} methods"),
        };
        let mut more = vec![methods];
        if !channels.is_empty() {
            more.push(format!("channels {}", channels.join(", ")));
        }
        if !services.is_empty() {
            more.push(format!("services {}", services.join(", ")));
        }
        let more = more.join("; ");
        terminal.line(format_args!(
            "{BOLD}{id:id_width$}{BOLD:#}  {state:state_width$}  {DIM}{more}{DIM:#}"
        ))?;
    }
    Ok(())
}

fn print_plugin(terminal: Terminal, plugin: &PluginDetails) -> Result<()> {
    terminal.line(format_args!("{BOLD}{}{BOLD:#}  {}", plugin.id, plugin.state))?;
    if !plugin.services.is_empty() {
        terminal.line(format_args!("serves {}", plugin.services.join(", ")))?;
    }
    for method in &plugin.methods {
        terminal.line(format_args!("\n  {}.{}", plugin.id, signature(method)))?;
        print_help(terminal, method.help.as_deref())?;
        let properties = method.params.as_ref().map(|params| Schema::root(params).properties());
        for (name, schema, _) in properties.into_iter().flatten() {
            if let Some(description) = schema.description() {
                terminal.line(format_args!("      {name}: {description}"))?;
            }
        }
    }
    for channel in &plugin.channels {
        terminal.line(format_args!("\n  {}/{}", plugin.id, channel.name))?;
        print_help(terminal, channel.help.as_deref())?;
    }
    Ok(())
}

fn print_help(terminal: Terminal, help: Option<&str>) -> Result<()> {
    for line in help.unwrap_or_default().trim().lines() {
        terminal.line(format!("      {DIM}{line}{DIM:#}").trim_end())?;
    }
    Ok(())
}

/// `greet(name: string = "world") -> string`, by the method's schemas.
pub(super) fn signature(method: &MethodRow) -> String {
    let parameters: Vec<_> = match &method.params {
        Some(params) => Schema::root(params)
            .properties()
            .into_iter()
            .map(|(name, schema, required)| match schema.default_value() {
                Some(default) => format!("{name}: {} = {default}", schema.type_name()),
                None if required => format!("{name}: {}", schema.type_name()),
                None => format!("{name}?: {}", schema.type_name()),
            })
            .collect(),
        None => vec!["…".to_owned()],
    };
    let result = match &method.result {
        Some(result) => format!(" -> {}", Schema::root(result).type_name()),
        None => String::new(),
    };
    format!("{}({}){result}", method.name, parameters.join(", "))
}

pub(super) fn not_understood(error: serde_json::Error) -> Failure {
    Failure::failed(format_args!("the broker's answer is not understood: {error}"))
}

#[derive(Debug, Deserialize)]
struct Plugins {
    plugins: Vec<PluginRow>,
}

/// A row of the query `plugins`, or of `status`.
#[derive(Debug, Deserialize)]
pub(super) struct PluginRow {
    pub(super) id: String,
    pub(super) state: String,
    #[serde(default)]
    pub(super) role: String,
    #[serde(default)]
    pub(super) incarnation: u64,
    #[serde(default)]
    methods: u64,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default)]
    services: Vec<String>,
    #[serde(default)]
    pub(super) oldest_unanswered_ms: Option<u64>,
    #[serde(default)]
    pub(super) unanswered_ping_ms: Option<u64>,
}

/// The answer to the query `plugin`.
#[derive(Debug, Deserialize)]
pub(super) struct PluginDetails {
    id: String,
    state: String,
    #[serde(default)]
    pub(super) methods: Vec<MethodRow>,
    #[serde(default)]
    channels: Vec<ChannelRow>,
    #[serde(default)]
    services: Vec<String>,
}

/// A method as its plugin described it.
#[derive(Debug, Deserialize)]
pub(super) struct MethodRow {
    pub(super) name: String,
    help: Option<String>,
    pub(super) params: Option<Value>,
    result: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct ChannelRow {
    name: String,
    help: Option<String>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn signatures_are_read_from_schemas() {
        let cases = [
            (json!({"name": "ping"}), "ping(…)"),
            (json!({"name": "ping", "params": {"properties": {}}}), "ping()"),
            (
                json!({
                    "name": "resize",
                    "params": {
                        "properties": {
                            "fast": {"type": "boolean"},
                            "mode": {"type": "string", "default": "fit"},
                            "width": {"type": "integer"},
                        },
                        "required": ["width"],
                    },
                    "result": {"type": "array", "items": {"type": "number"}},
                }),
                "resize(width: integer, fast?: boolean, mode: string = \"fit\") -> list of number",
            ),
        ];
        for (method, expected) in cases {
            assert_eq!(signature(&MethodRow::deserialize(method).unwrap()), expected);
        }
    }
}
