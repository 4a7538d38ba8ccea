//! The same parts through the Rust SDK, as a plugin author would write them.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Result, bail};
use plugbus::plugin::{self, Client, Context, Message, Plugin};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::input::READ_SIZE as BATCH_SIZE;
use crate::latency::Latencies;
use crate::part::{Line, Role, say};
use crate::payload::{Checker, END, Pattern};

/// Plays a part on a runtime like that of a plugin.
pub(crate) fn play(role: Role, socket: &Path, size: usize, count: usize, nanos: u64) -> Result<()> {
    run(async {
        match role {
            Role::Send => send(socket, size, nanos, BATCH_SIZE / size).await,
            Role::Receive => receive(socket, size).await,
            Role::Echo => echo(socket).await,
            Role::Call => call(socket, size, count, nanos).await,
            role => bail!("the SDK has no part as {role:?}"),
        }
    })
}

/// Sends without batches.
pub(crate) fn play_single_sender(socket: &Path, size: usize, nanos: u64) -> Result<()> {
    run(send(socket, size, nanos, 1))
}

fn run(part: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, part)
}

/// Sends down a channel for a while, then the end mark, and waits until all is acknowledged.
async fn send(socket: &Path, size: usize, nanos: u64, per_batch: usize) -> Result<()> {
    let client = plugin::connect_to(socket).await.map_err(told)?;
    let channel = client.sender("sink/bulk").await.map_err(told)?;
    let mut payload = Pattern::new(size)?.bytes().to_vec();
    let mut batch = vec![payload.clone(); per_batch.max(1)];
    let started = clock::monotonic_nanos();
    let mut sent: u64 = 0;
    while !sent.is_multiple_of(CLOCK_EVERY) || clock::monotonic_nanos() - started < nanos {
        for payload in &mut batch {
            payload[..8].copy_from_slice(&sent.to_le_bytes());
            sent += 1;
        }
        match &batch[..] {
            [payload] => channel.send(payload).await.map_err(told).map(drop)?,
            batch => channel.send_all(batch).await.map_err(told).map(drop)?,
        }
    }
    payload[..8].copy_from_slice(&END.to_le_bytes());
    channel.send(&payload).await.map_err(told)?;
    channel.completed().await.map_err(told)?;
    say(&Line::Sent { count: sent, started, cpu: clock::cpu_nanos() })
}

/// Receives from a channel until the process is killed; reports at the end mark.
async fn receive(socket: &Path, size: usize) -> Result<()> {
    let checker = RefCell::new(Checker::new(size)?);
    let sink = Plugin::new("sink").socket(socket).channel(
        "bulk",
        async move |message: Message, _context: &Context| {
            let mut checker = checker.borrow_mut();
            match checker.check(message.body()) {
                Ok(false) => (),
                Ok(true) => {
                    let (ended, cpu) = (clock::monotonic_nanos(), clock::cpu_nanos());
                    let line = Line::Received { count: checker.count(), ended, cpu };
                    say(&line).unwrap_or_else(|error| fail(&error));
                }
                Err(error) => fail(&error),
            }
            Ok(())
        },
    );
    serve(socket, "sink", sink).await
}

/// Answers with what it is asked, until the process is killed.
async fn echo(socket: &Path) -> Result<()> {
    let echo = Plugin::new("echo")
        .socket(socket)
        .method("echo", async |echo: Echo, _context: &Context| Ok(echo));
    serve(socket, "echo", echo).await
}

/// Runs a plugin and tells the parent when the broker calls it ready.
async fn serve(socket: &Path, id: &str, plugin: Plugin) -> Result<()> {
    let watcher = plugin::connect_to(socket).await.map_err(told)?;
    let topic = format!("plugbus.lifecycle.{id}.ready");
    let mut ready = watcher.subscribe(&topic).await.map_err(told)?;
    tokio::task::spawn_local(async move {
        if ready.next().await.is_some() {
            say(&Line::Ready).unwrap_or_else(|error| fail(&error));
        }
        drop(watcher);
    });
    plugin.run().await.map_err(told)
}

/// Asks with so many questions in the air.
async fn call(socket: &Path, size: usize, outstanding: usize, nanos: u64) -> Result<()> {
    let client = plugin::connect_to(socket).await.map_err(told)?;
    let latencies = Rc::new(RefCell::new(Latencies::new()));
    let started = clock::monotonic_nanos();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..outstanding {
        let (client, latencies) = (client.clone(), Rc::clone(&latencies));
        tasks.spawn_local(ask(client, size, started + nanos, latencies));
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let latencies = std::mem::take(&mut *latencies.borrow_mut());
    say(&latencies.line(clock::monotonic_nanos() - started))
}

/// One question after the other.
async fn ask(
    client: Client,
    size: usize,
    until: u64,
    latencies: Rc<RefCell<Latencies>>,
) -> Result<()> {
    let question = Echo { text: "x".repeat(size) };
    let mut asked = clock::monotonic_nanos();
    while asked < until {
        let answer: Echo = client.call("echo.echo", &question).await.map_err(told)?;
        let now = clock::monotonic_nanos();
        latencies.borrow_mut().note(now - asked);
        if answer.text.len() != size {
            bail!("an answer of {} bytes instead of {size}", answer.text.len());
        }
        asked = now;
    }
    Ok(())
}

/// Question and answer.
#[derive(Deserialize, JsonSchema, Serialize)]
struct Echo {
    text: String,
}

fn told(error: plugin::Error) -> anyhow::Error {
    anyhow::Error::from_boxed(error.into())
}

/// A handler's error would only be logged; a load test that is wrong must end.
#[expect(clippy::print_stderr, reason = "the parent shows it and sees the exit status")]
fn fail(error: &anyhow::Error) -> ! {
    eprintln!("{error:#}");
    std::process::exit(1)
}

/// Messages between two looks at the clock, at least.
const CLOCK_EVERY: u64 = 16;
