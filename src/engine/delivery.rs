//! The moment of writing: what leaves an outbox, and what that means for calls, channels and
//! topics.

use std::sync::Arc;

use bytes::Bytes;

use super::effects::{Effects, Now};
use super::outbox::Taken;
use super::plain::for_features;
use super::port::Port;
use super::tally::End;
use crate::wire::body::{self, Gap};
use crate::wire::{ContentType, FrameBuilder, Kind};

impl Port {
    /// Appends about `budget` bytes of what waits to `output`, in order. Gives their number.
    ///
    /// From here on they count as handed over: a request can be called off only by a cancel frame,
    /// a message counts as seen by this receiver, an event as completed.
    pub fn take(
        self: &Arc<Self>,
        budget: usize,
        now: Now,
        output: &mut Vec<Bytes>,
        fx: &mut Effects,
    ) -> usize {
        let mut taken = Vec::new();
        self.outbox.lock().take(budget, &mut taken);
        let mut size = 0;
        let mut write = |bytes: Bytes| {
            size += bytes.len();
            output.push(bytes);
        };
        for piece in taken {
            match piece {
                Taken::Plain(bytes) => write(bytes),
                Taken::Requests { bytes, route } => {
                    route.hand_over(self, bytes, now, fx, &mut write);
                }
                Taken::Messages { bytes, channel, generation, last, flags } => {
                    if channel.hand_over(generation, last) {
                        write(for_features(bytes, flags, self.features));
                    }
                }
                Taken::Events(run) => {
                    self.tallies.events.end(End::Completed, run.count);
                    if run.blocks {
                        run.topic.hand_over(self.session, run.first + run.count - 1, now, fx);
                    }
                    write(run.bytes);
                }
                Taken::Gap { topic, first, last, cause } => {
                    let gap = Gap {
                        last,
                        cause: cause.to_owned(),
                        topic: Some(topic.topic.as_str().to_owned()),
                    };
                    let frame = FrameBuilder::new(Kind::GAP)
                        .route(topic.number)
                        .message_id(first)
                        .timestamp(now.unix)
                        .content(ContentType::MessagePack)
                        .build(b"", &body::encode(&gap));
                    write(frame);
                }
            }
        }
        size
    }
}
