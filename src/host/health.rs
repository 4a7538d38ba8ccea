//! Looks after the plugins that run: asks the broker, `/proc`, the plugins themselves and the
//! user's programs, and lets the engine judge what that means.
//!
//! One task for all plugins, which asks the broker once for all of them. A plugin that hangs is
//! reported to its group, which kills it; everything else that is wrong is an alert.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::mpsc;

use super::alert::Alert;
use super::announce::raise;
use super::board::Seat;
use super::load::{LoadProbe, process_state};
use super::logs::time_now;
use super::manifest::{self, Threshold};
use super::plugins::Plugins;
use super::resident::Resident;
use super::roster::Alive;
use super::tasks::Ticket;
use crate::broker::{Broker, BrokerError};
use crate::engine::Vitals;
use crate::engine::supervise::{Finding, Health, Measure, Rule, Verdict};
use crate::id::PluginId;
use crate::limit;

/// The task.
pub(crate) struct HealthWatch {
    plugins: Plugins,
    watched: BTreeMap<(Seat, u64), Watched>,
    /// Who calls `health`; joined when the first plugin wants that.
    caller: Option<Resident>,
    answers: mpsc::Sender<Answer>,
}

/// What is known of one process.
struct Watched {
    health: Health,
    probe: LoadProbe,
    messages: u64,
    /// Calls of its `health` method, which are no work that keeps it awake.
    asked: u64,
    is_busy: bool,
    /// Ticks in a row that found no session.
    absences: u64,
    method: Check,
    command: Check,
}

/// A check that takes its time.
#[derive(Default)]
struct Check {
    is_running: bool,
    failures: u64,
}

/// What a check found.
struct Answer {
    key: (Seat, u64),
    measure: Measure,
    well: bool,
}

impl HealthWatch {
    /// Starts it on the current runtime. It ends with its ticket, or with the broker.
    pub(crate) fn start(plugins: Plugins, mut ticket: Ticket) {
        let (answers, mut answered) = mpsc::channel(limit::HEALTH_ANSWERS_MAX);
        let mut watch = Self { plugins, watched: BTreeMap::new(), caller: None, answers };
        tokio::spawn(async move {
            let mut versions = watch.plugins.broker().versions();
            loop {
                let looked = tokio::select! {
                    () = ticket.ended() => return,
                    Some(answer) = answered.recv() => {
                        watch.take(answer);
                        Ok(())
                    }
                    changed = versions.changed() => match changed {
                        Ok(()) => watch.look(false).await,
                        Err(_gone) => return,
                    },
                    () = tokio::time::sleep(watch.until_tick()) => watch.look(true).await,
                };
                // A question that failed with the router is asked again.
                if matches!(looked, Err(BrokerError::NotRunning)) {
                    return;
                }
            }
        });
    }

    /// Until somebody has to be looked at.
    fn until_tick(&self) -> Duration {
        let next = self.watched.values().map(|watched| watched.health.next_tick()).min();
        let next = next.map(|at| at.saturating_sub(Broker::now()));
        next.unwrap_or(limit::HEALTH_INTERVAL).max(limit::HEALTH_INTERVAL_MIN)
    }

    /// Asks the broker; a full look also asks everybody else, and judges.
    async fn look(&mut self, is_full: bool) -> Result<(), BrokerError> {
        let vitals = self.plugins.broker().vitals(is_full).await?;
        let alive = self.plugins.roster().alive();
        self.watched.retain(|key, _| alive.iter().any(|(known, _)| known == key));
        for (key, alive) in alive {
            let (plugin, _) = &key.0;
            let found = vitals.iter().find(|known| {
                known.plugin.as_str() == plugin && known.instance == alive.number && known.is_ready
            });
            if found.is_none() && !alive.was_ready {
                continue;
            }
            let Ok(id) = PluginId::parse(plugin) else { continue };
            let Some(recipe) = self.plugins.recipe(&id) else { continue };
            let settings = &recipe.lifecycle().health;
            let watched = self.watched.entry(key.clone()).or_insert_with(|| Watched {
                health: Health::new(
                    settings.interval,
                    rules(settings, recipe.instances()),
                    Broker::now(),
                ),
                probe: LoadProbe::new(alive.pid),
                messages: 0,
                asked: 0,
                is_busy: false,
                absences: 0,
                method: Check::default(),
                command: Check::default(),
            });
            if let Some(found) = found {
                watched.relay(&alive, found);
            }
            if is_full && Broker::now() >= watched.health.next_tick() {
                let findings = watched.tick(&self.plugins, &key, found);
                self.act(&key, &id, &alive, findings).await;
                if found.is_some() {
                    self.ask(&key, &id, settings, recipe.working_dir()).await;
                }
            }
        }
        Ok(())
    }

    async fn act(
        &self,
        (seat, _): &(Seat, u64),
        id: &PluginId,
        alive: &Alive,
        findings: Vec<Finding>,
    ) {
        for finding in findings {
            if finding.rule.measure == Measure::MissingSession {
                alive.reports.violated("its session ended, and its process went on without one");
                continue;
            }
            let message = finding.to_string();
            if finding.rule.verdict == Verdict::Restart && !finding.is_over {
                // What the process is doing is gone with it.
                let doing = process_state(alive.pid);
                alive.reports.hung(&format!("{message}; the process was {doing}"));
                continue;
            }
            let (plugin, instance) = seat.clone();
            let alert = Alert { plugin, instance, kind: "health", message, time: time_now() };
            raise(&self.plugins, id, alert).await;
        }
    }

    /// Begins the checks that take their time, unless the last ones are still under way.
    async fn ask(
        &mut self,
        key: &(Seat, u64),
        id: &PluginId,
        settings: &manifest::Health,
        dir: Option<PathBuf>,
    ) {
        let Some(watched) = self.watched.get_mut(key) else { return };
        if settings.method && !watched.method.is_running {
            if self.caller.is_none() {
                let joined = self.plugins.broker().participant(self.plugins.caller_id());
                self.caller = Resident::join(joined)
                    .await
                    .inspect_err(|error| log::error!("nobody can call `health`: {error}"))
                    .ok();
            }
            if let Some(caller) = self.caller.as_ref().map(Resident::participant) {
                watched.method.is_running = true;
                watched.asked += 1;
                let (address, timeout) = (format!("{id}.health"), settings.timeout);
                self.report(key, Measure::Method, async move {
                    let empty = BTreeMap::<String, String>::new();
                    let answer = caller.call_within(&address, &empty, timeout).await;
                    // Whatever it says, except that it is not well.
                    !matches!(answer, Err(_) | Ok(serde_json::Value::Bool(false)))
                });
            }
        }
        let Some(watched) = self.watched.get_mut(key) else { return };
        if !settings.command.is_empty() && !watched.command.is_running {
            watched.command.is_running = true;
            let (command, timeout) = (settings.command.clone(), settings.timeout);
            self.report(key, Measure::Command(0), async move { run(&command, dir, timeout).await });
        }
    }

    fn report(
        &self,
        key: &(Seat, u64),
        measure: Measure,
        check: impl Future<Output = bool> + Send + 'static,
    ) {
        let (key, answers) = (key.clone(), self.answers.clone());
        tokio::spawn(async move {
            let well = check.await;
            // The watch ends with the broker.
            let _ended = answers.send(Answer { key, measure, well }).await;
        });
    }

    fn take(&mut self, Answer { key, measure, well }: Answer) {
        let Some(watched) = self.watched.get_mut(&key) else { return };
        let check = match measure {
            Measure::Method => &mut watched.method,
            _ => &mut watched.command,
        };
        check.is_running = false;
        check.failures = if well { 0 } else { check.failures + 1 };
    }
}

impl Watched {
    /// Passes on what the plugin says of itself, and that it has something to do.
    fn relay(&mut self, alive: &Alive, found: &Vitals) {
        if found.is_busy != self.is_busy {
            self.is_busy = found.is_busy;
            alive.reports.busy(found.is_busy);
        }
        let work = found.messages.saturating_sub(self.asked);
        if work > self.messages || found.oldest_unanswered.is_some() {
            alive.reports.active();
        }
        self.messages = self.messages.max(work);
    }

    fn tick(
        &mut self,
        plugins: &Plugins,
        (seat, generation): &(Seat, u64),
        found: Option<&Vitals>,
    ) -> Vec<Finding> {
        let now = Broker::now();
        // Who has no session is not silent, but gone.
        if found.is_none_or(|found| found.unanswered_ping.is_none()) {
            self.health.handle_alive();
        }
        self.absences = if found.is_some() { 0 } else { self.absences + 1 };
        let mut sample = vec![
            (Measure::MissingSession, self.absences),
            (Measure::Method, self.method.failures),
            (Measure::Command(0), self.command.failures),
        ];
        if let Some(found) = found {
            let oldest = found.oldest_unanswered.unwrap_or_default().as_millis();
            let oldest = u64::try_from(oldest).unwrap_or(u64::MAX);
            sample.push((Measure::OldestUnanswered, oldest));
        }
        // A process that has just ended has nothing to be measured.
        if let Ok(mut load) = self.probe.look(now) {
            load.messages = found.map_or(self.messages, |found| found.messages);
            sample.push((Measure::Memory, load.memory));
            sample.push((Measure::Descriptors, load.descriptors));
            sample.push((Measure::Processor, load.cpu_percent.max(0.0) as u64));
            plugins.board().used(seat, *generation, load);
        }
        self.health.handle_tick(now, &sample)
    }
}

/// What a manifest asks to be watched, in each of so many processes.
fn rules(settings: &manifest::Health, instances: u32) -> Vec<Rule> {
    // A call reaches any one of several, and nobody is killed for what another one answers.
    let by_method = if instances > 1 { Verdict::Alert } else { Verdict::Restart };
    let misses = u64::from(settings.misses);
    let mut rules = vec![
        Rule::new(Measure::MissedPings, misses, Verdict::Restart),
        // The first one may have come a moment after its end.
        Rule::new(Measure::MissingSession, 2, Verdict::Restart),
        Rule::new(Measure::Method, misses, by_method),
        Rule::new(Measure::Command(0), misses, Verdict::Restart),
    ];
    let mut add = |measure, threshold: Threshold<u64>, lasting| {
        for (above, verdict) in
            [(threshold.alert, Verdict::Alert), (threshold.restart, Verdict::Restart)]
        {
            if let Some(above) = above {
                rules.push(Rule { lasting, ..Rule::new(measure, above, verdict) });
            }
        }
    };
    let age = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    add(Measure::OldestUnanswered, settings.oldest.map(age), Duration::ZERO);
    add(Measure::Memory, settings.memory.map(|size| size.0), Duration::ZERO);
    // A short burst of work is what a processor is for.
    add(Measure::Processor, settings.cpu.map(|share| u64::from(share.0)), settings.interval * 3);
    add(Measure::Descriptors, settings.fds, Duration::ZERO);
    rules
}

async fn run(command: &[String], dir: Option<PathBuf>, timeout: Duration) -> bool {
    let (program, arguments) = command.split_first().expect("a manifest's command has a program");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true);
    if let Some(dir) = dir {
        command.current_dir(dir);
    }
    match tokio::time::timeout(timeout, command.status()).await {
        Ok(Ok(status)) => status.success(),
        Ok(Err(error)) => {
            log::error!("health command {program:?}: {error}");
            false
        }
        Err(_elapsed) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_killed_for_what_another_instance_answers() {
        for (instances, verdict) in [(1, Verdict::Restart), (2, Verdict::Alert)] {
            let rules = rules(&manifest::Health::default(), instances);
            let mut health = Health::new(Duration::from_secs(5), rules, Duration::ZERO);
            let found = health.handle_tick(Duration::from_secs(5), &[(Measure::Method, 3)]);
            let verdicts: Vec<_> = found.iter().map(|finding| finding.rule.verdict).collect();
            assert_eq!(verdicts, [verdict], "{instances} instances");
        }
    }
}
