//! Takes alerts to whoever is told beside the log: a few at once, the others in a queue.
//!
//! A crowd of plugins that fail together must not become a crowd of alert commands. What does not
//! fit is in the log and the events all the same, and the log says that nobody else was told.

use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError::{Closed, Full};
use tokio::sync::{Semaphore, mpsc};

use super::alert::{Alert, Recipients};
use crate::limit;

/// Ends when it is dropped and what waits has been taken.
#[derive(Debug)]
pub(crate) struct Courier {
    queue: mpsc::Sender<(Alert, Recipients)>,
}

impl Courier {
    /// Starts it on the current runtime.
    pub(crate) fn start() -> Self {
        let deliver = |alert: Alert, to: Recipients| async move { alert.deliver(&to).await };
        Self::with(limit::ALERTS_AT_ONCE_MAX, limit::ALERTS_QUEUED_MAX, deliver)
    }

    fn with<F: Future<Output = ()> + Send + 'static>(
        at_once_max: usize,
        queued_max: usize,
        deliver: impl Fn(Alert, Recipients) -> F + Send + 'static,
    ) -> Self {
        let (queue, mut queued) = mpsc::channel(queued_max);
        let places = Arc::new(Semaphore::new(at_once_max));
        tokio::spawn(async move {
            loop {
                let place = Arc::clone(&places).acquire_owned().await;
                let place = place.expect("nobody closes the semaphore");
                let Some((alert, to)) = queued.recv().await else { return };
                let delivery = deliver(alert, to);
                tokio::spawn(async move {
                    delivery.await;
                    drop(place);
                });
            }
        });
        Self { queue }
    }

    /// Takes an alert. Says whether there was room for it.
    pub(crate) fn take(&self, alert: Alert, to: Recipients) -> bool {
        if to.is_nobody() {
            return true;
        }
        let taken = self.queue.try_send((alert, to));
        if let Err(Full((alert, _)) | Closed((alert, _))) = &taken {
            let (plugin, kind, waiting) = (&alert.plugin, alert.kind, self.queue.max_capacity());
            log::error!(
                "only the log tells that plugin {plugin} is {kind}: {waiting} alerts wait already"
            );
        }
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two at once and three in the queue.
    #[tokio::test]
    async fn a_crowd_of_alerts_is_told_a_few_at_once_and_the_rest_in_the_log() {
        let (began, mut begun) = mpsc::channel(8);
        let gate = Arc::new(Semaphore::new(0));
        let courier = Courier::with(2, 3, {
            let gate = Arc::clone(&gate);
            move |alert, _| {
                began.try_send(alert.instance).unwrap();
                let gate = Arc::clone(&gate);
                async move { gate.acquire().await.unwrap().forget() }
            }
        });
        let take = |instance| courier.take(alert(instance), somebody());
        for instance in 0..2 {
            assert!(take(instance));
            assert_eq!(begun.recv().await, Some(instance));
        }
        let taken: Vec<bool> = (2..7).map(take).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        tokio::task::yield_now().await;
        assert!(begun.try_recv().is_err(), "two are under way");
        for instance in 2..5 {
            gate.add_permits(1);
            assert_eq!(begun.recv().await, Some(instance));
        }
        assert!(courier.take(alert(9), Recipients::default()), "nobody has to be told");
    }

    fn alert(instance: u32) -> Alert {
        let (message, time) = (String::new(), String::new());
        Alert { plugin: "weather".to_owned(), instance, kind: "disabled", message, time }
    }

    fn somebody() -> Recipients {
        Recipients { command: vec!["true".to_owned()], webhook: None }
    }
}
