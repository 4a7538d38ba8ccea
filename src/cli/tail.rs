//! `plugbus tail`: events as they come.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::signal::ctrl_c;

use super::Context;
use super::client::{connect, failure};
use super::failure::{Failure, Result, Status};
use super::terminal::{BOLD, DIM, Terminal, YELLOW};
use super::value::Shown;
use crate::id::Topic;
use crate::plugin::{Event, Gap, Received};
use crate::wire::ContentType;

/// Prints events whose topic fits a pattern, until Ctrl-C. What was published faster than it could
/// be printed is counted.
#[derive(Debug, clap::Args)]
pub(super) struct TailArgs {
    /// Topics: * stands for one word, > at the end for the rest
    #[arg(default_value = ">")]
    pattern: String,
    /// Stop after so many events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub(super) async fn run(context: &Context, args: TailArgs) -> Result<()> {
    let client = connect(context).await?;
    let mut events = client.subscribe(&args.pattern).await.map_err(failure)?;
    let terminal = context.terminal;
    if args.count.is_none() && terminal.shows_progress() {
        terminal.note(format_args!("{DIM}events of {}; Ctrl-C stops{DIM:#}", args.pattern));
    }
    let mut printed = 0;
    while args.count != Some(printed) {
        let event = tokio::select! {
            event = events.next() => event,
            _ = ctrl_c() => return Ok(()),
        };
        let Some(event) = event else {
            return Err(Failure::new(Status::NoBroker, "the broker has gone"));
        };
        printed += u64::from(matches!(event, Received::Event(_)));
        print(terminal, &event)?;
    }
    Ok(())
}

fn print(terminal: Terminal, received: &Received) -> Result<()> {
    match received {
        Received::Event(event) => print_event(terminal, event),
        Received::Gap(Gap { topic, count, cause, .. }) => {
            let topic = topic.as_ref().map(Topic::as_str);
            if terminal.json {
                let gap = json!({"topic": topic, "count": count, "cause": cause});
                return terminal.json(&json!({ "gap": gap }));
            }
            let topic = topic.unwrap_or("several topics");
            terminal.line(format_args!(
                "{YELLOW}{count} events of {topic} did not come: {cause}{YELLOW:#}"
            ))
        }
    }
}

fn print_event(terminal: Terminal, event: &Event) -> Result<()> {
    let (topic, from, id) = (event.topic(), event.from(), event.id());
    let payload = shown(event);
    if terminal.json {
        let payload = payload.0;
        return terminal.json(&json!({"topic": topic, "from": from, "id": id, "payload": payload}));
    }
    terminal.line(format_args!(
        "{DIM}{}{DIM:#} {BOLD}{topic}{BOLD:#} {DIM}from {from}{DIM:#} {}",
        clock(),
        payload.compact()
    ))
}

/// Whatever it carries: text and bytes too.
fn shown(event: &Event) -> Shown {
    let structured = match event.content_type() {
        ContentType::MessagePack | ContentType::Json => event.parse().ok(),
        _ => None,
    };
    structured.unwrap_or_else(|| Shown::from_bytes(event.body()))
}

/// The time of the day in UTC.
fn clock() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = now.as_secs() % 86_400;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", now.subsec_millis())
}
