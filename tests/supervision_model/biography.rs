//! The life of plugins in a dynamic group, told simply: each has a place in one of a few lists, and
//! rules say where it goes next.

use std::collections::VecDeque;
use std::time::Duration;

use plugbus::engine::supervise::{
    Backoff, ChildId, ChildSpec, Command, Delays, Exit, Group, GroupFlags, Intensity, Report,
    Restart, State,
};

use crate::world::{Random, Script, Tally, World, millis};

struct Plugin {
    spec: ChildSpec,
    state: State,
    /// Wants to be started, not before then.
    wish: Option<Duration>,
    failures: u32,
    trials: u32,
    restarts: Vec<Duration>,
    ready_at: Duration,
    active_at: Duration,
    starts: u64,
}

impl Plugin {
    fn is_up(&self) -> bool {
        matches!(self.state, State::Ready | State::HalfOpen)
    }

    fn forgive(&mut self) {
        self.failures = 0;
        self.trials = 0;
        self.restarts.clear();
    }
}

struct Biography {
    intensity: Intensity,
    plugins: Vec<Plugin>,
    now: Duration,
    trace: Vec<String>,
    script: Script,
    tried: Tally,
}

impl Biography {
    fn place(&self, id: &ChildId) -> usize {
        self.plugins.iter().position(|plugin| plugin.spec.id == *id).expect("it is never removed")
    }

    /// Starts whoever may start, the longest due first, and tells who it was.
    fn launch(&mut self) -> Vec<usize> {
        let mut wishes: Vec<(Duration, usize)> = (self.plugins.iter().enumerate())
            .filter_map(|(place, plugin)| Some((plugin.wish?, place)))
            .filter(|(at, _)| *at <= self.now)
            .collect();
        wishes.sort_unstable();
        let mut launched = Vec::new();
        for (_, place) in wishes {
            let mut needs = self.plugins[place].spec.after.iter();
            let is_there = |need: &Plugin| need.is_up() || need.state == State::Sleeping;
            if !needs.all(|id| is_there(&self.plugins[self.place(id)])) {
                continue;
            }
            let plugin = &mut self.plugins[place];
            plugin.wish = None;
            if plugin.state == State::Quarantined {
                self.tried.count("trials");
            }
            plugin.state = State::Starting;
            self.trace.push(format!("start {}", plugin.spec.id));
            launched.push(place);
        }
        launched
    }

    /// Until nobody may start.
    fn settle(&mut self, started: Vec<usize>) {
        let mut started: VecDeque<usize> = started.into();
        loop {
            started.extend(self.launch());
            let Some(place) = started.pop_front() else { return };
            let plugin = &mut self.plugins[place];
            let outcome = self.script.start(plugin.spec.id.as_str(), plugin.starts);
            plugin.starts += 1;
            match outcome {
                Ok(()) => {
                    let is_trial = plugin.trials > 0;
                    plugin.state = if is_trial { State::HalfOpen } else { State::Ready };
                    plugin.ready_at = self.now;
                    plugin.active_at = self.now;
                }
                Err(exit) => self.fail(place, &exit, false),
            }
        }
    }

    fn fail(&mut self, place: usize, exit: &Exit, was_up: bool) {
        let now = self.now;
        let plugin = &mut self.plugins[place];
        let backoff = plugin.spec.backoff.clone();
        if was_up && now - plugin.ready_at >= backoff.stable_after {
            plugin.failures = 0;
            plugin.trials = 0;
        }
        let is_done = match plugin.spec.restart {
            Restart::Permanent => false,
            Restart::Transient => !exit.is_abnormal(),
            Restart::Temporary => true,
        };
        if is_done {
            plugin.forgive();
            plugin.state = State::Stopped;
            return;
        }
        plugin.failures += 1;
        if exit.is_permanent() {
            plugin.state = State::Failed;
            self.tried.count("permanent failures");
            return;
        }
        plugin.restarts.push(now);
        plugin.restarts.retain(|at| now - *at <= self.intensity.window);
        let is_too_fast = plugin.restarts.len() > self.intensity.restarts_max as usize;
        if backoff.disable_after.is_some_and(|most| plugin.failures > most) {
            plugin.state = State::Disabled;
            self.tried.count("disabled");
        } else if is_too_fast || plugin.trials > 0 {
            let open = backoff.open * 2_u32.pow(plugin.trials.min(20));
            plugin.trials += 1;
            plugin.state = State::Quarantined;
            plugin.wish = Some(now + open.min(backoff.open_max));
            self.tried.count("quarantined");
        } else {
            let Delays::Growing { base, factor, cap } = backoff.delays else {
                unreachable!("these cases use growing delays")
            };
            let mut delay = base;
            for _ in 2..plugin.failures {
                delay = cap.min(delay * factor);
            }
            if plugin.failures == 1 {
                delay = Duration::ZERO;
            }
            plugin.state = State::BackingOff;
            plugin.wish = Some(now + delay.min(cap));
        }
    }

    /// Lets the time pass, from one thing that is due to the next.
    fn pass(&mut self, end: Duration) {
        loop {
            let due = |plugin: &Plugin| {
                let wish = plugin.wish.filter(|at| *at > self.now);
                let trust = (plugin.state == State::HalfOpen)
                    .then(|| plugin.ready_at + plugin.spec.backoff.stable_after);
                [wish, trust, idle_at(plugin)].into_iter().flatten().min()
            };
            let next = self.plugins.iter().filter_map(due).min();
            let Some(at) = next.filter(|at| *at <= end) else { break };
            self.now = at;
            let mut leaving = Vec::new();
            for place in 0..self.plugins.len() {
                let plugin = &mut self.plugins[place];
                let stable_at = plugin.ready_at + plugin.spec.backoff.stable_after;
                if plugin.state == State::HalfOpen && stable_at <= at {
                    plugin.forgive();
                    plugin.state = State::Ready;
                    self.tried.count("trials that succeeded");
                }
                if idle_at(plugin).is_some_and(|idle| idle <= at) {
                    plugin.state = State::Stopping;
                    self.trace.push(format!("stop {}", plugin.spec.id));
                    leaving.push(place);
                    self.tried.count("fell asleep");
                }
            }
            let mut started = self.launch();
            for place in leaving {
                self.plugins[place].state = State::Sleeping;
                started.extend(self.launch());
            }
            self.settle(started);
        }
        self.now = end;
    }

    fn wish(&mut self, place: usize) {
        let plugin = &mut self.plugins[place];
        // What waits to be started does not lose its place.
        let is_waiting = plugin.state == State::Stopped && plugin.wish.is_some();
        if !is_waiting {
            plugin.wish = Some(self.now);
        }
        for id in self.plugins[place].spec.after.clone() {
            let need = self.place(&id);
            let plugin = &self.plugins[need];
            if plugin.state == State::Stopped && plugin.wish.is_none() {
                self.wish(need);
            }
        }
    }

    fn stop(&mut self, place: usize, then: State) {
        let plugin = &mut self.plugins[place];
        self.trace.push(format!("stop {}", plugin.spec.id));
        plugin.state = State::Stopping;
        let started = self.launch();
        self.plugins[place].state = then;
        self.settle(started);
    }

    fn command(&mut self, command: &Command) {
        match command {
            Command::Start(id) | Command::Enable(id) => {
                let place = self.place(id);
                let plugin = &mut self.plugins[place];
                if plugin.is_up() {
                    return;
                }
                plugin.failures = 0;
                if plugin.state != State::Quarantined {
                    plugin.forgive();
                }
                self.wish(place);
            }
            Command::Restart(id) => {
                let place = self.place(id);
                if !self.plugins[place].is_up() {
                    return self.command(&Command::Start(id.clone()));
                }
                self.plugins[place].forgive();
                let plugin = &mut self.plugins[place];
                self.trace.push(format!("stop {id}"));
                plugin.state = State::Stopped;
                plugin.wish = Some(self.now);
            }
            Command::Stop(id) => {
                let place = self.place(id);
                let plugin = &mut self.plugins[place];
                plugin.wish = None;
                if !matches!(plugin.state, State::Failed | State::Disabled) {
                    plugin.forgive();
                }
                match plugin.state {
                    State::Ready | State::HalfOpen => self.stop(place, State::Stopped),
                    State::Failed | State::Disabled => (),
                    _ => plugin.state = State::Stopped,
                }
            }
            Command::Wake(id) => {
                let place = self.place(id);
                let plugin = &self.plugins[place];
                if plugin.state == State::Sleeping && plugin.wish.is_none() {
                    self.wish(place);
                }
            }
            Command::Sleep(id) => {
                let place = self.place(id);
                let plugin = &mut self.plugins[place];
                match plugin.state {
                    State::Ready => self.stop(place, State::Sleeping),
                    State::Stopped | State::Sleeping => {
                        plugin.wish = None;
                        plugin.state = State::Sleeping;
                    }
                    _ => (),
                }
            }
            Command::Replace(id) => {
                let place = self.place(id);
                let plugin = &mut self.plugins[place];
                if plugin.state != State::Ready {
                    return self.command(&Command::Restart(id.clone()));
                }
                self.trace.push(format!("start {id}"));
                let outcome = self.script.start(id.as_str(), plugin.starts);
                plugin.starts += 1;
                plugin.active_at = self.now;
                if outcome.is_ok() {
                    plugin.ready_at = self.now;
                    self.trace.push(format!("switch {id}"));
                    self.trace.push(format!("stop {id}"));
                    self.tried.count("replaced");
                } else {
                    self.tried.count("successors that failed");
                }
            }
            Command::Update(spec) => {
                let place = self.place(&spec.id);
                let plugin = &mut self.plugins[place];
                plugin.spec = (**spec).clone();
                if plugin.state == State::Failed {
                    plugin.forgive();
                    plugin.wish = Some(self.now);
                }
            }
            _ => unreachable!("these cases do not use it"),
        }
    }
}

fn idle_at(plugin: &Plugin) -> Option<Duration> {
    let idle = plugin.spec.idle_sleep.filter(|_| plugin.state == State::Ready)?;
    Some(plugin.active_at + idle)
}

pub(crate) fn play(seed: u64) -> Tally {
    let mut random = Random::new(seed);
    let intensity = Intensity {
        restarts_max: random.pick(&[1, 3, 6]),
        window: millis(random.pick(&[5_000, 60_000])),
    };
    let flags = GroupFlags { intensity, ..GroupFlags::plugins() };
    let names = ["e", "c", "a", "b", "d"];
    let count = 1 + random.below(5) as usize;
    let specs: Vec<ChildSpec> =
        (0..count).map(|place| spec(&names[..count], place, &mut random)).collect();
    let group = Group::new(flags, specs.clone(), seed).expect("the specs fit together");
    let failing = random.pick(&[2, 4, 20]);
    let script = || Script { seed, failing, stubborn: u64::MAX };
    let mut world = World::new(group, script());
    let plugin = |spec: ChildSpec| Plugin {
        state: if spec.lazy { State::Sleeping } else { State::Stopped },
        wish: (!spec.lazy).then_some(Duration::ZERO),
        spec,
        failures: 0,
        trials: 0,
        restarts: Vec::new(),
        ready_at: Duration::ZERO,
        active_at: Duration::ZERO,
        starts: 0,
    };
    let mut biography = Biography {
        intensity,
        plugins: specs.into_iter().map(plugin).collect(),
        now: Duration::ZERO,
        trace: Vec::new(),
        script: script(),
        tried: Tally::of(&[
            "trials",
            "trials that succeeded",
            "permanent failures",
            "disabled",
            "quarantined",
            "fell asleep",
            "replaced",
            "successors that failed",
        ]),
    };
    world.group.start(world.now, &mut world.governor);
    biography.settle(Vec::new());
    compare(&mut world, &mut biography, "the first start");
    for _ in 0..30 {
        let place = random.below(count as u64) as usize;
        let id = biography.plugins[place].spec.id.clone();
        let is_up = biography.plugins[place].is_up();
        let what = match random.below(10) {
            0..=3 if is_up => {
                let exit =
                    random.pick(&[Exit::Code(1), Exit::Normal, Exit::Oom, Exit::StartTimeout]);
                let generation = world.group.child(id.as_str()).expect("it is there").generation;
                world.report(&id, generation, Report::Exited(exit.clone()));
                biography.fail(place, &exit, true);
                format!("{id} {exit}")
            }
            4 if is_up => {
                let generation = world.group.child(id.as_str()).expect("it is there").generation;
                world.report(&id, generation, Report::Active);
                biography.plugins[place].active_at = biography.now;
                format!("{id} is active")
            }
            0..=6 => {
                let spans = [1, 999, 1_000, 3_000, 10_000, 30_000, 100_000];
                let end = world.now + millis(random.pick(&spans));
                world.pass(end);
                biography.pass(end);
                format!("the time passes to {end:?}")
            }
            _ => {
                let mut changed = biography.plugins[place].spec.clone();
                changed.start_timeout = Some(millis(random.below(1_000_000)));
                let command = random.pick(&[
                    Command::Start(id.clone()),
                    Command::Enable(id.clone()),
                    Command::Stop(id.clone()),
                    Command::Restart(id.clone()),
                    Command::Wake(id.clone()),
                    Command::Wake(id.clone()),
                    Command::Sleep(id.clone()),
                    Command::Replace(id.clone()),
                    Command::Update(changed.into()),
                ]);
                let _answer =
                    world.group.handle_command(world.now, command.clone(), &mut world.governor);
                biography.command(&command);
                format!("{command:?}")
            }
        };
        biography.settle(Vec::new());
        compare(&mut world, &mut biography, &what);
    }
    biography.tried
}

fn compare(world: &mut World, biography: &mut Biography, what: &str) {
    world.carry_out();
    let (engine, model) = (world.take_trace(), std::mem::take(&mut biography.trace));
    assert_eq!(engine, model, "after {what} at {:?} (left: the engine)", world.now);
    let engine: Vec<String> = world
        .group
        .children()
        .map(|child| format!("{} {} {}", child.spec.id, child.state, child.failures))
        .collect();
    let model: Vec<String> = biography
        .plugins
        .iter()
        .map(|plugin| format!("{} {} {}", plugin.spec.id, plugin.state, plugin.failures))
        .collect();
    assert_eq!(engine, model, "after {what} at {:?} (left: the engine)", world.now);
    for plugin in &biography.plugins {
        let view = world.group.child(plugin.spec.id.as_str()).expect("it is there");
        let is_timed = matches!(plugin.state, State::BackingOff | State::Quarantined);
        assert_eq!(view.next_at, plugin.wish.filter(|_| is_timed), "of {}", plugin.spec.id);
    }
    assert_eq!(world.end, None, "no plugin ends its group");
}

/// The plugin with this place; it may start after those whose names come before its own.
fn spec(names: &[&str], place: usize, random: &mut Random) -> ChildSpec {
    let after = names
        .iter()
        .filter(|name| **name < names[place] && random.one_in(3))
        .map(|name| ChildId::from(*name))
        .collect();
    ChildSpec {
        restart: random.pick(&[
            Restart::Permanent,
            Restart::Permanent,
            Restart::Transient,
            Restart::Temporary,
        ]),
        after,
        lazy: random.one_in(4),
        idle_sleep: random.one_in(3).then_some(millis(20_000)),
        backoff: Backoff {
            delays: Delays::Growing {
                base: millis(random.pick(&[100, 1_000])),
                factor: random.pick(&[1, 2, 3]),
                cap: millis(8_000),
            },
            jitter_percent: 0,
            stable_after: millis(10_000),
            disable_after: random.pick(&[None, Some(4), Some(10)]),
            open: millis(30_000),
            open_max: millis(300_000),
        },
        ..ChildSpec::plugin(names[place])
    }
}
