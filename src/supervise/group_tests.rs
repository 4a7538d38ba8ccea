//! Groups that carry out what the machine decides: with actors, with groups inside, and with
//! children that do only what a test tells them.
//!
//! The file is longer than most: one child that writes down its orders serves all of the tests.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use parking_lot::Mutex;

use super::{
    Answer, Child, ChildId, ChildSpec, Exit, Group, GroupFlags, GroupHandle, MailError, Phase,
    Refusal, Reports, Restart, Shell, Shutdown, State, Strategy, Supervised, Transition,
};

#[test]
fn children_start_in_order_and_stop_in_reverse() {
    System::new().block_on(async {
        let log = Log::default();
        let group = Group::builder("root", GroupFlags::core(Strategy::OneForOne))
            .child(ChildSpec::new("a"), log.probe("a"))
            .child(ChildSpec::new("b"), log.probe("b"))
            .build()
            .unwrap()
            .start();
        log.wait_for("a starts").await;
        assert_eq!(group.phase(), Phase::Starting);
        assert_eq!(log.take(), ["a starts"], "b waits until a is ready");
        log.reports("a").ready();
        log.wait_for("b starts").await;
        log.reports("b").ready();
        assert_eq!(group.phase(), Phase::Running);

        let shutdown = actix::spawn({
            let group = group.clone();
            async move { group.shutdown().await }
        });
        log.wait_for("b stops").await;
        assert_eq!(log.take(), ["b starts", "b stops"], "a waits until b is gone");
        log.reports("b").exited(Exit::Stopped);
        log.wait_for("a stops").await;
        log.reports("a").exited(Exit::Stopped);
        assert_eq!(shutdown.await.unwrap(), Exit::Stopped);
        assert_eq!(group.phase(), Phase::Ended);
    });
}

/// The whole way: an actor panics, its group makes it again, its address goes on.
#[test]
fn an_actor_that_panics_is_made_again() {
    System::new().block_on(async {
        let shell = Shell::new(|_| Worker);
        let address = shell.address();
        let group = Group::builder("root", GroupFlags::core(Strategy::OneForOne))
            .child(ChildSpec::new("worker"), shell)
            .build()
            .unwrap()
            .start();
        assert_eq!(address.send(Work::Well).await, Ok(()));
        assert_eq!(address.send(Work::Panic).await, Err(MailError::Panicked));
        assert_eq!(address.send(Work::Well).await, Ok(()));
        let status = group.child(&"worker".into()).unwrap();
        assert_eq!((status.state, status.restarts, status.generation), (State::Ready, 1, 2));
        let Some(Exit::Panic(why)) = status.last_exit else { panic!() };
        assert!(why.contains("group_tests::Work"), "{why}");
        assert_eq!(group.shutdown().await, Exit::Stopped);
    });
}

/// Too many panics in one group become the failure of one child of the group above, and too many of
/// those the end of the tree.
#[test]
fn failures_escalate_from_group_to_group() {
    System::new().block_on(async {
        let shell = Shell::new(|_| Worker);
        let address = shell.address();
        let mut flags = GroupFlags::core(Strategy::OneForOne);
        flags.intensity.restarts_max = 1;
        let inner = Group::builder("inner", flags.clone())
            .child(ChildSpec::new("worker"), shell)
            .build()
            .unwrap();
        let handle = inner.handle();
        let log = Log::default();
        let seen = log.clone();
        let outer = Group::builder("outer", flags)
            .child(ChildSpec::group("inner"), inner)
            .observe(move |transition| seen.note(transition))
            .build()
            .unwrap()
            .start();
        for round in 0..4 {
            assert_eq!(address.send(Work::Panic).await, Err(MailError::Panicked), "{round}");
        }
        let Exit::Exhausted(why) = outer.ended().await else { panic!() };
        assert!(why.contains("`inner`") && why.contains("`worker`"), "{why}");
        assert_eq!(handle.phase(), Phase::Ended);
        // Each group tells its own story in order; one panic is healed by the inner group, the
        // second one by the outer, and after the fourth nobody is left who could.
        let seen = log.take();
        let of = |group: &str| -> Vec<&str> {
            seen.iter().filter_map(|line| line.strip_prefix(group)).collect()
        };
        let once = ["starting", "ready", "backing-off", "starting", "ready", "stopped"];
        assert_eq!(of("outer/inner worker "), [once, once].concat());
        assert_eq!(of("outer inner "), once);
        assert_eq!(outer.start_child(&"inner".into()), Err(Refusal::Ending));
    });
}

#[test]
fn rest_for_one_restarts_those_that_came_later() {
    System::new().block_on(async {
        let log = Log::default();
        let group = Group::builder("root", GroupFlags::core(Strategy::RestForOne))
            .child(ChildSpec::new("a"), log.obedient("a"))
            .child(ChildSpec::new("b"), log.obedient("b"))
            .child(ChildSpec::new("c"), log.obedient("c"))
            .build()
            .unwrap()
            .start();
        log.wait_for("c starts").await;
        log.take();
        log.reports("b").exited(Exit::Code(3));
        log.wait_for("c starts").await;
        assert_eq!(log.take(), ["c stops", "b starts", "c starts"]);
        assert_eq!(group.shutdown().await, Exit::Stopped);
    });
}

/// Also while the arbiter of the group does nothing at all.
#[test]
fn commands_are_answered_at_once() {
    let log = Log::default();
    let system = System::new();
    let group = system.block_on(async {
        let group = Group::builder("root", GroupFlags::core(Strategy::Dynamic))
            .child(ChildSpec::new("a"), log.probe("a"))
            .build()
            .unwrap()
            .start();
        log.wait_for("a starts").await;
        group
    });
    // Nobody polls the task of the group from here on.
    let id = ChildId::new("a");
    let state = |group: &GroupHandle| group.child(&id).unwrap().state;
    assert_eq!(group.start_child(&id), Ok(Answer::Already(State::Starting)));
    log.reports("a").ready();
    assert_eq!(state(&group), State::Ready, "a report comes before the next command");
    log.reports("a").busy(true);
    assert_eq!(state(&group), State::Busy);
    assert_eq!(group.replace(&id), Ok(Answer::Accepted));
    assert_eq!(state(&group), State::Replacing);
    assert_eq!(group.stop(&id), Ok(Answer::Accepted));
    assert_eq!(group.stop(&id), Ok(Answer::Already(State::Stopping)));
    assert_eq!(group.enable(&"b".into()), Err(Refusal::Unknown("b".into())));
    assert_eq!(group.add(ChildSpec::new("b"), log.probe("b")), Ok(Answer::Accepted));
    assert_eq!(group.children().len(), 2);
    assert!(group.add(ChildSpec::new("b"), log.probe("b")).is_err());
    assert_eq!(group.remove(&"b".into()), Ok(Answer::Accepted));
}

#[test]
fn a_child_is_replaced_added_and_removed_while_the_group_runs() {
    System::new().block_on(async {
        let log = Log::default();
        let group = Group::builder("root", GroupFlags::plugins()).build().unwrap().start();
        let id = ChildId::new("a");
        group.add(ChildSpec::plugin("a"), log.obedient("a")).unwrap();
        group.until(&id, |a| a.is_serving).await.unwrap();
        group.replace(&id).unwrap();
        group.until(&id, |a| a.generation == 2 && a.state == State::Ready).await.unwrap();
        assert_eq!(log.take(), ["a starts", "a starts", "a switches 1 2", "a stops"]);

        // Its end is no failure, and a word of the old one is not a word of the new one.
        let old = log.first_reports("a");
        old.hung("too late");
        old.exited(Exit::Code(1));
        assert_eq!(group.child(&id).unwrap().failures, 0);

        assert_eq!(group.remove(&id), Ok(Answer::Accepted));
        while group.child(&id).is_some() {
            tokio::task::yield_now().await;
        }
        group.add(ChildSpec::plugin("a"), log.obedient("a")).unwrap();
        let again = group.until(&id, |a| a.is_serving).await.unwrap();
        assert_eq!((again.generation, again.restarts), (3, 0));
        assert_eq!(group.shutdown().await, Exit::Stopped);
    });
}

#[test]
fn a_child_that_does_not_stop_is_killed() {
    System::new().block_on(async {
        let log = Log::default();
        let mut spec = ChildSpec::new("a");
        spec.shutdown = Shutdown::Within(Duration::from_millis(1));
        let group = Group::builder("root", GroupFlags::core(Strategy::OneForOne))
            .child(spec, log.probe("a"))
            .build()
            .unwrap()
            .start();
        log.wait_for("a starts").await;
        log.reports("a").ready();
        group.stop(&"a".into()).unwrap();
        log.wait_for("a is killed").await;
        assert_eq!(log.take(), ["a starts", "a stops", "a is killed"]);
        log.reports("a").exited(Exit::Stopped);
        assert_eq!(group.child(&"a".into()).unwrap().state, State::Stopped);
        assert_eq!(group.shutdown().await, Exit::Stopped);
    });
}

/// Whoever forgets to say that it has ended, or panics when it is told something, is a failed child
/// and nothing worse.
#[test]
fn a_careless_child_is_a_failed_child() {
    struct Careless(Log);
    impl Child for Careless {
        fn start(&mut self, reports: Reports) {
            self.0.push("start".to_owned());
            assert_ne!(reports.generation(), 2, "the second start");
            if reports.generation() == 3 {
                reports.ready();
                std::mem::forget(reports);
            }
        }
        fn stop(&mut self, _generation: u64, _within: Option<Duration>) {
            panic!("at the stop");
        }
        fn kill(&mut self, _generation: u64) {
            self.0.push("kill".to_owned());
        }
    }
    System::new().block_on(async {
        let log = Log::default();
        let mut flags = GroupFlags::core(Strategy::Dynamic);
        flags.unkillable_after = Duration::from_millis(1);
        let mut spec = ChildSpec::new("a");
        spec.shutdown = Shutdown::Within(Duration::from_millis(1));
        let group = Group::builder("root", flags)
            .child(spec, Careless(log.clone()))
            .observe(|_| panic!("an observer that cannot bear it"))
            .build()
            .unwrap()
            .start();
        let status = group.until(&"a".into(), |a| a.is_serving).await.unwrap();
        assert_eq!(status.generation, 3);
        assert_eq!(log.take(), ["start", "start", "start"]);
        // It never says that it has ended, so the group ends without it.
        assert_eq!(group.shutdown().await, Exit::Stopped);
        assert_eq!(log.take(), ["kill"]);
    });
}

#[test]
fn nothing_survives_the_system_or_a_broken_machine() {
    let log = Log::default();
    let build = || {
        Group::builder("root", GroupFlags::core(Strategy::Dynamic))
            .child(ChildSpec::new("a"), log.probe("a"))
            .build()
            .unwrap()
    };
    let system = System::new();
    let group = system.block_on(async {
        let group = build().start();
        log.wait_for("a starts").await;
        group
    });
    drop(system);
    assert_eq!(log.take(), ["a starts", "a is killed"]);

    System::new().block_on(async {
        assert!(matches!(group.ended().await, Exit::Panic(_)));
        let group = build().start();
        log.wait_for("a starts").await;
        let core = Arc::clone(&group.core);
        assert!(core.drive(&mut core.state.lock(), |_, _, _| panic!("a bug")).is_none());
        assert_eq!(group.ended().await, Exit::Panic("a bug".into()));
        assert_eq!(log.take(), ["a starts", "a is killed"]);
        assert_eq!(group.stop(&"a".into()), Err(Refusal::Ending));
    });
}

#[test]
fn a_subscriber_sees_what_happens_also_inside() {
    System::new().block_on(async {
        let log = Log::default();
        let mut once = ChildSpec::new("a");
        once.restart = Restart::Transient;
        let inner = Group::builder("plugins", GroupFlags::core(Strategy::Dynamic))
            .child(once, log.obedient("a"))
            .build()
            .unwrap();
        let root = Group::builder("root", GroupFlags::core(Strategy::RestForOne))
            .child(ChildSpec::group("plugins"), inner)
            .build()
            .unwrap();
        let mut transitions = root.handle().subscribe();
        let group = root.start();
        log.wait_for("a starts").await;
        log.reports("a").exited(Exit::Normal);
        let mut states = Vec::new();
        while states.last().is_none_or(|(_, state)| *state != State::Stopped) {
            let Transition { group, changed } = transitions.next().await.unwrap().unwrap();
            states.push((format!("{group}/{}", changed.id), changed.to));
        }
        let inside = states.iter().filter(|(path, _)| path == "root/plugins/a");
        let inside: Vec<State> = inside.map(|(_, state)| *state).collect();
        assert_eq!(inside, [State::Starting, State::Ready, State::Stopped]);
        assert_eq!(group.shutdown().await, Exit::Stopped);
    });
}

/// What children were told, in order.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reports: Arc<Mutex<Vec<Reports>>>,
    changed: Arc<tokio::sync::Notify>,
}

impl Log {
    /// A child that only writes down what it is told.
    fn probe(&self, name: &'static str) -> Probe {
        Probe { name, log: self.clone(), is_obedient: false }
    }

    /// One that does it as well.
    fn obedient(&self, name: &'static str) -> Probe {
        Probe { is_obedient: true, ..self.probe(name) }
    }

    fn push(&self, line: String) {
        self.lines.lock().push(line);
        self.changed.notify_one();
    }

    fn note(&self, Transition { group, changed }: &Transition) {
        self.push(format!("{group} {} {}", changed.id, changed.to));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock())
    }

    async fn wait_for(&self, line: &str) {
        while !self.lines.lock().iter().any(|seen| seen == line) {
            self.changed.notified().await;
        }
    }

    fn reports(&self, name: &str) -> Reports {
        let reports = self.reports.lock();
        reports.iter().rfind(|reports| reports.child().as_str() == name).unwrap().clone()
    }

    fn first_reports(&self, name: &str) -> Reports {
        let reports = self.reports.lock();
        reports.iter().find(|reports| reports.child().as_str() == name).unwrap().clone()
    }
}

struct Probe {
    name: &'static str,
    log: Log,
    is_obedient: bool,
}

impl Child for Probe {
    fn start(&mut self, reports: Reports) {
        if self.is_obedient {
            reports.ready();
        }
        self.log.reports.lock().push(reports);
        self.log.push(format!("{} starts", self.name));
    }

    fn stop(&mut self, generation: u64, _within: Option<Duration>) {
        self.log.push(format!("{} stops", self.name));
        if self.is_obedient {
            let reports = self.log.reports.lock().clone();
            let one = reports.iter().rfind(|one| one.generation() == generation);
            one.unwrap().exited(Exit::Stopped);
        }
    }

    fn kill(&mut self, _generation: u64) {
        self.log.push(format!("{} is killed", self.name));
    }

    fn switch(&mut self, from: u64, to: u64) {
        self.log.push(format!("{} switches {from} {to}", self.name));
    }
}

struct Worker;

impl Actor for Worker {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
enum Work {
    Well,
    Panic,
}

impl Handler<Work> for Worker {
    type Result = ();

    fn handle(&mut self, work: Work, _ctx: &mut Self::Context) {
        assert!(matches!(work, Work::Well), "bad work");
    }
}

const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<GroupHandle>();
    is_shared::<Reports>();
    is_shared::<Supervised<Worker>>();
};
