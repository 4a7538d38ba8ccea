//! What the broker's engine answers to the bytes of a vector.

use std::time::Duration;

use bytes::Bytes;
use std::sync::Arc;

use plugbus::engine::{Effects, Now, Router, RouterSettings, Session};
use plugbus::error::Fault;
use plugbus::id::SessionId;
use plugbus::limit;
use plugbus::wire::body::{self, Hello};
use plugbus::wire::{Flags, Kind, scan_frame};

/// The session in the header of the vectors, which stands for whatever the broker gave.
pub(crate) const SESSION: SessionId = SessionId(0x1122_3344_5566_7788);

/// Lets a peer in that offers every feature, gives it `bytes` to send, and tells the codes of the
/// errors that it is answered with.
pub(crate) fn answers(bytes: &[u8]) -> Vec<u64> {
    let now = Now { mono: Duration::from_secs(1), unix: 0 };
    let mut router = router(now);
    let mut fx = Effects::new();
    let hello = Hello {
        versions: vec![1],
        features: vec!["lz4".to_owned(), "checksum".to_owned()],
        id: Some("notes".to_owned()),
        ..Default::default()
    };
    let port = router.handle_hello(&hello, None, Box::new(|| {}), now, &mut fx).unwrap();
    let mut session = Session::new(&port);
    let input = Bytes::from(with_session(bytes, port.session));
    let consumed = session.handle_input(&input, now, &mut fx).unwrap();
    assert_eq!(consumed, input.len(), "a vector is whole frames");
    for change in fx.take_changes() {
        router.handle_change(change, now, &mut fx);
    }
    let mut output = Vec::new();
    port.take(1 << 20, now, &mut output, &mut fx);
    router.audit([&session].into_iter());
    let output = output.concat();
    let (mut rest, mut codes) = (&output[..], Vec::new());
    while let Some(frame) = scan_frame(rest, limit::PAYLOAD_MAX).unwrap() {
        if frame.header.kind == Kind::ERROR {
            codes.push(body::decode_fault(frame.body()).unwrap().code as u64);
        }
        rest = &rest[frame.bytes().len()..];
    }
    codes
}

/// Whether a broker in which `taken` is live lets this peer in.
pub(crate) fn admit(hello: &Hello) -> Result<(), Fault> {
    let now = Now::default();
    let mut router = router(now);
    let mut fx = Effects::new();
    let taken = Hello { versions: vec![1], id: Some("taken".to_owned()), ..Default::default() };
    router.handle_hello(&taken, None, Box::new(|| {}), now, &mut fx).unwrap();
    router.handle_hello(hello, None, Box::new(|| {}), now, &mut fx).map(drop)
}

fn router(now: Now) -> Router {
    let settings = RouterSettings { name: "default".to_owned(), seed: 1, limits: Arc::default() };
    Router::new(settings, now)
}

/// Puts the session that the broker gave where the vector has its own. Others are forged on
/// purpose.
fn with_session(bytes: &[u8], session: SessionId) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let frame = scan_frame(&bytes[at..], limit::PAYLOAD_MAX).unwrap().expect("a whole frame");
        let (size, header) = (frame.bytes().len(), frame.header);
        assert!(!header.flags.has(Flags::CHECKSUM), "its checksum would no longer hold");
        if header.session == SESSION {
            bytes[at + 16..at + 24].copy_from_slice(&session.0.to_le_bytes());
        }
        at += size;
    }
    bytes
}
