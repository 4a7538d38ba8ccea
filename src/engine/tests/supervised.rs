//! What callers and senders notice of plugins that a supervisor starts, restarts and replaces.

use std::time::Duration;

use super::{Net, code, kinds};
use crate::engine::{Attachment, PluginExit, Presence, Session};
use crate::error::Code;
use crate::id::PluginId;
use crate::limit;
use crate::wire::body::{self, Hello, Redelivery, Role, RouteKind, Signal};
use crate::wire::{Header, Kind};

impl Net {
    fn set(&mut self, id: &str, presence: Presence) {
        self.router.set_presence(&plugin(id), presence, self.now, &mut self.fx);
        self.decide();
    }

    fn manage(&mut self, id: &str) {
        self.set(id, Presence::Managed { back_at: None });
    }

    /// Lets an instance of `ben` in that has registered and is yet to be ready.
    fn attach(&mut self, key: &'static str, instance: u32, replaces: Option<u32>) {
        self.attach_silent(key, instance, replaces);
        self.register(key);
        self.read(key);
    }

    fn attach_silent(&mut self, key: &'static str, instance: u32, replaces: Option<u32>) {
        let attachment = Attachment { plugin: plugin("ben"), instance, replaces };
        let hello = Hello { versions: vec![1], role: Role::Plugin, ..Hello::default() };
        let waker = Box::new(|| ());
        let port =
            self.router.handle_hello(&hello, Some(&attachment), waker, self.now, &mut self.fx);
        self.sessions.insert(key, Session::new(&port.unwrap()));
    }

    fn ready(&mut self, key: &'static str) {
        let body = Signal { name: "ready".to_owned(), ..Signal::default() };
        self.send(key, &[(Kind::SIGNAL, 0, 8, &body::encode(&body))]);
    }

    /// A ready instance of `ben`.
    fn serve(&mut self, key: &'static str, instance: u32) {
        self.attach(key, instance, None);
        self.ready(key);
    }

    fn exit(&mut self, instance: u32, text: &str) {
        let back_at = Some(self.now.mono + Duration::from_millis(1_500));
        let exit = PluginExit { text: text.to_owned(), back_at };
        self.router.handle_plugin_exit(&plugin("ben"), instance, exit, self.now, &mut self.fx);
        self.decide();
    }

    fn wanted(&mut self) -> Vec<PluginId> {
        self.fx.take_wanted()
    }

    /// What comes on a route or about a request of this session.
    fn traffic(&mut self, key: &'static str) -> Vec<(Kind, u64)> {
        let wanted = |header: &Header| {
            matches!(
                header.kind,
                Kind::REQUEST
                    | Kind::RESPONSE
                    | Kind::ERROR
                    | Kind::MESSAGE
                    | Kind::GAP
                    | Kind::REDELIVERY
                    | Kind::EVENT
            ) && header.route.0 != 0
        };
        let frames = self.read(key);
        kinds(&frames.into_iter().filter(|(header, _)| wanted(header)).collect::<Vec<_>>())
    }

    fn fault(&mut self, key: &'static str) -> crate::error::Fault {
        let frames = self.read(key);
        let (_, body) = frames.iter().find(|(header, _)| header.kind == Kind::ERROR).unwrap();
        body::decode_fault(body).unwrap()
    }
}

fn plugin(id: &str) -> PluginId {
    PluginId::parse(id).unwrap()
}

const X: &[u8] = b"x";

#[test]
fn calls_are_held_until_the_plugin_is_ready_and_come_in_order() {
    let mut net = Net::new();
    net.manage("ben");
    net.join("ann");
    let echo = net.open("ann", RouteKind::Method, "ben.echo");
    let again = net.open("ann", RouteKind::Method, "ben.again");
    net.send("ann", &[(Kind::REQUEST, again, 11, X), (Kind::REQUEST, echo, 12, X)]);
    net.send("ann", &[(Kind::REQUEST, again, 13, X)]);
    net.attach("ben", 0, None);
    assert_eq!(net.traffic("ben"), [], "it is connected, and not ready");
    net.pass(Duration::from_millis(1_900));
    net.ready("ben");
    assert_eq!(net.traffic("ben"), [11, 12, 13].map(|id| (Kind::REQUEST, id)));
    assert!(net.read("ann").is_empty(), "nobody has an outcome");
}

#[test]
fn a_call_is_held_for_no_longer_than_told() {
    let mut net = Net::new();
    net.manage("ben");
    net.join("ann");
    let echo = net.open("ann", RouteKind::Method, "ben.echo");
    net.send("ann", &[(Kind::REQUEST, echo, 11, X)]);
    net.pass(limit::RESTART_HOLD - Duration::from_millis(1));
    assert!(net.read("ann").is_empty());
    net.pass(Duration::from_millis(1));
    let fault = net.fault("ann");
    assert_eq!((fault.code, &fault.details["state"]), (Code::Offline, &"starting".into()));
    net.serve("ben", 0);
    assert_eq!(net.traffic("ben"), [], "it has its outcome");
}

#[test]
fn a_plugin_that_is_down_or_comes_too_late_is_not_waited_for() {
    let mut net = Net::new();
    net.manage("ben");
    net.join("ann");
    let echo = net.open("ann", RouteKind::Method, "ben.echo");
    net.send("ann", &[(Kind::REQUEST, echo, 11, X)]);
    let down = |net: &Net| Presence::Down {
        state: "quarantined".to_owned(),
        reason: "killed by signal 11".to_owned(),
        back_at: Some(net.now.mono + Duration::from_secs(60)),
    };
    net.set("ben", down(&net));
    let held = net.fault("ann");
    net.send("ann", &[(Kind::REQUEST, echo, 12, X)]);
    for fault in [held, net.fault("ann")] {
        assert_eq!(fault.code, Code::Offline);
        assert!(fault.message.contains("quarantined: killed by signal 11"), "{fault}");
        assert_eq!(fault.details["retry_after_ms"], 60_000);
    }
    net.set("ben", Presence::Managed { back_at: Some(net.now.mono + Duration::from_secs(8)) });
    net.send("ann", &[(Kind::REQUEST, echo, 13, X)]);
    assert_eq!(net.fault("ann").details["retry_after_ms"], 8_000);
}

#[test]
fn whoever_sleeps_is_woken_once_by_calls_messages_and_signals() {
    let mut net = Net::new();
    net.set("ben", Presence::Sleeping);
    net.join("ann");
    let echo = net.open("ann", RouteKind::Method, "ben.echo");
    let inbox = net.open("ann", RouteKind::Channel, "ben/bulk");
    assert_eq!(net.wanted(), [], "a name wakes nobody");
    net.send("ann", &[(Kind::REQUEST, echo, 11, X), (Kind::REQUEST, echo, 12, X)]);
    net.send("ann", &[(Kind::MESSAGE, inbox, 1, X)]);
    assert_eq!(net.wanted(), [plugin("ben")]);
    // It is told again when it falls asleep although something waits.
    net.manage("ben");
    net.set("ben", Presence::Sleeping);
    assert_eq!(net.wanted(), [plugin("ben")]);
    net.manage("ben");
    net.serve("ben", 0);
    net.read("ben");
    net.respond("ben", echo, 11, "ann");
    net.respond("ben", echo, 12, "ann");
    net.send("ben", &[(Kind::ACK, inbox, 1, b"")]);
    net.leave("ben");
    net.set("ben", Presence::Sleeping);
    assert_eq!(net.wanted(), []);
    let wake = Signal { name: "wake".to_owned(), to: Some("ben".to_owned()), ..Signal::default() };
    net.read("ann");
    net.send("ann", &[(Kind::SIGNAL, 0, 20, &body::encode(&wake))]);
    assert_eq!(net.wanted(), [plugin("ben")]);
    assert!(net.read("ann").is_empty());
}

#[test]
fn the_verdict_waits_for_the_exit_and_no_longer_than_it_may() {
    let mut net = Net::new();
    net.manage("ben");
    net.serve("ben", 0);
    net.join("ann");
    let echo = net.open("ann", RouteKind::Method, "ben.echo");
    net.send("ann", &[(Kind::REQUEST, echo, 11, X)]);
    net.read("ben");
    net.end("ben");
    assert!(net.read("ann").is_empty(), "how it ended is known soon");
    net.exit(0, "killed by signal 9 (SIGKILL)");
    let fault = net.fault("ann");
    assert_eq!(fault.code, Code::PeerDied);
    assert_eq!(fault.details["verdict"], "possibly-started");
    assert_eq!(fault.details["exit"], "killed by signal 9 (SIGKILL)");
    assert_eq!(fault.details["retry_after_ms"], 1_500);

    net.serve("ben", 0);
    net.send("ann", &[(Kind::REQUEST, echo, 12, X)]);
    net.read("ben");
    net.end("ben");
    net.pass(limit::EXIT_TIMEOUT);
    assert_eq!(net.fault("ann").details.get("exit"), None);

    // Here the process is known to have ended before the connection does.
    net.serve("ben", 0);
    net.send("ann", &[(Kind::REQUEST, echo, 13, X)]);
    net.read("ben");
    net.exit(0, "exited with code 3");
    net.end("ben");
    assert_eq!(net.fault("ann").details["exit"], "exited with code 3");
}

#[test]
fn what_was_not_delivered_goes_to_the_next_session() {
    let mut net = Net::new();
    net.manage("ben");
    net.serve("ben", 0);
    net.read("ben");
    net.join("ann");
    let echo = net.open("ann", RouteKind::Method, "ben.echo");
    net.send("ann", &[(Kind::REQUEST, echo, 11, X), (Kind::REQUEST, echo, 12, X)]);
    net.end("ben");
    net.serve("ben", 0);
    assert_eq!(net.traffic("ben"), [(Kind::REQUEST, 11), (Kind::REQUEST, 12)]);
    net.respond("ben", echo, 11, "ann");
    assert_eq!(net.traffic("ann"), [(Kind::RESPONSE, 11)]);
}

#[test]
fn a_request_of_an_idempotent_method_is_retried_and_ends_in_quarantine() {
    let mut net = Net::new();
    net.manage("ben");
    net.serve("ben", 0);
    net.join("ann");
    let again = net.open("ann", RouteKind::Method, "ben.again");
    net.send("ann", &[(Kind::REQUEST, again, 11, X)]);
    for attempt in 1..=limit::ATTEMPTS_MAX {
        assert_eq!(net.traffic("ben"), [(Kind::REQUEST, 11)], "attempt {attempt}");
        assert!(net.read("ann").is_empty());
        net.end("ben");
        net.exit(0, &format!("crash {attempt}"));
        if attempt < limit::ATTEMPTS_MAX {
            net.serve("ben", 0);
        }
    }
    let fault = net.fault("ann");
    assert_eq!((fault.code, &fault.details["attempts"]), (Code::PeerDied, &3.into()));
    assert_eq!(fault.details["quarantined"], true);
    let record = &net.router.quarantined()[0];
    assert_eq!((record.to.as_str(), record.id), ("ben.again", 11));
    assert_eq!(record.exits, ["crash 1", "crash 2", "crash 3"]);
    let (_, requests) = net.router.tallies()[0];
    assert_eq!((requests.quarantined, requests.pending), (1, 0));
}

#[test]
fn the_message_that_kills_is_found_among_many_and_the_rest_goes_on() {
    let mut net = Net::new();
    net.manage("ben");
    net.serve("ben", 0);
    net.join("ann");
    let bulk = net.open("ann", RouteKind::Channel, "ben/bulk");
    let sent: Vec<(Kind, u32, u64, &[u8])> =
        (1..=5).map(|id| (Kind::MESSAGE, bulk, id, X)).collect();
    net.send("ann", &sent);
    // The third one kills whoever handles it; the first two are never acknowledged before that.
    for crash in 1..=2 {
        net.read("ben");
        net.end("ben");
        net.exit(0, &format!("crash {crash}"));
        net.serve("ben", 0);
    }
    // That they come again was announced for all of them with the first.
    let alone = |id: u64| vec![(Kind::MESSAGE, id)];
    net.send("ben", &[(Kind::ACK, bulk, 1, b"")]);
    assert_eq!(net.traffic("ben"), alone(2));
    net.send("ann", &[(Kind::MESSAGE, bulk, 6, X)]);
    assert_eq!(net.traffic("ben"), [], "one at a time");
    net.send("ben", &[(Kind::ACK, bulk, 2, b"")]);
    assert_eq!(net.traffic("ben"), alone(3));
    net.read("ann");
    net.end("ben");
    net.exit(0, "crash 3");
    assert!(net.traffic("ann").contains(&(Kind::GAP, 3)), "the sender has a receipt");
    let record = &net.router.quarantined()[0];
    assert_eq!((record.to.as_str(), record.from.as_str(), record.id), ("ben/bulk", "ann", 3));
    assert_eq!(record.exits, ["crash 1", "crash 2", "crash 3"]);

    net.attach_silent("ben", 0, None);
    net.register("ben");
    let expected = [(Kind::GAP, 3), (Kind::REDELIVERY, 4), (Kind::MESSAGE, 4)];
    assert_eq!(net.traffic("ben"), expected);
    net.send("ben", &[(Kind::ACK, bulk, 4, b"")]);
    assert_eq!(net.traffic("ben"), alone(5));
    net.send("ben", &[(Kind::ACK, bulk, 5, b"")]);
    assert_eq!(net.traffic("ben"), [(Kind::MESSAGE, 6)], "which was never delivered before");
    net.send("ben", &[(Kind::ACK, bulk, 6, b"")]);
    let (_, messages) = net.router.tallies()[1];
    assert_eq!((messages.completed, messages.quarantined, messages.pending), (5, 1, 0));
}

#[test]
fn a_receiver_that_was_asked_to_leave_accuses_nobody() {
    let mut net = Net::new();
    net.manage("ben");
    net.join("ann");
    net.serve("ben", 0);
    let bulk = net.open("ann", RouteKind::Channel, "ben/bulk");
    net.send("ann", &[(Kind::MESSAGE, bulk, 1, X), (Kind::MESSAGE, bulk, 2, X)]);
    for leave in 0..5 {
        net.read("ben");
        if leave % 2 == 0 {
            net.leave("ben");
        } else {
            let drain = Duration::from_secs(1);
            net.router.handle_stop(&plugin("ben"), None, drain, net.now, &mut net.fx);
            net.end("ben");
        }
        net.attach_silent("ben", 0, None);
        net.register("ben");
    }
    let frames = net.read("ben");
    let redelivered = frames.iter().find(|(header, _)| header.kind == Kind::REDELIVERY).unwrap();
    assert_eq!(Redelivery::parse(&redelivered.1).unwrap().attempt, 6);
    let messages = frames.iter().filter(|(header, _)| header.kind == Kind::MESSAGE).count();
    assert_eq!(messages, 2, "together");
}

#[test]
fn instances_share_calls_and_keep_their_channels() {
    let mut net = Net::new();
    net.manage("ben");
    net.join("ann");
    net.serve("ben", 0);
    net.serve("ben-1", 1);
    let echo = net.open("ann", RouteKind::Method, "ben.echo");
    let bulk = net.open("ann", RouteKind::Channel, "ben/bulk");
    let inbox = net.open("ann", RouteKind::Channel, "ben/inbox");
    for id in 11..15 {
        net.send("ann", &[(Kind::REQUEST, echo, id, X)]);
    }
    for id in 1..=2 {
        net.send("ann", &[(Kind::MESSAGE, bulk, id, X), (Kind::MESSAGE, inbox, id, X)]);
    }
    let count = |seen: &[(Kind, u64)], kind| seen.iter().filter(|(of, _)| *of == kind).count();
    let (first, second) = (net.traffic("ben"), net.traffic("ben-1"));
    assert_eq!([count(&first, Kind::REQUEST), count(&second, Kind::REQUEST)], [2, 2]);
    assert_eq!([count(&first, Kind::MESSAGE), count(&second, Kind::MESSAGE)], [2, 2]);

    // What the one had not acknowledged goes to the other, and a call that may be retried too.
    let again = net.open("ann", RouteKind::Method, "ben.again");
    net.send("ann", &[(Kind::REQUEST, again, 20, X), (Kind::REQUEST, again, 21, X)]);
    assert_eq!(net.traffic("ben-1"), [(Kind::REQUEST, 21)]);
    net.end("ben-1");
    let moved = net.traffic("ben");
    assert_eq!(count(&moved, Kind::MESSAGE), 2);
    assert_eq!(count(&moved, Kind::REQUEST), 2, "20 is its own, 21 was the other's");
    let status = net.router.status(net.now);
    let ben = status["plugins"].as_array().unwrap().iter().find(|row| row["id"] == "ben").unwrap();
    assert_eq!(ben["instances"].as_array().unwrap().len(), 1);
}

#[test]
fn a_replacement_takes_over_without_losing_or_repeating_anything() {
    let mut net = Net::new();
    net.manage("ben");
    net.join("ann");
    net.serve("ben", 0);
    let echo = net.open("ann", RouteKind::Method, "ben.echo");
    let bulk = net.open("ann", RouteKind::Channel, "ben/bulk");
    net.send("ann", &[(Kind::REQUEST, echo, 11, X), (Kind::MESSAGE, bulk, 1, X)]);
    net.traffic("ben");
    net.attach("ben-1", 1, Some(0));
    assert!(net.router.handle_switch(&plugin("ben"), 1, net.now, &mut net.fx).is_err());
    net.ready("ben-1");
    net.send("ann", &[(Kind::REQUEST, echo, 12, X), (Kind::MESSAGE, bulk, 2, X)]);
    assert_eq!(net.traffic("ben-1"), [], "it serves nothing before the switch");
    assert!(net.router.compare(&plugin("ben"), 1).unwrap().is_empty());

    net.router.handle_switch(&plugin("ben"), 1, net.now, &mut net.fx).unwrap();
    net.decide();
    net.send("ann", &[(Kind::REQUEST, echo, 13, X), (Kind::MESSAGE, bulk, 3, X)]);
    assert_eq!(net.traffic("ben-1"), [(Kind::REQUEST, 13)]);
    assert_eq!(net.traffic("ben"), [(Kind::REQUEST, 12)], "2 was not written when it switched");
    net.send("ben", &[(Kind::ACK, bulk, 1, b"")]);
    assert_eq!(net.traffic("ben-1"), [(Kind::MESSAGE, 2), (Kind::MESSAGE, 3)]);

    net.respond("ben", echo, 11, "ann");
    net.pass(limit::RETIRE_INTERVAL);
    let is_told = |frames: &[(Header, bytes::Bytes)]| {
        frames.iter().any(|(header, _)| header.kind == Kind::SHUTDOWN)
    };
    assert!(!is_told(&net.read("ben")), "it has a call yet");
    net.respond("ben", echo, 12, "ann");
    net.pass(limit::RETIRE_INTERVAL);
    assert!(is_told(&net.read("ben")));
    net.leave("ben");
    let outcomes = net.traffic("ann").into_iter().filter(|(kind, _)| *kind == Kind::RESPONSE);
    assert_eq!(outcomes.map(|(_, id)| id).collect::<Vec<_>>(), [11, 12]);
}

#[test]
fn a_replacement_that_fails_changes_nothing() {
    let mut net = Net::new();
    net.manage("ben");
    net.join("ann");
    net.serve("ben", 0);
    let echo = net.open("ann", RouteKind::Method, "ben.echo");
    net.attach("ben-1", 1, Some(0));
    net.end("ben-1");
    net.exit(1, "exited with code 1");
    assert!(net.router.handle_switch(&plugin("ben"), 1, net.now, &mut net.fx).is_err());
    net.send("ann", &[(Kind::REQUEST, echo, 11, X)]);
    assert_eq!(net.traffic("ben"), [(Kind::REQUEST, 11)]);
    assert!(net.router.is_ready(&plugin("ben")));
}

/// A call on the heels of the word was refused by the plugin, although it was to come back.
#[test]
fn a_call_of_a_plugin_that_is_being_stopped_waits_for_what_follows() {
    let sleep = Presence::Sleeping;
    let stop =
        Presence::Down { state: "stopped".into(), reason: "a command".into(), back_at: None };
    for next in [sleep, stop] {
        let mut net = Net::new();
        net.manage("ben");
        net.join("ann");
        net.serve("ben", 0);
        let echo = net.open("ann", RouteKind::Method, "ben.echo");
        net.send("ann", &[(Kind::REQUEST, echo, 11, X)]);
        let drain = Duration::from_secs(5);
        assert!(net.router.handle_stop(&plugin("ben"), None, drain, net.now, &mut net.fx));
        net.decide();
        net.send("ann", &[(Kind::REQUEST, echo, 12, X)]);
        assert_eq!(net.traffic("ben"), [(Kind::REQUEST, 11)], "what came before it still has");
        net.respond("ben", echo, 11, "ann");
        net.leave("ben");
        net.exit(0, "exited with code 0");
        assert_eq!(net.traffic("ann"), [(Kind::RESPONSE, 11)]);
        net.set("ben", next.clone());
        if next == Presence::Sleeping {
            assert_eq!(net.wanted(), [plugin("ben")]);
            net.manage("ben");
            net.serve("ben", 1);
            assert_eq!(net.traffic("ben"), [(Kind::REQUEST, 12)]);
        } else {
            assert!(net.fault("ann").message.contains("stopped"));
        }
    }
}

/// The heir was never told to serve, so that callers waited in vain.
#[test]
fn whoever_replaces_one_that_has_died_serves_in_its_place() {
    for is_ready_before in [false, true] {
        let mut net = Net::new();
        net.manage("ben");
        net.join("ann");
        net.serve("ben", 0);
        let echo = net.open("ann", RouteKind::Method, "ben.echo");
        let bulk = net.open("ann", RouteKind::Channel, "ben/bulk");
        net.attach("ben-1", 1, Some(0));
        if is_ready_before {
            net.ready("ben-1");
        }
        net.end("ben");
        net.send("ann", &[(Kind::REQUEST, echo, 11, X), (Kind::MESSAGE, bulk, 1, X)]);
        if !is_ready_before {
            assert_eq!(net.traffic("ben-1"), [(Kind::MESSAGE, 1)], "as to any that has registered");
            net.ready("ben-1");
            assert_eq!(net.traffic("ben-1"), [(Kind::REQUEST, 11)]);
        } else {
            assert_eq!(net.traffic("ben-1"), [(Kind::REQUEST, 11), (Kind::MESSAGE, 1)]);
        }
        // The order to switch was under way.
        net.router.handle_switch(&plugin("ben"), 1, net.now, &mut net.fx).unwrap();

        net.end("ben-1");
        net.attach("ben-2", 2, Some(1));
        net.ready("ben-2");
        net.send("ann", &[(Kind::REQUEST, echo, 12, X)]);
        assert_eq!(net.traffic("ben-2"), [(Kind::REQUEST, 12)], "nobody is left to wait for");
    }
}

#[test]
fn a_replacement_that_dies_while_it_takes_over_gives_the_channel_back() {
    let mut net = Net::new();
    net.manage("ben");
    net.join("ann");
    net.serve("ben", 0);
    let bulk = net.open("ann", RouteKind::Channel, "ben/bulk");
    net.send("ann", &[(Kind::MESSAGE, bulk, 1, X)]);
    net.traffic("ben");
    net.attach("ben-1", 1, Some(0));
    net.ready("ben-1");
    net.router.handle_switch(&plugin("ben"), 1, net.now, &mut net.fx).unwrap();
    net.send("ann", &[(Kind::MESSAGE, bulk, 2, X)]);
    assert_eq!(net.traffic("ben"), []);
    net.end("ben-1");
    assert_eq!(net.traffic("ben"), [(Kind::MESSAGE, 2)]);
}

#[test]
fn events_go_to_the_old_instance_or_to_the_new_one() {
    let mut net = Net::new();
    net.manage("ben");
    net.join("ann");
    net.serve("ben", 0);
    let sky = net.open("ann", RouteKind::Topic, "sky");
    net.subscribe("ben", body::Overflow::DropOldest);
    net.attach("ben-1", 1, Some(0));
    net.ready("ben-1");
    net.subscribe("ben-1", body::Overflow::DropOldest);
    net.send("ann", &[(Kind::EVENT, sky, 1, X)]);
    net.router.handle_switch(&plugin("ben"), 1, net.now, &mut net.fx).unwrap();
    net.send("ann", &[(Kind::EVENT, sky, 2, X)]);
    assert_eq!(net.traffic("ben"), [(Kind::EVENT, 1)]);
    assert_eq!(net.traffic("ben-1"), [(Kind::EVENT, 2)]);
}

#[test]
fn a_supervised_plugin_always_gets_back_in() {
    let mut net = Net::new();
    net.manage("ben");
    let hello = Hello {
        versions: vec![1],
        id: Some("ben".to_owned()),
        role: Role::Plugin,
        ..Hello::default()
    };
    let stranger = net.router.handle_hello(&hello, None, Box::new(|| ()), net.now, &mut net.fx);
    assert_eq!(stranger.unwrap_err().code, Code::IdInUse);
    net.serve("ben", 0);
    // A grandchild of the old process may still hold its connection.
    net.attach_silent("ben-again", 0, None);
    assert!(net.sessions["ben"].port().is_closed());
    net.register("ben-again");
    net.ready("ben-again");
    net.end("ben");
    net.join("ann");
    let echo = net.open("ann", RouteKind::Method, "ben.echo");
    net.send("ann", &[(Kind::REQUEST, echo, 11, X)]);
    assert_eq!(net.traffic("ben-again").last(), Some(&(Kind::REQUEST, 11)));
    // However many strangers there are.
    for id in ["c", "d", "e", "f", "g", "h"] {
        net.join(id);
    }
    let full = Hello { id: Some("i".to_owned()), ..hello };
    let refused = net.router.handle_hello(&full, None, Box::new(|| ()), net.now, &mut net.fx);
    assert_eq!(refused.unwrap_err().code, Code::Refused);
    net.serve("ben-1", 1);
}

#[test]
fn an_open_call_of_a_plugin_that_nobody_supervises_ends_at_once() {
    let mut net = Net::new();
    net.join("ann");
    net.join("cat");
    let echo = net.open("ann", RouteKind::Method, "cat.echo");
    net.send("ann", &[(Kind::REQUEST, echo, 11, X)]);
    net.read("cat");
    net.end("cat");
    let outcome = net.read("ann");
    assert_eq!(code(&outcome[0]), Code::PeerDied);
    net.send("ann", &[(Kind::REQUEST, echo, 12, X)]);
    assert_eq!(net.fault("ann").code, Code::Offline);
}
