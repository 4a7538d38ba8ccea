//! An ordinary actix actor in front of the queue of a supervised one, for [`actix::Recipient`]s.
//!
//! It handles nothing itself: mail goes on with actix's own way back to the sender. While the queue
//! is full it takes no more, so that its own mailbox fills and refuses.

use actix::dev::{MessageResponse, OneshotSender};
use actix::prelude::*;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::mail::{Answer, BoxedMail, Letter};

/// Lives as long as the supervised actor has an address, however often that is rebuilt.
pub(super) struct Front<A: Actor<Context = Context<A>>> {
    queue: mpsc::Sender<BoxedMail<A>>,
}

impl<A: Actor<Context = Context<A>>> Front<A> {
    pub(super) fn new(queue: mpsc::Sender<BoxedMail<A>>) -> Self {
        Self { queue }
    }
}

impl<A: Actor<Context = Context<A>>> Actor for Front<A> {
    type Context = Context<Self>;
}

impl<A, M> Handler<M> for Front<A>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    type Result = Forward<A, M>;

    fn handle(&mut self, message: M, _ctx: &mut Self::Context) -> Self::Result {
        Forward { queue: self.queue.clone(), message }
    }
}

/// "The answer comes from the queue": the only place where a handler gets the way back.
pub(super) struct Forward<A: Actor<Context = Context<A>>, M> {
    queue: mpsc::Sender<BoxedMail<A>>,
    message: M,
}

impl<A, M> MessageResponse<Front<A>, M> for Forward<A, M>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn handle(self, ctx: &mut Context<Front<A>>, back: Option<OneshotSender<M::Result>>) {
        let Self { queue, message } = self;
        let mail = Letter::boxed(message, back.map_or(Answer::Nobody, Answer::Actix));
        match queue.try_send(mail) {
            Ok(()) => (),
            Err(TrySendError::Closed(_)) => ctx.stop(),
            Err(TrySendError::Full(mail)) => {
                let wait = async move {
                    // A closed queue ends this actor with its next mail.
                    let _closed = queue.send(mail).await.is_err();
                };
                ctx.wait(fut::wrap_future(wait));
            }
        }
    }
}
