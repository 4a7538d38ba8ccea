//! The moment in which a successor takes over, as it is asked of the broker.

use std::task::{Context, Waker};

use tokio::sync::oneshot;

use crate::broker::{Broker, BrokerError};
use crate::engine::RegistrationDifference;
use crate::error::Fault;
use crate::id::PluginId;

/// What the broker was asked for when a successor was ready, and is still to answer.
#[derive(Debug)]
pub(crate) struct Switch {
    pub(crate) compared: Asked<Option<RegistrationDifference>>,
    pub(crate) switched: Asked<Result<(), Fault>>,
}

pub(crate) type Asked<T> = oneshot::Receiver<Result<T, BrokerError>>;

impl Switch {
    /// Asks at once: whoever hears that the successor serves, and calls it, must reach it.
    pub(crate) fn begin(broker: &Broker, id: &PluginId, successor: u32) -> Self {
        let (to_compare, to_switch) = (broker.clone(), broker.clone());
        let (compared, switched) = (id.clone(), id.clone());
        Self {
            compared: begin(async move { to_compare.compare(&compared, successor).await }),
            switched: begin(async move { to_switch.switch(&switched, successor).await }),
        }
    }
}

/// Runs up to the first wait now, and the rest beside.
fn begin<T: Send + 'static>(
    question: impl Future<Output = T> + Send + 'static,
) -> oneshot::Receiver<T> {
    let (answer, answered) = oneshot::channel();
    let mut asking = Box::pin(async move {
        // Nobody waits for it any more if this fails.
        answer.send(question.await).ok();
    });
    let now = asking.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    if now.is_pending() {
        tokio::spawn(asking);
    }
    answered
}
