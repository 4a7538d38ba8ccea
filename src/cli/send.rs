//! `plugbus send`: lines down a channel, in order.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Interval, interval};

use super::Context;
use super::client::{connect, failure};
use super::failure::{Failure, Result, Status};
use super::lines;
use super::terminal::{DIM, Terminal};
use crate::id::PluginId;
use crate::plugin::ChannelSender;

/// Sends each line as a message, no faster than the receiver takes them, and ends when it has
/// handled the last one.
#[derive(Debug, clap::Args)]
pub(super) struct SendArgs {
    /// The receiver; its channel `inbox` unless another is named
    #[arg(value_name = "PLUGIN[/CHANNEL]")]
    target: String,
    /// What to send; - is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

pub(super) async fn run(context: &Context, args: SendArgs) -> Result<()> {
    let address = match args.target.split_once('/') {
        Some(_) => args.target,
        None => format!("{}/{}", args.target, PluginId::INBOX),
    };
    let lines = lines::read(&args.file)?;
    let client = connect(context).await?;
    let sender = client.sender(&address).await.map_err(failure)?;
    let mut job = Job {
        terminal: context.terminal,
        lines,
        sender,
        sent: 0,
        handled: 0,
        tick: interval(Job::TICK),
    };
    let result = tokio::select! {
        result = job.run() => result,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(Status::Interrupted, "interrupted; what was accepted will be handled"))
        }
    };
    job.end_progress();
    result?;
    client.close().await;
    job.report()
}

struct Job {
    terminal: Terminal,
    lines: Receiver<Result<String>>,
    sender: ChannelSender,
    sent: u64,
    /// How many the receiver had handled when everything was settled.
    handled: u64,
    tick: Interval,
}

impl Job {
    async fn run(&mut self) -> Result<()> {
        while let Some(line) = self.lines.recv().await {
            let line = line?;
            let send = self.sender.send_value(&line);
            let mut send = std::pin::pin!(send);
            loop {
                tokio::select! {
                    biased;
                    sent = &mut send => {
                        sent.map_err(failure)?;
                        break;
                    }
                    _ = self.tick.tick() => show(self.terminal, &self.sender, self.sent),
                }
            }
            self.sent += 1;
        }
        let completed = self.sender.completed();
        let mut completed = std::pin::pin!(completed);
        loop {
            tokio::select! {
                biased;
                end = &mut completed => break end.map_err(failure)?,
                _ = self.tick.tick() => show(self.terminal, &self.sender, self.sent),
            }
        }
        self.handled = self.sender.progress().completed.min(self.sent);
        Ok(())
    }

    fn end_progress(&self) {
        self.terminal.progress("");
    }

    fn report(&self) -> Result<()> {
        let given_up = self.sent - self.handled;
        if self.terminal.json {
            self.terminal.json(&json!({"sent": self.sent, "given_up": given_up}))?;
        } else {
            let Self { sent, handled, .. } = self;
            self.terminal.line(format_args!("{handled} of {sent} messages were handled"))?;
        }
        match given_up {
            0 => Ok(()),
            count => Err(Failure::new(
                Status::Died,
                format_args!("{count} messages were given up and are dead letters"),
            )
            .hint("`plugbus status` lists them")),
        }
    }

    const TICK: Duration = Duration::from_millis(100);
}

fn show(terminal: Terminal, sender: &ChannelSender, sent: u64) {
    let completed = sender.progress().completed;
    terminal.progress(format_args!(
        "{sent} sent, {completed} handled{DIM}, {} on the way{DIM:#}",
        sent - completed.min(sent)
    ));
}
