//! Tasks that run beside a group, and end when they are told to.
//!
//! They hold handles of the broker and of the group, so that whoever stops these waits for them
//! first.

use tokio::sync::watch;

/// Whoever ends the tasks.
#[derive(Debug)]
pub(crate) struct Tasks(watch::Sender<bool>);

/// What each task has for as long as it runs.
#[derive(Debug)]
pub(crate) struct Ticket(watch::Receiver<bool>);

impl Tasks {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.0.subscribe())
    }

    /// Asks all to end, and waits until they have. Several may wait.
    pub(crate) async fn end(&self) {
        self.0.send_replace(true);
        self.0.closed().await;
    }
}

impl Ticket {
    /// Waits until it is to end.
    pub(crate) async fn ended(&mut self) {
        // Whoever could ask is gone, which is the same.
        let _asked = self.0.wait_for(|is_over| *is_over).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_ends_them_waits_for_all() {
        let tasks = Tasks::new();
        let (done, mut seen) = tokio::sync::mpsc::channel(4);
        for number in 0..2 {
            let (mut ticket, done) = (tasks.ticket(), done.clone());
            tokio::spawn(async move {
                ticket.ended().await;
                tokio::task::yield_now().await;
                done.try_send(number).unwrap();
            });
        }
        tokio::join!(tasks.end(), tasks.end());
        assert!(seen.try_recv().is_ok() && seen.try_recv().is_ok());
        tasks.end().await;
    }
}
