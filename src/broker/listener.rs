//! The listener actor: accepts connections and makes sessions of them, and takes connections that
//! the host has made itself.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;

use actix::prelude::*;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::session::{Session, Shared};
use crate::engine::Attachment;
use crate::net::listen;
use crate::supervise::{Shell, Supervised};

/// Accepts as long as it lives. The socket outlives it: an incarnation that follows goes on with
/// the same one.
pub(super) struct Listener {
    socket: Option<OwnedMutexGuard<Option<listen::Listener>>>,
    shared: Shared,
}

/// Where the socket lies between two incarnations. Whoever empties it removes the socket's file.
pub(super) type SocketShelf = Arc<Mutex<Option<listen::Listener>>>;

impl Listener {
    /// The actor as a child of the broker's tree. It has no state that a panic could harm.
    pub(super) fn shell(socket: SocketShelf, shared: Shared) -> Shell<Self> {
        let take = move |_: &Supervised<Self>| {
            let socket = Arc::clone(&socket).try_lock_owned();
            let socket = socket.expect("an incarnation gives back the socket before the next one");
            Self { socket: Some(socket), shared: shared.clone() }
        };
        Shell::new(take).heal(|_| true)
    }
}

impl Actor for Listener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let mut socket = self.socket.take().expect("an actor starts once");
        let shared = self.shared.clone();
        let accept = async move {
            let Some(socket) = &mut *socket else { return };
            loop {
                let stream = socket.accept().await;
                Session::new(stream, None, shared.clone()).start();
            }
        };
        ctx.spawn(accept.into_actor(self));
    }
}

/// Host to listener: this connection is that plugin's.
#[derive(Message)]
#[rtype(result = "std::io::Result<()>")]
pub(super) struct Attach {
    pub(super) stream: StdUnixStream,
    pub(super) attachment: Attachment,
}

impl Handler<Attach> for Listener {
    type Result = std::io::Result<()>;

    fn handle(&mut self, mail: Attach, _ctx: &mut Self::Context) -> Self::Result {
        mail.stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(mail.stream)?;
        Session::new(stream, Some(mail.attachment), self.shared.clone()).start();
        Ok(())
    }
}
