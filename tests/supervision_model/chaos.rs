//! Everything at any time: reports come late, twice and out of order, children neither get ready
//! nor end, commands come at every moment, the clock jumps. There is no specification of what
//! happens then, only of what must always hold, whatever happens:
//!
//! - S1 a first start goes on with the next child when the one before is ready;
//! - S2 a group that stops asks a child when all that started after it are gone, and has ended when
//!   every incarnation has been seen to end, or was reported as unkillable;
//! - S3 no incarnation's name is used twice, and what is said of one that is gone changes nothing;
//! - S4 a temporary child is started once, unless a command starts it again;
//! - S5 a group does not restart more often than its intensity allows;
//! - S6 a delay is within its jitter;
//! - S7 a group that quarantines ends only when it is told to, or by a significant child;
//! - S8 starts keep within the governor;
//! - S9 every command is answered, and what was stopped stays stopped;
//! - S10 what serves is ready and was not asked to end;
//! - S11 nothing is left to do at once after a call: no input waits for another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use plugbus::engine::supervise::{
    AutoShutdown, Backoff, Cause, Changed, ChildId, ChildSpec, Command, Delays, Exit, Governor,
    Group, GroupFlags, Intensity, OnExhausted, Order, Output, Phase, Plan, Report, Restart,
    Shutdown, State, Strategy,
};

use crate::world::{Random, Tally, millis};

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const BURST: u32 = 3;
const PER_SECOND: u32 = 5;
const STARTING_MAX: u32 = 2;

/// What is known of an incarnation that has not ended.
#[derive(Default)]
struct Run {
    is_ready: bool,
    is_governed: bool,
    is_asked: bool,
    is_killed: bool,
    is_unkillable: bool,
    /// Another one serves in its place, or it never will.
    is_replaced: bool,
    is_successor: bool,
}

struct Chaos {
    group: Group,
    governor: Governor,
    random: Random,
    now: Duration,
    runs: BTreeMap<(ChildId, u64), Run>,
    dead: Vec<(ChildId, u64)>,
    generation: u64,
    /// Moments of restart decisions.
    restarts: Vec<Duration>,
    governed_starts: Vec<Duration>,
    /// Children that have been ready once.
    proven: BTreeSet<ChildId>,
    /// Temporary children that have run, and that no command has started since.
    spent: BTreeSet<ChildId>,
    /// Children that a command has stopped and none has started since.
    stopped: BTreeSet<ChildId>,
    /// No command so far: the first start is as it was meant.
    is_untouched: bool,
    was_told: bool,
    end: Option<Exit>,
    tally: Tally,
}

pub(crate) fn play(seed: u64) -> Tally {
    let mut random = Random::new(seed);
    let flags = flags(&mut random);
    let count = 1 + random.below(6) as usize;
    let specs = (0..count).map(|place| spec(place, &flags, &mut random)).collect();
    let mut chaos = Chaos {
        group: Group::new(flags, specs, seed).expect("the specs fit together"),
        governor: Governor::new(PER_SECOND, BURST, STARTING_MAX),
        random,
        now: Duration::ZERO,
        runs: BTreeMap::new(),
        dead: Vec::new(),
        generation: 0,
        restarts: Vec::new(),
        governed_starts: Vec::new(),
        proven: BTreeSet::new(),
        spent: BTreeSet::new(),
        stopped: BTreeSet::new(),
        is_untouched: true,
        was_told: false,
        end: None,
        tally: Tally::of(&[
            "starts",
            "crashes",
            "unkillable",
            "stale reports",
            "switched",
            "successors that failed",
            "inherited",
            "exhausted",
            "quarantined",
            "disabled",
            "failed",
            "fell asleep",
            "hung",
            "jumps of the clock",
            "ended",
            "reshaped",
            "renewed while replaced",
        ]),
    };
    chaos.group.start(chaos.now, &mut chaos.governor);
    chaos.check();
    let steps = 20 + chaos.random.below(60);
    let is_busy = chaos.random.one_in(2);
    for _ in 0..steps {
        chaos.step(is_busy);
    }
    // Some groups end in the middle of it.
    if chaos.random.one_in(2) {
        chaos.calm();
    }
    chaos.finish();
    chaos.tally
}

impl Chaos {
    fn step(&mut self, is_busy: bool) {
        match self.random.below(20) {
            0..=8 => self.report(),
            9 => self.stale(),
            10..=13 if is_busy => self.command(),
            14 if self.random.one_in(3) => {
                // The driver was not there for a while.
                self.now += millis(self.random.pick(&[10, 1_500, 100_000, 86_400_000]));
                self.tally.count("jumps of the clock");
                self.timeout();
            }
            _ => {
                let end = self.now
                    + millis(self.random.pick(&[1, 1, 10, 100, 100, 500, 1_000, 6_000, 30_000]));
                self.pass(end);
            }
        }
    }

    /// Something is said of an incarnation that is there.
    fn report(&mut self) {
        let runs: Vec<(ChildId, u64)> = self.runs.keys().cloned().collect();
        if runs.is_empty() {
            return;
        }
        let (id, generation) = self.random.pick(&runs);
        let run = self.runs.get_mut(&(id.clone(), generation)).expect("it was picked");
        let report = match self.random.below(12) {
            0..=4 => Report::Ready,
            5 => Report::Busy(self.random.one_in(2)),
            6 => Report::Active,
            7 => Report::Hung("no answer".into()),
            8 => Report::Violated("bad frame".into()),
            _ if run.is_asked || run.is_killed => Report::Exited(Exit::Stopped),
            _ => Report::Exited(self.random.pick(&[
                Exit::Normal,
                Exit::Code(1),
                Exit::Oom,
                Exit::StartFailed { permanent: true, why: "no such file".into() },
                Exit::Exhausted("too many restarts".into()),
            ])),
        };
        match report {
            Report::Exited(_) => {
                if !run.is_asked && !run.is_killed {
                    self.tally.count("crashes");
                }
                self.runs.remove(&(id.clone(), generation));
                self.dead.push((id.clone(), generation));
            }
            Report::Ready if !run.is_asked && !run.is_killed => {
                run.is_ready = true;
                self.proven.insert(id.clone());
            }
            Report::Hung(_) | Report::Violated(_) => {
                self.tally.count("hung");
            }
            _ => (),
        }
        self.group.handle_report(self.now, &id, generation, report, &mut self.governor);
        self.check();
    }

    /// Something is said of an incarnation that is gone.
    fn stale(&mut self) {
        if self.dead.is_empty() {
            return;
        }
        let (id, generation) = self.random.pick(&self.dead.clone());
        let report = self.random.pick(&[
            Report::Ready,
            Report::Active,
            Report::Busy(true),
            Report::Hung("no answer".into()),
            Report::Exited(Exit::Code(1)),
        ]);
        let before = (format!("{:?}", self.views()), self.group.next_deadline());
        self.group.handle_report(self.now, &id, generation, report, &mut self.governor);
        assert_eq!(self.group.poll_output(), None, "S3: {id} {generation} is gone");
        let after = (format!("{:?}", self.views()), self.group.next_deadline());
        assert_eq!(before, after, "S3: {id} {generation} is gone");
        self.tally.count("stale reports");
    }

    fn views(&self) -> Vec<String> {
        self.group.children().map(|child| format!("{child:?}")).collect()
    }

    fn command(&mut self) {
        let id = ChildId::from(self.random.pick(&NAMES));
        let place = NAMES.iter().position(|name| *name == id.as_str()).expect("it was picked");
        let flags = self.group.flags().clone();
        let new = spec(place, &flags, &mut self.random);
        let plan = self.plan();
        let command = self.random.pick(&[
            Command::Start(id.clone()),
            Command::Stop(id.clone()),
            Command::Kill(id.clone()),
            Command::Restart(id.clone()),
            Command::Enable(id.clone()),
            Command::Wake(id.clone()),
            Command::Sleep(id.clone()),
            Command::Replace(id.clone()),
            Command::Replace(id.clone()),
            Command::Replace(id.clone()),
            Command::Replace(id.clone()),
            Command::Add(new.clone().into()),
            Command::Update(new.clone().into()),
            Command::Remove(id.clone()),
            Command::Reshape(plan.into()),
            Command::Reshape(Plan { renewed: vec![new], ..Plan::default() }.into()),
        ]);
        self.is_untouched = false;
        let answer = self.group.handle_command(self.now, command.clone(), &mut self.governor);
        if answer.is_ok() {
            match command {
                Command::Stop(_) | Command::Kill(_) => drop(self.stopped.insert(id.clone())),
                Command::Start(_)
                | Command::Enable(_)
                | Command::Restart(_)
                | Command::Replace(_)
                | Command::Wake(_)
                | Command::Sleep(_)
                | Command::Add(_)
                | Command::Update(_) => {
                    // What it starts after may have been started with it.
                    self.stopped.clear();
                    self.spent.clear();
                }
                Command::Reshape(plan) => {
                    self.tally.count("reshaped");
                    for spec in &plan.added {
                        self.stopped.remove(&spec.id);
                        self.spent.remove(&spec.id);
                    }
                    for spec in &plan.renewed {
                        self.spent.remove(&spec.id);
                    }
                    let leaving: Vec<&ChildId> = plan.removed.iter().collect();
                    for id in leaving {
                        let is_left = self.group.child(id.as_str());
                        assert!(is_left.is_none_or(|child| child.is_leaving), "{id} leaves");
                    }
                }
                _ => (),
            }
        }
        self.check();
    }

    /// Something new for some children, and nothing more of others.
    fn plan(&mut self) -> Plan {
        let flags = self.group.flags().clone();
        let mut plan = Plan::default();
        for (place, name) in NAMES.iter().enumerate() {
            let spec = spec(place, &flags, &mut self.random);
            let is_there = self.group.child(name).is_some_and(|child| !child.is_leaving);
            match self.random.below(4) {
                0 if is_there => plan.renewed.push(spec),
                1 if is_there => plan.removed.push(spec.id),
                2 if !is_there => plan.added.push(spec),
                _ => (),
            }
        }
        plan
    }

    fn pass(&mut self, end: Duration) {
        while let Some(at) = self.group.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.timeout();
        }
        self.now = end;
    }

    fn timeout(&mut self) {
        self.group.handle_timeout(self.now, &mut self.governor);
        self.check();
        let next = self.group.next_deadline();
        assert!(next.is_none_or(|at| at > self.now), "S11: {next:?} is due at {:?}", self.now);
    }

    /// Reads what comes out, and looks at the children.
    fn check(&mut self) {
        while let Some(output) = self.group.poll_output() {
            match output {
                Output::Order(order) => self.obey(order),
                Output::Changed(changed) => self.note(&changed),
                Output::Up => (),
                Output::Ended(ended) => {
                    let left = self.runs.iter().filter(|(_, run)| !run.is_unkillable);
                    let left: Vec<_> = left.map(|(name, _)| name).collect();
                    assert!(left.is_empty(), "S2: {left:?} are left");
                    // By a significant child, or by a first start that failed.
                    let is_fine = self.was_told
                        || matches!(ended.exit, Exit::Normal | Exit::StartFailed { .. });
                    let quarantines = self.group.flags().on_exhausted == OnExhausted::Quarantine;
                    assert!(is_fine || !quarantines, "S7: ended because it {}", ended.exit);
                    self.tally.count("ended");
                    if matches!(ended.exit, Exit::Exhausted(_)) {
                        self.tally.count("exhausted");
                    }
                    self.end = Some(ended.exit);
                }
                other => panic!("nobody knows what {other:?} is"),
            }
        }
        let starting = self
            .runs
            .values()
            .filter(|run| run.is_governed && !run.is_ready && !run.is_asked && !run.is_killed);
        assert_eq!(self.governor.starting() as usize, starting.count(), "S8: places are kept");
        assert!(self.governor.starting() <= STARTING_MAX, "S8: too many are starting");
        for child in self.group.children() {
            let run = self.runs.get(&(child.spec.id.clone(), child.generation));
            let serves = run.is_some_and(|run| run.is_ready && !run.is_asked && !run.is_killed);
            assert_eq!(child.is_serving, serves, "S10: {}", child.spec.id);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start { id, generation, replaces } => self.start(id, generation, replaces),
            Order::Stop { id, generation, .. } => {
                let run = self.runs.get_mut(&(id, generation)).expect("S3: it is there");
                assert!(!run.is_asked && !run.is_killed, "it is asked once");
                run.is_asked = true;
                run.is_replaced |= run.is_successor;
            }
            Order::Kill { id, generation } => {
                let run = self.runs.get_mut(&(id, generation)).expect("S3: it is there");
                assert!(!run.is_killed, "it is killed once");
                run.is_killed = true;
                run.is_replaced |= run.is_successor;
            }
            Order::Switch { id, from, to } => {
                let new = self.runs.get_mut(&(id.clone(), to)).expect("S3: it is there");
                assert!(new.is_ready && new.is_successor, "only a ready successor takes over");
                new.is_successor = false;
                self.runs.get_mut(&(id, from)).expect("it served").is_replaced = true;
                self.tally.count("switched");
            }
            Order::Forget { id } => {
                assert!(!self.runs.keys().any(|(other, _)| *other == id), "S2: {id} is there");
                self.proven.remove(&id);
            }
            other => panic!("nobody knows what {other:?} is"),
        }
    }

    fn start(&mut self, id: ChildId, generation: u64, replaces: Option<u64>) {
        self.tally.count("starts");
        assert!(generation > self.generation, "S3: generation {generation} was used");
        self.generation = generation;
        assert!(self.end.is_none() && self.group.phase() != Phase::Stopping, "S2: it stops");
        let of_it: Vec<(&u64, &Run)> = self
            .runs
            .iter()
            .filter(|((other, _), _)| *other == id)
            .map(|((_, g), r)| (g, r))
            .collect();
        assert!(of_it.iter().all(|(_, run)| !run.is_unkillable), "S2: one of {id} does not end");
        match replaces {
            None => assert!(of_it.iter().all(|(_, run)| run.is_replaced), "S2: {id} is there"),
            Some(old) => {
                let serving = self.runs.get(&(id.clone(), old)).expect("it replaces one");
                assert!(serving.is_ready && !serving.is_asked, "it replaces one that serves");
            }
        }
        let strategy = self.group.flags().strategy;
        let spec = self.group.child(id.as_str()).expect("it is known").spec.clone();
        if self.group.phase() == Phase::Starting
            && self.is_untouched
            && strategy != Strategy::Dynamic
        {
            for earlier in self.group.children().take_while(|child| child.spec.id != id) {
                let is_first = !self.proven.contains(&earlier.spec.id);
                let waits = earlier.state == State::Starting || earlier.waits.is_some();
                assert!(!(is_first && waits), "S1: {} is not ready", earlier.spec.id);
            }
        }
        assert!(!self.spent.contains(&id), "S4: temporary {id} has run");
        if spec.restart == Restart::Temporary {
            self.spent.insert(id.clone());
        }
        assert!(!self.stopped.contains(&id), "S9: {id} was stopped");
        let is_governed = spec.governed && replaces.is_none();
        if is_governed {
            self.governed_starts.push(self.now);
        }
        let is_successor = replaces.is_some();
        self.runs.insert((id, generation), Run { is_governed, is_successor, ..Run::default() });
    }

    /// A group that stops asks the later ones first.
    fn check_reverse(&self, id: &ChildId) {
        let children: Vec<_> = self.group.children().collect();
        let own = children.iter().position(|child| child.spec.id == *id).expect("it is known");
        for (place, child) in children.iter().enumerate() {
            let is_later = match self.group.flags().strategy {
                Strategy::Dynamic => child.spec.after.contains(id),
                _ => place > own,
            };
            let of_it = self.runs.iter().filter(|((other, _), _)| *other == child.spec.id);
            let mut left = of_it.filter(|(_, run)| !run.is_unkillable);
            assert!(!is_later || left.next().is_none(), "S2: {} before {id}", child.spec.id);
        }
    }

    fn note(&mut self, changed: &Changed) {
        let Changed { id, generation, from, to, cause, .. } = changed;
        match cause {
            Cause::Unkillable => {
                let run = self.runs.get_mut(&(id.clone(), *generation)).expect("it is there");
                assert!(run.is_killed, "S2: it was killed before");
                run.is_unkillable = true;
                // Its siblings do not wait for it.
                self.proven.insert(id.clone());
                self.tally.count("unkillable");
            }
            Cause::GroupStops if *to == State::Stopping => self.check_reverse(id),
            Cause::Renewed if *from == State::Replacing => {
                self.tally.count("renewed while replaced");
            }
            Cause::ReplaceFailed(_) => self.tally.count("successors that failed"),
            Cause::Exited(_) if *from == State::Replacing => {
                let run = self.runs.get_mut(&(id.clone(), *generation)).expect("it is there");
                run.is_successor = false;
                run.is_replaced = false;
                self.tally.count("inherited");
            }
            _ => (),
        }
        let spec = self.group.child(id.as_str()).map(|child| child.spec.clone());
        match to {
            State::BackingOff if from != to => {
                self.restarts.push(self.now);
                self.check_intensity();
                if let Some(spec) = spec {
                    check_delay(changed, &spec.backoff);
                }
            }
            State::Quarantined => self.tally.count("quarantined"),
            State::Disabled => self.tally.count("disabled"),
            State::Failed => self.tally.count("failed"),
            State::Sleeping if *from == State::Stopping => self.tally.count("fell asleep"),
            _ => (),
        }
    }

    fn check_intensity(&self) {
        let flags = self.group.flags();
        if flags.on_exhausted == OnExhausted::Quarantine {
            return;
        }
        let Intensity { restarts_max, window } = flags.intensity;
        let recent = self.restarts.iter().filter(|at| self.now - **at <= window).count();
        assert!(recent <= restarts_max as usize, "S5: {recent} restarts in {window:?}");
    }

    /// The world becomes a good one: everything gets ready, and ends when it is asked to.
    fn calm(&mut self) {
        for _ in 0..400 {
            let next =
                self.runs.iter().find(|(_, run)| run.is_asked || run.is_killed || !run.is_ready);
            let Some(((id, generation), run)) = next else {
                if self.group.children().any(|child| child.waits.is_some()) {
                    let end = self.now + millis(1_000);
                    self.pass(end);
                    continue;
                }
                break;
            };
            let (id, generation) = (id.clone(), *generation);
            if run.is_asked || run.is_killed {
                self.runs.remove(&(id.clone(), generation));
                self.dead.push((id.clone(), generation));
                let report = Report::Exited(Exit::Stopped);
                self.group.handle_report(self.now, &id, generation, report, &mut self.governor);
            } else {
                self.runs.get_mut(&(id.clone(), generation)).expect("it was found").is_ready = true;
                self.proven.insert(id.clone());
                self.group.handle_report(
                    self.now,
                    &id,
                    generation,
                    Report::Ready,
                    &mut self.governor,
                );
            }
            self.check();
        }
        let states: Vec<(ChildId, State, bool)> = (self.group.children())
            .map(|child| (child.spec.id.clone(), child.state, child.waits.is_some()))
            .collect();
        for (id, state, waits) in &states {
            let is_settled = matches!(
                state,
                State::Ready
                    | State::Busy
                    | State::Stopped
                    | State::Sleeping
                    | State::Failed
                    | State::Disabled
                    | State::HalfOpen
            );
            // Who starts after one that is stopped, failed or disabled waits for it.
            let is_blocked = *waits && self.group.flags().strategy == Strategy::Dynamic;
            assert!(is_settled || is_blocked, "S9: {id} is {state} for ever: {states:?}");
            assert!(!waits || is_blocked, "S1: {id} waits for ever: {states:?}");
        }
    }

    fn finish(&mut self) {
        self.was_told = true;
        let _already = self.group.handle_command(self.now, Command::ShutDown, &mut self.governor);
        self.check();
        while let Some((id, generation)) = self.runs.keys().next().cloned() {
            let asked = self.runs.iter().find(|(_, run)| run.is_asked || run.is_killed);
            let (id, generation) = asked.map_or((id, generation), |(name, _)| name.clone());
            self.runs.remove(&(id.clone(), generation));
            let report = Report::Exited(Exit::Stopped);
            self.group.handle_report(self.now, &id, generation, report, &mut self.governor);
            self.check();
        }
        assert_eq!(self.group.phase(), Phase::Ended, "S2: it ends");
        assert_eq!(self.governor.starting(), 0, "S8: every place is given back");
        assert_eq!(self.group.next_deadline(), None, "S11: nothing is left to do");
        for (first, start) in self.governed_starts.iter().enumerate() {
            let end = *start + millis(1_000);
            let count = self.governed_starts[first..].iter().filter(|at| **at < end).count();
            assert!(count <= (BURST + PER_SECOND) as usize, "S8: {count} starts in a second");
        }
    }
}

fn check_delay(changed: &Changed, backoff: &Backoff) {
    let Delays::List(list) = &backoff.delays else { unreachable!("these cases use lists") };
    let wanted = match changed.failures {
        0 | 1 => Duration::ZERO,
        n => list.get(n as usize - 2).or_else(|| list.last()).copied().unwrap_or_default(),
    };
    let delay = changed.next_at.expect("it says when") - changed.at;
    let (least, most) =
        (wanted * (100 - backoff.jitter_percent), wanted * (100 + backoff.jitter_percent));
    assert!(least <= delay * 100 && delay * 100 <= most, "S6: {delay:?} instead of {wanted:?}");
}

fn flags(random: &mut Random) -> GroupFlags {
    let strategy = random.pick(&[
        Strategy::OneForOne,
        Strategy::OneForAll,
        Strategy::RestForOne,
        Strategy::Dynamic,
        Strategy::Dynamic,
    ]);
    let can_quarantine = matches!(strategy, Strategy::OneForOne | Strategy::Dynamic);
    GroupFlags {
        intensity: Intensity {
            restarts_max: random.pick(&[1, 3, 10]),
            window: millis(random.pick(&[5_000, 60_000])),
        },
        auto_shutdown: random.pick(&[AutoShutdown::Never, AutoShutdown::Any, AutoShutdown::All]),
        on_exhausted: if can_quarantine && !random.one_in(3) {
            OnExhausted::Quarantine
        } else {
            OnExhausted::Escalate
        },
        forgets_temporary: random.one_in(2),
        ..GroupFlags::core(strategy)
    }
}

fn spec(place: usize, flags: &GroupFlags, random: &mut Random) -> ChildSpec {
    let restart = random.pick(&[
        Restart::Permanent,
        Restart::Permanent,
        Restart::Transient,
        Restart::Temporary,
    ]);
    let can_matter = flags.auto_shutdown != AutoShutdown::Never && restart != Restart::Permanent;
    // Only the first ones, which are there from the beginning.
    let after = if flags.strategy == Strategy::Dynamic && place > 0 && random.one_in(3) {
        vec![ChildId::from(NAMES[0])]
    } else {
        Vec::new()
    };
    let delays: Vec<Duration> = [200, 1_000, 5_000].map(millis).to_vec();
    ChildSpec {
        restart,
        significant: can_matter && random.one_in(3),
        shutdown: random.pick(&[
            Shutdown::Brutal,
            Shutdown::Within(millis(500)),
            Shutdown::Within(millis(7_000)),
        ]),
        start_timeout: random.pick(&[None, Some(millis(3_000)), Some(millis(10_000))]),
        after,
        lazy: random.one_in(5),
        idle_sleep: random.one_in(4).then_some(millis(8_000)),
        governed: random.one_in(2),
        backoff: Backoff {
            delays: Delays::List(delays.into()),
            jitter_percent: random.pick(&[0, 20, 100]),
            stable_after: millis(5_000),
            disable_after: random.pick(&[None, Some(2), Some(10)]),
            open: millis(10_000),
            open_max: millis(60_000),
        },
        ..ChildSpec::new(NAMES[place])
    }
}
