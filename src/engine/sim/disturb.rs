//! Misfortune: what happens to plugins.

use super::action::whole_frames;
use super::fault::FaultKind;
use super::plugin::Client;
use super::world::World;

impl World {
    /// Something happens to somebody.
    pub(super) fn disturb(&mut self) -> bool {
        let Some(index) = self.any_plugin(|_| true) else { return false };
        let mut client = self.plugins[index].client.take().expect("it was found just now");
        let due = client.dies_at.is_some_and(|step| step <= self.step);
        match self.random.below(20) {
            _ if due => return self.crash(client),
            0..4 => return self.crash(client),
            4 | 5 if client.is_ready() => {
                self.faults.note(FaultKind::Leave);
                client.peer.shutdown(Some("done"), self.moment()).expect("it is ready");
                client.leaving = true;
                self.flush(&mut client, index);
            }
            6 => {
                self.faults.note(FaultKind::Stop);
                let id = crate::id::PluginId::parse(&self.plugins[index].id);
                let id = id.expect("plugins have valid ids");
                let drain = crate::limit::DRAIN_TIMEOUT;
                self.stop_plugin(&id, drain);
                client.is_innocent = true;
            }
            7..10 if !client.stopped => {
                self.faults.note(FaultKind::SlowReader);
                client.stopped = true;
            }
            10 if client.session != 0 && client.peer.is_ready() => {
                // Somebody else takes the same id.
                self.plugins[index].client = Some(client);
                return self.intrude(index);
            }
            _ => client.stopped = false,
        }
        if client.leaving && client.peer.is_ready() {
            // It was asked to go, and goes.
            client.peer.shutdown(None, self.moment()).expect("it is ready");
            self.flush(&mut client, index);
        }
        self.plugins[index].client = Some(client);
        true
    }

    /// A process dies: what it had not written is gone, and what it had not read.
    pub(super) fn crash(&mut self, client: Client) -> bool {
        let Some(index) = self.link_index(client.link) else { return false };
        let cut = {
            let size = self.links[index].up.len();
            if self.random.one_in(2) { size } else { self.random.below(size + 1) }
        };
        let link = &mut self.links[index];
        let kind = if client.session == 0 {
            FaultKind::CrashInHandshake
        } else if !link.down.is_empty() {
            FaultKind::CrashWithUnread
        } else if whole_frames(&link.up[..cut]) != cut {
            FaultKind::CrashInFrame
        } else {
            FaultKind::CrashIdle
        };
        let is_crash = !client.is_innocent && !client.leaving;
        self.oracle.process_ended(client.session, is_crash);
        self.process_ended(client.place);
        let link = &mut self.links[index];
        link.up.truncate(cut);
        link.up_ended = true;
        link.down.clear();
        link.peer_gone = true;
        self.faults.note(kind);
        self.note(&[kind as u8]);
        self.tidy();
        true
    }
}
