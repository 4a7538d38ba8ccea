//! What handlers are given: events, messages, signals.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::codec;
use super::error::Result;
use crate::id::Topic;
use crate::peer::Payload;
use crate::wire::ContentType;

/// Something that a plugin published or broadcast.
#[derive(Clone, Debug)]
pub struct Event {
    pub(super) topic: Topic,
    pub(super) from: Arc<str>,
    pub(super) id: u64,
    pub(super) timestamp: u64,
    pub(super) payload: Payload,
}

impl Event {
    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.topic.as_str()
    }

    /// Who published it.
    #[must_use]
    pub fn from(&self) -> &str {
        &self.from
    }

    /// Its number among the publisher's events of this topic.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The publisher's Unix time in nanoseconds.
    #[must_use]
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// The bytes as they came.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.payload.body
    }

    /// What the publisher says the bytes are.
    #[must_use]
    pub fn content_type(&self) -> ContentType {
        self.payload.content
    }

    /// The value that was published.
    ///
    /// # Errors
    ///
    /// When it does not fit the type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        codec::decode(&self.payload)
    }
}

/// Events that a subscription will not get.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Gap {
    /// Their topic; none where several are concerned.
    pub topic: Option<Topic>,
    /// How many.
    pub count: u64,
    /// Why.
    pub cause: String,
}

/// What comes out of a subscription.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Received {
    /// An event.
    Event(Event),
    /// Events are missing here.
    Gap(Gap),
}

/// A message of a channel.
#[derive(Clone, Debug)]
pub struct Message {
    pub(super) id: u64,
    pub(super) attempt: u32,
    pub(super) timestamp: u64,
    pub(super) payload: Payload,
}

impl Message {
    /// Its number in the channel from its sender.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// 1 at first. More when it was handed to an earlier run of this plugin that ended before it
    /// was acknowledged: it may have been handled.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The sender's Unix time in nanoseconds.
    #[must_use]
    pub fn timestamp(&self) -> u64 {
        self.timestamp
    }

    /// The bytes as they came.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.payload.body
    }

    /// What the sender says the bytes are.
    #[must_use]
    pub fn content_type(&self) -> ContentType {
        self.payload.content
    }

    /// The value that was sent.
    ///
    /// # Errors
    ///
    /// When it does not fit the type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        codec::decode(&self.payload)
    }
}

/// A notice to this plugin: `reload`, `health-check`, `wake`, or a word of the application's own.
#[derive(Clone, Debug)]
pub struct Signal {
    pub(super) body: crate::wire::body::Signal,
}

impl Signal {
    /// Which one.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.body.name
    }

    /// Who sent it; none for the broker.
    #[must_use]
    pub fn from(&self) -> Option<&str> {
        self.body.from.as_deref()
    }

    /// What came with it.
    #[must_use]
    pub fn data(&self) -> Option<&serde_json::Value> {
        self.body.data.as_ref()
    }
}
