//! The one thread that starts every plugin process.
//!
//! A child asks the kernel to be killed when its parent dies, and the kernel takes "parent" to be
//! the *thread* that forked. A runtime ends its threads when it likes, so children are started by a
//! thread that ends with the process and not before. There is one for the whole process, however
//! many brokers it has.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::limit;
use crate::sys::process::{self, Child, ChildOutput};

/// Starts `command` with `socket` as its descriptor 3; see [`process::spawn`].
///
/// When the caller goes away before the answer, the child is killed.
pub(crate) async fn spawn(command: Command, socket: OwnedFd) -> io::Result<(Child, ChildOutput)> {
    let (answer, answered) = oneshot::channel();
    submit(Order { command, socket, answer })?;
    answered.await.unwrap_or_else(|_| Err(io::Error::other("the spawning thread has ended")))
}

struct Order {
    command: Command,
    socket: OwnedFd,
    answer: oneshot::Sender<io::Result<(Child, ChildOutput)>>,
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
    while let Ok(Order { mut command, socket, answer }) = orders.recv() {
        let result = process::spawn(&mut command, socket.as_fd());
        drop(socket);
        if let Err(Ok((child, _))) = answer.send(result)
            && let Err(error) = child.kill_and_reap()
        {
            log::error!("process {} was started for nobody and stays: {error}", child.pid());
        }
    }
}

static SPAWNER: Mutex<Option<SyncSender<Order>>> = Mutex::new(None);
