//! Request ids that a caller uses twice, against the rule that they count up.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plugbus::engine::{Effects, Now, Port, Router, RouterSettings, Session};
use plugbus::id::RouteId;
use plugbus::limit;
use plugbus::wire::body::{self, Hello, Opened, Role};
use plugbus::wire::{FrameBuilder, Kind, scan_frame};
use serde_json::json;

/// The request of the cancelled call still waits in the outbox of the callee when the id is used
/// again. It was taken for the new one, and the new one hit an assertion.
#[test]
fn the_id_of_a_cancelled_call_used_again_was_a_panic() {
    let mut broker = Broker::new();
    let mut callee = broker.join("callee");
    let mut caller = broker.join("caller");
    let register = body::encode(&json!({ "methods": [{ "name": "greet" }] }));
    let register = frame(&callee, Kind::REGISTER, 0, 1, &register);
    broker.send(&mut callee, &[register]);
    let open = body::encode(&json!({ "kind": "method", "name": "callee.greet" }));
    let open = frame(&caller, Kind::OPEN, 0, 1, &open);
    broker.send(&mut caller, &[open]);
    let opened: Opened = broker
        .read(&caller)
        .iter()
        .find_map(|(kind, _, body)| (*kind == Kind::RESPONSE).then(|| body::decode(body).ok())?)
        .expect("the route is opened");
    broker.read(&callee);

    let request = frame(&caller, Kind::REQUEST, opened.route, 7, b"hm");
    let cancel = frame(&caller, Kind::CANCEL, opened.route, 7, b"");
    broker.send(&mut caller, &[request.clone(), cancel, request]);
    broker.router.audit([&callee, &caller].into_iter());
    let delivered = broker.read(&callee);
    let requests = delivered.iter().filter(|(kind, id, _)| (*kind, *id) == (Kind::REQUEST, 7));
    assert_eq!(requests.count(), 1, "one live call is one request: {delivered:?}");
    broker.router.audit([&callee, &caller].into_iter());
}

struct Broker {
    router: Router,
}

impl Broker {
    fn new() -> Self {
        let settings =
            RouterSettings { name: "default".to_owned(), seed: 3, limits: Arc::default() };
        Self { router: Router::new(settings, NOW) }
    }

    fn join(&mut self, id: &str) -> Session {
        let hello = Hello {
            versions: vec![1],
            id: Some(id.to_owned()),
            role: Role::Plugin,
            ..Default::default()
        };
        let mut fx = Effects::new();
        let port = self.router.handle_hello(&hello, None, Box::new(|| {}), NOW, &mut fx).unwrap();
        self.settle(&mut fx);
        Session::new(&port)
    }

    fn send(&mut self, session: &mut Session, frames: &[Bytes]) {
        let mut fx = Effects::new();
        session.handle_input(&frames.concat().into(), NOW, &mut fx).unwrap();
        self.settle(&mut fx);
    }

    /// Type, message id and body of what waits for a peer.
    fn read(&mut self, session: &Session) -> Vec<(Kind, u64, Vec<u8>)> {
        let (mut pieces, mut fx) = (Vec::new(), Effects::new());
        let port: &Arc<Port> = session.port();
        port.take(1 << 20, NOW, &mut pieces, &mut fx);
        self.settle(&mut fx);
        let output = pieces.concat();
        let (mut rest, mut frames) = (&output[..], Vec::new());
        while let Some(frame) = scan_frame(rest, limit::PAYLOAD_MAX).unwrap() {
            frames.push((frame.header.kind, frame.header.message_id, frame.body().to_vec()));
            rest = &rest[frame.bytes().len()..];
        }
        frames
    }

    fn settle(&mut self, fx: &mut Effects) {
        for change in fx.take_changes() {
            self.router.handle_change(change, NOW, fx);
        }
        fx.wake();
    }
}

fn frame(session: &Session, kind: Kind, route: u32, id: u64, body: &[u8]) -> Bytes {
    FrameBuilder::new(kind)
        .route(RouteId(route))
        .message_id(id)
        .session(session.port().session)
        .build(b"", body)
}

const NOW: Now = Now { mono: Duration::from_secs(1), unix: 0 };
