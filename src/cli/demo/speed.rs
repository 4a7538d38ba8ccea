//! Throughput beside the bare relay: same machine, same run, same arrangement of processes. A
//! sender in this process, the broker or the relay on a thread of its own, a receiver in a process
//! of its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixListener;
use tokio::process::Command;

use super::peer::Received;
use super::relay;
use super::report::Finding;
use super::stage::Stage;
use super::statistics::{rate, rate_text};
use super::steps::Result;
use crate::net::clock;

/// Small and middling messages, one way.
pub(super) async fn speed(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    let mut texts = Vec::new();
    for size in [64, 1_024] {
        let (ours, received) = through_broker(stage, size).await?;
        finding.equal("messages received", &received.count, &ours.count);
        finding.holds(received.in_order, "messages came out of order");
        let (bare, received) = through_relay(stage, size).await?;
        finding.equal("frames received from the relay", &received.count, &bare.count);
        finding.holds(received.in_order, "frames came out of order");
        let [ours, bare] = [ours, bare].map(|sent| rate(sent.count, sent.time));
        finding.fact(
            &format!("bytes_{size}"),
            json!({
                "broker_per_s": ours.round(), "relay_per_s": bare.round(), "share": ours / bare,
            }),
        );
        texts.push(format!(
            "{size} B: {} through the broker, {} through a bare relay ({:.0} %)",
            rate_text(ours),
            rate_text(bare),
            100.0 * ours / bare
        ));
    }
    let build = if cfg!(debug_assertions) {
        "\nthis is a debug build; a release build is faster"
    } else {
        ""
    };
    Ok(finding
        .says(format!("messages one way, all received in order\n{}{build}", texts.join("\n"))))
}

/// How many were sent, and how long it took until all of them had been received.
struct Sent {
    count: u64,
    time: Duration,
}

async fn through_broker(stage: &Stage, size: usize) -> Result<(Sent, Received)> {
    let sender = stage.client.sender("ant/data").await?;
    let mut body = vec![0; size];
    let mut count: u64 = 0;
    let began = clock::instant();
    while goes_on(began, count) {
        count += 1;
        body[..8].copy_from_slice(&count.to_le_bytes());
        sender.send(&body).await?;
    }
    sender.completed().await?;
    let time = began.elapsed();
    let received = stage.client.call("ant.received", &json!({})).await?;
    Ok((Sent { count, time }, received))
}

async fn through_relay(stage: &Stage, size: usize) -> Result<(Sent, Received)> {
    let path = stage.path("run").join(format!("relay-{size}"));
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    let relay = std::thread::Builder::new()
        .name("plugbus-relay".to_owned())
        .spawn(move || run_relay(listener))?;
    let mut receiver = Command::new(stage.program())
        .args(["builtin", "demo-receiver"])
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = receiver.stdout.take().ok_or("the receiver has no output")?;
    let mut lines = BufReader::new(output).lines();
    lines.next_line().await?.ok_or("the receiver did not connect")?;
    let began = clock::instant();
    let count = relay::send(&path, size, |count| goes_on(began, count)).await?;
    let line = lines.next_line().await?.ok_or("the receiver did not count")?;
    let time = began.elapsed();
    receiver.wait().await?;
    let relayed = relay.join().map_err(|_panic| "the relay panicked")??;
    if relayed != count {
        return Err(format!("the relay had {relayed} of {count} frames").into());
    }
    Ok((Sent { count, time }, serde_json::from_str(&line)?))
}

fn run_relay(listener: std::os::unix::net::UnixListener) -> std::io::Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        listener.set_nonblocking(true)?;
        relay::relay(&UnixListener::from_std(listener)?).await
    })
}

/// The other process of the relay: says that it is connected, then what it received.
pub(crate) fn receive(path: &Path, mut say: impl FnMut(String)) -> std::io::Result<()> {
    let (count, in_order) = relay::receive(path, || say("connected".to_owned()))?;
    say(json!({"count": count, "in_order": in_order}).to_string());
    Ok(())
}

/// The clock is looked at now and then: reading it costs as much as sending.
fn goes_on(began: std::time::Instant, count: u64) -> bool {
    !count.is_multiple_of(CLOCK_EVERY) || began.elapsed() < DURATION
}

const CLOCK_EVERY: u64 = 256;
const DURATION: Duration = Duration::from_millis(700);
