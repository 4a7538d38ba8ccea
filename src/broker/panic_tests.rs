//! A panic in every handler of every actor of the broker, and traffic goes on.
//!
//! The file is longer than most: one test looks whether every handler is named in it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix::prelude::*;

use super::router::{AskPresence, Router};
use super::{Broker, BrokerError, Call, Message, Participant, Reply};
use crate::engine::{PluginExit, Presence, Resource};
use crate::error::{Code, Fault};
use crate::id::PluginId;
use crate::net::link::{Inbound, Link};
use crate::peer::PeerSettings;
use crate::supervise::fuse::Fuse;
use crate::supervise::{Child, ChildSpec, Exit, Reports, State};

/// Before the handler, and in its middle, where the engine has changed but nobody was told.
const BOTH: [bool; 2] = [false, true];

#[test]
fn a_session_that_the_router_failed_to_let_in_gets_in_the_next_time() {
    for is_within in BOTH {
        with_broker(async |scene| {
            let fuse = scene.light("Admit", is_within);
            let refused = scene.join("late").await;
            let Err(BrokerError::Refused(fault)) = &refused else { panic!("{refused:?}") };
            assert!(fault.message.contains("connect again"), "{fault}");
            assert!(fuse.is_burnt());
            let late = scene.join("late").await.unwrap();
            assert_eq!(echo(&late).await, Ok(7), "the id was not lost to nobody");
        });
    }
}

#[test]
fn a_change_that_the_router_failed_at_is_answered() {
    for is_within in BOTH {
        with_broker(async |scene| {
            let fuse = scene.light("Apply", is_within);
            // The first call of a method opens its route.
            let outcome = echo(&scene.caller).await;
            assert!(fuse.is_burnt());
            match outcome {
                // What was answered already is not taken back.
                Ok(7) => assert!(is_within),
                Err(fault) => assert_eq!(fault.code, Code::Internal, "{fault}"),
                other => panic!("{other:?}"),
            }
        });
    }
}

#[test]
fn the_end_of_a_session_is_not_lost() {
    for is_within in BOTH {
        with_broker(async |scene| {
            let guest = scene.join("guest").await.unwrap();
            let fuse = scene.light("SessionEnded", is_within);
            guest.leave().await;
            let id = PluginId::parse("guest").unwrap();
            // The question may be the one that is lost; then it is asked again.
            while scene.broker.wait_gone(&id).await.is_err() {}
            assert!(fuse.is_burnt());
            scene.join("guest").await.unwrap();
        });
    }
}

#[test]
fn deadlines_are_kept_although_the_timer_failed() {
    for is_within in BOTH {
        with_broker(async |scene| {
            let fuse = scene.light("Tick", is_within);
            let timeout = Duration::from_millis(30);
            let silent = scene.caller.call_within::<_, ()>("server.silent", &(), timeout).await;
            assert_eq!(silent.unwrap_err().code, Code::Timeout);
            while !fuse.is_burnt() {
                // The caller's own clock may have been first.
                let again = scene.caller.call_within::<_, ()>("server.silent", &(), timeout).await;
                assert_eq!(again.unwrap_err().code, Code::Timeout);
            }
        });
    }
}

/// What the host asks and orders: it is told that the broker failed, and the next time it works.
#[test]
fn questions_and_orders_of_the_host_fail_once() {
    let cases: [(&str, bool, HostCall); 15] = [
        ("AskStatus", false, |broker, _| Box::pin(async { broker.status().await.map(drop) })),
        ("AskPresence", false, |broker, server| Box::pin(broker.wait_ready(server))),
        ("AskInstances", false, |broker, server| {
            Box::pin(async { broker.instances(server).await.map(drop) })
        }),
        ("Compare", false, |broker, server| {
            Box::pin(async { broker.compare(server, 0).await.map(drop) })
        }),
        ("TellWanted", false, |broker, _| Box::pin(async { broker.wanted().await.map(drop) })),
        ("SetHold", false, |broker, server| Box::pin(broker.set_hold(server, Duration::ZERO))),
        ("AskVitals", false, |broker, _| Box::pin(async { broker.vitals(true).await.map(drop) })),
        ("PublishOwn", false, publish),
        ("PublishOwn", true, publish),
        ("SetPresence", false, set_presence),
        ("SetPresence", true, set_presence),
        ("PluginExited", false, plugin_exited),
        ("PluginExited", true, plugin_exited),
        ("StopPlugin", false, stop_nobody),
        ("StopPlugin", true, stop_nobody),
    ];
    for (mail, is_within, call) in cases {
        let server = PluginId::parse("server").unwrap();
        with_broker(async |scene| {
            let fuse = scene.light(mail, is_within);
            let failed = call(&scene.broker, &server).await;
            assert!(matches!(failed, Err(BrokerError::Failed)), "{mail}: {failed:?}");
            assert!(fuse.is_burnt(), "{mail}");
            call(&scene.broker, &server).await.unwrap();
        });
    }
}

type HostCall = for<'a> fn(&'a Broker, &'a PluginId) -> HostAnswer<'a>;
type HostAnswer<'a> = Pin<Box<dyn Future<Output = Result<(), BrokerError>> + 'a>>;

fn publish<'a>(broker: &'a Broker, _server: &'a PluginId) -> HostAnswer<'a> {
    Box::pin(async { broker.publish_own("lifecycle.nobody.ready", &serde_json::json!({})).await })
}

fn set_presence<'a>(broker: &'a Broker, server: &'a PluginId) -> HostAnswer<'a> {
    Box::pin(broker.set_presence(server, Presence::Managed { back_at: None }))
}

fn plugin_exited<'a>(broker: &'a Broker, _server: &'a PluginId) -> HostAnswer<'a> {
    Box::pin(async {
        let nobody = PluginId::parse("nobody").unwrap();
        let exit = PluginExit { text: "killed by signal 9".to_owned(), back_at: None };
        broker.plugin_exited(&nobody, 0, exit).await
    })
}

fn stop_nobody<'a>(broker: &'a Broker, _server: &'a PluginId) -> HostAnswer<'a> {
    Box::pin(async {
        let nobody = PluginId::parse("nobody").unwrap();
        broker.stop_plugin(&nobody, Duration::ZERO).await.map(drop)
    })
}

#[test]
fn a_switch_that_failed_can_be_tried_again() {
    for is_within in BOTH {
        with_broker(async |scene| {
            let server = PluginId::parse("server").unwrap();
            let fuse = scene.light("Switch", is_within);
            let failed = scene.broker.switch(&server, 1).await;
            assert!(matches!(failed, Err(BrokerError::Failed)), "{failed:?}");
            assert!(fuse.is_burnt());
            let refused = scene.broker.switch(&server, 1).await.unwrap();
            assert_eq!(refused.unwrap_err().code, Code::NotFound, "nothing waits to take over");
        });
    }
}

/// Traffic is no mail: it runs in the task of its session.
#[test]
fn a_session_that_fails_ends_alone_and_its_id_is_free() {
    with_broker(async |scene| {
        let fuse = scene.light("Session", false);
        let failed = scene.join("late").await;
        assert!(matches!(failed, Err(BrokerError::Refused(_))), "{failed:?}");
        assert!(fuse.is_burnt());
        assert_eq!(echo(&scene.caller).await, Ok(7), "the others go on");
        scene.broker.wait_gone(&PluginId::parse("late").unwrap()).await.unwrap();
        let late = scene.join("late").await.unwrap();
        assert_eq!(echo(&late).await, Ok(7));
    });
}

/// A handler that is added has to fail here as well.
#[test]
fn no_handler_is_left_out() {
    let tests = include_str!("panic_tests.rs");
    let actors =
        [include_str!("router.rs"), include_str!("listener.rs"), include_str!("dispatch.rs")];
    let handlers = actors.iter().flat_map(|actor| actor.split("impl Handler<").skip(1));
    let mut count = 0;
    for handler in handlers {
        let (mail, _) = handler.split_once('>').unwrap();
        assert!(
            tests.contains(&format!("\"{mail}\"")),
            "no test makes the handler of {mail} panic"
        );
        count += 1;
    }
    assert!(count > 10, "found {count} handlers");
}

#[test]
fn shutting_down_ends_although_it_failed_in_between() {
    for (mail, is_within) in [
        ("BeginShutdown", false),
        ("BeginShutdown", true),
        ("KillAll", false),
        ("AskPresence", false),
    ] {
        System::new().block_on(async {
            let scene = Scene::new().await;
            // A peer that does not read that it is to leave.
            let stubborn = connect(&scene.socket).await;
            let fuse = scene.light(mail, is_within);
            scene.broker.shutdown().await;
            drop(stubborn);
            assert!(fuse.is_burnt(), "{mail}");
            assert!(!scene.socket.exists(), "{mail}");
            assert!(matches!(scene.broker.status().await, Err(BrokerError::NotRunning)), "{mail}");
        });
    }
}

/// The audit finds nothing where nothing is wrong, whatever is under way: the engine is kept.
#[test]
fn a_panic_in_the_middle_of_traffic_loses_nothing() {
    with_broker(async |scene| {
        // Larger than a frame, so that there are always messages that have come in part.
        let body = "x".repeat(3 << 20);
        let sender = scene.caller.clone();
        let bulk = actix::spawn(async move {
            for _ in 0..BULK {
                sender.send("server/bulk", &body).await.unwrap();
            }
            sender.flush("server/bulk").await
        });
        for _ in 0..3 {
            let completed = scene.completed().await;
            let fuse = scene.light("AskStatus", false);
            assert!(matches!(scene.broker.status().await, Err(BrokerError::Failed)));
            assert!(fuse.is_burnt());
            while scene.completed().await == completed {
                assert!(!bulk.is_finished(), "there is more to come");
                tokio::task::yield_now().await;
            }
        }
        bulk.await.unwrap().unwrap();
        assert_eq!(scene.completed().await, BULK);
        let router = scene.broker.tree().child(&"router".into()).unwrap();
        assert_eq!((router.restarts, router.state), (0, State::Ready), "it was healed on the spot");
    });
}

const BULK: u64 = 24;

#[test]
fn the_listener_goes_on_with_the_same_socket() {
    for mail in ["Attach", "Join"] {
        with_broker(async |scene| {
            let inode = std::fs::metadata(&scene.socket).unwrap().ino();
            let fuse = scene.light(mail, false);
            assert!(matches!(scene.join("late").await, Err(BrokerError::Failed)), "{mail}");
            assert!(fuse.is_burnt());
            let late = scene.join("later").await.unwrap();
            assert_eq!(echo(&late).await, Ok(7));
            assert_eq!(std::fs::metadata(&scene.socket).unwrap().ino(), inode);
            knock(&scene.socket).await;
        });
    }
}

/// What fails the audit is not kept: everybody is sent away with a word, and gets back in. What
/// stands after the router in the tree starts over.
#[test]
fn a_router_that_lost_its_records_starts_empty() {
    with_broker(async |scene| {
        let inode = std::fs::metadata(&scene.socket).unwrap().ino();
        let tree = scene.broker.tree();
        tree.add(ChildSpec::new("plugins"), Obedient(None)).unwrap();
        tree.until(&"plugins".into(), |child| child.is_serving).await.unwrap();
        scene.broker.lose_records().await;
        let lost = echo(&scene.caller).await.unwrap_err();
        assert!([Code::Internal, Code::ShuttingDown, Code::Offline].contains(&lost.code), "{lost}");
        for id in ["router", "listener", "plugins"] {
            let status = tree.until(&id.into(), |child| child.is_serving).await.unwrap();
            assert_eq!((status.restarts, status.state), (1, State::Ready), "{id}");
        }
        let Some(Exit::Panic(why)) = tree.child(&"router".into()).unwrap().last_exit else {
            panic!()
        };
        assert!(why.contains("Corrupt"), "{why}");

        let server = serve(&scene.broker).await.unwrap();
        let caller = scene.join("caller").await.unwrap();
        assert_eq!(echo(&caller).await, Ok(7), "the ids are free");
        assert_eq!(std::fs::metadata(&scene.socket).unwrap().ino(), inode);
        knock(&scene.socket).await;
        drop(server);
    });
}

/// A broker that fails again and again ends, and says so.
#[test]
fn a_router_that_fails_all_the_time_is_given_up() {
    System::new().block_on(async {
        let scene = Scene::new().await;
        let mut failures = 0;
        while let Err(BrokerError::Failed) = scene.broker.ask(Corrupt).await {
            failures += 1;
        }
        // With nobody there, nothing can be lost: three of them are healed on the spot.
        assert_eq!(failures, 3 + 4, "the fourth restart in 30 s is one too many");
        let Exit::Exhausted(why) = scene.broker.tree().ended().await else { panic!() };
        assert!(why.contains("`router`"), "{why}");
        scene.broker.shutdown().await;
        assert!(!scene.socket.exists());
    });
}

fn with_broker(test: impl AsyncFn(&Scene)) {
    System::new().block_on(async {
        let scene = Scene::new().await;
        test(&scene).await;
        // Whatever happened, calls of old and new peers go through.
        let newcomer = scene.join("newcomer").await.unwrap();
        assert_eq!(echo(&newcomer).await, Ok(7));
        knock(&scene.socket).await;
        scene.broker.shutdown().await;
        assert!(!scene.socket.exists());
    });
}

/// A broker with a plugin that echoes and one that calls it.
struct Scene {
    broker: Broker,
    caller: Participant,
    _server: Participant,
    socket: PathBuf,
    _place: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        static LAST: AtomicUsize = AtomicUsize::new(0);
        let place = tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .unwrap();
        let socket = place.path().join("broker.sock");
        // The thread of the broker bears its name, and a fuse the name of the thread.
        let name = format!("panics-{}", LAST.fetch_add(1, Ordering::Relaxed));
        let broker = Broker::builder()
            .name(name)
            .socket(&socket)
            .drain_timeout(Duration::from_millis(50))
            .start()
            .await
            .unwrap();
        let server = serve(&broker).await.unwrap();
        let caller = broker.participant("caller").join().await.unwrap();
        // What they still say of themselves must not burn a fuse.
        for id in ["server", "caller"] {
            broker.wait_ready(&PluginId::parse(id).unwrap()).await.unwrap();
        }
        Self { broker, caller, _server: server, socket, _place: place }
    }

    /// Messages that were handled.
    async fn completed(&self) -> u64 {
        let status = self.broker.status().await.unwrap();
        status["tally"]["messages"]["completed"].as_u64().unwrap()
    }

    async fn join(&self, id: &str) -> Result<Participant, BrokerError> {
        self.broker.participant(id).join().await
    }

    fn light(&self, mail: &'static str, is_within: bool) -> Fuse {
        let thread = format!("plugbus-{}", self.broker.name());
        let fuse = Fuse { thread, mail, is_within };
        fuse.clone().light();
        fuse
    }
}

async fn serve(broker: &Broker) -> Result<Participant, BrokerError> {
    let actor = Server.start();
    let server = broker.participant("server");
    server
        .method("echo", actor.clone().recipient())?
        .method("silent", actor.clone().recipient())?
        .channel("bulk", actor.recipient())?
        .join()
        .await
}

async fn echo(caller: &Participant) -> Result<u32, Fault> {
    caller.call("server.echo", &()).await
}

/// Comes in through the socket, as a plugin from outside.
async fn knock(socket: &Path) {
    let (link, _inbound) = connect(socket).await;
    link.leave(None).await;
}

async fn connect(socket: &Path) -> (Link, Inbound) {
    let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
    let settings = PeerSettings { id: Some("outside".to_owned()), ..PeerSettings::default() };
    let (link, inbound, _welcome) = Link::connect(stream, settings).await.unwrap();
    (link, inbound)
}

struct Server;

impl Actor for Server {
    type Context = Context<Self>;
}

impl Handler<Call> for Server {
    type Result = ResponseFuture<Result<Reply, Fault>>;

    fn handle(&mut self, call: Call, _ctx: &mut Self::Context) -> Self::Result {
        if call.method() == "silent" {
            return Box::pin(std::future::pending());
        }
        Box::pin(async { Reply::of(&7) })
    }
}

impl Handler<Message> for Server {
    type Result = ();

    fn handle(&mut self, _: Message, _ctx: &mut Self::Context) {}
}

/// Leaves the engine in a state that its audit finds, if anybody is there.
#[derive(Message)]
#[rtype(result = "()")]
struct Corrupt;

impl Handler<Corrupt> for Router {
    type Result = ();

    fn handle(&mut self, _: Corrupt, _ctx: &mut Self::Context) {
        if let Some(port) = self.kept.engine.ports().next() {
            std::mem::forget(port.account.charge(Resource::Routes, 1));
        }
        panic!("a test wants a panic");
    }
}

impl Broker {
    /// Makes the router fail with records that cannot be trusted any more.
    pub(crate) async fn lose_records(&self) {
        assert!(self.ask(AskPresence).await.unwrap().sessions > 0, "nothing can be lost");
        let corrupted = self.ask(Corrupt).await;
        assert!(matches!(corrupted, Err(BrokerError::Failed)), "{corrupted:?}");
    }
}

/// A child of the host's.
struct Obedient(Option<Reports>);

impl Child for Obedient {
    fn start(&mut self, reports: Reports) {
        reports.ready();
        self.0 = Some(reports);
    }

    fn stop(&mut self, _generation: u64, _within: Option<Duration>) {
        if let Some(reports) = self.0.take() {
            reports.exited(Exit::Stopped);
        }
    }

    fn kill(&mut self, generation: u64) {
        self.stop(generation, None);
    }
}
