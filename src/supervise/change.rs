//! A change of a group that runs, of which everything happens or nothing.

use std::fmt;

use super::child::Child;
use super::handle::GroupHandle;
use crate::engine::supervise::{Answer, ChildId, ChildSpec, Refusal};

/// What is to be different in a group. It has to fit together only as a whole.
#[must_use = "nothing changes before `GroupHandle::change`"]
#[derive(Default)]
pub struct GroupChange {
    pub(super) added: Vec<(ChildSpec, Box<dyn Child>)>,
    pub(super) renewed: Vec<ChildSpec>,
    pub(super) removed: Vec<ChildId>,
}

impl GroupChange {
    /// Adds a child at the end. One of a name that is on its way out starts when that is gone.
    pub fn add(&mut self, spec: ChildSpec, child: impl Child) {
        self.added.push((spec, Box::new(child)));
    }

    /// Changes all that is known of a child, also what its [`Child`] is started by: one that serves
    /// is replaced when those that it starts after are there, one that is starting or on trial is
    /// restarted, one that failed is tried again. What a command has stopped stays so.
    pub fn renew(&mut self, spec: ChildSpec) {
        self.renewed.push(spec);
    }

    /// Stops a child and forgets it, when those that need it are gone.
    pub fn remove(&mut self, id: ChildId) {
        self.removed.push(id);
    }
}

impl fmt::Debug for GroupChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let added: Vec<&ChildId> = self.added.iter().map(|(spec, _)| &spec.id).collect();
        let renewed: Vec<&ChildId> = self.renewed.iter().map(|spec| &spec.id).collect();
        f.debug_struct("GroupChange")
            .field("added", &added)
            .field("renewed", &renewed)
            .field("removed", &self.removed)
            .finish()
    }
}

impl GroupHandle {
    /// Changes the group, all of it or nothing. `decided` is called when it is certain, before
    /// anything is carried out; it must not block, nor ask the group.
    ///
    /// # Errors
    ///
    /// What would not fit together, or that the group is ending. Nothing has changed then.
    pub fn change(&self, change: GroupChange, decided: impl FnOnce()) -> Result<Answer, Refusal> {
        let GroupChange { added, renewed, removed } = change;
        self.core.reshape(added, renewed, removed, decided)
    }
}
