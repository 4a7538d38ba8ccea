//! The step in which a plugin is replaced while it is called.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::report::Finding;
use super::stage::Stage;
use super::statistics::count_text;
use super::steps::Result;
use crate::plugin::Received;

/// New processes of a plugin take over from old ones under load. Each process counts its calls, so
/// that a call that was lost or made twice shows.
pub(super) async fn reload(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    let mut events = stage.client.subscribe("plugbus.lifecycle.ant.ready").await?;
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (client, done) = (stage.client.clone(), Arc::clone(&done));
        callers.spawn(async move {
            let mut counts = Vec::new();
            // Relaxed: whether one more call is made does not matter.
            while !done.load(Ordering::Relaxed) {
                counts.push(client.call::<(u32, u64), _>("ant.count", &json!({})).await);
            }
            counts
        });
    }
    // One call that each process answers for certain, however soon the next one follows it.
    let mut counts = vec![stage.client.call("ant.count", &json!({})).await];
    for _ in 0..RELOADS {
        stage.replace("ant")?;
        loop {
            let Some(Received::Event(event)) = events.next().await else {
                return Err("the events of the plugin have ended".into());
            };
            let change: Value = event.parse()?;
            if change["cause"] == "its successor serves" {
                break;
            }
        }
        counts.push(stage.client.call("ant.count", &json!({})).await);
    }
    done.store(true, Ordering::Relaxed); // As above.
    let (mut calls, mut failed) = (0_u64, Vec::new());
    let mut counted: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    while let Some(more) = callers.join_next().await {
        counts.extend(more?);
    }
    for count in counts {
        calls += 1;
        match count {
            Ok((process, number)) => {
                if !counted.entry(process).or_default().insert(number) {
                    failed.push(format!("{number} was counted twice"));
                }
            }
            Err(error) => failed.push(error.to_string()),
        }
    }
    // What a process counted and nobody was told of was lost, or made once more.
    let handled: u64 = counted.values().filter_map(|numbers| numbers.last()).sum();
    finding.equal("calls that failed", &failed, &Vec::new());
    finding.equal("calls that processes counted", &handled, &calls);
    finding.equal("processes", &counted.len(), &(RELOADS + 1));
    finding.fact("calls", calls);
    finding.fact("reloads", RELOADS);
    Ok(finding.says(format!(
        "a plugin was replaced {RELOADS} times while it was called; of {} calls none was lost\n\
         and none was made twice",
        count_text(calls)
    )))
}

const RELOADS: usize = 3;

/// So many calls are under way at every moment.
const CALLERS: usize = 4;
