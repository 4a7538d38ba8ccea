//! Sequences of frames into the broker's engine: sensible ones, and any others.
//!
//! After every step the promises and the ledger are checked; in the end everybody leaves and
//! nothing may be left of them.
//!
//! The file is longer than most: one generator for each frame that a peer can send.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use plugbus::id::{RouteId, SessionId};
use plugbus::wire::body;
use plugbus::wire::{CallReference, Flags, FrameBuilder, Kind, compress_frame};
use serde_json::{Value, json};

use super::peers::{OPEN_ID, PEERS, PLUGINS, Stage};
use super::{RAW, Seen};

#[derive(Arbitrary, Debug)]
struct Step {
    who: u8,
    what: What,
}

#[derive(Arbitrary, Debug)]
enum What {
    Control(Control),
    Traffic {
        kind: u8,
        route: u8,
        id: Id,
        count: u8,
        flags: u16,
        key: Option<u8>,
        size: u16,
    },
    Answer {
        pick: u8,
        how: u8,
        reference: Option<u64>,
        size: u8,
    },
    /// Fitting frames with the next ids on a route of its own.
    Stream {
        route: u8,
        count: u8,
        size: u16,
        flags: u8,
        key: u8,
    },
    /// The plugin dies, comes back and serves again.
    Return {
        features: u8,
        reads: bool,
    },
    Acknowledge {
        route: u8,
        id: Id,
    },
    Cancel {
        route: u8,
        id: Id,
    },
    Frame {
        kind: u8,
        flags: u16,
        route: u8,
        id: u64,
        session: Option<u64>,
        body: Vec<u8>,
    },
    Map {
        kind: u8,
        route: u8,
        key: u8,
        value: u8,
    },
    Bytes(Vec<u8>),
    Hold,
    Feed {
        size: u16,
    },
    Read {
        budget: u16,
    },
    ReadAll,
    Wait {
        ms: u16,
    },
    Leave,
    Join {
        features: u8,
    },
}

#[derive(Arbitrary, Debug)]
enum Control {
    Register { names: u8 },
    Unregister { names: u8 },
    Open { what: u8 },
    Close { route: u8 },
    Subscribe { pattern: u8, overflow: u8, queue: Option<u8> },
    Unsubscribe { number: u8 },
    Query { what: u8 },
    Signal { name: u8, to: Option<u8> },
    Report { size: u16 },
    Ping { size: u8 },
    Shutdown,
    Hello,
}

/// Which message id: most often the one that is due.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Id {
    Next,
    Due,
    Small(u8),
    Any(u64),
}

pub(crate) fn run(data: &[u8], seen: &mut Seen) {
    let mut stage = Stage::new();
    if let Some((&mode, rest)) = data.split_first()
        && mode > RAW
    {
        let session = stage.peers[0].as_ref().expect("it has joined").id();
        stage.send(0, &with_session(rest, session), seen);
        stage.read(0, 1 << 20, seen);
        stage.audit();
        stage.finish();
        return;
    }
    let mut source = Unstructured::new(data);
    if source.arbitrary::<u8>().unwrap_or_default() & 3 != 0 {
        prepare(&mut stage, seen);
    }
    for _ in 0..STEPS_MAX {
        if source.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut source) else { break };
        play(&mut stage, &step, seen);
        stage.audit();
    }
    for (class, (_, tally)) in stage.router.tallies().iter().enumerate() {
        let ends = [
            tally.completed,
            tally.cancelled,
            tally.expired,
            tally.shed,
            tally.dead,
            tally.pending,
        ];
        for (index, end) in ends.into_iter().enumerate() {
            let size = u64::from(u64::BITS - end.leading_zeros());
            seen.note(6, (class as u64) << 16 | (index as u64) << 8 | size);
        }
    }
    stage.finish();
}

/// Everybody serves what there is, and has routes to some of it.
fn prepare(stage: &mut Stage, seen: &mut Seen) {
    (0..PEERS as u8).for_each(|who| serve(stage, who, seen));
    for who in 0..PEERS as u8 {
        for what in [0, 1 + 8, 2, 3, 3 + 8, 6 + 8, 7] {
            let step = Step { who, what: What::Control(Control::Open { what }) };
            play(stage, &step, seen);
        }
        stage.read(usize::from(who), 1 << 20, seen);
    }
}

/// A plugin offers everything; everybody listens to something.
fn serve(stage: &mut Stage, who: u8, seen: &mut Seen) {
    let mut controls = vec![Control::Subscribe { pattern: who, overflow: who, queue: Some(who) }];
    if usize::from(who) < PLUGINS.len() {
        controls.push(Control::Register { names: 0x7F });
        controls.push(Control::Signal { name: 0, to: None });
    }
    for control in controls {
        play(stage, &Step { who, what: What::Control(control) }, seen);
    }
}

fn play(stage: &mut Stage, step: &Step, seen: &mut Seen) {
    let who = usize::from(step.who) % PEERS;
    match &step.what {
        What::Hold => {
            if let Some(peer) = &mut stage.peers[who] {
                peer.is_holding = true;
            }
        }
        What::Feed { size } => stage.feed(who, usize::from(*size), seen),
        What::Read { budget } => stage.read(who, usize::from(*budget), seen),
        What::ReadAll => (0..PEERS).for_each(|who| stage.read(who, 1 << 20, seen)),
        What::Wait { ms } => stage.wait(Duration::from_millis(u64::from(*ms) * 2)),
        What::Leave => stage.leave(who, "it died"),
        What::Join { features } => stage.join(who, *features),
        What::Return { features, reads } => {
            stage.leave(who, "it died");
            stage.join(who, *features);
            serve(stage, who as u8, seen);
            if *reads {
                stage.read(who, 1 << 20, seen);
            }
        }
        What::Bytes(bytes) => stage.send(who, bytes, seen),
        what => {
            let bytes = bytes_of(stage, who, what);
            stage.send(who, &bytes, seen);
        }
    }
}

/// What one peer sends.
fn bytes_of(stage: &mut Stage, who: usize, what: &What) -> Vec<u8> {
    let Some(peer) = &mut stage.peers[who] else { return Vec::new() };
    let session = peer.id();
    let numbers: Vec<u32> = peer.routes.keys().copied().collect();
    let route_at = |pick: u8| match (numbers.len(), pick) {
        (0, _) | (_, 0xF0..) => u32::from(pick % 16),
        (count, _) => numbers[usize::from(pick) % count],
    };
    let mut due = |route: u32, id: Id| match id {
        Id::Next | Id::Due => match peer.routes.get_mut(&route) {
            Some(heard) => {
                heard.next += 1;
                heard.next - 1
            }
            None => 1,
        },
        Id::Small(id) => u64::from(id % 8),
        Id::Any(id) => id,
    };
    let frame = |kind: Kind, route: u32, id: u64| {
        FrameBuilder::new(kind).route(RouteId(route)).message_id(id).session(session)
    };
    match what {
        What::Control(control) => {
            let (kind, route, body) = control_frame(control, &route_at);
            let id = match control {
                Control::Open { what } => OPEN_ID + [0, 0, 0, 1, 1, 1, 2, 3][usize::from(what % 8)],
                _ => 1,
            };
            frame(kind, route, id).build(b"", &body).to_vec()
        }
        What::Traffic { kind, route, id, count, flags, key, size } => {
            let kind = TRAFFIC[usize::from(*kind) % TRAFFIC.len()];
            let route = route_at(*route);
            let mut body = vec![b'x'; usize::from(*size) % 3000];
            let mut bits = flags & (Flags::MORE | Flags::NO_REPLY);
            bits |= flags & Flags::CHECKSUM;
            // Most messages are whole and plain.
            if flags & 0x700 != 0 {
                bits &= !Flags::MORE;
            } else if let Some(packed) = compress_frame(&body) {
                body = packed;
                bits |= Flags::COMPRESSED;
            }
            let extension = key.map_or_else(Vec::new, |key| {
                let mut extension = vec![0; kind.extension_size() as usize];
                extension[0] = key;
                extension
            });
            (0..=count % 8)
                .flat_map(|_| {
                    frame(kind, route, due(route, *id)).flags(bits).build(&extension, &body)
                })
                .collect()
        }
        What::Stream { route, count, size, flags, key } => {
            let own: Vec<(u32, Kind)> = peer
                .routes
                .iter()
                .filter_map(|(route, heard)| Some((*route, heard.kind?)))
                .collect();
            if own.is_empty() {
                return Vec::new();
            }
            let (route, kind) = own[usize::from(*route) % own.len()];
            let body = vec![*key; usize::from(*size) % 2000];
            let mut extension = vec![0; kind.extension_size() as usize];
            extension[0] = *key;
            let extension = if flags & 1 != 0 { &extension[..] } else { b"" };
            let heard = peer.routes.get_mut(&route).expect("it is one of its own");
            let mut bytes = Vec::new();
            for _ in 0..=count % 16 {
                let whole = frame(kind, route, heard.next);
                if flags & 6 == 6 {
                    let chunk = whole.flags(Flags::MORE).build(extension, &body);
                    bytes.extend_from_slice(&chunk);
                    bytes.extend_from_slice(&whole.build(b"", &body));
                } else {
                    bytes.extend_from_slice(&whole.build(extension, &body));
                }
                heard.next += 1;
            }
            bytes
        }
        What::Answer { pick, how, reference, size } => {
            if peer.requests.is_empty() {
                return Vec::new();
            }
            let at = usize::from(*pick) % peer.requests.len();
            let (route, id, caller) = peer.requests[at];
            let kind = [Kind::RESPONSE, Kind::ERROR, Kind::STARTED][usize::from(*how) % 3];
            if kind != Kind::STARTED && how & 0x80 == 0 {
                peer.requests.remove(at);
            }
            let reference = CallReference(reference.map_or(caller, SessionId));
            frame(kind, route, id)
                .build(&reference.to_bytes(), &vec![0xC0; usize::from(*size)])
                .to_vec()
        }
        What::Acknowledge { route, id } => {
            let route = route_at(*route);
            let id = match id {
                Id::Next | Id::Due => peer.routes.get(&route).map_or(1, |heard| heard.last()),
                Id::Small(id) => u64::from(id % 8),
                Id::Any(id) => *id,
            };
            frame(Kind::ACK, route, id).build(b"", b"").to_vec()
        }
        What::Cancel { route, id } => {
            let route = route_at(*route);
            let id = match id {
                Id::Next => peer.routes.get(&route).map_or(1, |heard| heard.next.saturating_sub(1)),
                id => due(route, *id),
            };
            frame(Kind::CANCEL, route, id).build(b"", b"").to_vec()
        }
        What::Frame { kind, flags, route, id, session: other, body } => {
            let kind = Kind(kind % 40);
            let size = kind.extension_size() as usize;
            let (extension, body) = body.split_at(if body.len() >= size { size } else { 0 });
            FrameBuilder {
                flags: Flags(flags & !Flags::RESERVED & 0xFF),
                ..frame(kind, route_at(*route), *id).session(SessionId(other.unwrap_or(session.0)))
            }
            .build(if flags & 0x8000 != 0 { extension } else { b"" }, body)
            .to_vec()
        }
        What::Map { kind, route, key, value } => {
            let kind = MAPS[usize::from(*kind) % MAPS.len()];
            let key = KEYS[usize::from(*key) % KEYS.len()];
            let body = body::encode(&json!({ key: value_of(*value) }));
            frame(kind, route_at(*route) % 4, 2).build(b"", &body).to_vec()
        }
        _ => Vec::new(),
    }
}

fn control_frame(control: &Control, route_at: &impl Fn(u8) -> u32) -> (Kind, u32, Vec<u8>) {
    let chosen = |names: u8, from: &[&str]| -> Vec<String> {
        from.iter()
            .enumerate()
            .filter(|(index, _)| names >> index & 1 != 0)
            .map(|(_, name)| (*name).to_owned())
            .collect()
    };
    let map = |value: Value| body::encode(&value).to_vec();
    let named = |names: Vec<String>| -> Vec<Value> {
        names.into_iter().map(|name| json!({ "name": name })).collect()
    };
    match control {
        Control::Register { names } => (
            Kind::REGISTER,
            0,
            map(json!({
                "methods": named(chosen(*names, &METHODS)),
                "channels": named(chosen(names >> 3, &CHANNELS)),
                "services": chosen(names >> 6, &SERVICES),
            })),
        ),
        Control::Unregister { names } => (
            Kind::UNREGISTER,
            0,
            map(json!({
                "methods": chosen(*names, &METHODS),
                "channels": chosen(names >> 3, &CHANNELS),
                "services": chosen(names >> 6, &SERVICES),
            })),
        ),
        Control::Open { what } => {
            let pick = usize::from(*what) / 8;
            let plugin = PLUGINS[pick % PLUGINS.len()];
            let (kind, name) = match what % 8 {
                0..=1 => ("method", format!("{plugin}.{}", METHODS[pick % 3])),
                2 => ("method", format!("{}.{}", SERVICES[pick % 2], METHODS[pick % 3])),
                3..=5 => ("channel", format!("{plugin}/{}", CHANNELS[pick % 3])),
                6 => ("topic", TOPICS[pick % TOPICS.len()].to_owned()),
                _ => ("broadcast", TOPICS[pick % TOPICS.len()].to_owned()),
            };
            (Kind::OPEN, 0, map(json!({ "kind": kind, "name": name })))
        }
        Control::Close { route } => (Kind::CLOSE, route_at(*route), map(json!({}))),
        Control::Subscribe { pattern, overflow, queue } => {
            let overflow = OVERFLOWS[usize::from(*overflow) % OVERFLOWS.len()];
            let pattern = PATTERNS[usize::from(*pattern) % PATTERNS.len()];
            let mut body = json!({ "pattern": pattern, "overflow": overflow });
            if let Some(queue) = queue {
                body["queue_messages"] = json!(queue % 8);
                body["queue_bytes"] = json!(u64::from(*queue) * 32);
            }
            (Kind::SUBSCRIBE, 0, map(body))
        }
        Control::Unsubscribe { number } => {
            (Kind::UNSUBSCRIBE, 0, map(json!({ "subscription": number % 8 })))
        }
        Control::Query { what } => {
            let what = ["plugins", "plugin", "status", "weather"][usize::from(*what) % 4];
            (Kind::QUERY, 0, map(json!({ "what": what, "id": "alpha" })))
        }
        Control::Signal { name, to } => {
            let name = SIGNALS[usize::from(*name) % SIGNALS.len()];
            let mut body = json!({ "name": name });
            if let Some(to) = to {
                body["to"] = json!(PLUGINS[usize::from(*to) % PLUGINS.len()]);
            }
            (Kind::SIGNAL, 0, map(body))
        }
        Control::Report { size } => {
            let text = "r".repeat(usize::from(*size) % 5000);
            (Kind::REPORT, 0, map(json!({ "metrics": { "text": text } })))
        }
        Control::Ping { size } => (Kind::PING, 0, vec![7; usize::from(size % 80)]),
        Control::Shutdown => (Kind::SHUTDOWN, 0, map(json!({}))),
        Control::Hello => (Kind::HELLO, 0, body::encode_hello(&body::Hello::default()).to_vec()),
    }
}

/// Real traffic, as if it came from the session that the broker gave.
fn with_session(stream: &[u8], session: SessionId) -> Vec<u8> {
    let mut stream = stream.to_vec();
    let mut at = 0;
    while let Some(size) = stream.get(at + 32..at + 36) {
        let size = u32::from_le_bytes(size.try_into().expect("four bytes")) as usize;
        stream[at + 16..at + 24].copy_from_slice(&session.0.to_le_bytes());
        at = at.saturating_add(size).saturating_add(44);
    }
    stream
}

fn value_of(value: u8) -> Value {
    match value % 8 {
        0 => Value::Null,
        1 => json!(-1),
        2 => json!(u64::MAX),
        3 => json!("alpha"),
        4 => json!("\u{0}\u{7f}"),
        5 => json!([["alpha"], {}]),
        6 => json!({ "name": "alpha.add" }),
        _ => json!("n".repeat(300)),
    }
}

const STEPS_MAX: usize = 200;

const TRAFFIC: [Kind; 6] =
    [Kind::MESSAGE, Kind::REQUEST, Kind::EVENT, Kind::BROADCAST, Kind::MESSAGE, Kind::REQUEST];
const MAPS: [Kind; 10] = [
    Kind::REGISTER,
    Kind::UNREGISTER,
    Kind::OPEN,
    Kind::CLOSE,
    Kind::SUBSCRIBE,
    Kind::UNSUBSCRIBE,
    Kind::QUERY,
    Kind::SIGNAL,
    Kind::REPORT,
    Kind::SHUTDOWN,
];
const KEYS: [&str; 12] = [
    "name",
    "kind",
    "pattern",
    "overflow",
    "what",
    "id",
    "methods",
    "channels",
    "services",
    "metrics",
    "to",
    "subscription",
];
const METHODS: [&str; 3] = ["add", "get", "_hidden"];
const CHANNELS: [&str; 3] = ["inbox", "lines", "bulk-in"];
const SERVICES: [&str; 2] = ["search", "alpha"];
const TOPICS: [&str; 5] = ["order", "order.created", "order.created.late", "x", "plugbus.dead"];
const PATTERNS: [&str; 6] = ["order.*", ">", "order.>", "*", "plugbus.>", "order.>.x"];
const OVERFLOWS: [&str; 4] = ["drop-oldest", "drop-newest", "conflate", "block"];
const SIGNALS: [&str; 6] = ["ready", "busy", "sleeping", "failed", "reload", "nonsense"];
