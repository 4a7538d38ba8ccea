//! The broker as a process of its own, embedded as an application would embed it.

use std::path::PathBuf;

use anyhow::Result;
use plugbus::Broker;

use crate::part::{Line, say};

/// Serves until the process is killed.
pub(crate) fn serve(socket: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let _broker = Broker::builder().name("loadtest").socket(socket).start().await?;
        say(&Line::Ready)?;
        std::future::pending::<()>().await;
        Ok(())
    })
}
