//! `plugbus call`: one request, one result.

use std::time::Duration;

use serde_json::Value;

use super::Context;
use super::arguments::{self, ArgumentError, Schema};
use super::client::{self, connect};
use super::failure::{Failure, Result, Status};
use super::list::{MethodRow, signature};
use super::value::Shown;
use crate::error::Code;
use crate::host::duration;

/// Calls a method and prints its result.
#[derive(Debug, clap::Args)]
pub(super) struct CallArgs {
    /// What to call
    #[arg(value_name = "PLUGIN.METHOD")]
    target: String,
    /// Arguments, as `key=value` for each or as one JSON object
    #[arg(value_name = "KEY=VALUE|JSON")]
    arguments: Vec<String>,
    /// How long to wait: 500ms, 2s, 1m [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    timeout: Option<Duration>,
}

pub(super) async fn run(context: &Context, args: CallArgs) -> Result<()> {
    let Some((plugin, method)) = args.target.split_once('.') else {
        return Err(Failure::usage(format_args!("{:?} is not PLUGIN.METHOD", args.target))
            .hint(format!("`plugbus list {}` shows its methods", args.target)));
    };
    let client = connect(context).await?;
    // Without a description of the method the broker's own answer to the call is the better one.
    let method = client::find_method(&client, plugin, method).await?;
    let schema = method.as_ref().and_then(|method| method.params.as_ref());
    let arguments = arguments::convert(&args.arguments, schema)
        .map_err(|error| unfit(&error, plugin, method.as_ref()))?;
    let client = match args.timeout {
        Some(timeout) => client.with_timeout(timeout),
        None => client,
    };
    let arguments = Value::Object(arguments);
    let result: Shown = client.call(&args.target, &arguments).await.map_err(|error| {
        let method = method.as_ref().filter(|_| error.code() == Code::InvalidArgument);
        let failure = client::failure(error);
        match method {
            Some(method) => failure.hint(usage_hint(plugin, method)),
            None => failure,
        }
    })?;
    client.close().await;
    if context.terminal.json {
        context.terminal.json(&result.0)
    } else {
        context.terminal.line(result.pretty())
    }
}

fn unfit(error: &ArgumentError, plugin: &str, method: Option<&MethodRow>) -> Failure {
    let failure = Failure::new(Status::Usage, error);
    match method {
        Some(method) => failure.hint(usage_hint(plugin, method)),
        None => failure,
    }
}

fn usage_hint(plugin: &str, method: &MethodRow) -> String {
    let properties = method.params.as_ref().map(|params| Schema::root(params).properties());
    let words: Vec<_> = properties
        .into_iter()
        .flatten()
        .map(|(name, schema, required)| {
            let word = format!("{name}={}", schema.type_name().replace(' ', "-"));
            if required { word } else { format!("[{word}]") }
        })
        .collect();
    let words = if words.is_empty() { String::new() } else { format!(" {}", words.join(" ")) };
    format!("it is {}: plugbus call {plugin}.{}{words}", signature(method), method.name)
}
