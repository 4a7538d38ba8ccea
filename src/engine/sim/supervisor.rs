//! The supervisors of some plugins: they start, restart, replace and put to sleep, and tell the
//! router what a real one would.
//!
//! They know their processes and what the router gives them; everything else is chance.

use std::time::Duration;

use super::fault::FaultKind;
use super::link::Link;
use super::world::World;
use crate::engine::{Attachment, PluginExit, Presence};
use crate::id::PluginId;
use crate::limit;

/// The supervisor of one plugin id.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) id: PluginId,
    /// Its places for processes, as indices of plugins. The second one is for another instance, or
    /// for a replacement of the first.
    pub(super) places: Vec<usize>,
    pub(super) is_twin: bool,
    /// The place that serves, where there is one instance.
    active: usize,
    /// The place whose process is to take over.
    replacing: Option<usize>,
    state: State,
    wanted: bool,
    /// Since when nobody has been ready.
    unready_since: Option<Duration>,
    /// The last moment in which waiting was in vain, or had been for as long as calls are held.
    pub(super) vain_at: Duration,
    /// A process has taken back what it served: calls of it may end for that reason.
    pub(super) took_back: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Running,
    BackingOff(Duration),
    Sleeping,
    Down(Duration),
}

impl Supervisor {
    pub(super) fn new(id: &str, places: Vec<usize>, is_twin: bool) -> Self {
        Self {
            id: PluginId::parse(id).expect("plugins have valid ids"),
            active: places[0],
            places,
            is_twin,
            replacing: None,
            state: State::Running,
            wanted: false,
            unready_since: None,
            vain_at: Duration::ZERO,
            took_back: false,
        }
    }

    /// Whether a process belongs here for good.
    pub(super) fn needs(&self, place: usize) -> bool {
        self.is_twin || place == self.active
    }
}

impl World {
    /// The supervisors begin: the router knows of them before anybody starts.
    pub(super) fn appoint_supervisors(&mut self) {
        for index in 0..self.supervisors.len() {
            self.enter(index, State::Running);
        }
    }

    /// A supervisor does something. Says whether there was something to do.
    pub(super) fn supervise(&mut self) -> bool {
        let start = self.random.below(self.supervisors.len());
        let count = self.supervisors.len();
        (0..count).any(|offset| self.supervise_one((start + offset) % count))
    }

    /// Whether a place belongs to a supervisor, and to which one.
    pub(super) fn supervisor_of(&self, place: usize) -> Option<usize> {
        self.supervisors.iter().position(|known| known.places.contains(&place))
    }

    /// Notes that somebody wants plugins that sleep.
    pub(super) fn note_wanted(&mut self, wanted: &[PluginId]) {
        for known in &mut self.supervisors {
            if wanted.contains(&known.id) {
                assert_eq!(known.state, State::Sleeping, "only who sleeps is woken");
                known.wanted = true;
            }
        }
    }

    /// Notes since when each plugin has had nobody who is ready, before the time is looked at.
    pub(super) fn watch_readiness(&mut self) {
        for index in 0..self.supervisors.len() {
            let id = self.supervisors[index].id.clone();
            let open = |session: crate::id::SessionId| {
                let mut live = self.links.iter().filter_map(Link::live);
                live.any(|live| live.port().session == session && live.port().is_open())
            };
            let instances = self.router.instances(&id);
            let is_ready = instances
                .iter()
                .any(|known| known.is_ready && known.is_serving && open(known.session));
            let known = &mut self.supervisors[index];
            let now = self.now.mono;
            if is_ready {
                known.unready_since = None;
            } else {
                let since = *known.unready_since.get_or_insert(now);
                if now >= since + limit::RESTART_HOLD {
                    known.vain_at = now;
                }
            }
            let in_vain = match known.state {
                State::Down(_) => true,
                State::BackingOff(until) => until > now + limit::RESTART_HOLD,
                State::Running | State::Sleeping => false,
            };
            if in_vain {
                known.vain_at = now;
            }
        }
    }

    /// A process of a supervised plugin has ended. Its supervisor will tell the router.
    pub(super) fn process_ended(&mut self, place: usize) {
        if self.supervisor_of(place).is_some() {
            self.plugins[place].exit_due = true;
        }
    }

    fn supervise_one(&mut self, index: usize) -> bool {
        let places = self.supervisors[index].places.clone();
        if let Some(&place) = places.iter().find(|&&place| self.plugins[place].exit_due) {
            self.tell_exit(index, place);
            return true;
        }
        if self.over {
            return false;
        }
        let now = self.now.mono;
        let known = &self.supervisors[index];
        match known.state {
            State::Down(until) | State::BackingOff(until) => {
                if until > now && !self.calm {
                    return false;
                }
                self.enter(index, State::Running);
                return true;
            }
            State::Sleeping => {
                if !known.wanted && !self.calm {
                    return false;
                }
                if known.wanted {
                    self.faults.note(FaultKind::Woken);
                }
                self.enter(index, State::Running);
                return true;
            }
            State::Running => (),
        }
        if let Some(place) = self.missing_place(index) {
            self.start_process(index, place, None);
            return true;
        }
        self.replace(index)
    }

    fn missing_place(&self, index: usize) -> Option<usize> {
        let known = &self.supervisors[index];
        let is_missing = |&place: &usize| {
            // While a replacement is there the old one is not started again.
            known.needs(place) && self.plugins[place].client.is_none() && known.replacing.is_none()
        };
        known.places.iter().copied().find(is_missing)
    }

    fn start_process(&mut self, index: usize, place: usize, replaces: Option<u32>) {
        if self.plugins[place].incarnation > 0 {
            self.faults.note(FaultKind::SupervisedRestart);
        }
        let plugin = self.supervisors[index].id.clone();
        self.plugins[place].number += 2;
        let instance = self.plugins[place].number;
        self.connect(place, Some(Attachment { plugin, instance, replaces }));
    }

    /// Begins a replacement, or goes on with it.
    fn replace(&mut self, index: usize) -> bool {
        let known = &self.supervisors[index];
        if known.is_twin || known.places.len() < 2 {
            return false;
        }
        let id = known.id.clone();
        let (old, active) = (self.plugins[known.active].number, known.active);
        match known.replacing {
            None => {
                let spare = known.places.iter().copied().find(|&place| place != active);
                let Some(spare) = spare.filter(|&place| self.plugins[place].client.is_none())
                else {
                    return false;
                };
                if self.calm || !self.random.one_in(8) {
                    return false;
                }
                self.faults.note(FaultKind::Replace);
                self.supervisors[index].replacing = Some(spare);
                self.start_process(index, spare, Some(old));
                true
            }
            Some(place) => {
                let number = self.plugins[place].number;
                let instances = self.router.instances(&id);
                let is_ready =
                    instances.iter().any(|info| info.instance == number && info.is_ready);
                if !is_ready {
                    return false;
                }
                let switched = self.switch(&id, number);
                switched.expect("a replacement that is ready takes over");
                self.faults.note(FaultKind::Switch);
                self.supervisors[index].replacing = None;
                self.supervisors[index].active = place;
                if let Some(client) = &mut self.plugins[place].client {
                    client.serves_since = self.step;
                }
                if let Some(client) = &mut self.plugins[active].client {
                    client.is_innocent = true;
                }
                true
            }
        }
    }

    /// The plugins, by supervisor and place, that wait to replace another one.
    pub(super) fn heirs(&self) -> Vec<(usize, usize)> {
        let heir = |index: usize| Some((index, self.supervisors[index].replacing?));
        (0..self.supervisors.len())
            .filter_map(heir)
            .filter(|&(index, place)| !self.has_share(index, place))
            .collect()
    }

    /// The end of a session may have given its place to the one that was to replace it.
    pub(super) fn note_inherited(&mut self, heirs: Vec<(usize, usize)>) {
        for (index, place) in heirs {
            if self.has_share(index, place)
                && let Some(client) = &mut self.plugins[place].client
            {
                client.serves_since = self.step;
            }
        }
    }

    fn has_share(&self, index: usize, place: usize) -> bool {
        let number = self.plugins[place].number;
        let instances = self.router.instances(&self.supervisors[index].id);
        instances.iter().any(|known| known.instance == number && known.is_serving)
    }

    fn tell_exit(&mut self, index: usize, place: usize) {
        self.plugins[place].exit_due = false;
        let id = self.supervisors[index].id.clone();
        let known = &mut self.supervisors[index];
        let was_replacing = known.replacing == Some(place);
        if was_replacing {
            known.replacing = None;
            self.faults.note(FaultKind::ReplacementFails);
        }
        let number = self.plugins[place].number;
        let text = format!("exit of {number}");
        let alone = self.supervisors[index]
            .places
            .iter()
            .all(|&place| self.plugins[place].client.is_none() && !self.plugins[place].exit_due);
        let now = self.now.mono;
        let next = match self.random.below(12) {
            _ if self.calm || was_replacing || !alone => State::Running,
            0 => {
                self.faults.note(FaultKind::BackOff);
                State::BackingOff(now + Duration::from_millis(self.random.range(1, 5_000) as u64))
            }
            1 => {
                self.faults.note(FaultKind::Sleep);
                State::Sleeping
            }
            2 => {
                self.faults.note(FaultKind::Down);
                State::Down(now + Duration::from_millis(self.random.range(1, 5_000) as u64))
            }
            _ => State::Running,
        };
        let back_at = match next {
            State::BackingOff(until) | State::Down(until) => Some(until),
            State::Running | State::Sleeping => None,
        };
        self.tell_router_of_exit(&id, number, PluginExit { text, back_at });
        self.enter(index, next);
    }

    fn enter(&mut self, index: usize, state: State) {
        let known = &mut self.supervisors[index];
        known.state = state;
        known.wanted = false;
        let id = known.id.clone();
        let presence = match state {
            State::Running => Presence::Managed { back_at: None },
            State::BackingOff(until) => Presence::Managed { back_at: Some(until) },
            State::Sleeping => Presence::Sleeping,
            State::Down(until) => Presence::Down {
                state: "stopped".to_owned(),
                reason: "the supervisor says so".to_owned(),
                back_at: Some(until),
            },
        };
        self.watch_readiness();
        self.set_presence(&id, presence);
    }
}
