//! The moment of writing: what leaves an outbox, and what that means for calls, channels and
//! topics.

use std::sync::Arc;

use bytes::Bytes;

use super::effects::{Effects, Now};
use super::method::Piece;
use super::outbox::{Source, Taken};
use super::plain::{for_features, plain_for};
use super::port::{Port, announce_frame, close_frame};
use super::run;
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
                    let features = self.features;
                    route.hand_over(self, bytes, now, fx, |bytes| match bytes {
                        Piece::Announce(bytes) => write(bytes),
                        Piece::Requests(bytes) => write(plain_for(bytes, features)),
                    });
                }
                Taken::Messages { bytes, channel, generation, first, last, flags } => {
                    let left_out = channel.hand_over(generation, (first, last), now, &mut write);
                    let bytes = bytes.slice(run::size_of_first(&bytes, left_out)..);
                    if !bytes.is_empty() {
                        write(for_features(bytes, flags, self.features));
                    }
                }
                Taken::Progress(Source::Channel(channel)) => {
                    channel.progress(now).into_iter().for_each(&mut write);
                }
                Taken::Progress(Source::Topic(topic)) => write(topic.progress(now)),
                Taken::Announce(topic) => write(announce_frame(&topic.announcement(), now)),
                Taken::Close { topic, reason } => write(close_frame(topic.number, reason, now)),
                Taken::Forgotten(count) => write(forgotten_frame(count, now)),
                Taken::Events(run) => {
                    self.tallies.events.end(End::Completed, run.count);
                    if run.blocks {
                        run.topic.hand_over(self.session, run.first + run.count - 1, fx);
                    }
                    write(for_features(run.bytes, run.flags, self.features));
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

/// The receipt for events of topics that the peer was never told of.
fn forgotten_frame(count: u64, now: Now) -> Bytes {
    let gap = Gap { last: count, cause: "too-many-topics".to_owned(), topic: None };
    FrameBuilder::new(Kind::GAP)
        .message_id(1)
        .timestamp(now.unix)
        .content(ContentType::MessagePack)
        .build(b"", &body::encode(&gap))
}
