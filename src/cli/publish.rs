//! `plugbus publish`: one event.

use super::Context;
use super::client::{connect, failure};
use super::failure::Result;
use super::payload;

/// Publishes an event.
#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    /// Its topic, like order.created
    topic: String,
    /// What it carries: `key=value` pairs, JSON, or text
    #[arg(value_name = "KEY=VALUE|JSON|TEXT")]
    payload: Vec<String>,
}

pub(super) async fn run(context: &Context, args: PublishArgs) -> Result<()> {
    let payload = payload::from_words(&args.payload)?;
    let client = connect(context).await?;
    client.publish(&args.topic, &payload).await.map_err(failure)?;
    client.close().await;
    Ok(())
}
