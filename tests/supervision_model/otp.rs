//! OTP's supervisor, as simple as it can be said, and groups under random exits and commands.
//!
//! The specification follows `supervisor` of OTP in that a call does all of its work before it
//! returns: a stop takes the time that it takes, a failed start goes into the next attempt. What is
//! different from OTP is what is documented as different: delays, held children, `Exhausted`.

use std::time::Duration;

use plugbus::engine::supervise::{
    Answer, AutoShutdown, Backoff, Cause, ChildSpec, Command, Delays, Exit, Group, GroupFlags,
    Intensity, Phase, Report, Restart, Shutdown, State, Strategy,
};

use crate::world::{Random, Script, Tally, World, millis};

const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

/// One child as the specification sees it.
struct Kid {
    spec: ChildSpec,
    is_up: bool,
    /// Its group has not come to it yet.
    is_new: bool,
    /// Waits to be restarted, not before then.
    due: Option<Duration>,
    is_held: bool,
    ready_at: Duration,
    failures: u32,
    starts: u64,
    stops: u64,
}

struct Otp {
    flags: GroupFlags,
    kids: Vec<Kid>,
    gone: Vec<(String, u64, u64)>,
    restarts: Vec<Duration>,
    now: Duration,
    trace: Vec<String>,
    end: Option<&'static str>,
    script: Script,
}

impl Otp {
    fn kid(&self, spec: ChildSpec) -> Kid {
        // A child of this name may have been here before.
        let before = self.gone.iter().rfind(|(id, ..)| id == spec.id.as_str());
        let (starts, stops) = before.map_or((0, 0), |(_, starts, stops)| (*starts, *stops));
        Kid {
            spec,
            is_up: false,
            is_new: true,
            due: None,
            is_held: false,
            ready_at: Duration::ZERO,
            failures: 0,
            starts,
            stops,
        }
    }

    fn init(&mut self) {
        for id in self.ids() {
            let Some(place) = self.place(&id) else { continue };
            if let Err(exit) = self.start(place) {
                let kid = &self.kids[place];
                if exit.is_abnormal() || kid.spec.restart == Restart::Permanent {
                    return self.shut_down("start-failed");
                }
                self.finish(place);
                if self.end.is_some() {
                    return;
                }
            }
        }
    }

    fn ids(&self) -> Vec<String> {
        self.kids.iter().map(|kid| kid.spec.id.to_string()).collect()
    }

    fn place(&self, id: &str) -> Option<usize> {
        self.kids.iter().position(|kid| kid.spec.id.as_str() == id)
    }

    fn start(&mut self, place: usize) -> Result<(), Exit> {
        let kid = &mut self.kids[place];
        let id = kid.spec.id.as_str();
        self.trace.push(format!("start {id}"));
        let outcome = self.script.start(id, kid.starts);
        kid.starts += 1;
        kid.is_new = false;
        kid.due = None;
        kid.is_held = false;
        kid.is_up = outcome.is_ok();
        kid.ready_at = self.now;
        outcome
    }

    fn stop(&mut self, place: usize) {
        let kid = &mut self.kids[place];
        let id = kid.spec.id.to_string();
        kid.is_up = false;
        let within = match kid.spec.shutdown {
            Shutdown::Brutal => return self.trace.push(format!("kill {id}")),
            Shutdown::Within(within) => Some(within),
            Shutdown::Infinite => None,
        };
        self.trace.push(format!("stop {id}"));
        let is_stubborn = self.script.is_stubborn(&id, kid.stops);
        kid.stops += 1;
        if let Some(within) = within.filter(|_| is_stubborn) {
            self.now += within;
            self.trace.push(format!("kill {id}"));
        }
    }

    /// A child that was up has ended by itself, or one that should start has not.
    fn ended(&mut self, place: usize, exit: &Exit, was_up: bool) {
        let kid = &mut self.kids[place];
        kid.is_up = false;
        if was_up && self.now - kid.ready_at >= kid.spec.backoff.stable_after {
            kid.failures = 0;
        }
        match kid.spec.restart {
            Restart::Temporary => return self.finish(place),
            Restart::Transient if !exit.is_abnormal() => return self.finish(place),
            _ => (),
        }
        kid.failures += 1;
        if exit.is_permanent() {
            return self.shut_down("exhausted");
        }
        let intensity = self.flags.intensity;
        self.restarts.push(self.now);
        let now = self.now;
        self.restarts.retain(|at| now - *at <= intensity.window);
        if self.restarts.len() > intensity.restarts_max as usize {
            return self.shut_down("exhausted");
        }
        let kid = &mut self.kids[place];
        let delay = match (&kid.spec.backoff.delays, kid.failures) {
            (_, 0 | 1) => Duration::ZERO,
            (Delays::List(list), n) => {
                list.get(n as usize - 2).or_else(|| list.last()).copied().unwrap_or_default()
            }
            _ => unreachable!("these cases use lists"),
        };
        kid.due = Some(self.now + delay);
        self.terminate_siblings(place);
        self.restart();
    }

    fn terminate_siblings(&mut self, failed: usize) {
        let first = match self.flags.strategy {
            Strategy::OneForAll => 0,
            Strategy::RestForOne => failed,
            _ => return,
        };
        let failed = self.kids[failed].spec.id.clone();
        let at = self.now;
        for place in (first..self.kids.len()).rev() {
            let kid = &self.kids[place];
            if kid.spec.id == failed || kid.is_held {
                continue;
            }
            let is_temporary = kid.spec.restart == Restart::Temporary;
            if kid.is_up {
                self.stop(place);
                if is_temporary {
                    self.forget(place);
                    continue;
                }
            }
            let kid = &mut self.kids[place];
            kid.due = Some(kid.due.unwrap_or(at));
        }
    }

    /// Starts those whose time has come. One-for-one: each for itself; otherwise all together, and
    /// in order.
    fn restart(&mut self) {
        loop {
            let waiting = self.kids.iter().enumerate();
            let waiting = waiting.filter_map(|(place, kid)| Some((kid.due?, place)));
            let next = match self.flags.strategy {
                Strategy::OneForOne => waiting.min(),
                _ => {
                    let last = waiting.clone().map(|(due, _)| due).max();
                    waiting.map(|(_, place)| place).min().zip(last).map(|(place, due)| (due, place))
                }
            };
            let Some((due, place)) = next.filter(|(due, _)| *due <= self.now) else { return };
            let _ = due;
            if let Err(exit) = self.start(place) {
                // Which tries again, or gives up.
                return self.ended(place, &exit, false);
            }
        }
    }

    fn pass(&mut self, end: Duration) {
        while self.end.is_none() {
            let dues = self.kids.iter().filter_map(|kid| kid.due);
            let next = match self.flags.strategy {
                Strategy::OneForOne => dues.min(),
                _ => dues.max(),
            };
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = self.now.max(at);
            self.restart();
        }
        self.now = self.now.max(end);
    }

    /// A child ended and is not restarted.
    fn finish(&mut self, place: usize) {
        let kid = &mut self.kids[place];
        kid.due = None;
        kid.failures = 0;
        let is_significant = kid.spec.significant;
        if kid.spec.restart == Restart::Temporary {
            self.forget(place);
        }
        let mut others = self.kids.iter().filter(|kid| kid.spec.significant);
        let is_another = others.any(|kid| kid.is_up || kid.is_new || kid.due.is_some());
        match self.flags.auto_shutdown {
            AutoShutdown::Any if is_significant => self.shut_down("normal"),
            AutoShutdown::All if is_significant && !is_another => self.shut_down("normal"),
            _ => self.restart(),
        }
    }

    fn forget(&mut self, place: usize) {
        let kid = self.kids.remove(place);
        self.trace.push(format!("forget {}", kid.spec.id));
        self.gone.push((kid.spec.id.to_string(), kid.starts, kid.stops));
    }

    fn shut_down(&mut self, end: &'static str) {
        self.end = Some(end);
        for place in (0..self.kids.len()).rev() {
            self.kids[place].due = None;
            if self.kids[place].is_up {
                self.stop(place);
            }
        }
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Stop(id) => {
                let place = self.place(id.as_str()).expect("the case asks for it");
                let kid = &mut self.kids[place];
                kid.is_new = false;
                kid.due = None;
                kid.is_held = true;
                kid.failures = 0;
                if kid.is_up {
                    self.stop(place);
                    if self.kids[place].spec.restart == Restart::Temporary {
                        self.forget(place);
                    }
                }
                self.restart();
            }
            Command::Start(id) => {
                let place = self.place(id.as_str()).expect("the case asks for it");
                if !self.kids[place].is_up {
                    self.kids[place].failures = 0;
                    self.kids[place].is_held = false;
                    self.start_solo(place);
                }
            }
            Command::Restart(id) => {
                let place = self.place(id.as_str()).expect("the case asks for it");
                self.kids[place].failures = 0;
                self.stop(place);
                self.start_solo(place);
            }
            Command::Add(spec) => {
                let kid = self.kid((**spec).clone());
                self.kids.push(kid);
                let place = self.kids.len() - 1;
                if self.flags.strategy != Strategy::OneForOne
                    && self.kids.iter().any(|kid| kid.due.is_some())
                {
                    self.kids[place].due = Some(self.now);
                } else {
                    self.start_solo(place);
                }
            }
            Command::Remove(id) => {
                let place = self.place(id.as_str()).expect("the case asks for it");
                if self.kids[place].is_up {
                    self.stop(place);
                }
                self.forget(place);
                self.restart();
            }
            Command::ShutDown => self.shut_down("stopped"),
            _ => unreachable!("these cases use OTP's commands"),
        }
    }

    fn start_solo(&mut self, place: usize) {
        if let Err(exit) = self.start(place) {
            self.ended(place, &exit, false);
        }
    }
}

pub(crate) fn play(seed: u64) -> Tally {
    let mut random = Random::new(seed);
    let flags = flags(&mut random);
    let count = 1 + random.below(6) as usize;
    let specs: Vec<ChildSpec> =
        NAMES[..count].iter().map(|name| spec(name, &flags, &mut random)).collect();
    let group = Group::new(flags.clone(), specs.clone(), seed).expect("the specs fit together");
    let (failing, stubborn) = (random.pick(&[3, 8, 30]), random.pick(&[2, 5, 50]));
    let script = || Script { seed, failing, stubborn };
    let mut world = World::new(group, script());
    let mut otp = Otp {
        flags,
        kids: Vec::new(),
        gone: Vec::new(),
        restarts: Vec::new(),
        now: Duration::ZERO,
        trace: Vec::new(),
        end: None,
        script: script(),
    };
    for spec in specs {
        let kid = otp.kid(spec);
        otp.kids.push(kid);
    }
    let mut tally = Tally::of(&[
        "starts that failed at once",
        "groups exhausted",
        "groups ended by a significant child",
        "crashes of one-for-one",
        "crashes of one-for-all",
        "crashes of rest-for-one",
        "children killed",
        "children restarted with a sibling",
        "children that waited",
        "commands",
    ]);

    world.group.start(world.now, &mut world.governor);
    otp.init();
    compare(&mut world, &mut otp, "the first start");
    if otp.end == Some("start-failed") {
        tally.count("starts that failed at once");
    }
    for _ in 0..30 {
        if otp.end.is_some() {
            break;
        }
        let step = random.below(10);
        let what = if step < 5 {
            crash(&mut world, &mut otp, &mut random, &mut tally)
        } else if step < 8 {
            let end = world.now + millis(random.pick(&[1, 500, 1_000, 2_000, 9_999, 40_000]));
            world.pass(end);
            otp.pass(end);
            format!("the time passes to {end:?}")
        } else {
            let command = command(&otp, &mut random);
            let answer =
                world.group.handle_command(world.now, command.clone(), &mut world.governor);
            assert!(answer.is_ok(), "{command:?}: {answer:?}");
            // What is stopped already is held from now on.
            if answer == Ok(Answer::Accepted) || matches!(command, Command::Stop(_)) {
                otp.command(&command);
            }
            tally.count("commands");
            format!("{command:?}")
        };
        compare(&mut world, &mut otp, &what);
        if otp.kids.iter().any(|kid| kid.due.is_some()) {
            tally.count("children that waited");
        }
    }
    match otp.end {
        Some("exhausted") => tally.count("groups exhausted"),
        Some("normal") => tally.count("groups ended by a significant child"),
        _ => (),
    }
    if world.has_happened(|cause| matches!(cause, Cause::Sibling(_))) {
        tally.count("children restarted with a sibling");
    }
    if world.has_happened(|cause| matches!(cause, Cause::Exited(Exit::Signal { number: 9, .. }))) {
        tally.count("children killed");
    }
    tally
}

fn crash(world: &mut World, otp: &mut Otp, random: &mut Random, tally: &mut Tally) -> String {
    let up: Vec<usize> = (0..otp.kids.len()).filter(|place| otp.kids[*place].is_up).collect();
    if up.is_empty() {
        return "nobody is there to crash".to_owned();
    }
    let place = random.pick(&up);
    let exit = random.pick(&[
        Exit::Normal,
        Exit::Code(1),
        Exit::Signal { number: 11, core: true },
        Exit::Panic("index out of bounds".into()),
        Exit::Oom,
        Exit::Exhausted("too many restarts".into()),
    ]);
    let id = otp.kids[place].spec.id.clone();
    tally.count(match otp.flags.strategy {
        Strategy::OneForOne => "crashes of one-for-one",
        Strategy::OneForAll => "crashes of one-for-all",
        _ => "crashes of rest-for-one",
    });
    let generation = world.group.child(id.as_str()).expect("both know it").generation;
    world.report(&id, generation, Report::Exited(exit.clone()));
    otp.ended(place, &exit, true);
    format!("{id} {exit}")
}

/// A command that makes sense to OTP too, and does not take time.
fn command(otp: &Otp, random: &mut Random) -> Command {
    let is_together = otp.flags.strategy != Strategy::OneForOne;
    let is_waiting = otp.kids.iter().any(|kid| kid.due.is_some());
    let obeys = |kid: &&Kid| {
        !kid.is_up
            || kid.spec.shutdown == Shutdown::Infinite
            || kid.spec.shutdown == Shutdown::Brutal
            || !otp.script.is_stubborn(kid.spec.id.as_str(), kid.stops)
    };
    let kids: Vec<&Kid> = otp.kids.iter().filter(obeys).collect();
    for _ in 0..10 {
        match random.below(12) {
            0..=2 if !kids.is_empty() => return Command::Stop(random.pick(&kids).spec.id.clone()),
            // What is started while the others wait would be up before them.
            3..=5 if !(kids.is_empty() || is_together && is_waiting) => {
                return Command::Start(random.pick(&kids).spec.id.clone());
            }
            6..=7 => {
                let up: Vec<&&Kid> = kids.iter().filter(|kid| kid.is_up).collect();
                if !(up.is_empty() || is_together && is_waiting) {
                    return Command::Restart(random.pick(&up).spec.id.clone());
                }
            }
            8..=9 => {
                let new = NAMES.iter().find(|name| otp.place(name).is_none());
                if let Some(name) = new {
                    return Command::Add(spec(name, &otp.flags, random).into());
                }
            }
            10 if !kids.is_empty() => {
                return Command::Remove(random.pick(&kids).spec.id.clone());
            }
            _ => (),
        }
    }
    Command::ShutDown
}

/// Lets the engine finish what takes time, and compares.
fn compare(world: &mut World, otp: &mut Otp, what: &str) {
    world.carry_out();
    world.pass(otp.now.max(world.now));
    otp.pass(world.now);
    let (engine, model) = (world.take_trace(), std::mem::take(&mut otp.trace));
    assert_eq!(engine, model, "after {what} at {:?} (left: the engine)", otp.now);
    let end = match &world.end {
        None => None,
        Some(Exit::Exhausted(_)) => Some("exhausted"),
        Some(Exit::StartFailed { .. }) => Some("start-failed"),
        Some(Exit::Normal) => Some("normal"),
        Some(Exit::Stopped) => Some("stopped"),
        Some(other) => panic!("a group ends with {other}"),
    };
    assert_eq!(end, otp.end, "after {what}");
    if end.is_some() {
        assert_eq!(world.group.phase(), Phase::Ended);
        return;
    }
    let engine: Vec<String> = world
        .group
        .children()
        .map(|child| {
            let state = match child.state {
                State::Ready => "up",
                State::BackingOff => "waits",
                State::Stopped if child.waits.is_some() => "waits",
                State::Stopped => "down",
                state => panic!("{} is {state}", child.spec.id),
            };
            format!("{} {state} {}", child.spec.id, child.failures)
        })
        .collect();
    let model: Vec<String> = otp
        .kids
        .iter()
        .map(|kid| {
            let state = match (kid.is_up, kid.due) {
                (true, _) => "up",
                (_, Some(_)) => "waits",
                _ => "down",
            };
            format!("{} {state} {}", kid.spec.id, kid.failures)
        })
        .collect();
    assert_eq!(engine, model, "after {what} at {:?} (left: the engine)", otp.now);
}

fn flags(random: &mut Random) -> GroupFlags {
    let strategies = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];
    let autos = [AutoShutdown::Never, AutoShutdown::Never, AutoShutdown::Any, AutoShutdown::All];
    GroupFlags {
        intensity: Intensity {
            restarts_max: random.pick(&[0, 1, 2, 3, 5, 10]),
            window: millis(random.pick(&[1_000, 5_000, 30_000])),
        },
        auto_shutdown: random.pick(&autos),
        ..GroupFlags::core(random.pick(&strategies))
    }
}

fn spec(id: &str, flags: &GroupFlags, random: &mut Random) -> ChildSpec {
    let restart = random.pick(&[
        Restart::Permanent,
        Restart::Transient,
        Restart::Permanent,
        Restart::Temporary,
    ]);
    let is_significant =
        flags.auto_shutdown != AutoShutdown::Never && restart != Restart::Permanent;
    let delays: [&[u64]; 4] = [&[], &[], &[1_000], &[1_000, 2_000, 4_000]];
    // No two children are due at the same moment: the engine would start them side by side, which
    // OTP cannot.
    let own =
        Duration::from_micros(1 + NAMES.iter().position(|name| *name == id).unwrap_or(0) as u64);
    let delays: Vec<Duration> = random.pick(&delays).iter().map(|one| millis(*one) + own).collect();
    ChildSpec {
        restart,
        significant: is_significant && random.one_in(2),
        shutdown: random.pick(&[
            Shutdown::Brutal,
            Shutdown::Within(millis(300)),
            Shutdown::Within(millis(5_000)),
            Shutdown::Infinite,
        ]),
        backoff: Backoff {
            delays: Delays::List(delays.into()),
            jitter_percent: 0,
            stable_after: millis(random.pick(&[500, 10_000])),
            ..Backoff::none()
        },
        ..ChildSpec::new(id)
    }
}
