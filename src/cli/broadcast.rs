//! `plugbus broadcast`: one event for every ready plugin.

use super::Context;
use super::client::{connect, failure};
use super::failure::Result;
use super::payload;

/// Sends an event to every ready plugin, whether or not it has subscribed.
#[derive(Debug, clap::Args)]
pub(super) struct BroadcastArgs {
    /// Its topic, like maintenance.soon
    topic: String,
    /// What it carries: `key=value` pairs, JSON, or text
    #[arg(value_name = "KEY=VALUE|JSON|TEXT")]
    payload: Vec<String>,
}

pub(super) async fn run(context: &Context, args: BroadcastArgs) -> Result<()> {
    let payload = payload::from_words(&args.payload)?;
    let client = connect(context).await?;
    client.broadcast(&args.topic, &payload).await.map_err(failure)?;
    client.close().await;
    Ok(())
}
