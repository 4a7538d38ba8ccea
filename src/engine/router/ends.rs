//! What becomes of calls when a callee or a caller ends, and what is quarantined.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::Router;
use super::entry::SessionEnd;
use super::presence::PluginExit;
use crate::engine::calls::{Call, Phase};
use crate::engine::channel::{Channel, Killer};
use crate::engine::effects::{Effects, Now};
use crate::engine::method::Release;
use crate::engine::port::{Port, Route};
use crate::engine::tally::End;
use crate::id::PluginId;
use crate::limit;
use crate::wire::body;

/// A message or a request over which its receivers crashed, and which is not delivered again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Quarantined {
    /// `plugin/channel` or `plugin.method`.
    pub to: String,
    /// The sending plugin.
    pub from: String,
    /// The sending session: ids count within it.
    pub session: u64,
    /// Message id.
    pub id: u64,
    /// Times that it was delivered.
    pub attempts: u32,
    /// How the receivers ended.
    pub exits: Vec<String>,
}

/// One that is yet to be told of, when the last exit is known.
#[derive(Debug)]
pub(super) struct Suspect {
    record: Quarantined,
    plugin: PluginId,
    crashes: Vec<u64>,
    until: Duration,
}

impl Router {
    /// Decides about the calls that a callee had: given to somebody else, held, or ended.
    pub(super) fn end_calls_of_callee(
        &mut self,
        callee: &Arc<Port>,
        crashed: bool,
        now: Now,
        fx: &mut Effects,
    ) {
        // Relaxed: on the path to here the router has taken every lock that a call goes through.
        if callee.outstanding.load(Ordering::Relaxed) == 0 {
            return;
        }
        let entry = &self.plugins[&callee.plugin];
        let end = entry.ends.back().filter(|end| end.session == callee.session);
        let exit = end.filter(|end| end.is_exit).map(|end| end.text.clone());
        let exit = exit.map(|text| PluginExit { text, back_at: entry.presence.back_at() });
        let may_be_told = entry.presence.is_managed() && exit.is_none();
        let ports = self.sessions.values().map(|entry| &entry.port).chain([callee]);
        let callers: Vec<Arc<Port>> = ports.cloned().collect();
        for caller in callers {
            let ids = caller.calls.lock().of_callee(callee.session);
            for id in ids {
                let (is_spent, route) = {
                    let mut calls = caller.calls.lock();
                    calls.note_end(id, callee, crashed);
                    let Some(call) = calls.get_mut(id) else { continue };
                    let is_spent = call.kept.is_none() || call.attempts >= limit::ATTEMPTS_MAX;
                    (is_spent, Arc::clone(&call.route))
                };
                let until = (!is_spent).then(|| route.hold_until(now)).flatten();
                if let Some(until) = until {
                    caller.calls.lock().suspend(id, Phase::Held, until);
                    self.lower_deadline(until, fx);
                    self.release(&caller, &route, id, now, fx);
                } else if may_be_told {
                    let until = now.mono + limit::EXIT_TIMEOUT;
                    caller.calls.lock().suspend(id, Phase::Waiting, until);
                    self.lower_deadline(until, fx);
                } else {
                    self.end_of_callee(&caller, id, exit.as_ref(), now, fx);
                }
            }
        }
    }

    pub(super) fn end_calls_of_caller(&self, caller: &Arc<Port>, now: Now, fx: &mut Effects) {
        let ended = caller.calls.lock().remove_all();
        for (id, call) in ended {
            self.tallies.requests.end(End::Cancelled, 1);
            call.call_off(id, now, fx);
        }
    }

    /// Ends the calls that waited for what is known of a session's end.
    pub(super) fn end_waiting_calls(
        &mut self,
        session: crate::id::SessionId,
        exit: Option<&PluginExit>,
        now: Now,
        fx: &mut Effects,
    ) {
        let callers: Vec<Arc<Port>> = self.ports().cloned().collect();
        for caller in callers {
            let ids = caller.calls.lock().waiting_for(session);
            for id in ids {
                self.end_of_callee(&caller, id, exit, now, fx);
            }
        }
    }

    /// Gives calls that are held for `target` to whoever serves it now; ends those that nobody will
    /// take.
    pub(super) fn release_held(&mut self, target: &PluginId, now: Now, fx: &mut Effects) {
        let numbers = self.methods_to.get(target).into_iter().flatten();
        let routes = numbers.filter_map(|&number| match self.route(number) {
            Some(Route::Method(route)) if route.has_held() => Some(route),
            _ => None,
        });
        let mut callers: Vec<Arc<Port>> = routes.map(|route| Arc::clone(&route.owner)).collect();
        callers.sort_by_key(|caller| caller.session);
        callers.dedup_by_key(|caller| caller.session);
        for caller in callers {
            let ids = caller.calls.lock().held_for(target);
            for id in ids {
                let Some(route) = caller.calls.lock().route_of(id) else { continue };
                self.release(&caller, &route, id, now, fx);
            }
        }
    }

    /// Tells a caller that its call has waited long enough, for one reason or another.
    pub(super) fn expire(
        &mut self,
        caller: &Arc<Port>,
        id: u64,
        call: Call,
        now: Now,
        fx: &mut Effects,
    ) {
        call.call_off(id, now, fx);
        if call.deadline <= now.mono {
            self.tallies.requests.end(End::Expired, 1);
            caller.push_outcome(call.route.number, id, &call.timed_out(), now, fx);
        } else if call.end.is_some() {
            self.tell_of_end(caller, id, &call, None, now, fx);
        } else {
            self.tallies.requests.end(End::Completed, 1);
            caller.push_outcome(call.route.number, id, &call.route.absent(now), now, fx);
        }
    }

    /// Takes note of a message that is given up because its receivers crashed over it.
    pub(super) fn quarantine_message(
        &mut self,
        channel: &Channel,
        killer: Killer,
        now: Now,
        fx: &mut Effects,
    ) {
        let record = Quarantined {
            to: channel.address(),
            from: channel.sender.plugin.as_str().to_owned(),
            session: channel.sender.session.0,
            id: killer.id,
            attempts: killer.attempts,
            exits: Vec::new(),
        };
        self.quarantine(record, channel.target.clone(), killer.crashes, now, fx);
    }

    /// Tells of what is in quarantine as soon as the last exit of the plugin is known, or will not
    /// be known.
    pub(super) fn publish_quarantined(&mut self, plugin: &PluginId, now: Now, fx: &mut Effects) {
        let (told, waiting) = std::mem::take(&mut self.suspects)
            .into_iter()
            .partition(|suspect| suspect.plugin == *plugin);
        self.suspects = waiting;
        self.publish(told, now, fx);
    }

    /// The same for those whose time has come. Gives the moment in which the next one is due.
    pub(super) fn publish_due(&mut self, now: Now, fx: &mut Effects) -> Option<Duration> {
        let (told, waiting) = std::mem::take(&mut self.suspects)
            .into_iter()
            .partition(|suspect| suspect.until <= now.mono);
        self.suspects = waiting;
        self.publish(told, now, fx);
        self.suspects.iter().map(|suspect| suspect.until).min()
    }

    pub(super) fn lower_deadline(&self, until: Duration, fx: &mut Effects) {
        if self.next_deadline.lower(until) {
            fx.move_deadline();
        }
    }

    fn release(
        &mut self,
        caller: &Arc<Port>,
        route: &Arc<crate::engine::method::MethodRoute>,
        id: u64,
        now: Now,
        fx: &mut Effects,
    ) {
        let Release::Refused(fault) = route.release(id, now, fx) else { return };
        let Some(call) = caller.calls.lock().remove(id) else { return };
        if call.end.is_some() {
            self.tell_of_end(caller, id, &call, None, now, fx);
            return;
        }
        self.tallies.requests.end(End::Completed, 1);
        caller.push_outcome(call.route.number, id, &fault, now, fx);
    }

    fn end_of_callee(
        &mut self,
        caller: &Arc<Port>,
        id: u64,
        exit: Option<&PluginExit>,
        now: Now,
        fx: &mut Effects,
    ) {
        let removed = caller.calls.lock().remove(id);
        if let Some(call) = removed {
            self.tell_of_end(caller, id, &call, exit, now, fx);
        }
    }

    fn tell_of_end(
        &mut self,
        caller: &Arc<Port>,
        id: u64,
        call: &Call,
        exit: Option<&PluginExit>,
        now: Now,
        fx: &mut Effects,
    ) {
        let end = call.end.as_ref().expect("its callee has ended");
        let known = self.exit_of(end);
        let exit = exit.or(known.as_ref());
        caller.push_outcome(call.route.number, id, &call.peer_died(exit, now), now, fx);
        if !call.is_killer() {
            self.tallies.requests.end(End::Completed, 1);
            return;
        }
        self.tallies.requests.end(End::Quarantined, 1);
        let record = Quarantined {
            to: call.route.address(),
            from: caller.plugin.as_str().to_owned(),
            session: caller.session.0,
            id,
            attempts: call.attempts,
            exits: Vec::new(),
        };
        self.quarantine(record, end.plugin.clone(), end.crashes.clone(), now, fx);
    }

    /// What is known of the process behind a session that has ended.
    fn exit_of(&self, end: &crate::engine::calls::CalleeEnd) -> Option<PluginExit> {
        let entry = self.plugins.get(&end.plugin)?;
        let known = entry.ends.iter().rfind(|known| known.session == end.session)?;
        known
            .is_exit
            .then(|| PluginExit { text: known.text.clone(), back_at: entry.presence.back_at() })
    }

    fn quarantine(
        &mut self,
        record: Quarantined,
        plugin: PluginId,
        crashes: Vec<u64>,
        now: Now,
        fx: &mut Effects,
    ) {
        let last = crashes.last().copied();
        let is_told = self.plugins.get(&plugin).is_none_or(|entry| {
            let mut ends = entry.ends.iter();
            let last = ends.rfind(|end| Some(end.incarnation) == last);
            !entry.presence.is_managed() || last.is_none_or(|end| end.is_exit)
        });
        let until = now.mono + limit::EXIT_TIMEOUT;
        let suspect = Suspect { record, plugin, crashes, until };
        if is_told {
            self.publish(vec![suspect], now, fx);
        } else {
            self.suspects.push(suspect);
            self.lower_deadline(until, fx);
        }
    }

    fn publish(&mut self, told: Vec<Suspect>, now: Now, fx: &mut Effects) {
        for Suspect { mut record, plugin, crashes, .. } in told {
            let ends = self.plugins.get(&plugin).map(|entry| &entry.ends);
            let crashed = |end: &&SessionEnd| crashes.contains(&end.incarnation);
            let exits = ends.into_iter().flatten().filter(crashed);
            record.exits = exits.map(|end| end.text.clone()).collect();
            log::warn!(
                "message {} from {} to {} is in quarantine: {:?}",
                record.id,
                record.from,
                record.to,
                record.exits
            );
            let body = body::encode(&record);
            if self.quarantined.len() >= limit::QUARANTINED_MAX {
                self.quarantined.pop_front();
            }
            self.quarantined.push_back(record);
            self.publish_own("plugbus.quarantine", &body, now, fx);
        }
    }
}
