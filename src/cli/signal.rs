//! `plugbus signal`: a small lifecycle notice.

use serde_json::Value;

use super::Context;
use super::client::{connect, failure};
use super::failure::{Failure, Result};
use super::payload;
use crate::host::suggest::did_you_mean;

/// Sends a signal to a plugin.
#[derive(Debug, clap::Args)]
pub(super) struct SignalArgs {
    /// Who gets it
    plugin: String,
    /// shutdown, reload, health-check or wake
    #[arg(value_name = "SIGNAL")]
    name: String,
    /// What it carries: `key=value` pairs, JSON, or text
    #[arg(value_name = "KEY=VALUE|JSON|TEXT")]
    data: Vec<String>,
}

pub(super) async fn run(context: &Context, args: SignalArgs) -> Result<()> {
    if !SIGNALS.contains(&args.name.as_str()) {
        let hint = did_you_mean(&args.name, SIGNALS.iter().copied());
        return Err(Failure::usage(format_args!("there is no signal `{}`{hint}", args.name))
            .hint(format!("signals are {}", SIGNALS.join(", "))));
    }
    let data = Some(payload::from_words(&args.data)?).filter(|data| *data != Value::Null);
    let client = connect(context).await?;
    // A signal is not answered, so a wrong name is found out before.
    client.query("plugin", Some(&args.plugin)).await.map_err(failure)?;
    client.signal_with(&args.plugin, &args.name, data).map_err(failure)?;
    client.close().await;
    Ok(())
}

const SIGNALS: [&str; 4] = ["shutdown", "reload", "health-check", "wake"];
