//! The step in which a plugin is killed.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::json;
use tokio::task::JoinSet;

use super::report::Finding;
use super::stage::Stage;
use super::statistics::{count_text, time_text};
use super::steps::{Result, as_ms};
use crate::error::Verdict;
use crate::net::clock;
use crate::plugin::{Error, Received};

/// A plugin dies in the middle of its work, every caller learns what happened to its call, and
/// the plugin is back before most would have noticed.
///
/// The first half of the calls is answered. Of the others the plugin begins some and has some
/// waiting; then it is stopped, so that the last ones do not get to it, and killed as the system
/// does when memory runs out. So the moment of its death is the same on every machine. What never
/// got to it is answered by its next run, and so is every call of a method that may be repeated.
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
    let mut squares = JoinSet::new();
    for number in 1..=SQUARES {
        let client = client.clone();
        let arguments = json!({ "number": number });
        squares.spawn(async move { (number, client.call("moth.square", &arguments).await) });
    }
    stage.signal("moth", Signal::STOP)?;
    (late + 1..=CALLS).for_each(|number| call(&mut calls, number, BALLAST));
    // Answered in order, so the broker has the calls by then.
    stage.client.query("plugin", Some("moth")).await?;
    stage.signal("moth", Signal::KILL)?;
    let killed = clock::instant();
    // Held until the plugin is back.
    let again: u64 = stage.client.call("moth.double", &json!({"number": 21})).await?;
    finding.equal("the answer of the next run", &again, &42);
    let back = killed.elapsed();
    while let Some(ended) = calls.join_next().await {
        let (number, result) = ended?;
        outcomes.add(number, result);
    }
    finding.holds(outcomes.answered > CALLS / 2, "no call went to the next run");
    finding.equal("outcomes", &outcomes.sum(), &CALLS);
    finding.equal("wrong answers and other errors", &outcomes.wrong, &Vec::new());
    finding.holds(
        outcomes.begun.contains(&held),
        format_args!("call {held} was running, and its caller was told otherwise"),
    );
    let mut repeated = 0;
    while let Some(ended) = squares.join_next().await {
        let (number, result) = ended?;
        repeated += u64::from(result.is_ok_and(|square: u64| square == number * number));
    }
    finding.equal("answers of the method that may be repeated", &repeated, &SQUARES);
    let known = stage.client.query("plugin", Some("moth")).await?;
    finding.equal("its incarnation", &known["incarnation"], &json!(2));
    finding.fact("back_ms", as_ms(back));
    finding.fact("repeated", repeated);
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
        "a plugin was killed in the middle of {} calls and was back in {};\n\
         every caller was told what is known: {} answered, {} of them by the next\n\
         run; {started} had started, {} may have, {} were never delivered;\n\
         of {SQUARES} calls that may be repeated none was lost",
        count_text(CALLS),
        time_text(back),
        count_text(answered),
        count_text(answered - CALLS / 2),
        count_text(possibly_started),
        count_text(never_delivered + offline),
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

/// Calls of the method that may be repeated.
const SQUARES: u64 = 100;

/// So that the late calls do not fit what the system keeps for a stopped process.
const BALLAST: usize = 4 << 10;
