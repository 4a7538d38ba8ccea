//! Panics of every kind inside a supervised actor, and what becomes of its mail.
//!
//! The file is longer than most: one actor that can fail in every way serves all of the tests.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use actix::dev::SendError;
use actix::prelude::*;
use tokio::sync::mpsc;

use super::child::Line;
use super::{Child, MailError, Reports, Shell, Supervised, Transition};
use crate::engine::supervise::{ChildId, Exit, Report};

/// Whatever panics, the address goes on: the sender of the guilty message gets an error, the mail
/// behind it is handled by the next incarnation, and the exit names the message.
#[test]
fn a_panic_costs_one_message() {
    let cases = [
        (Panic::Handler, true),
        (Panic::Future, true),
        (Panic::ActorFuture, true),
        (Panic::Atomic, true),
        (Panic::Later, false),
        (Panic::HandlerAndDestructor, true),
        (Panic::HandlerAndStopping, true),
        (Panic::OddPayload, true),
    ];
    for (how, is_named) in cases {
        System::new().block_on(async move {
            let mut child = Supervision::of(Shell::new(|_| Fragile::default()));
            let address = child.shell.address();
            child.start();
            assert_eq!(child.next().await, Seen::Ready(1), "{how:?}");
            let guilty = address.send(how);
            let (outcome, exit) = tokio::join!(guilty, child.next());
            let Seen::Exited(1, Exit::Panic(why)) = exit else { panic!("{how:?}: {exit:?}") };
            assert_eq!(why.contains("shell_tests::Panic"), is_named, "{how:?}: {why}");
            // A timer panics after the answer; every other way takes the answer with it.
            let expected = if is_named { Err(MailError::Panicked) } else { Ok(()) };
            assert_eq!(outcome, expected, "{how:?}");

            // Between two incarnations mail waits; afterwards it comes in order.
            let waiting = [1, 2, 3].map(|number| {
                let address = address.clone();
                actix::spawn(async move { address.send(Count(number)).await })
            });
            tokio::task::yield_now().await;
            child.start();
            assert_eq!(child.next().await, Seen::Ready(2), "{how:?}");
            for (index, answer) in waiting.into_iter().enumerate() {
                assert_eq!(answer.await.unwrap(), Ok(index + 1), "{how:?}: a fresh actor counts");
            }
        });
    }
}

#[test]
fn mail_that_was_queued_behind_the_guilty_message_survives() {
    System::new().block_on(async {
        let mut child = Supervision::of(Shell::new(|_| Fragile::default()));
        let address = child.shell.address();
        address.try_send(Count(1)).unwrap();
        address.try_send(Panic::Handler).unwrap();
        address.try_send(Count(2)).unwrap();
        child.start();
        assert_eq!(child.next().await, Seen::Ready(1));
        assert!(matches!(child.next().await, Seen::Exited(1, Exit::Panic(_))));
        assert_eq!(address.queued(), 1);
        child.start();
        assert_eq!(child.next().await, Seen::Ready(2));
        assert_eq!(address.send(Count(3)).await, Ok(2), "the second incarnation handled two");
    });
}

#[test]
fn a_panic_before_ready_is_a_start_that_failed() {
    System::new().block_on(async {
        let mut factory = Supervision::of(Shell::<Fragile>::new(|_| panic!("no actor today")));
        factory.start();
        let Seen::Exited(1, Exit::Panic(why)) = factory.next().await else { panic!() };
        assert!(why.contains("no actor today"), "{why}");

        let shell = Shell::new(|_| Fragile { panics_in_started: true, ..Fragile::default() });
        let mut started = Supervision::of(shell);
        started.start();
        let Seen::Exited(1, Exit::Panic(why)) = started.next().await else { panic!() };
        assert!(why.contains("in started"), "{why}");
    });
}

/// The two ends of a full queue: `send` waits, `try_send` gives the message back.
#[test]
fn a_full_queue_makes_senders_wait() {
    System::new().block_on(async {
        let mut child = Supervision::of(Shell::with_queue(2, |_| Fragile::default()));
        let address = child.shell.address();
        address.post(Count(1)).await.unwrap();
        address.post(Count(2)).await.unwrap();
        let Err(SendError::Full(Count(3))) = address.try_send(Count(3)) else { panic!() };
        let waiting = actix::spawn({
            let address = address.clone();
            async move { address.send(Count(4)).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        child.start();
        assert_eq!(waiting.await.unwrap(), Ok(3));
    });
}

/// An actix recipient survives as the address does, and is bounded as well.
#[test]
fn a_recipient_survives_a_panic() {
    System::new().block_on(async {
        let mut child = Supervision::of(Shell::with_queue(2, |_| Fragile::default()));
        let count: Recipient<Count> = child.shell.address().recipient();
        let panic: Recipient<Panic> = child.shell.address().recipient();
        child.start();
        assert_eq!(count.send(Count(1)).await, Ok(1));
        assert_eq!(panic.send(Panic::Handler).await, Err(MailboxError::Closed));
        assert_eq!(child.next().await, Seen::Ready(1));
        assert!(matches!(child.next().await, Seen::Exited(..)));
        let waiting: Vec<_> =
            (0..20).map(|number| actix::spawn(count.send(Count(number)))).collect();
        tokio::task::yield_now().await;
        // How many more fit depends on actix, which grants a place to every clone of an address.
        let mut sent = (0..100).map(|number| count.try_send(Count(number)));
        assert!(sent.any(|sent| matches!(sent, Err(SendError::Full(_)))));
        child.start();
        for answer in waiting {
            answer.await.unwrap().unwrap();
        }
        drop(child);
        while count.connected() {
            // The queue is closed; the next mail finds out.
            let _closed = count.send(Count(1)).await;
        }
    });
}

/// `wait` in `started` is the actor's way to say that it is not ready yet.
#[test]
fn an_actor_is_ready_when_what_it_waits_for_is_done() {
    System::new().block_on(async {
        let (open, gate) = tokio::sync::watch::channel(false);
        let shell = Shell::new(move |_| Fragile { gate: Some(gate.clone()), ..Fragile::default() });
        let mut child = Supervision::of(shell);
        child.start();
        let address = child.shell.address();
        let waiting = actix::spawn(async move { address.send(Count(1)).await });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(child.seen.try_recv().is_err());
        assert!(!waiting.is_finished());
        open.send(true).unwrap();
        assert_eq!(child.next().await, Seen::Ready(1));
        assert_eq!(waiting.await.unwrap(), Ok(1));
    });
}

#[test]
fn a_stop_is_confirmed_and_keeps_the_mail() {
    System::new().block_on(async {
        let stopped = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&stopped);
        let shell = Shell::new(move |_| Fragile { stopped: count.clone(), ..Fragile::default() });
        let mut child = Supervision::of(shell);
        child.start();
        assert_eq!(child.next().await, Seen::Ready(1));
        child.shell.stop(1, None);
        assert_eq!(child.next().await, Seen::Exited(1, Exit::Stopped));
        assert_eq!(stopped.load(Ordering::Relaxed), 1);
        child.shell.address().try_send(Count(1)).unwrap();
        child.start();
        assert_eq!(child.next().await, Seen::Ready(2));
        assert_eq!(child.shell.address().send(Count(2)).await, Ok(2));
        // An order for an incarnation that has gone does nothing to its successor.
        child.shell.kill(1);
        assert_eq!(child.shell.address().send(Count(3)).await, Ok(3));
        // An actor that ends itself was not stopped.
        assert_eq!(child.shell.address().send(End).await, Ok(()));
        assert_eq!(child.next().await, Seen::Exited(2, Exit::Normal));
    });
}

#[test]
fn an_actor_that_will_not_stop_is_killed() {
    System::new().block_on(async {
        let shell = Shell::new(|_| Fragile { refuses_to_stop: true, ..Fragile::default() });
        let mut child = Supervision::of(shell);
        child.start();
        assert_eq!(child.next().await, Seen::Ready(1));
        child.shell.stop(1, None);
        assert_eq!(child.shell.address().send(Count(1)).await, Ok(1), "it goes on");
        child.shell.kill(1);
        assert_eq!(child.next().await, Seen::Exited(1, Exit::Stopped));
    });
}

#[test]
fn removing_the_child_ends_it_and_refuses_its_mail() {
    System::new().block_on(async {
        let mut child = Supervision::of(Shell::new(|_| Fragile::default()));
        let address = child.shell.address();
        child.start();
        assert_eq!(child.next().await, Seen::Ready(1));
        let Supervision { shell, mut seen, .. } = child;
        drop(shell);
        assert_eq!(seen.recv().await.unwrap(), Seen::Exited(1, Exit::Stopped));
        assert_eq!(address.send(Count(1)).await, Err(MailError::Closed));
        assert!(!address.connected());
    });
}

#[test]
fn an_actor_lives_on_an_arbiter_of_its_own() {
    System::new().block_on(async {
        let arbiter = Arbiter::new();
        let mut child =
            Supervision::of(Shell::new(|_| Fragile::default()).arbiter(arbiter.handle()));
        child.start();
        assert_eq!(child.next().await, Seen::Ready(1));
        assert_eq!(child.shell.address().send(Panic::Handler).await, Err(MailError::Panicked));
        assert!(matches!(child.next().await, Seen::Exited(1, Exit::Panic(_))));
        arbiter.stop();
        arbiter.join().unwrap();
        child.start();
        let Seen::Exited(2, Exit::Panic(why)) = child.next().await else { panic!() };
        assert!(why.contains("without a word"), "{why}");
    });
}

/// State that lives outside the actor and is sound makes a panic a matter of one message; the group
/// hears of it only when it goes on like that.
#[test]
fn a_panic_that_cost_nothing_is_healed_on_the_spot() {
    System::new().block_on(async {
        let total = Arc::new(AtomicUsize::new(0));
        let state = Arc::clone(&total);
        let shell = Shell::new(move |_| Fragile { total: state.clone(), ..Fragile::default() });
        let sound = Arc::clone(&total);
        let mut child =
            Supervision::of(shell.heal(move |_| sound.load(Ordering::Relaxed) < usize::MAX));
        let address = child.shell.address();
        child.start();
        assert_eq!(child.next().await, Seen::Ready(1));
        for healed in 1..=3 {
            assert_eq!(address.send(Panic::Handler).await, Err(MailError::Panicked));
            assert_eq!(address.send(Count(1)).await, Ok(1), "rebuilt");
            assert_eq!(total.load(Ordering::Relaxed), healed, "its state was kept");
        }
        assert_eq!(address.send(Panic::Handler).await, Err(MailError::Panicked));
        assert!(matches!(child.next().await, Seen::Exited(1, Exit::Panic(_))), "once too often");
        child.start();
        assert_eq!(child.next().await, Seen::Ready(2));

        total.store(usize::MAX, Ordering::Relaxed);
        let mut child = {
            let sound = Arc::clone(&total);
            let shell = Shell::new(|_| Fragile::default());
            Supervision::of(shell.heal(move |_| sound.load(Ordering::Relaxed) < usize::MAX))
        };
        child.start();
        assert_eq!(child.next().await, Seen::Ready(1));
        child.shell.address().try_send(Panic::Handler).unwrap();
        assert!(matches!(child.next().await, Seen::Exited(1, Exit::Panic(_))), "not sound");
    });
}

/// Why the context of an actor that panicked is ended before it is dropped: actix runs it once more
/// while the panic unwinds, and a second panic there is the end of the process.
#[test]
fn a_plain_actix_actor_takes_the_process_with_it() {
    if std::env::var_os(PLAIN).is_some() {
        System::new().block_on(async {
            let actor = Fragile::default().start();
            // A process that lives on fails the test below.
            let _outcome = actor.send(Panic::HandlerAndStopping).await;
        });
        return;
    }
    let mut plain = Command::new(std::env::current_exe().unwrap());
    let name = "supervise::shell_tests::a_plain_actix_actor_takes_the_process_with_it";
    let output = plain.args(["--exact", name]).env(PLAIN, "1").output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");

    System::new().block_on(async {
        let mut child = Supervision::of(Shell::new(|_| Fragile::default()));
        child.start();
        assert_eq!(child.next().await, Seen::Ready(1));
        let outcome = child.shell.address().send(Panic::HandlerAndStopping).await;
        assert_eq!(outcome, Err(MailError::Panicked));
    });
}

const PLAIN: &str = "PLUGBUS_TEST_PLAIN_ACTOR";

/// Panics in as many ways as there are.
#[derive(Default)]
struct Fragile {
    count: usize,
    total: Arc<AtomicUsize>,
    stopped: Arc<AtomicUsize>,
    gate: Option<tokio::sync::watch::Receiver<bool>>,
    refuses_to_stop: bool,
    panics_in_started: bool,
    panics_in_stopping: bool,
    bomb: Bomb,
}

impl Actor for Fragile {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        assert!(!self.panics_in_started, "in started");
        if let Some(mut gate) = self.gate.take() {
            let open = async move { drop(gate.wait_for(|open| *open).await.unwrap()) };
            ctx.wait(open.into_actor(self));
        }
    }

    fn stopping(&mut self, _ctx: &mut Self::Context) -> Running {
        assert!(!self.panics_in_stopping, "in stopping");
        if self.refuses_to_stop { Running::Continue } else { Running::Stop }
    }

    fn stopped(&mut self, _ctx: &mut Self::Context) {
        self.stopped.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Bomb {
    is_armed: bool,
}

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(!self.is_armed, "in the destructor");
    }
}

/// Which mail this is for the incarnation. Bears a number for the sake of `Debug` only.
#[derive(Debug, Message)]
#[rtype(result = "usize")]
struct Count(usize);

impl Handler<Count> for Fragile {
    type Result = usize;

    fn handle(&mut self, _: Count, _ctx: &mut Self::Context) -> usize {
        self.count += 1;
        self.total.fetch_add(1, Ordering::Relaxed);
        self.count
    }
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct End;

impl Handler<End> for Fragile {
    type Result = ();

    fn handle(&mut self, _: End, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

#[derive(Clone, Copy, Debug, Message)]
#[rtype(result = "()")]
enum Panic {
    Handler,
    Future,
    ActorFuture,
    Atomic,
    Later,
    HandlerAndDestructor,
    HandlerAndStopping,
    OddPayload,
}

impl Handler<Panic> for Fragile {
    type Result = Answer;

    fn handle(&mut self, how: Panic, ctx: &mut Self::Context) -> Answer {
        match how {
            Panic::Handler => panic!("in the handler"),
            Panic::Future => Answer::Future,
            Panic::ActorFuture => Answer::ActorFuture,
            Panic::Atomic => Answer::Atomic,
            Panic::Later => {
                ctx.run_later(Duration::ZERO, |_, _| panic!("in a timer"));
                Answer::Done
            }
            Panic::HandlerAndDestructor => {
                self.bomb.is_armed = true;
                panic!("in the handler");
            }
            Panic::HandlerAndStopping => {
                self.panics_in_stopping = true;
                panic!("in the handler");
            }
            Panic::OddPayload => std::panic::panic_any(PanicsWhenDropped),
        }
    }
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("in the payload's destructor");
    }
}

/// All of actix's ways to answer later, chosen at run time.
enum Answer {
    Done,
    Future,
    ActorFuture,
    Atomic,
}

impl dev::MessageResponse<Fragile, Panic> for Answer {
    fn handle(self, ctx: &mut Context<Fragile>, back: Option<dev::OneshotSender<()>>) {
        async fn fail() {
            tokio::task::yield_now().await;
            panic!("in a future");
        }
        let future = || fut::wrap_future::<_, Fragile>(fail());
        match self {
            Self::Done => dev::MessageResponse::<Fragile, Panic>::handle((), ctx, back),
            Self::Future => {
                let future: ResponseFuture<()> = Box::pin(fail());
                dev::MessageResponse::<Fragile, Panic>::handle(future, ctx, back);
            }
            Self::ActorFuture => {
                let future: ResponseActFuture<Fragile, ()> = Box::pin(future());
                dev::MessageResponse::<Fragile, Panic>::handle(future, ctx, back);
            }
            Self::Atomic => {
                let response = AtomicResponse::new(Box::pin(future()));
                dev::MessageResponse::<Fragile, Panic>::handle(response, ctx, back);
            }
        }
    }
}

/// A group that does nothing by itself.
struct Supervision {
    shell: Shell<Fragile>,
    reports: Arc<ToTest>,
    seen: mpsc::Receiver<Seen>,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Ready(u64),
    Exited(u64, Exit),
}

impl Supervision {
    fn of(shell: Shell<Fragile>) -> Self {
        let (sender, seen) = mpsc::channel(64);
        Self { shell, reports: Arc::new(ToTest { sender, generation: AtomicU64::new(0) }), seen }
    }

    fn start(&mut self) {
        let generation = self.reports.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let line: Arc<dyn Line> = self.reports.clone();
        self.shell.start(Reports::new(line, ChildId::new("fragile"), generation, None));
    }

    async fn next(&mut self) -> Seen {
        self.seen.recv().await.unwrap()
    }
}

struct ToTest {
    sender: mpsc::Sender<Seen>,
    generation: AtomicU64,
}

impl Line for ToTest {
    fn report(&self, _child: &ChildId, generation: u64, report: Report) {
        let seen = match report {
            Report::Ready => Seen::Ready(generation),
            Report::Exited(exit) => Seen::Exited(generation, exit),
            report => panic!("a shell does not report {report:?}"),
        };
        // A test that has ended does not look.
        let _unseen = self.sender.try_send(seen);
    }

    fn pass_on(&self, transition: &Transition) {
        panic!("an actor has no children, but {transition:?}");
    }

    fn path(&self) -> String {
        "test".to_owned()
    }
}

const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<Supervised<Fragile>>();
};
