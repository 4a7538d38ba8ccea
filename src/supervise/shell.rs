//! An actix actor as a child: rebuilt from its factory, with the same address and the same mail.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::channel::{AddressReceiver, channel};
use actix::prelude::*;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::child::{Child, Reports};
use super::front::Front;
use super::incarnation::{self, Ended, Factory, Order, Panicked};
use super::mail::{Queue, Supervised};
use crate::engine::supervise::Exit;
use crate::net::uptime;

/// An actix actor that a group starts, stops and rebuilds.
///
/// The factory makes a new actor for every incarnation; what has to outlive a panic belongs outside
/// the actor, where the factory finds it. Handlers are ordinary [`Handler`]s. Three things differ
/// from an actor that was started with [`Actor::start`]:
///
/// - Send through [`address`](Self::address), not through `ctx.address()`: that one ends with the
///   incarnation.
/// - The actor is *ready* when `started` has returned and what it waits for with
///   [`AsyncContext::wait`] is done; mail comes after that.
/// - A panic anywhere in the actor ends the incarnation. The sender of the message gets
///   [`MailError::Panicked`](super::MailError::Panicked); `stopping` and `stopped` are not called,
///   because the actor's state can no longer be trusted; the actor is dropped.
///
/// A handler that blocks its thread cannot be interrupted, not even by a kill. Give such an actor
/// an [`arbiter`](Self::arbiter) of its own, so that its group is not blocked with it.
pub struct Shell<A: Actor<Context = Context<A>>> {
    factory: Factory<A>,
    address: Supervised<A>,
    queue: Queue<A>,
    /// Started with the first incarnation, because only then there is an arbiter.
    front: Option<AddressReceiver<Front<A>>>,
    arbiter: Option<ArbiterHandle>,
    heal: Option<Heal>,
    /// Who lives, with the way to end it. Two only while one replaces the other.
    lives: Vec<(u64, watch::Sender<Order>)>,
}

/// Says whether what a panic left behind is sound.
type Heal = Arc<Mutex<Healer>>;

struct Healer {
    is_sound: Box<dyn FnMut(&Panicked) -> bool + Send>,
    /// When panics were healed, of the last [`HEALS_WINDOW`].
    healed: VecDeque<Duration>,
}

impl<A: Actor<Context = Context<A>>> Shell<A> {
    /// A child that is made by `factory`, with a queue for [`MAIL_MAX`](Self::MAIL_MAX) messages.
    /// The factory gets the address that outlives the incarnation.
    pub fn new(factory: impl FnMut(&Supervised<A>) -> A + Send + 'static) -> Self {
        Self::with_queue(Self::MAIL_MAX, factory)
    }

    /// As [`new`](Self::new), with a queue for `mail_max` messages, at least 1.
    pub fn with_queue(
        mail_max: usize,
        factory: impl FnMut(&Supervised<A>) -> A + Send + 'static,
    ) -> Self {
        let mail_max = mail_max.max(1);
        let (sender, queue) = mpsc::channel(mail_max);
        let (front, mailbox) = channel(mail_max);
        Self {
            factory: Arc::new(Mutex::new(factory)),
            address: Supervised::new(sender, Addr::new(front)),
            queue: Arc::new(tokio::sync::Mutex::new(queue)),
            front: Some(mailbox),
            arbiter: None,
            heal: None,
            lives: Vec::new(),
        }
    }

    /// Runs the actor on this arbiter instead of the group's.
    #[must_use]
    pub fn arbiter(mut self, arbiter: ArbiterHandle) -> Self {
        self.arbiter = Some(arbiter);
        self
    }

    /// Heals panics on the spot where nothing was lost.
    ///
    /// For an actor whose state lives outside of it: `is_sound` is asked after a panic, when the
    /// actor has been dropped. If it says yes, the actor is rebuilt at once, in the same
    /// incarnation, and its siblings do not notice. At most 3 panics in 30 s are healed like this;
    /// then, and when the state is not sound, the incarnation ends and the group decides.
    #[must_use]
    pub fn heal(mut self, is_sound: impl FnMut(&Panicked) -> bool + Send + 'static) -> Self {
        let healer = Healer { is_sound: Box::new(is_sound), healed: VecDeque::new() };
        self.heal = Some(Arc::new(Mutex::new(healer)));
        self
    }

    /// Where to send mail, for as long as the child is in its group.
    pub fn address(&self) -> Supervised<A> {
        self.address.clone()
    }

    fn order(&self, generation: u64, order: Order) {
        for (_, orders) in self.lives.iter().filter(|(life, _)| *life == generation) {
            // A kill is not taken back by a stop that comes late.
            orders.send_if_modified(|current| {
                let is_new = *current != Order::Kill && *current != order;
                *current = if is_new { order } else { *current };
                is_new
            });
        }
    }

    /// Messages that wait at most, unless said otherwise.
    pub const MAIL_MAX: usize = 1_024;
}

impl<A: Actor<Context = Context<A>>> Child for Shell<A> {
    fn start(&mut self, reports: Reports) {
        self.lives.retain(|(_, orders)| !orders.is_closed());
        let (orders, ordered) = watch::channel(Order::Live);
        self.lives.push((reports.generation(), orders));
        let life = Life {
            factory: Arc::clone(&self.factory),
            address: self.address.clone(),
            queue: Arc::clone(&self.queue),
            heal: self.heal.clone(),
        };
        let front = self.front.take().map(|mailbox| {
            let queue = self.address.queue();
            move || Context::with_receiver(mailbox).run(Front::new(queue))
        });
        let begin = move || {
            if let Some(front) = front {
                front();
            }
            actix::spawn(life.run(ordered, reports));
        };
        match &self.arbiter {
            None => begin(),
            Some(arbiter) => {
                // What an arbiter that has ended does not run is dropped, which reports the exit.
                let _runs = arbiter.spawn_fn(begin);
            }
        }
    }

    fn stop(&mut self, generation: u64, _within: Option<Duration>) {
        self.order(generation, Order::Stop);
    }

    fn kill(&mut self, generation: u64) {
        self.order(generation, Order::Kill);
    }
}

impl<A: Actor<Context = Context<A>>> fmt::Debug for Shell<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shell")
            .field("actor", &std::any::type_name::<A>())
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// What one incarnation needs, wherever it runs.
struct Life<A: Actor<Context = Context<A>>> {
    factory: Factory<A>,
    address: Supervised<A>,
    queue: Queue<A>,
    heal: Option<Heal>,
}

impl<A: Actor<Context = Context<A>>> Life<A> {
    async fn run(self, mut orders: watch::Receiver<Order>, reports: Reports) {
        let mut is_known = false;
        loop {
            let queue = Arc::clone(&self.queue);
            let mut was_ready = false;
            let mut ready = || {
                was_ready = true;
                if !is_known {
                    reports.ready();
                }
                is_known = true;
            };
            let ended =
                incarnation::run(&self.factory, &self.address, queue, &mut orders, &mut ready)
                    .await;
            let exit = match ended {
                Ended::Stopped if *orders.borrow() == Order::Live => Exit::Normal,
                Ended::Stopped | Ended::Killed => Exit::Stopped,
                Ended::Panicked(panicked) => {
                    let actor = std::any::type_name::<A>();
                    if was_ready && self.is_healed(&panicked) {
                        log::error!("`{actor}` {panicked}; it was healed");
                        continue;
                    }
                    log::error!("`{actor}` {panicked}");
                    Exit::Panic(panicked.to_string().into())
                }
            };
            reports.exited(exit);
            return;
        }
    }

    fn is_healed(&self, panicked: &Panicked) -> bool {
        let Some(heal) = &self.heal else { return false };
        let Healer { is_sound, healed } = &mut *heal.lock();
        let now = uptime::now().mono;
        healed.retain(|&at| now.saturating_sub(at) <= HEALS_WINDOW);
        if healed.len() >= HEALS_MAX {
            return false;
        }
        let asked = std::panic::AssertUnwindSafe(|| is_sound(panicked));
        let is_healed = std::panic::catch_unwind(asked).unwrap_or_else(|payload| {
            log::error!("the check after it panicked: {}", incarnation::text_of(payload));
            false
        });
        if is_healed {
            healed.push_back(now);
        }
        is_healed
    }
}

/// Panics that are healed on the spot in [`HEALS_WINDOW`]; more are no accident.
const HEALS_MAX: usize = 3;

/// As the window of [`GroupFlags::core`](crate::engine::supervise::GroupFlags::core).
const HEALS_WINDOW: Duration = Duration::from_secs(30);
