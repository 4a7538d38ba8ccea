//! The listener actor: accepts connections and makes sessions of them, and takes connections that
//! the host has made itself.

use std::os::unix::net::UnixStream as StdUnixStream;

use actix::prelude::*;
use tokio::net::UnixStream;

use super::session::{Session, Shared};
use crate::engine::Attachment;
use crate::net::listen;

/// Accepts until it is stopped; then the socket file goes.
pub(super) struct Listener {
    socket: Option<listen::Listener>,
    shared: Shared,
}

impl Listener {
    pub(super) fn new(socket: Option<listen::Listener>, shared: Shared) -> Self {
        Self { socket, shared }
    }
}

impl Actor for Listener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(mut socket) = self.socket.take() else { return };
        let shared = self.shared.clone();
        let accept = async move {
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

/// Host to listener: take no more connections.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct StopListening;

impl Handler<StopListening> for Listener {
    type Result = ();

    fn handle(&mut self, _: StopListening, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
