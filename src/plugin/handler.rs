//! Handlers without their types: the one place that knows how arguments and results travel.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::codec;
use super::context::Context;
use super::error::{Error, Result};
use super::event::{Event, Gap, Message, Received, Signal};
use super::feed::Feed;
use super::work::Work;
use crate::net::clock;
use crate::net::link::Link;
use crate::peer::{Delivered, MessageRun, Payload};

/// Futures of handlers stay on the thread of the plugin, so that handlers need not be `Send`.
type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// Arguments in, result out.
pub(super) type MethodHandler = Rc<dyn Fn(Payload, Context) -> LocalFuture<Result<Vec<u8>>>>;
/// Runs until its queue is closed.
pub(super) type ChannelHandler = Rc<dyn Fn(ChannelQueue, Context) -> LocalFuture<()>>;
/// Runs until the subscription ends.
pub(super) type EventHandler =
    Rc<dyn Fn(Feed, Option<GapHandler>, Context, Rc<Work>) -> LocalFuture<()>>;
pub(super) type GapHandler = Rc<dyn Fn(Gap, Context) -> LocalFuture<Result<()>>>;
pub(super) type SignalHandler = Rc<dyn Fn(Signal, Context) -> LocalFuture<Result<()>>>;

/// Begins once the plugin is ready.
pub(super) type BackgroundHandler = Box<dyn FnOnce(Context) -> LocalFuture<Result<()>>>;

pub(super) fn background<F>(work: F) -> BackgroundHandler
where
    F: AsyncFn(&Context) -> Result<()> + 'static,
{
    Box::new(|context| Box::pin(async move { work(&context).await }))
}

pub(super) fn method<A, R, F>(handler: F, known: Vec<String>) -> MethodHandler
where
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
    F: AsyncFn(A, &Context) -> Result<R> + 'static,
{
    let handler = Rc::new((handler, known));
    Rc::new(move |payload, context| {
        let handler = Rc::clone(&handler);
        Box::pin(async move {
            let (handler, known) = &*handler;
            let arguments = codec::decode_arguments(&payload, known)?;
            drop(payload);
            codec::encode(&handler(arguments, &context).await?)
        })
    })
}

pub(super) fn signal<F>(handler: F) -> SignalHandler
where
    F: AsyncFn(Signal, &Context) -> Result<()> + 'static,
{
    let handler = Rc::new(handler);
    Rc::new(move |signal, context| {
        let handler = Rc::clone(&handler);
        Box::pin(async move { handler(signal, &context).await })
    })
}

pub(super) fn gap<F>(handler: F) -> GapHandler
where
    F: AsyncFn(Gap, &Context) -> Result<()> + 'static,
{
    let handler = Rc::new(handler);
    Rc::new(move |gap, context| {
        let handler = Rc::clone(&handler);
        Box::pin(async move { handler(gap, &context).await })
    })
}

pub(super) fn event<F>(handler: F) -> EventHandler
where
    F: AsyncFn(Event, &Context) -> Result<()> + 'static,
{
    let handler = Rc::new(handler);
    Rc::new(move |mut feed, gap_handler, context, work| {
        let handler = Rc::clone(&handler);
        Box::pin(async move {
            while let Some(received) = feed.next().await {
                let _working = work.begin();
                match received {
                    Received::Gap(gap) => match &gap_handler {
                        Some(handler) => {
                            if let Err(error) = handler(gap, context.clone()).await {
                                log::error!("handler of gaps: {error:?}");
                            }
                        }
                        None => log::warn!("{} events missed: {}", gap.count, gap.cause),
                    },
                    Received::Event(event) => {
                        let topic = event.topic.clone();
                        let context = context.with_caller(event.from.clone());
                        if let Err(error) = handler(event, &context).await {
                            log::error!("handler of event `{topic}`: {error:?}");
                        }
                    }
                }
            }
        })
    })
}

pub(super) fn channel<F>(handler: F) -> ChannelHandler
where
    F: AsyncFn(Message, &Context) -> Result<()> + 'static,
{
    let handler = Rc::new(handler);
    Rc::new(move |queue, context| {
        let handler = Rc::clone(&handler);
        // One future for the whole life of the route: nothing is allocated for a message.
        Box::pin(async move {
            let mut batch = Batch::default();
            while queue.take(&mut batch).await {
                let mut handled = Handled { last: 0, count: 0, since: clock::instant() };
                let mut handling = std::pin::pin!(None);
                let (mut id, mut waited) = (0, false);
                // Messages whose handlers do not wait are handled within one poll: what moves in
                // and out of a future costs more than the rest.
                while let Step::Pause = std::future::poll_fn(|cx| {
                    loop {
                        if handling.is_none() {
                            let Some(message) = batch.next() else {
                                return Poll::Ready(Step::Done);
                            };
                            id = message.id;
                            handling.set(Some(handler(message, &context)));
                        }
                        let running = handling.as_mut().as_pin_mut().expect("it was set above");
                        match running.poll(cx) {
                            Poll::Ready(Ok(())) => (),
                            Poll::Ready(Err(error)) => queue.failed(id, &error),
                            Poll::Pending => {
                                // What is done must not wait for what is not.
                                queue.acknowledge(&mut handled);
                                waited = true;
                                return Poll::Pending;
                            }
                        }
                        handling.set(None);
                        (handled.last, handled.count) = (id, handled.count + 1);
                        if std::mem::take(&mut waited) || handled.is_due() {
                            return Poll::Ready(Step::Pause);
                        }
                    }
                })
                .await
                {
                    queue.acknowledge(&mut handled);
                    // Handlers that never wait must not keep the connection from being read.
                    tokio::task::yield_now().await;
                }
                queue.acknowledge(&mut handled);
            }
        })
    })
}

/// Why the handling of a batch stops.
enum Step {
    /// To acknowledge, and to let others run.
    Pause,
    /// All of it is handled.
    Done,
}

/// Messages handled between two acknowledgements, at most: a sixteenth of the window, so that the
/// sender never runs dry.
const ACK_COUNT_MAX: u64 = 1024;

/// After how many messages the clock is looked at.
const CLOCK_EVERY: u64 = 16;

/// Time between two acknowledgements, at most, of handlers that do not wait.
const ACK_AFTER: Duration = Duration::from_millis(5);

/// Messages of one announced route that wait for their handler. Bounded by the sender's window,
/// since none is acknowledged before it is handled.
#[derive(Clone)]
pub(super) struct ChannelQueue(Rc<Queue>);

struct Queue {
    name: String,
    slot: usize,
    link: Link,
    work: Rc<Work>,
    messages: RefCell<Waiting>,
    changed: Notify,
}

/// What came at once.
pub(super) enum Arrived {
    /// One message, until it is taken out.
    One(Option<Delivered>),
    Run(MessageRun),
}

impl Iterator for Arrived {
    type Item = Message;

    #[inline]
    fn next(&mut self) -> Option<Message> {
        let delivered = match self {
            Self::One(message) => message.take(),
            Self::Run(run) => run.next(),
        };
        let Delivered { id, attempt, timestamp, payload } = delivered?;
        Some(Message { id, attempt, timestamp, payload })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::One(message) => (message.iter().len(), Some(message.iter().len())),
            Self::Run(run) => run.size_hint(),
        }
    }
}

impl ExactSizeIterator for Arrived {}

/// What was taken from the queue.
#[derive(Default)]
struct Batch(VecDeque<Arrived>);

impl Iterator for Batch {
    type Item = Message;

    #[inline]
    fn next(&mut self) -> Option<Message> {
        while let Some(arrived) = self.0.front_mut() {
            if let Some(message) = arrived.next() {
                return Some(message);
            }
            self.0.pop_front();
        }
        None
    }
}

/// Messages that a handler is through with and that are not acknowledged.
struct Handled {
    last: u64,
    count: u64,
    since: Instant,
}

impl Handled {
    /// Whether the sender should hear of them before more are handled.
    #[inline]
    fn is_due(&self) -> bool {
        self.count == ACK_COUNT_MAX
            || (self.count.is_multiple_of(CLOCK_EVERY)
                && clock::instant() - self.since >= ACK_AFTER)
    }
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Arrived>,
    closed: bool,
    failed: u64,
}

impl ChannelQueue {
    pub(super) fn new(name: String, slot: usize, link: Link, work: Rc<Work>) -> Self {
        let messages = RefCell::default();
        Self(Rc::new(Queue { name, slot, link, work, messages, changed: Notify::new() }))
    }

    pub(super) fn push(&self, arrived: Arrived) {
        let mut waiting = self.0.messages.borrow_mut();
        if waiting.messages.is_empty() {
            self.0.changed.notify_one();
        }
        self.0.work.add(arrived.len() as u64);
        waiting.messages.push_back(arrived);
    }

    /// No more will come; what is here is still handled. Acknowledging it does no harm: the route
    /// is gone.
    pub(super) fn close(&self) {
        self.0.messages.borrow_mut().closed = true;
        self.0.changed.notify_one();
    }

    /// Waits for messages and takes all. False when there will be none.
    async fn take(&self, batch: &mut Batch) -> bool {
        loop {
            {
                let mut waiting = self.0.messages.borrow_mut();
                if !waiting.messages.is_empty() {
                    std::mem::swap(&mut waiting.messages, &mut batch.0);
                    return true;
                }
                if waiting.closed {
                    return false;
                }
            }
            self.0.changed.notified().await;
        }
    }

    fn failed(&self, id: u64, error: &Error) {
        let mut waiting = self.0.messages.borrow_mut();
        waiting.failed += 1;
        let (name, failed) = (&self.0.name, waiting.failed);
        log::error!("handler of {name}, message {id} (failure {failed}): {error:?}");
    }

    fn acknowledge(&self, handled: &mut Handled) {
        if handled.count > 0 {
            self.0.link.tell(|peer, now| peer.ack(self.0.slot, handled.last, now));
            self.0.work.remove(handled.count);
            (handled.count, handled.since) = (0, clock::instant());
        }
    }
}

/// The JSON Schema of a type, and the names of its fields where those are all there are.
pub(super) fn schema_of<T: JsonSchema>() -> (serde_json::Value, Vec<String>) {
    let mut schema = schemars::schema_for!(T).to_value();
    if let Some(object) = schema.as_object_mut() {
        // Who reads schemas here knows the dialect.
        object.remove("$schema");
    }
    if schema.get("type").and_then(|kind| kind.as_str()) == Some("null") {
        return (serde_json::json!({ "type": "object", "properties": {} }), Vec::new());
    }
    let open = schema.get("additionalProperties").is_some_and(|value| value != false)
        || ["$ref", "allOf", "anyOf", "oneOf"].iter().any(|key| schema.get(key).is_some());
    let fields = schema.get("properties").and_then(|value| value.as_object());
    let names = match fields {
        Some(fields) if !open => fields.keys().cloned().collect(),
        _ => Vec::new(),
    };
    (schema, names)
}
