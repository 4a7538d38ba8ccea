//! One life of a supervised actor: from its factory to its end, whichever way that comes.
//!
//! The actor runs in an ordinary actix context that is polled by hand, so that a panic anywhere in
//! it — a handler, a future, a timer, `started` — comes out here and nowhere else. After a panic
//! the context is marked as stopped *before* it is dropped: actix would otherwise run it once more
//! in its destructor, and a second panic there ends the process
//! (`docs/decisions/0006-own-mailbox-around-actors.md`).
//!
//! Invariant: nothing of an actor that has panicked is called again, except its destructor.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{self, Poll, Wake, Waker};
use std::thread;

use actix::dev::ContextFut;
use actix::prelude::*;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot, watch};

use super::mail::{BoxedMail, Debt, Queue, Supervised};

/// How an incarnation ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// The actor stopped itself, or did as it was told.
    Stopped,
    /// It did not obey in time.
    Killed,
    Panicked(Panicked),
}

/// A panic of a supervised actor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Panicked {
    /// Type of the message that was being handled; `None` when it was none: in `started`, in a
    /// timer, in a future that no message has begun.
    pub mail: Option<&'static str>,
    /// What the panic said.
    pub text: String,
}

impl std::fmt::Display for Panicked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.mail {
            Some(mail) => write!(f, "panicked while handling `{mail}`: {}", self.text),
            None => write!(f, "panicked: {}", self.text),
        }
    }
}

/// What the owner of an incarnation wants of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Order {
    Live,
    Stop,
    Kill,
}

/// Makes the actor of an incarnation.
pub(super) type Factory<A> =
    Arc<parking_lot::Mutex<dyn FnMut(&Supervised<A>) -> A + Send + 'static>>;

/// Runs one incarnation to its end. `ready` is called once `started` has returned and what it waits
/// for ([`AsyncContext::wait`]) is done; the first mail is handled after that.
pub(super) async fn run<A: Actor<Context = Context<A>>>(
    factory: &Factory<A>,
    address: &Supervised<A>,
    queue: Queue<A>,
    orders: &mut watch::Receiver<Order>,
    mut ready: impl FnMut(),
) -> Ended {
    let mut life = match catch_unwind(AssertUnwindSafe(|| factory.lock()(address))) {
        Ok(actor) => Life::new(actor, queue),
        Err(payload) => return Ended::Panicked(Panicked { mail: None, text: text_of(payload) }),
    };
    loop {
        tokio::select! {
            biased;
            changed = orders.changed() => {
                let order = *orders.borrow_and_update();
                match order {
                    _ if changed.is_err() => return Ended::Killed,
                    Order::Live => (),
                    Order::Stop => life.stop(),
                    Order::Kill => return Ended::Killed,
                }
            }
            ended = poll_fn(|cx| life.poll(cx, &mut ready)) => return ended,
        }
    }
}

/// An actor in its context.
struct Life<A: Actor<Context = Context<A>>> {
    context: Option<ContextFut<A, Context<A>>>,
    watch: Watch,
    is_ready: bool,
}

impl<A: Actor<Context = Context<A>>> Life<A> {
    fn new(actor: A, queue: Queue<A>) -> Self {
        let watch = Watch::default();
        let mut ctx = Context::new();
        let reading = Reading::Wanted(Box::pin(queue.lock_owned()));
        ctx.spawn(Pump { reading, watch: watch.clone() });
        Self { context: Some(ctx.into_future(actor)), watch, is_ready: false }
    }

    fn stop(&mut self) {
        if let Some(context) = &mut self.context {
            context.ctx().stop();
        }
    }

    fn poll(&mut self, cx: &mut task::Context<'_>, ready: &mut impl FnMut()) -> Poll<Ended> {
        self.watch.0.waker.replace(Some(cx.waker().clone()));
        let Some(context) = &mut self.context else { return Poll::Ready(Ended::Stopped) };
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut *context).poll(cx)));
        if self.watch.0.pumped.get() && !self.is_ready {
            self.is_ready = true;
            ready();
        }
        let panicked = match polled {
            Ok(polled) => {
                let Some(mail) = self.watch.0.detached.get() else {
                    return polled.map(|()| Ended::Stopped);
                };
                // The runtime has caught this one and dropped what it said.
                Panicked { mail: Some(mail), text: "in a future that it returned".to_owned() }
            }
            Err(payload) => {
                let mail = self.watch.suspect(context.ctx().handle());
                Panicked { mail, text: text_of(payload) }
            }
        };
        self.watch.0.panicked.set(true);
        Poll::Ready(Ended::Panicked(panicked))
    }
}

impl<A: Actor<Context = Context<A>>> Drop for Life<A> {
    fn drop(&mut self) {
        let Some(mut context) = self.context.take() else { return };
        context.ctx().terminate();
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(context))) {
            let (actor, text) = (std::any::type_name::<A>(), text_of(payload));
            log::error!("the destructor of `{actor}` panicked: {text}");
        }
    }
}

/// Feeds the actor from its queue. An item of the actor's own context, because only there actor and
/// context can be had together; it is polled after `started` and after what that waits for.
struct Pump<A: Actor<Context = Context<A>>> {
    reading: Reading<A>,
    watch: Watch,
}

/// Two incarnations live side by side while one replaces the other; only one of them reads, and the
/// other goes on when it has gone.
enum Reading<A: Actor<Context = Context<A>>> {
    Wanted(Pin<Box<dyn Future<Output = Reader<A>>>>),
    Granted(Reader<A>),
}

type Reader<A> = OwnedMutexGuard<mpsc::Receiver<BoxedMail<A>>>;

impl<A: Actor<Context = Context<A>>> ActorFuture<A> for Pump<A> {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut A,
        ctx: &mut Context<A>,
        cx: &mut task::Context<'_>,
    ) -> Poll<()> {
        let Self { reading, watch } = &mut *self;
        watch.0.pumped.set(true);
        if let Reading::Wanted(granted) = reading {
            *reading = Reading::Granted(std::task::ready!(granted.as_mut().poll(cx)));
        }
        let Reading::Granted(queue) = reading else { unreachable!("it was granted just now") };
        // The context polls its items again when what it waits for is done.
        while !ctx.waiting() {
            // The queue has a budget of its own: a flood of mail does not starve other tasks.
            let mail = match queue.poll_recv(cx) {
                Poll::Ready(Some(mail)) => mail,
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            };
            if mail.is_wanted() {
                watch.0.current.set(Some(mail.name()));
                mail.handle(actor, ctx, watch);
                watch.0.current.set(None);
            }
        }
        Poll::Pending
    }
}

/// What is known of the mail that an incarnation works on.
#[derive(Clone, Debug, Default)]
pub(super) struct Watch(Rc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    pumped: Cell<bool>,
    panicked: Cell<bool>,
    /// Being handled at this moment.
    current: Cell<Option<&'static str>>,
    /// The last one whose answer the whole actor waits for.
    awaited: Cell<Option<&'static str>>,
    /// Those whose answers are futures, by the handle after the one of their future.
    followed: RefCell<HashMap<SpawnHandle, &'static str>>,
    /// The one whose future panicked outside the actor's context.
    detached: Cell<Option<&'static str>>,
    waker: RefCell<Option<Waker>>,
}

impl Watch {
    pub(super) fn has_panicked(&self) -> bool {
        self.0.panicked.get()
    }

    /// Pays the debt when the answer comes, which may be after the next mail was handled.
    pub(super) fn follow<A, R>(
        &self,
        ctx: &mut Context<A>,
        mail: &'static str,
        replied: oneshot::Receiver<R>,
        mut debt: Debt<R>,
    ) where
        A: Actor<Context = Context<A>>,
        R: 'static,
    {
        if ctx.waiting() {
            self.0.awaited.set(Some(mail));
        }
        let marker = ctx.spawn(fut::wrap_future(std::future::ready(())));
        self.0.followed.borrow_mut().insert(marker, mail);
        let watch = self.clone();
        actix::spawn(async move {
            let answer = answer_or_panic(replied).await;
            watch.0.followed.borrow_mut().remove(&marker);
            match answer {
                Ok(result) => debt.pay(result),
                Err(Unanswered::Dropped) => (),
                Err(Unanswered::Panicked) => {
                    watch.0.panicked.set(true);
                    watch.0.detached.set(Some(mail));
                    if let Some(waker) = watch.0.waker.take() {
                        waker.wake();
                    }
                }
            }
        });
    }

    /// Which message a panic belongs to, where the context was at `handle`.
    fn suspect(&self, handle: SpawnHandle) -> Option<&'static str> {
        if let Some(mail) = self.0.current.get() {
            return Some(mail);
        }
        if handle == SpawnHandle::default() {
            return self.0.awaited.get();
        }
        self.0.followed.borrow().get(&handle.next()).copied()
    }
}

enum Unanswered {
    Dropped,
    Panicked,
}

/// actix hands a future that a handler returns to the runtime, which catches its panic and tells
/// nobody. But the way back is dropped while the panic unwinds, and wakes us from there.
async fn answer_or_panic<R>(mut replied: oneshot::Receiver<R>) -> Result<R, Unanswered> {
    let mut witness = None;
    let answer = poll_fn(|cx| {
        let seen = Arc::new(Witness { waker: cx.waker().clone(), panic: AtomicBool::new(false) });
        let waker = Waker::from(Arc::clone(&seen));
        let polled = Pin::new(&mut replied).poll(&mut task::Context::from_waker(&waker));
        if polled.is_pending() {
            witness = Some(seen);
        }
        polled
    });
    let answer = answer.await;
    answer.map_err(|_dropped| {
        // Relaxed: the future and its way back are dropped on this thread.
        let panicked = witness.is_some_and(|witness| witness.panic.load(Ordering::Relaxed));
        if panicked { Unanswered::Panicked } else { Unanswered::Dropped }
    })
}

struct Witness {
    waker: Waker,
    panic: AtomicBool,
}

impl Wake for Witness {
    fn wake(self: Arc<Self>) {
        // Relaxed: see `answer_or_panic`.
        self.panic.fetch_or(thread::panicking(), Ordering::Relaxed);
        self.waker.wake_by_ref();
    }
}

/// What a panic said. The payload is any type, so its destructor may panic too; then it is leaked.
pub(super) fn text_of(payload: Box<dyn Any + Send>) -> String {
    let text = if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "something that is no text".to_owned()
    };
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    text
}
