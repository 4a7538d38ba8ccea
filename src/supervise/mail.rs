//! The mailbox around a supervised actor: a bounded queue that outlives every incarnation.
//!
//! What actix's own mailbox cannot do is here: a full queue makes senders wait, a rebuilt actor
//! goes on with the mail that its predecessor left, and the sender of the message that killed it
//! gets an error instead of silence.

use std::fmt;
use std::sync::Arc;
use std::thread;

use actix::dev::{MessageResponse, SendError, ToEnvelope};
use actix::{Actor, Addr, Context, Handler, Message, Recipient};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::front::Front;
use super::fuse;
use super::incarnation::Watch;

/// Address of a supervised actor. It stays good while the actor is rebuilt; mail waits meanwhile.
///
/// Cheap to clone, and usable from every thread. Mail that is sent while the actor is stopped or
/// backs off waits in the queue until it is started again, or until the actor is removed from its
/// group.
pub struct Supervised<A: Actor<Context = Context<A>>> {
    queue: mpsc::Sender<BoxedMail<A>>,
    front: Addr<Front<A>>,
}

impl<A: Actor<Context = Context<A>>> Supervised<A> {
    pub(super) fn new(queue: mpsc::Sender<BoxedMail<A>>, front: Addr<Front<A>>) -> Self {
        Self { queue, front }
    }

    pub(super) fn queue(&self) -> mpsc::Sender<BoxedMail<A>> {
        self.queue.clone()
    }

    /// Sends a message and waits for its answer. Waits for a place in the queue first, so a sender
    /// is never faster than the actor.
    ///
    /// As with actix, a message whose sender stops waiting before its turn comes is not handled.
    ///
    /// # Errors
    ///
    /// When the actor ended before it answered; see [`MailError`]. The message is not tried again.
    pub async fn send<M>(&self, message: M) -> Result<M::Result, MailError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let (answer, answered) = oneshot::channel();
        let mail = Letter::boxed(message, Answer::Ours(answer));
        self.queue.send(mail).await.map_err(|_closed| MailError::Closed)?;
        answered.await.unwrap_or(Err(MailError::Closed))
    }

    /// Sends a message without waiting for its answer, but for a place in the queue.
    ///
    /// # Errors
    ///
    /// [`MailError::Closed`] when the actor has been removed.
    pub async fn post<M>(&self, message: M) -> Result<(), MailError>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let mail = Letter::boxed(message, Answer::Nobody);
        self.queue.send(mail).await.map_err(|_closed| MailError::Closed)
    }

    /// Sends a message without waiting at all.
    ///
    /// # Errors
    ///
    /// The message itself, when the queue is full or the actor has been removed.
    pub fn try_send<M>(&self, message: M) -> Result<(), SendError<M>>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        match self.queue.try_reserve() {
            Ok(place) => {
                place.send(Letter::boxed(message, Answer::Nobody));
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(())) => Err(SendError::Full(message)),
            Err(mpsc::error::TrySendError::Closed(())) => Err(SendError::Closed(message)),
        }
    }

    /// An actix recipient of one kind of message, for code that knows no supervision. It stays good
    /// as this address does. A sender whose message ended the actor gets
    /// [`MailboxError::Closed`](actix::MailboxError::Closed).
    #[must_use]
    pub fn recipient<M>(&self) -> Recipient<M>
    where
        A: Handler<M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        self.front.clone().recipient()
    }

    /// Messages that wait. A figure for people: it may have changed when it is read.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Whether the actor has not been removed.
    #[must_use]
    pub fn connected(&self) -> bool {
        !self.queue.is_closed()
    }
}

impl<A: Actor<Context = Context<A>>> Clone for Supervised<A> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), front: self.front.clone() }
    }
}

impl<A: Actor<Context = Context<A>>> fmt::Debug for Supervised<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervised").field("queued", &self.queued()).finish_non_exhaustive()
    }
}

/// Why a message has no answer.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum MailError {
    /// The actor panicked before it answered. What the message had changed is gone with it.
    #[error("the actor panicked before it answered")]
    Panicked,
    /// The actor was stopped before it answered, or let the answer go.
    #[error("the actor ended before it answered")]
    Stopped,
    /// The actor has been removed; nobody reads its mail any more.
    #[error("the actor has been removed")]
    Closed,
}

pub(super) type BoxedMail<A> = Box<dyn Mail<A>>;

/// A message of any type to one type of actor.
pub(super) trait Mail<A: Actor<Context = Context<A>>>: Send {
    /// Whether somebody still wants it handled.
    fn is_wanted(&self) -> bool;

    /// Type of the message, for reports.
    fn name(&self) -> &'static str;

    fn handle(self: Box<Self>, actor: &mut A, ctx: &mut Context<A>, watch: &Watch);
}

/// A message with the way back to its sender.
pub(super) struct Letter<M: Message> {
    message: M,
    answer: Answer<M::Result>,
}

impl<M> Letter<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    pub(super) fn boxed<A>(message: M, answer: Answer<M::Result>) -> BoxedMail<A>
    where
        A: Actor<Context = Context<A>> + Handler<M>,
    {
        Box::new(Self { message, answer })
    }
}

impl<A, M> Mail<A> for Letter<M>
where
    A: Actor<Context = Context<A>> + Handler<M>,
    Context<A>: ToEnvelope<A, M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn is_wanted(&self) -> bool {
        match &self.answer {
            Answer::Ours(answer) => !answer.is_closed(),
            Answer::Actix(answer) => !answer.is_closed(),
            Answer::Nobody => true,
        }
    }

    fn name(&self) -> &'static str {
        std::any::type_name::<M>()
    }

    fn handle(self: Box<Self>, actor: &mut A, ctx: &mut Context<A>, watch: &Watch) {
        let Self { message, answer } = *self;
        // A panic in the handler drops this, which tells the sender.
        let mut debt = Debt { answer: Some(answer), watch: watch.clone() };
        let (reply, mut replied) = oneshot::channel();
        fuse::enter(std::any::type_name::<M>());
        actor.handle(message, ctx).handle(ctx, Some(reply));
        match replied.try_recv() {
            Ok(result) => debt.pay(result),
            Err(oneshot::error::TryRecvError::Closed) => (),
            Err(oneshot::error::TryRecvError::Empty) => {
                watch.follow(ctx, std::any::type_name::<M>(), replied, debt);
            }
        }
    }
}

/// Who waits for an answer.
pub(super) enum Answer<R> {
    /// [`Supervised::send`].
    Ours(oneshot::Sender<Result<R, MailError>>),
    /// actix's own `send` through a recipient.
    Actix(oneshot::Sender<R>),
    Nobody,
}

/// An answer that is owed. Dropping it unpaid tells the sender why there will be none.
pub(super) struct Debt<R> {
    answer: Option<Answer<R>>,
    watch: Watch,
}

impl<R> Debt<R> {
    pub(super) fn pay(&mut self, result: R) {
        // Senders may have stopped waiting.
        let _taken = match self.answer.take() {
            Some(Answer::Ours(answer)) => answer.send(Ok(result)).is_ok(),
            Some(Answer::Actix(answer)) => answer.send(result).is_ok(),
            Some(Answer::Nobody) | None => false,
        };
    }
}

impl<R> Drop for Debt<R> {
    fn drop(&mut self) {
        let Some(Answer::Ours(answer)) = self.answer.take() else { return };
        let panicked = thread::panicking() || self.watch.has_panicked();
        let error = if panicked { MailError::Panicked } else { MailError::Stopped };
        // Senders may have stopped waiting.
        let _taken = answer.send(Err(error));
    }
}

/// The reading end, shared by the incarnations that follow each other.
pub(super) type Queue<A> = Arc<tokio::sync::Mutex<mpsc::Receiver<BoxedMail<A>>>>;
