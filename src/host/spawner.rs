//! The one thread that starts every guardian.
//!
//! A guardian asks the kernel to be told when its parent dies, and the kernel takes "parent" to be
//! the *thread* that forked. A runtime ends its threads when it likes, so guardians are started by
//! a thread that ends with the process and not before. There is one for the whole process, however
//! many brokers it has.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::limit;
use crate::sys::guardian::{self, Guardian, Output, Plan};

/// Starts a guardian for `plan`; see [`guardian::start`].
///
/// When the caller goes away before the answer, the plugin is killed.
pub(crate) async fn spawn(plan: Plan, socket: OwnedFd) -> io::Result<(Guardian, Output)> {
    let (answer, answered) = oneshot::channel();
    submit(Order { plan, socket, answer })?;
    answered.await.unwrap_or_else(|_| Err(io::Error::other("the spawning thread has ended")))
}

struct Order {
    plan: Plan,
    socket: OwnedFd,
    answer: oneshot::Sender<io::Result<(Guardian, Output)>>,
}

fn submit(order: Order) -> io::Result<()> {
    let mut spawner = SPAWNER.lock();
    let queue = match &*spawner {
        Some(queue) => queue,
        None => spawner.insert(start()?),
    };
    queue.try_send(order).map_err(|error| match error {
        TrySendError::Full(_) => io::Error::new(
            io::ErrorKind::ResourceBusy,
            format!("{} plugins are already waiting to be started", limit::SPAWNS_MAX),
        ),
        TrySendError::Disconnected(_) => io::Error::other("the spawning thread has ended"),
    })
}

fn start() -> io::Result<SyncSender<Order>> {
    let (queue, orders) = sync_channel(limit::SPAWNS_MAX);
    std::thread::Builder::new().name("plugbus-spawner".to_owned()).spawn(move || run(&orders))?;
    Ok(queue)
}

/// Ends with the process: the queue's other end is in a static.
fn run(orders: &Receiver<Order>) {
    while let Ok(Order { plan, socket, answer }) = orders.recv() {
        let result = guardian::start(&plan, socket.as_fd());
        drop(socket);
        // Started for nobody: dropping a guardian ends it.
        let _nobody_waits = answer.send(result).is_err();
    }
}

static SPAWNER: Mutex<Option<SyncSender<Order>>> = Mutex::new(None);
