//! What a plugin still has to finish before it may leave.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Counts handlers that run and messages that wait for one.
#[derive(Debug, Default)]
pub(super) struct Work {
    count: Cell<u64>,
    idle: Notify,
    panicked: Notify,
}

/// One handler that runs.
#[derive(Debug)]
pub(super) struct Working(Rc<Work>);

impl Work {
    pub(super) fn begin(self: &Rc<Self>) -> Working {
        self.add(1);
        Working(Rc::clone(self))
    }

    pub(super) fn add(&self, count: u64) {
        self.count.set(self.count.get() + count);
    }

    pub(super) fn remove(&self, count: u64) {
        self.count.set(self.count.get() - count);
        if self.is_idle() {
            self.idle.notify_one();
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.count.get() == 0
    }

    /// Returns when nothing is left, perhaps more than once.
    pub(super) async fn finished(&self) {
        while !self.is_idle() {
            self.idle.notified().await;
        }
    }

    /// A handler of messages or events panicked: what it had is not to be acknowledged.
    pub(super) fn set_panicked(&self) {
        self.panicked.notify_one();
    }

    pub(super) async fn panicked(&self) {
        self.panicked.notified().await;
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.remove(1);
    }
}
