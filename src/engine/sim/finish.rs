//! The end of a run: everything comes to rest, and what is left is counted.

use std::time::Duration;

use super::link::Link;
use super::plugin::Client;
use super::world::World;
use crate::wire::body::RouteKind;

impl World {
    /// Lets the world come to rest, first around those who are stopped, then with everybody; then
    /// ends every session.
    pub(super) fn finish(&mut self) {
        self.calm = true;
        for index in 0..self.plugins.len() {
            if let Some(mut client) = self.plugins[index].client.take() {
                self.flush(&mut client, index);
                self.plugins[index].client = Some(client);
            }
        }
        self.drain();
        self.check_unaffected();
        for plugin in &mut self.plugins {
            if let Some(client) = &mut plugin.client {
                client.stopped = false;
            }
        }
        self.drain();
        // Whoever has killers before it dies three times over each.
        let mut rounds = 0;
        while rounds < 20 || (rounds < 400 && self.is_somebody_missing()) {
            while self.connect_somebody() {}
            self.drain();
            self.advance(Duration::from_secs(7));
            self.drain();
            rounds += 1;
        }
        self.check_rest();
        self.over = true;
        for index in 0..self.plugins.len() {
            if let Some(client) = self.plugins[index].client.take() {
                self.crash(client);
            }
        }
        self.drain();
        self.advance(Duration::from_secs(61));
        self.drain();
        self.advance(Duration::from_secs(61));
        self.drain();
        self.check_empty();
    }

    fn is_somebody_missing(&self) -> bool {
        (0..self.plugins.len()).any(|place| {
            let supervisor = self.supervisor_of(place).map(|known| &self.supervisors[known]);
            self.plugins[place].client.is_none()
                && supervisor.is_none_or(|known| known.needs(place))
        })
    }

    /// Does all that can be done without the time passing.
    fn drain(&mut self) {
        let mut rounds = 0;
        loop {
            let mut busy = false;
            busy |= self.broker_reads();
            busy |= self.router_decides();
            busy |= self.broker_writes();
            busy |= self.router_hears_of_end();
            busy |= self.supervise();
            busy |= self.peer_reads();
            busy |= self.handle_something();
            busy |= self.leave_if_asked();
            if !busy {
                break;
            }
            self.note_quarantined();
            rounds += 1;
            if rounds % 16 == 0 {
                self.audit();
            }
            assert!(rounds < 1_000_000, "P6: the world does not come to rest");
        }
        self.audit();
    }

    /// Whoever was asked to go, or has nothing to stay for, goes.
    fn leave_if_asked(&mut self) -> bool {
        let leaving = |client: &Client| client.leaving && !client.stopped;
        let Some(index) = self.any_plugin(leaving) else { return false };
        let client = self.plugins[index].client.take().expect("it was found just now");
        self.crash(client)
    }

    /// P6: whatever does not involve somebody who is stopped has come to its end, without time
    /// passing.
    fn check_unaffected(&self) {
        let stopped = self
            .plugins
            .iter()
            .any(|plugin| plugin.client.as_ref().is_some_and(|client| client.stopped));
        let well = |index: usize| {
            self.plugins[index]
                .client
                .as_ref()
                .is_some_and(|client| !client.stopped && client.is_ready() && client.registered)
        };
        // Of a plugin with several places any may have the channel: all that are there have to be
        // well, and to serve it.
        let all_serve = |name: &str| {
            let id = name.split('/').next().unwrap_or_default();
            let here =
                |at: &usize| self.plugins[*at].id == id && self.plugins[*at].client.is_some();
            let mut places = (0..self.plugins.len()).filter(here).peekable();
            places.peek().is_some() && places.all(|at| well(at) && self.serves_channel(at, name))
        };
        for (route, stream) in &self.oracle.streams {
            let own = self.plugins[stream.plugin].client.as_ref();
            let live = own.is_some_and(|client| client.session == stream.sender && !client.stopped);
            if !live || !stream.open || stream.raw || stream.kind != RouteKind::Channel {
                continue;
            }
            let sent = stream.sent.len() as u64;
            assert_eq!(stream.accepted, sent, "P6: accepted on route {route}");
            if all_serve(&stream.name) {
                let settled = stream
                    .completed
                    .max(stream.given_up.iter().map(|&(_, last)| last).max().unwrap_or_default());
                assert_eq!(settled, sent, "P6: route {route} to {} waits", stream.name);
            }
        }
        if stopped {
            return;
        }
        for plugin in &self.plugins {
            let Some(client) = plugin.client.as_ref() else { continue };
            assert!(
                client.calls.is_empty() || !client.peer.is_ready(),
                "P4: calls of {} wait although everybody answers: {:?}",
                plugin.id,
                client.calls
            );
        }
    }

    fn serves_channel(&self, target: usize, name: &str) -> bool {
        let client = self.plugins[target].client.as_ref();
        client.is_some_and(|client| !client.unregistered.iter().any(|gone| name.ends_with(gone)))
    }

    /// All are there and have answered everything.
    fn check_rest(&self) {
        for (index, plugin) in self.plugins.iter().enumerate() {
            let supervisor = self.supervisor_of(index).map(|known| &self.supervisors[known]);
            if plugin.client.is_none() && supervisor.is_some_and(|known| !known.needs(index)) {
                continue;
            }
            let Some(client) = plugin.client.as_ref() else {
                panic!("P10: {} is not let in: {supervisor:?}", plugin.id);
            };
            assert!(client.is_ready(), "P10: {} has no session", plugin.id);
            assert!(client.calls.is_empty(), "P4: {} waits for {:?}", plugin.id, client.calls);
            assert!(client.controls.is_empty(), "{} waits for commands", plugin.id);
            for known in client.ins.values() {
                self.check_events(client, known.route, known.next);
            }
        }
        for (route, stream) in &self.oracle.streams {
            let own = self.plugins[stream.plugin].client.as_ref();
            let is_live = own.is_some_and(|client| client.session == stream.sender);
            if is_live && stream.open && !stream.raw {
                let sent = stream.sent.len() as u64;
                assert_eq!(stream.accepted, sent, "P1: accepted on route {route}");
                if stream.kind != RouteKind::Channel {
                    assert_eq!(stream.completed, sent, "P1: completed on route {route}");
                }
            }
            if stream.kind == RouteKind::Channel {
                self.check_settled(*route);
            }
        }
        let live = |session: u64| {
            self.links
                .iter()
                .filter_map(Link::live)
                .any(|live| live.port().session.0 == session && live.port().is_open())
        };
        self.oracle.check_answered(live);
    }

    /// P2: what was accepted was acknowledged by a receiver, or is a dead letter with a receipt.
    fn check_settled(&self, route: u32) {
        let stream = &self.oracle.streams[&route];
        let letters = self.router.dead_letters();
        let from = &self.plugins[stream.plugin].id;
        for id in stream.acked + 1..=stream.accepted {
            let is_dead = stream.is_given_up(id)
                || letters.iter().any(|letter| {
                    letter.channel == stream.name
                        && (letter.from == *from || self.plugins[stream.plugin].is_client)
                        && (letter.first..=letter.last).contains(&id)
                });
            let is_dead = is_dead
                || self.router.quarantined().iter().any(|record| {
                    record.to == stream.name
                        && record.id == id
                        && (record.from == *from || self.plugins[stream.plugin].is_client)
                });
            assert!(is_dead, "P2: message {id} of route {route} to {} is lost", stream.name);
        }
    }

    /// P1: a subscriber has every event, or a receipt for it.
    fn check_events(&self, client: &Client, route: u32, next: Option<u64>) {
        let Some(stream) = self.oracle.streams.get(&route) else { return };
        if stream.kind == RouteKind::Channel || !stream.open {
            return;
        }
        let last = stream.sent.last().map_or(0, |last| last.step);
        let owed = stream.kind == RouteKind::Broadcast
            || client.wanted_since(stream.kind, &stream.name).is_some_and(|since| since < last);
        if owed {
            let sent = stream.sent.len() as u64;
            assert_eq!(next, Some(sent + 1), "P1: the last events of route {route}");
        }
    }

    /// Nobody is there any more: nothing is charged to anybody, nothing is pending.
    fn check_empty(&mut self) {
        assert_eq!(self.router.session_count(), 0, "every session has ended");
        for (class, tally) in self.router.tallies() {
            assert_eq!(tally.pending, 0, "P1: {class} are pending at the end");
        }
        self.router.check_empty();
    }
}
