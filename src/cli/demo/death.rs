//! The step in which a plugin is killed.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use super::report::Finding;
use super::stage::Stage;
use super::statistics::count_text;
use super::steps::{Result, failure};
use crate::error::Verdict;
use crate::plugin::{Error, Received};

/// A plugin dies in the middle of its work, and every caller learns what happened to its call.
///
/// The first half of the calls is answered. Of the others the plugin begins some and has some
/// waiting; then it is stopped, so that the last ones do not get to it, and killed as the system
/// does when memory runs out. So the moment of its death is the same on every machine.
pub(super) async fn death(stage: &mut Stage) -> Result<Finding> {
    let mut finding = Finding::default();
    let mut holding = stage.client.subscribe("demo.holding").await?;
    let mut calls = JoinSet::new();
    let client = stage.client.clone();
    let call = |calls: &mut JoinSet<_>, number, ballast| {
        let client = client.clone();
        let hold = number > CALLS / 2;
        let arguments = json!({"number": number, "hold": hold, "ballast": "-".repeat(ballast)});
        calls
            .spawn(async move { (number, client.call::<u64, _>("moth.double", &arguments).await) });
    };
    let late = CALLS - CALLS / 4;
    (1..=late).for_each(|number| call(&mut calls, number, 0));
    let mut outcomes = Outcomes::default();
    while outcomes.sum() + (outcomes.wrong.len() as u64) < CALLS / 2 {
        let (number, result) = calls.join_next().await.ok_or("no call is left")??;
        outcomes.add(number, result);
    }
    let Some(Received::Event(held)) = holding.next().await else {
        return Err("no call is held".into());
    };
    let held: u64 = held.parse()?;
    stage.signal("moth", Signal::STOP)?;
    (late + 1..=CALLS).for_each(|number| call(&mut calls, number, BALLAST));
    // Answered in order, so the broker has the calls by then.
    stage.client.query("plugin", Some("moth")).await?;
    stage.signal("moth", Signal::KILL)?;
    while let Some(ended) = calls.join_next().await {
        let (number, result) = ended?;
        outcomes.add(number, result);
    }
    finding.equal("answers", &outcomes.answered, &(CALLS / 2));
    finding.equal("outcomes", &outcomes.sum(), &CALLS);
    finding.equal("wrong answers and other errors", &outcomes.wrong, &Vec::new());
    finding.holds(
        outcomes.begun.contains(&held),
        format_args!("call {held} was running, and its caller was told otherwise"),
    );
    let after = failure(&stage.client, "moth.double", json!({"number": 1})).await?;
    let offline = matches!(
        after,
        Error::Offline(_) | Error::PeerDied { verdict: Verdict::NeverDelivered, .. }
    );
    finding.holds(offline, format_args!("a call to the dead plugin gave {after:?}"));

    let spec = stage.python_peer("moth");
    stage.start(vec![spec]).await?;
    let again: u64 = stage.client.call("moth.double", &json!({"number": 21})).await?;
    finding.equal("the answer of the next run", &again, &42);
    let known = stage.client.query("plugin", Some("moth")).await?;
    finding.equal("its incarnation", &known["incarnation"], &json!(2));
    let Outcomes { answered, never_delivered, possibly_started, started, offline, .. } = outcomes;
    let facts = [
        ("answered", answered),
        ("never_delivered", never_delivered),
        ("possibly_started", possibly_started),
        ("started", started),
        ("offline", offline),
    ];
    facts.iter().for_each(|(name, count)| finding.fact(name, *count));
    Ok(finding.says(format!(
        "a plugin was killed in the middle of {} calls; every caller was told what is known:\n\
         {} answered; of the others {started} had started, {} may have, {} were\n\
         never delivered, {offline} came too late; run again, the plugin answers",
        count_text(CALLS),
        count_text(answered),
        count_text(possibly_started),
        count_text(never_delivered),
    )))
}

/// What became of the calls.
#[derive(Debug, Default)]
struct Outcomes {
    answered: u64,
    never_delivered: u64,
    possibly_started: u64,
    started: u64,
    offline: u64,
    /// Neither the right answer nor an account of the death.
    wrong: Vec<String>,
    /// Calls whose callers were told that they may have begun.
    begun: BTreeSet<u64>,
}

impl Outcomes {
    fn add(&mut self, number: u64, result: std::result::Result<u64, Error>) {
        match result {
            Ok(twice) if twice == 2 * number => self.answered += 1,
            Ok(other) => self.wrong.push(format!("{other} for {number}")),
            Err(Error::Offline(_)) => self.offline += 1,
            Err(Error::PeerDied { verdict, .. }) => {
                if verdict != Verdict::NeverDelivered {
                    self.begun.insert(number);
                }
                match verdict {
                    Verdict::NeverDelivered => self.never_delivered += 1,
                    Verdict::PossiblyStarted => self.possibly_started += 1,
                    Verdict::Started => self.started += 1,
                }
            }
            Err(error) => self.wrong.push(format!("{error:?}")),
        }
    }

    fn sum(&self) -> u64 {
        let told = self.never_delivered + self.possibly_started + self.started + self.offline;
        self.answered + told
    }
}

const CALLS: u64 = 2_000;

/// So that the late calls do not fit what the system keeps for a stopped process.
const BALLAST: usize = 4 << 10;
