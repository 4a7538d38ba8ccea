//! What the cases share: decisions from a seed, children that do what their script says, and a
//! clock.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use plugbus::engine::supervise::{
    Cause, Changed, ChildId, Exit, Governor, Group, Order, Output, Report,
};

/// Splitmix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xA24B_AED4_963E_E407))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }
}

pub(crate) fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// How often each thing happened.
#[derive(Default)]
pub(crate) struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// With everything that has to happen at least once in all cases.
    pub(crate) fn of(names: &[&'static str]) -> Self {
        Self(names.iter().map(|name| (*name, 0)).collect())
    }

    pub(crate) fn count(&mut self, name: &'static str) {
        *self.0.entry(name).or_default() += 1;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    pub(crate) fn missing(&self) -> Vec<&'static str> {
        self.0.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.0.iter().map(|(name, count)| format!("{count} {name}")).collect();
        f.write_str(&parts.join(", "))
    }
}

/// What children do when they are started and stopped: the same for the engine and for what it is
/// compared with, because it depends only on the child and on how often that was asked of it.
pub(crate) struct Script {
    pub(crate) seed: u64,
    /// One start in so many fails.
    pub(crate) failing: u64,
    /// One stop in so many needs a kill.
    pub(crate) stubborn: u64,
}

impl Script {
    fn draw(&self, what: u64, id: &str, times: u64) -> Random {
        let name = id.bytes().fold(what, |hash, byte| hash.wrapping_mul(31) + u64::from(byte));
        let mut random = Random::new(self.seed ^ name.wrapping_mul(0x2545_F491_4F6C_DD1D));
        random.0 = random.next() ^ times;
        random.next();
        random
    }

    /// How start number `times` of the child ends: ready, or gone before.
    pub(crate) fn start(&self, id: &str, times: u64) -> Result<(), Exit> {
        let mut random = self.draw(1, id, times);
        // First starts mostly work, or few groups would ever be up.
        let odds = if times == 0 { self.failing * 8 } else { self.failing };
        if !random.one_in(odds) {
            return Ok(());
        }
        Err(match random.below(8) {
            0 => Exit::Normal,
            1 => Exit::StartFailed { permanent: true, why: "no such file".into() },
            2 => Exit::StartFailed { permanent: false, why: "no memory".into() },
            _ => Exit::Code(1),
        })
    }

    pub(crate) fn is_stubborn(&self, id: &str, times: u64) -> bool {
        self.draw(2, id, times).one_in(self.stubborn)
    }
}

/// The engine with its children, who answer at once.
pub(crate) struct World {
    pub(crate) group: Group,
    pub(crate) governor: Governor,
    pub(crate) script: Script,
    pub(crate) now: Duration,
    pub(crate) trace: Vec<String>,
    pub(crate) changes: Vec<Changed>,
    pub(crate) end: Option<Exit>,
    pub(crate) is_up: bool,
    starts: BTreeMap<ChildId, u64>,
    stops: BTreeMap<ChildId, u64>,
}

impl World {
    pub(crate) fn new(group: Group, script: Script) -> Self {
        Self {
            group,
            governor: Governor::new(1_000_000, 1_000_000, 1_000_000),
            script,
            now: Duration::ZERO,
            trace: Vec::new(),
            changes: Vec::new(),
            end: None,
            is_up: false,
            starts: BTreeMap::new(),
            stops: BTreeMap::new(),
        }
    }

    pub(crate) fn report(&mut self, id: &ChildId, generation: u64, report: Report) {
        self.group.handle_report(self.now, id, generation, report, &mut self.governor);
    }

    /// Carries out what the engine wants, until it wants nothing more at this time.
    pub(crate) fn carry_out(&mut self) {
        while let Some(output) = self.group.poll_output() {
            match output {
                Output::Order(order) => self.obey(order),
                Output::Changed(changed) => self.changes.push(changed),
                Output::Up => self.is_up = true,
                Output::Ended(ended) => self.end = Some(ended.exit),
                other => panic!("nobody knows what {other:?} is"),
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start { id, generation, .. } => {
                self.trace.push(format!("start {id}"));
                let times = self.starts.entry(id.clone()).or_default();
                let outcome = self.script.start(id.as_str(), *times);
                *times += 1;
                let report = outcome.map_or_else(Report::Exited, |()| Report::Ready);
                self.report(&id, generation, report);
            }
            Order::Stop { id, generation, within } => {
                self.trace.push(format!("stop {id}"));
                let times = self.stops.entry(id.clone()).or_default();
                let is_stubborn = within.is_some() && self.script.is_stubborn(id.as_str(), *times);
                *times += 1;
                if !is_stubborn {
                    self.report(&id, generation, Report::Exited(Exit::Stopped));
                }
            }
            Order::Kill { id, generation } => {
                self.trace.push(format!("kill {id}"));
                let exit = Exit::Signal { number: 9, core: false };
                self.report(&id, generation, Report::Exited(exit));
            }
            Order::Switch { id, .. } => self.trace.push(format!("switch {id}")),
            Order::Forget { id } => self.trace.push(format!("forget {id}")),
            other => panic!("nobody knows what {other:?} is"),
        }
    }

    /// Lets the time pass up to `end`, stopping wherever the engine wants to be called.
    pub(crate) fn pass(&mut self, end: Duration) {
        self.carry_out();
        while let Some(at) = self.group.next_deadline().filter(|at| *at <= end) {
            assert!(at >= self.now, "a deadline in the past, which would never be met");
            self.now = at;
            self.group.handle_timeout(self.now, &mut self.governor);
            self.carry_out();
            let next = self.group.next_deadline();
            assert!(next.is_none_or(|at| at > self.now), "S11: {next:?} is due at {:?}", self.now);
        }
        self.now = end;
    }

    /// What was ordered since the last call.
    pub(crate) fn take_trace(&mut self) -> Vec<String> {
        std::mem::take(&mut self.trace)
    }

    pub(crate) fn has_happened(&self, wanted: fn(&Cause) -> bool) -> bool {
        self.changes.iter().any(|changed| wanted(&changed.cause))
    }
}
