//! Groups as their drivers see them.

mod plan;

use std::time::Duration;

use super::*;
use crate::engine::supervise::backoff::Backoff;
use crate::engine::supervise::intensity::Intensity;
use crate::engine::supervise::spec::AutoShutdown;

/// A group whose driver starts and stops children only when the test says so.
struct Driver {
    group: Group,
    governor: Governor,
    now: Duration,
    log: Vec<String>,
    changes: Vec<Changed>,
    starting_most: u32,
}

impl Driver {
    fn new(flags: GroupFlags, specs: Vec<ChildSpec>) -> Self {
        Self::seeded(flags, specs, 7)
    }

    fn seeded(flags: GroupFlags, specs: Vec<ChildSpec>, seed: u64) -> Self {
        let mut driver = Self {
            group: Group::new(flags, specs, seed).unwrap(),
            governor: Governor::default(),
            now: Duration::ZERO,
            log: Vec::new(),
            changes: Vec::new(),
            starting_most: 0,
        };
        driver.group.start(driver.now, &mut driver.governor);
        driver.collect();
        driver
    }

    fn report(&mut self, id: &str, report: Report) {
        let generation = self.group.child(id).unwrap().generation;
        self.report_of(id, generation, report);
    }

    fn report_of(&mut self, id: &str, generation: u64, report: Report) {
        self.group.handle_report(self.now, &id.into(), generation, report, &mut self.governor);
        self.collect();
    }

    fn command(&mut self, command: Command) -> Result<Answer, Refusal> {
        let answer = self.group.handle_command(self.now, command, &mut self.governor);
        self.collect();
        answer
    }

    fn wait(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while let Some(at) = self.group.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.group.handle_timeout(self.now, &mut self.governor);
            self.collect();
        }
        self.now = end;
    }

    /// The driver slept, or its machine did.
    fn jump(&mut self, by: Duration) {
        self.now += by;
        self.group.handle_timeout(self.now, &mut self.governor);
        self.collect();
    }

    fn report_if_starting(&mut self, id: &str) {
        if self.state(id) == State::Starting {
            self.report(id, Report::Ready);
        }
    }

    /// Until all are ready, each a tenth of a second after it was started.
    fn settle(&mut self, ids: &[String]) {
        while !ids.iter().all(|id| self.state(id) == State::Ready) {
            self.wait(100);
            for id in ids {
                self.report_if_starting(id);
            }
        }
    }

    fn state(&self, id: &str) -> State {
        self.group.child(id).unwrap().state
    }

    fn last_change(&self) -> &Changed {
        self.changes.last().unwrap()
    }

    fn has_unkillable(&self) -> bool {
        self.changes.iter().any(|changed| changed.cause == Cause::Unkillable && changed.is_alert())
    }

    fn collect(&mut self) {
        self.starting_most = self.starting_most.max(self.governor.starting());
        while let Some(output) = self.group.poll_output() {
            let line = match output {
                Output::Order(Order::Start { id, .. }) => format!("start {id}"),
                Output::Order(Order::Stop { id, .. }) => format!("stop {id}"),
                Output::Order(Order::Kill { id, .. }) => format!("kill {id}"),
                Output::Order(Order::Switch { id, .. }) => format!("switch {id}"),
                Output::Order(Order::Forget { id }) => format!("forget {id}"),
                Output::Changed(changed) => {
                    let line = format!("{} {}", changed.id, changed.to);
                    self.changes.push(changed);
                    line
                }
                Output::Up => "up".to_owned(),
                Output::Ended(ended) => format!("ended: {}", ended.exit),
            };
            self.log.push(line);
        }
    }

    /// The orders since the last call.
    #[track_caller]
    fn expect(&mut self, lines: &[&str]) {
        let is_order = |line: &String| {
            let words = ["start ", "stop ", "kill ", "switch ", "forget ", "up", "ended"];
            words.iter().any(|word| line.starts_with(word))
        };
        let orders: Vec<String> =
            std::mem::take(&mut self.log).into_iter().filter(is_order).collect();
        assert_eq!(orders, lines);
    }
}

fn three() -> Vec<ChildSpec> {
    ["a", "b", "c"].map(ChildSpec::new).to_vec()
}

#[test]
fn children_start_in_order_and_stop_in_reverse() {
    let mut driver = Driver::new(GroupFlags::core(Strategy::OneForOne), three());
    driver.expect(&["start a"]);
    driver.report("a", Report::Ready);
    driver.expect(&["start b"]);
    driver.report("b", Report::Ready);
    driver.report("c", Report::Ready);
    driver.expect(&["start c", "up"]);
    driver.command(Command::ShutDown).unwrap();
    driver.expect(&["stop c"]);
    driver.report("c", Report::Exited(Exit::Stopped));
    driver.report("b", Report::Exited(Exit::Stopped));
    driver.report("a", Report::Exited(Exit::Stopped));
    driver.expect(&["stop b", "stop a", "ended: stopped as asked"]);
}

#[test]
fn a_first_start_that_fails_is_undone_and_told_upward() {
    let mut driver = Driver::new(GroupFlags::core(Strategy::OneForOne), three());
    driver.report("a", Report::Ready);
    driver.report("b", Report::Ready);
    driver.expect(&["start a", "start b", "start c"]);
    driver.report("c", Report::Exited(Exit::Code(3)));
    driver.expect(&["stop b"]);
    driver.report("b", Report::Exited(Exit::Stopped));
    driver.report("a", Report::Exited(Exit::Stopped));
    driver.expect(&["stop a", "ended: could not be started: child `c`: ended with code 3"]);
}

#[test]
fn one_for_all_stops_in_reverse_and_starts_in_order() {
    let mut driver = up(GroupFlags::core(Strategy::OneForAll), three());
    driver.report("b", Report::Exited(Exit::Code(1)));
    driver.expect(&["stop c"]);
    driver.report("c", Report::Exited(Exit::Stopped));
    driver.expect(&["stop a"]);
    driver.report("a", Report::Exited(Exit::Stopped));
    driver.expect(&["start a"]);
    driver.report("a", Report::Ready);
    driver.report("b", Report::Ready);
    driver.report("c", Report::Ready);
    driver.expect(&["start b", "start c"]);
}

#[test]
fn rest_for_one_leaves_the_earlier_ones_alone() {
    let mut driver = up(GroupFlags::core(Strategy::RestForOne), three());
    driver.report("b", Report::Exited(Exit::Code(1)));
    driver.report("c", Report::Exited(Exit::Stopped));
    driver.report("b", Report::Ready);
    driver.expect(&["stop c", "start b", "start c"]);
    assert_eq!(driver.state("a"), State::Ready);
}

/// While the others wait for the delay of the one that failed, they are down, not half of them up.
#[test]
fn siblings_come_back_together() {
    let mut specs = three();
    for spec in &mut specs {
        spec.backoff = Backoff { jitter_percent: 0, ..Backoff::plugin() };
    }
    let mut driver = up(GroupFlags::core(Strategy::OneForAll), specs);
    for _ in 0..2 {
        driver.log.clear();
        driver.report("b", Report::Exited(Exit::Code(1)));
        driver.report("c", Report::Exited(Exit::Stopped));
        driver.report("a", Report::Exited(Exit::Stopped));
        driver.wait(999);
        driver.report_if_starting("a");
        driver.report_if_starting("b");
        driver.report_if_starting("c");
    }
    driver.expect(&["stop c", "stop a"]);
    driver.wait(1);
    driver.expect(&["start a"]);
}

#[test]
fn a_temporary_child_is_never_restarted_and_forgotten() {
    let mut specs = three();
    specs[2].restart = Restart::Temporary;
    let mut driver = up(GroupFlags::core(Strategy::OneForAll), specs.clone());
    driver.report("a", Report::Exited(Exit::Code(1)));
    driver.report("c", Report::Exited(Exit::Stopped));
    driver.report("b", Report::Exited(Exit::Stopped));
    driver.report("a", Report::Ready);
    driver.report("b", Report::Ready);
    driver.expect(&["stop c", "forget c", "stop b", "start a", "start b"]);

    let mut driver = up(GroupFlags::core(Strategy::OneForAll), specs);
    driver.report("c", Report::Exited(Exit::Code(1)));
    driver.expect(&["forget c"]);
    assert_eq!(driver.state("a"), State::Ready);
}

#[test]
fn a_transient_child_is_restarted_only_after_an_abnormal_exit() {
    for (exit, is_restarted) in [
        (Exit::Normal, false),
        (Exit::Stopped, false),
        (Exit::Code(1), true),
        (Exit::Signal { number: 9, core: false }, true),
        (Exit::Exhausted("x".into()), true),
    ] {
        let mut specs = three();
        specs[1].restart = Restart::Transient;
        let mut driver = up(GroupFlags::core(Strategy::OneForOne), specs);
        driver.report("b", Report::Exited(exit.clone()));
        assert_eq!(driver.state("b") == State::Starting, is_restarted, "{exit}");
    }
}

#[test]
fn significant_children_end_the_group() {
    let end = |auto_shutdown, ids: &[&str]| {
        let mut specs = three();
        for spec in &mut specs[1..] {
            spec.restart = Restart::Transient;
            spec.significant = true;
        }
        let flags = GroupFlags { auto_shutdown, ..GroupFlags::core(Strategy::OneForOne) };
        let mut driver = up(flags, specs);
        for id in ids {
            driver.report(id, Report::Exited(Exit::Normal));
        }
        driver.group.phase()
    };
    assert_eq!(end(AutoShutdown::Any, &["b"]), Phase::Stopping);
    assert_eq!(end(AutoShutdown::Any, &["a"]), Phase::Running);
    assert_eq!(end(AutoShutdown::All, &["b"]), Phase::Running);
    assert_eq!(end(AutoShutdown::All, &["b", "c"]), Phase::Stopping);
}

#[test]
fn a_significant_child_that_is_stopped_ends_nothing() {
    let mut specs = three();
    specs[2].restart = Restart::Transient;
    specs[2].significant = true;
    let flags =
        GroupFlags { auto_shutdown: AutoShutdown::Any, ..GroupFlags::core(Strategy::OneForAll) };
    let mut driver = up(flags, specs);
    driver.report("a", Report::Exited(Exit::Code(1)));
    driver.report("c", Report::Exited(Exit::Normal));
    driver.report("b", Report::Exited(Exit::Stopped));
    for id in ["a", "b", "c"] {
        driver.report(id, Report::Ready);
    }
    driver.command(Command::Stop("c".into())).unwrap();
    driver.report("c", Report::Exited(Exit::Normal));
    assert_eq!(driver.group.phase(), Phase::Running);
}

#[test]
fn what_does_not_fit_together_is_refused_with_a_reason() {
    let refuse = |flags: GroupFlags, specs: Vec<ChildSpec>| {
        Group::new(flags, specs, 1).unwrap_err().to_string()
    };
    let core = || GroupFlags::core(Strategy::OneForOne);
    let any = || GroupFlags { auto_shutdown: AutoShutdown::Any, ..core() };
    let spec = |id: &str| ChildSpec::new(id);
    let after = |id: &str, others: &[&str]| ChildSpec {
        after: others.iter().map(|id| ChildId::from(*id)).collect(),
        ..ChildSpec::plugin(id)
    };
    let cases = [
        (refuse(core(), vec![spec("a"), spec("a")]), "two children `a`"),
        (refuse(any(), vec![ChildSpec { significant: true, ..spec("a") }]), "and permanent"),
        (
            refuse(
                core(),
                vec![ChildSpec { significant: true, restart: Restart::Transient, ..spec("a") }],
            ),
            "without auto-shutdown",
        ),
        (refuse(core(), vec![after("a", &["b"])]), "in the order of its list"),
        (refuse(GroupFlags::plugins(), vec![after("a", &["b"])]), "after `b`, which is not"),
        (
            refuse(
                GroupFlags::plugins(),
                vec![
                    after("x", &["a"]),
                    after("a", &["b"]),
                    after("b", &["c"]),
                    after("c", &["a"]),
                ],
            ),
            "a -> b -> c -> a",
        ),
        (
            refuse(GroupFlags { strategy: Strategy::OneForAll, ..GroupFlags::plugins() }, vec![]),
            "can quarantine",
        ),
    ];
    for (said, wanted) in cases {
        assert!(said.contains(wanted), "{said:?} does not say {wanted:?}");
    }
}

#[test]
fn too_many_restarts_end_the_group() {
    let mut driver = up(GroupFlags::core(Strategy::OneForOne), three());
    for _ in 0..3 {
        driver.report("b", Report::Exited(Exit::Code(1)));
        driver.report("b", Report::Ready);
    }
    // The three are forgotten after 30 s.
    driver.wait(30_001);
    for _ in 0..3 {
        driver.report("a", Report::Exited(Exit::Code(1)));
        driver.report("a", Report::Ready);
    }
    driver.log.clear();
    driver.report("b", Report::Exited(Exit::Code(7)));
    driver.report("c", Report::Exited(Exit::Stopped));
    driver.report("a", Report::Exited(Exit::Stopped));
    driver.expect(&[
        "stop c",
        "stop a",
        "ended: gave up: too many restarts: child `b`: ended with code 7",
    ]);
}

/// A failed restart is a restart too, and leaves the group open to commands.
#[test]
fn a_restart_that_fails_is_tried_again_and_counts() {
    let mut driver = up(GroupFlags::core(Strategy::OneForAll), three());
    driver.report("a", Report::Exited(Exit::Code(1)));
    driver.report("c", Report::Exited(Exit::Stopped));
    driver.report("b", Report::Exited(Exit::Stopped));
    driver.report("a", Report::Ready);
    driver.report("b", Report::Exited(Exit::Code(2)));
    driver.report("a", Report::Exited(Exit::Stopped));
    driver.report("a", Report::Ready);
    driver.expect(&["stop c", "stop b", "start a", "start b", "stop a", "start a", "start b"]);
    driver.command(Command::Stop("b".into())).unwrap();
    driver.expect(&["stop b", "start c"]);
    driver.report("b", Report::Exited(Exit::Stopped));
    driver.report("c", Report::Ready);
    driver.expect(&[]);
    assert_eq!(driver.state("b"), State::Stopped);
}

/// Restarts 1 to 10 of a plugin that always crashes, and the end of it.
#[test]
fn a_plugin_is_restarted_after_growing_delays_and_then_disabled() {
    let flags = GroupFlags {
        intensity: Intensity { restarts_max: 100, window: Duration::from_secs(60) },
        ..GroupFlags::plugins()
    };
    let mut driver = up(flags, vec![plugin("p")]);
    for delay in [0, 1, 2, 4, 8, 16, 16, 16, 16, 16] {
        driver.report("p", Report::Exited(Exit::Code(1)));
        if delay > 0 {
            driver.wait(delay * 1_000 - 1);
            assert_eq!(driver.state("p"), State::BackingOff, "before {delay} s");
            driver.wait(1);
        }
        assert_eq!(driver.state("p"), State::Starting, "after {delay} s");
        driver.report("p", Report::Ready);
    }
    driver.report("p", Report::Exited(Exit::Code(1)));
    assert_eq!(driver.state("p"), State::Disabled);
    assert!(driver.last_change().is_alert());
    driver.wait(10_000_000);
    assert_eq!(driver.state("p"), State::Disabled);
    assert_eq!(driver.command(Command::Enable("p".into())), Ok(Answer::Accepted));
    assert_eq!(
        (driver.state("p"), driver.group.child("p").unwrap().failures),
        (State::Starting, 0)
    );
}

#[test]
fn a_stable_run_makes_the_next_restart_immediate() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    for _ in 0..20 {
        driver.report("p", Report::Exited(Exit::Code(1)));
        assert_eq!(driver.state("p"), State::Starting);
        driver.report("p", Report::Ready);
        // More than 60 s / 6: the intensity allows it for ever.
        driver.wait(10_001);
    }
}

#[test]
fn jitter_stays_within_its_percentage_and_varies() {
    let mut delays = Vec::new();
    for seed in 0..200 {
        let mut driver = Driver::seeded(GroupFlags::plugins(), vec![ChildSpec::plugin("p")], seed);
        for _ in 0..2 {
            driver.report("p", Report::Exited(Exit::Code(1)));
        }
        let delay = driver.group.child("p").unwrap().next_at.unwrap();
        assert!((800..=1_200).contains(&delay.as_millis()), "{delay:?}");
        delays.push(delay);
    }
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 50, "{} different delays", delays.len());
}

#[test]
fn a_quarantined_plugin_gets_trials_further_and_further_apart() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    for delay in [0, 1, 2, 4, 8, 16] {
        driver.report("p", Report::Exited(Exit::Code(1)));
        driver.wait(delay * 1_000);
    }
    assert_eq!(driver.state("p"), State::Starting);
    for open in [30, 60, 120, 240] {
        driver.report("p", Report::Exited(Exit::Code(1)));
        driver.wait(open * 1_000 - 1);
        assert_eq!(driver.state("p"), State::Quarantined, "before {open} s");
        driver.wait(1);
        assert_eq!(driver.state("p"), State::HalfOpen, "after {open} s");
    }
    // The tenth restart holds.
    driver.report("p", Report::Ready);
    driver.wait(9_999);
    assert_eq!(driver.state("p"), State::HalfOpen);
    assert!(driver.group.child("p").unwrap().is_serving);
    driver.wait(1);
    assert_eq!(driver.state("p"), State::Ready);
    driver.report("p", Report::Exited(Exit::Code(1)));
    assert_eq!(driver.state("p"), State::Starting, "as after any stable run");
}

#[test]
fn a_command_starts_a_trial_at_once() {
    let mut driver = quarantined();
    assert_eq!(driver.command(Command::Start("p".into())), Ok(Answer::Accepted));
    assert_eq!(driver.state("p"), State::HalfOpen);
    driver.report("p", Report::Exited(Exit::Code(1)));
    assert_eq!(driver.state("p"), State::Quarantined);
    let view = driver.group.child("p").unwrap();
    assert_eq!(view.next_at.unwrap() - driver.now, Duration::from_secs(60));
}

#[test]
fn one_bad_plugin_does_not_touch_the_others() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p"), plugin("q")]);
    for _ in 0..40 {
        if driver.state("p").is_running() {
            driver.report("p", Report::Exited(Exit::Code(1)));
        }
        driver.wait(400_000);
    }
    assert_eq!((driver.state("p"), driver.state("q")), (State::Disabled, State::Ready));
    assert_eq!(driver.group.phase(), Phase::Running);
}

#[test]
fn what_cannot_be_started_waits_for_a_change() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    driver.command(Command::Restart("p".into())).unwrap();
    driver.report("p", Report::Exited(Exit::Stopped));
    let why = "no such file".into();
    driver.report("p", Report::Exited(Exit::StartFailed { permanent: true, why }));
    driver.wait(10_000_000);
    assert_eq!(driver.state("p"), State::Failed);
    assert_eq!(driver.command(Command::Stop("p".into())), Ok(Answer::Already(State::Failed)));
    let spec = ChildSpec { start_timeout: None, ..plugin("p") };
    assert_eq!(driver.command(Command::Update(spec.into())), Ok(Answer::Accepted));
    assert_eq!(driver.state("p"), State::Starting);
}

#[test]
fn a_child_that_does_not_end_cannot_hang_the_stop() {
    let mut driver = up(GroupFlags::core(Strategy::OneForOne), three());
    driver.command(Command::ShutDown).unwrap();
    driver.report("c", Report::Exited(Exit::Stopped));
    driver.expect(&["stop c", "stop b"]);
    driver.wait(5_000);
    driver.expect(&["kill b"]);
    driver.wait(4_999);
    driver.expect(&[]);
    driver.wait(1);
    assert!(driver.has_unkillable(), "it is reported");
    driver.expect(&["stop a"]);
    driver.report("a", Report::Exited(Exit::Stopped));
    driver.expect(&["ended: stopped as asked"]);
    driver.report("b", Report::Exited(Exit::Signal { number: 9, core: false }));
    assert_eq!(driver.state("b"), State::Stopped);
}

#[test]
fn nothing_is_started_in_the_place_of_one_that_does_not_end() {
    let mut driver = up(GroupFlags::core(Strategy::OneForAll), three());
    driver.report("c", Report::Exited(Exit::Code(1)));
    driver.wait(5_000);
    driver.expect(&["stop b", "kill b"]);
    driver.wait(5_000);
    driver.report("a", Report::Exited(Exit::Stopped));
    driver.report("a", Report::Ready);
    driver.report("c", Report::Ready);
    driver.expect(&["stop a", "start a", "start c"]);
    assert_eq!(driver.command(Command::Start("b".into())), Err(Refusal::Unkillable("b".into())));
    assert_eq!(driver.group.child("b").unwrap().waits, None);
    driver.report("b", Report::Exited(Exit::Signal { number: 9, core: false }));
    driver.expect(&["start b"]);
}

#[test]
fn a_late_report_changes_nothing() {
    let mut driver = up(GroupFlags::core(Strategy::OneForOne), three());
    let old = driver.group.child("a").unwrap().generation;
    driver.report("a", Report::Exited(Exit::Code(1)));
    driver.report("a", Report::Ready);
    let before: Vec<_> = driver.group.children().map(|child| format!("{child:?}")).collect();
    driver.log.clear();
    for report in [
        Report::Ready,
        Report::Busy(true),
        Report::Active,
        Report::Hung("x".into()),
        Report::Violated("x".into()),
        Report::Exited(Exit::Normal),
    ] {
        driver.report_of("a", old, report);
    }
    let after: Vec<_> = driver.group.children().map(|child| format!("{child:?}")).collect();
    assert_eq!((before, driver.log.len()), (after, 0));
}

/// Also where a child of the same name was removed and added again.
#[test]
fn generations_are_not_reused() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    let old = driver.group.child("p").unwrap().generation;
    driver.command(Command::Remove("p".into())).unwrap();
    assert_eq!(
        driver.command(Command::Start("p".into())),
        Err(Refusal::InState { id: "p".into(), state: State::Stopping })
    );
    driver.report("p", Report::Exited(Exit::Stopped));
    driver.command(Command::Add(plugin("p").into())).unwrap();
    driver.report_of("p", old, Report::Ready);
    assert_eq!(driver.state("p"), State::Starting);
}

#[test]
fn a_successor_takes_over_when_it_is_ready() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    let old = driver.group.child("p").unwrap().generation;
    driver.command(Command::Replace("p".into())).unwrap();
    driver.expect(&["start p"]);
    assert_eq!(driver.state("p"), State::Replacing);
    assert_eq!(driver.command(Command::Replace("p".into())), Ok(Answer::Already(State::Replacing)));
    driver.report_of("p", old + 1, Report::Ready);
    driver.expect(&["switch p", "stop p"]);
    assert_eq!(driver.state("p"), State::Ready);
    // Longer than any other stop: it finishes the calls that it has.
    driver.wait(36_999);
    driver.expect(&[]);
    driver.wait(1);
    driver.expect(&["kill p"]);
    driver.report_of("p", old, Report::Exited(Exit::Signal { number: 9, core: false }));
    assert_eq!((driver.state("p"), driver.group.child("p").unwrap().failures), (State::Ready, 0));
}

#[test]
fn a_stop_waits_for_a_replaced_incarnation_no_longer_than_for_any_other() {
    let replaced = || {
        let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
        let old = driver.group.child("p").unwrap().generation;
        driver.command(Command::Replace("p".into())).unwrap();
        driver.report_of("p", old + 1, Report::Ready);
        driver.log.clear();
        driver
    };
    for command in [Command::Stop("p".into()), Command::Remove("p".into()), Command::ShutDown] {
        let mut driver = replaced();
        driver.command(command.clone()).unwrap();
        driver.report("p", Report::Exited(Exit::Stopped));
        driver.log.clear();
        driver.wait(7_000);
        assert!(driver.log.contains(&"kill p".to_owned()), "{command:?}: {:?}", driver.log);
    }
    // Also where nothing else of the child runs any more.
    let mut driver = replaced();
    driver.report("p", Report::Exited(Exit::StartFailed { permanent: true, why: "x".into() }));
    driver.command(Command::ShutDown).unwrap();
    driver.log.clear();
    driver.wait(7_000);
    driver.expect(&["kill p"]);
    // A restart needs the place of the one that serves only.
    let mut driver = replaced();
    driver.command(Command::Restart("p".into())).unwrap();
    driver.report("p", Report::Exited(Exit::Stopped));
    driver.report_if_starting("p");
    driver.log.clear();
    driver.wait(30_000);
    driver.expect(&[]);
}

#[test]
fn a_successor_that_fails_leaves_the_old_one_serving() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    let old = driver.group.child("p").unwrap().generation;
    driver.report("p", Report::Busy(true));
    driver.command(Command::Replace("p".into())).unwrap();
    driver.report_of("p", old + 1, Report::Exited(Exit::Code(2)));
    assert_eq!(driver.state("p"), State::Busy);
    assert_eq!(driver.group.child("p").unwrap().generation, old);
    // One that is never ready is killed, and the old one serves on.
    driver.command(Command::Replace("p".into())).unwrap();
    driver.log.clear();
    driver.wait(30_000);
    driver.expect(&["kill p"]);
    assert_eq!(driver.state("p"), State::Replacing);
    driver.report_of("p", old + 2, Report::Exited(Exit::Signal { number: 9, core: false }));
    assert!(
        driver
            .changes
            .iter()
            .any(|changed| { changed.cause == Cause::ReplaceFailed(Exit::StartTimeout) })
    );
    assert_eq!((driver.state("p"), driver.group.child("p").unwrap().failures), (State::Busy, 0));
}

#[test]
fn the_successor_inherits_when_the_old_one_dies() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    let old = driver.group.child("p").unwrap().generation;
    driver.command(Command::Replace("p".into())).unwrap();
    driver.report_of("p", old, Report::Exited(Exit::Code(1)));
    assert_eq!(driver.state("p"), State::Starting);
    driver.report_of("p", old + 1, Report::Ready);
    assert_eq!(driver.state("p"), State::Ready);
    driver.expect(&["start p"]);
}

#[test]
fn a_stop_ends_both_of_a_replacement() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    let old = driver.group.child("p").unwrap().generation;
    driver.command(Command::Replace("p".into())).unwrap();
    driver.command(Command::ShutDown).unwrap();
    driver.expect(&["start p", "stop p", "stop p"]);
    driver.report_of("p", old, Report::Exited(Exit::Stopped));
    assert_eq!(driver.group.phase(), Phase::Stopping);
    driver.report_of("p", old + 1, Report::Exited(Exit::Stopped));
    assert_eq!(driver.group.phase(), Phase::Ended);
    assert_eq!(driver.governor.starting(), 0);
}

/// The group is stopping, and only the incarnation that was replaced is left of the child.
#[test]
fn killing_a_child_of_which_only_a_replaced_incarnation_is_left_ends_it() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    let old = driver.group.child("p").unwrap().generation;
    driver.command(Command::Replace("p".into())).unwrap();
    driver.report_of("p", old + 1, Report::Ready);
    driver.command(Command::ShutDown).unwrap();
    driver.report_of("p", old + 1, Report::Exited(Exit::Stopped));
    driver.log.clear();
    assert_eq!(driver.command(Command::Kill("p".into())), Ok(Answer::Accepted));
    driver.expect(&["kill p"]);
    driver.report_of("p", old, Report::Exited(Exit::Signal { number: 9, core: false }));
    driver.expect(&["ended: stopped as asked"]);
}

#[test]
fn a_lazy_child_starts_on_demand_and_sleeps_when_idle() {
    let spec = ChildSpec { lazy: true, idle_sleep: Some(Duration::from_secs(60)), ..plugin("p") };
    let mut driver = Driver::new(GroupFlags::plugins(), vec![spec]);
    assert_eq!(driver.state("p"), State::Sleeping);
    driver.command(Command::Wake("p".into())).unwrap();
    driver.report("p", Report::Ready);
    driver.wait(59_999);
    driver.report("p", Report::Active);
    driver.wait(59_999);
    assert_eq!(driver.state("p"), State::Ready);
    driver.report("p", Report::Busy(true));
    driver.wait(600_000);
    assert_eq!(driver.state("p"), State::Busy);
    driver.report("p", Report::Busy(false));
    driver.wait(60_000);
    assert_eq!(driver.state("p"), State::Stopping);
    // Somebody needs it just now.
    driver.command(Command::Wake("p".into())).unwrap();
    driver.report("p", Report::Exited(Exit::Stopped));
    assert_eq!(driver.state("p"), State::Starting);
    driver.report("p", Report::Ready);
    driver.wait(60_000);
    driver.report("p", Report::Exited(Exit::Stopped));
    assert_eq!(driver.state("p"), State::Sleeping);
    assert_eq!(driver.group.child("p").unwrap().failures, 0);
}

#[test]
fn dependencies_start_first_and_stop_last() {
    let after = |id: &str, others: &[&str]| ChildSpec {
        after: others.iter().map(|id| ChildId::from(*id)).collect(),
        ..plugin(id)
    };
    let specs = vec![after("d", &["b", "c"]), after("b", &["a"]), after("c", &["a"]), plugin("a")];
    let mut driver = Driver::new(GroupFlags::plugins(), specs);
    driver.expect(&["up", "start a"]);
    assert_eq!(driver.group.child("b").unwrap().waits, Some(Waits::Child(&"a".into())));
    driver.report("a", Report::Ready);
    driver.expect(&["start b", "start c"]);
    driver.report("b", Report::Ready);
    driver.report("c", Report::Ready);
    driver.report("d", Report::Ready);
    driver.expect(&["start d"]);
    assert_eq!(
        driver.command(Command::Remove("a".into())),
        Err(Refusal::NeededBy("a".into(), "b".into()))
    );
    driver.command(Command::ShutDown).unwrap();
    driver.expect(&["stop d"]);
    driver.report("d", Report::Exited(Exit::Stopped));
    driver.expect(&["stop c", "stop b"]);
    driver.report("b", Report::Exited(Exit::Stopped));
    driver.report("c", Report::Exited(Exit::Stopped));
    driver.expect(&["stop a"]);
}

/// It would wait for nobody.
#[test]
fn nothing_starts_after_a_child_that_is_being_removed() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("a"), plugin("b")]);
    driver.command(Command::Remove("a".into())).unwrap();
    let spec = ChildSpec { after: vec!["a".into()], ..plugin("b") };
    assert_eq!(
        driver.command(Command::Update(spec.into())),
        Err(Refusal::Spec(SpecError::Missing("b".into(), "a".into())))
    );
}

#[test]
fn a_start_pulls_what_it_needs() {
    let second = ChildSpec { after: vec!["a".into()], ..plugin("b") };
    let mut driver = up(GroupFlags::plugins(), vec![plugin("a"), second]);
    for id in ["b", "a"] {
        driver.command(Command::Stop(id.into())).unwrap();
        driver.report(id, Report::Exited(Exit::Stopped));
    }
    driver.log.clear();
    driver.command(Command::Start("b".into())).unwrap();
    driver.report("a", Report::Ready);
    driver.expect(&["start a", "start b"]);
}

/// Two hundred plugins die at once, and all of them come back within the governor's bounds.
#[test]
fn a_storm_keeps_within_the_governor() {
    let ids: Vec<String> = (0..200).map(|number| format!("p{number}")).collect();
    let specs = ids.iter().map(|id| plugin(id)).collect();
    let mut driver = Driver::new(GroupFlags::plugins(), specs);
    driver.settle(&ids);
    let begin = driver.now;
    driver.changes.clear();
    for id in &ids {
        driver.report(id, Report::Exited(Exit::Signal { number: 9, core: false }));
    }
    driver.settle(&ids);
    let starts: Vec<Duration> = (driver.changes.iter())
        .filter(|changed| changed.to == State::Starting)
        .map(|changed| changed.at)
        .collect();
    assert_eq!(starts.len(), 200);
    for (first, &start) in starts.iter().enumerate() {
        let end = start + Duration::from_secs(1);
        let count = starts[first..].iter().filter(|at| **at < end).count();
        assert!(count <= 30, "{count} starts in the second from {start:?}");
    }
    let last = starts.iter().max().unwrap();
    assert!(*last - begin >= Duration::from_secs(18), "10 in a second, after 20 at once");
    assert!(driver.starting_most <= 4);
    assert_eq!(driver.governor.starting(), 0);
}

/// The machine was suspended while children started and stopped: they get a second, not a kill.
#[test]
fn a_gap_in_time_kills_nobody() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p"), plugin("q")]);
    driver.command(Command::Restart("p".into())).unwrap();
    driver.report("p", Report::Exited(Exit::Stopped));
    driver.command(Command::Stop("q".into())).unwrap();
    driver.log.clear();
    driver.jump(Duration::from_secs(365 * 24 * 3_600));
    driver.expect(&[]);
    driver.report("p", Report::Ready);
    driver.wait(999);
    driver.expect(&[]);
    assert_eq!(driver.state("p"), State::Ready);
    // Only once: one that really hangs does not live for ever.
    driver.wait(1);
    driver.expect(&["kill q"]);
}

#[test]
fn time_does_not_go_back() {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    driver.jump(Duration::from_secs(60));
    driver.now = Duration::ZERO;
    driver.report("p", Report::Exited(Exit::Code(1)));
    assert_eq!(driver.last_change().at, Duration::from_secs(60));
}

/// Every command in every state: answered, and the group goes on.
#[test]
fn every_command_is_answered_in_every_state() {
    let commands = |id: ChildId| {
        [
            Command::Start(id.clone()),
            Command::Stop(id.clone()),
            Command::Kill(id.clone()),
            Command::Restart(id.clone()),
            Command::Enable(id.clone()),
            Command::Wake(id.clone()),
            Command::Sleep(id.clone()),
            Command::Replace(id.clone()),
            Command::Remove(id.clone()),
            Command::Update(ChildSpec { governed: false, ..plugin("p") }.into()),
            Command::Add(plugin("new").into()),
            Command::Reshape(Plan { renewed: vec![plugin("p")], ..Plan::default() }.into()),
            Command::Reshape(Plan { removed: vec!["p".into()], ..Plan::default() }.into()),
            Command::ShutDown,
        ]
    };
    for state in State::ALL {
        for command in commands("p".into()) {
            let mut driver = in_state(state);
            let answer = driver.command(command.clone());
            assert!(
                !matches!(answer, Err(Refusal::Unknown(_) | Refusal::Ending)),
                "{command:?} in {state}: {answer:?}"
            );
            // Whatever it was, the group can be shut down, and nobody is left.
            let _already = driver.command(Command::ShutDown);
            driver.wait(20_000);
            for view in
                driver.group.children().map(|child| child.spec.id.clone()).collect::<Vec<_>>()
            {
                for generation in 0..10 {
                    driver.report_of(view.as_str(), generation, Report::Exited(Exit::Stopped));
                }
            }
            assert_eq!(driver.group.phase(), Phase::Ended, "{command:?} in {state}");
            assert_eq!(driver.governor.starting(), 0, "{command:?} in {state}");
        }
    }
    assert_eq!(
        in_state(State::Ready).command(Command::Start("x".into())),
        Err(Refusal::Unknown("x".into()))
    );
}

/// The answers that people rely on.
#[test]
fn commands_say_what_they_did() {
    let answers = [
        (State::Ready, Command::Start("p".into()), Ok(Answer::Already(State::Ready))),
        (State::Stopped, Command::Stop("p".into()), Ok(Answer::Already(State::Stopped))),
        (State::BackingOff, Command::Start("p".into()), Ok(Answer::Accepted)),
        (State::BackingOff, Command::Stop("p".into()), Ok(Answer::Accepted)),
        (State::Sleeping, Command::Wake("p".into()), Ok(Answer::Accepted)),
        (State::Disabled, Command::Enable("p".into()), Ok(Answer::Accepted)),
        (State::Ready, Command::Enable("p".into()), Ok(Answer::Already(State::Ready))),
        (State::Failed, Command::Restart("p".into()), Ok(Answer::Accepted)),
        (
            State::Disabled,
            Command::Wake("p".into()),
            Err(Refusal::InState { id: "p".into(), state: State::Disabled }),
        ),
        (
            State::Busy,
            Command::Sleep("p".into()),
            Err(Refusal::InState { id: "p".into(), state: State::Busy }),
        ),
    ];
    for (state, command, answer) in answers {
        assert_eq!(in_state(state).command(command.clone()), answer, "{command:?} in {state}");
    }
}

/// The broker has 64 KiB for a supervised plugin; the machine takes little of it.
#[test]
fn a_child_costs_little() {
    assert!(size_of::<Child>() <= 1_024, "{} bytes", size_of::<Child>());
}

fn plugin(id: &str) -> ChildSpec {
    let mut spec = ChildSpec::plugin(id);
    spec.backoff.jitter_percent = 0;
    spec
}

/// All children are up, and what led there is forgotten.
fn up(flags: GroupFlags, specs: Vec<ChildSpec>) -> Driver {
    let ids: Vec<String> = specs.iter().map(|spec| spec.id.to_string()).collect();
    let mut driver = Driver::new(flags, specs);
    for id in ids {
        driver.report(&id, Report::Ready);
    }
    driver.log.clear();
    driver
}

fn quarantined() -> Driver {
    let mut driver = up(GroupFlags::plugins(), vec![plugin("p")]);
    for _ in 0..7 {
        driver.report("p", Report::Exited(Exit::Code(1)));
        if driver.state("p") == State::BackingOff {
            let at = driver.group.child("p").unwrap().next_at.unwrap();
            driver.wait(u64::try_from((at - driver.now).as_millis()).unwrap());
        }
    }
    assert_eq!(driver.state("p"), State::Quarantined);
    driver
}

/// A child `p` in the state.
fn in_state(state: State) -> Driver {
    let mut driver = match state {
        State::Quarantined | State::HalfOpen => quarantined(),
        State::Starting => Driver::new(GroupFlags::plugins(), vec![plugin("p")]),
        State::Disabled => {
            let mut spec = plugin("p");
            spec.backoff.disable_after = Some(0);
            up(GroupFlags::plugins(), vec![spec])
        }
        _ => up(GroupFlags::plugins(), vec![plugin("p")]),
    };
    let id = ChildId::from("p");
    match state {
        State::Starting | State::Ready | State::Quarantined => (),
        State::Busy => driver.report("p", Report::Busy(true)),
        State::HalfOpen => drop(driver.command(Command::Start(id))),
        State::Stopping => drop(driver.command(Command::Stop(id))),
        State::Stopped => {
            driver.command(Command::Stop(id)).unwrap();
            driver.report("p", Report::Exited(Exit::Stopped));
        }
        State::Sleeping => {
            driver.command(Command::Sleep(id)).unwrap();
            driver.report("p", Report::Exited(Exit::Stopped));
        }
        State::Replacing => drop(driver.command(Command::Replace(id))),
        State::Disabled => driver.report("p", Report::Exited(Exit::Oom)),
        State::BackingOff => {
            driver.report("p", Report::Exited(Exit::Oom));
            driver.report("p", Report::Exited(Exit::Oom));
        }
        State::Failed => {
            let why = "wrong architecture".into();
            driver.report("p", Report::Exited(Exit::StartFailed { permanent: true, why }));
        }
    }
    assert_eq!(driver.state("p"), state);
    driver
}

/// What has to be prepared for a start takes its own time.
#[test]
fn the_time_to_start_begins_when_it_has_been_prepared() {
    let mut driver = Driver::new(GroupFlags::plugins(), vec![plugin("p")]);
    for _ in 0..100 {
        driver.wait(29_000);
        driver.report("p", Report::Active);
    }
    assert_eq!(driver.state("p"), State::Starting);
    driver.log.clear();
    driver.wait(29_999);
    driver.expect(&[]);
    driver.wait(1);
    driver.expect(&["kill p"]);
    // One that is being killed gets no more of it.
    driver.report("p", Report::Active);
    driver.wait(5_000);
    assert!(driver.has_unkillable());
}
