//! What an actor of the host gets when it takes part: calls, events, messages.

use actix::Message as ActixMessage;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Code, Fault};
use crate::peer::Payload;
use crate::wire::ContentType;

/// Broker to actor: somebody calls a method of yours. Returning is replying.
#[derive(Clone, Debug, ActixMessage)]
#[rtype(result = "Result<Reply, Fault>")]
pub struct Call {
    pub(super) method: String,
    pub(super) caller: String,
    pub(super) payload: Payload,
}

/// Broker to actor: an event that you subscribed to.
#[derive(Clone, Debug, ActixMessage)]
#[rtype(result = "()")]
pub struct Event {
    pub(super) topic: String,
    pub(super) publisher: String,
    pub(super) missed: u64,
    pub(super) payload: Payload,
}

/// Broker to actor: a message down one of your channels. It is acknowledged when the handler has
/// returned; until then it is kept, and comes again should the host die.
#[derive(Clone, Debug, ActixMessage)]
#[rtype(result = "()")]
pub struct Message {
    pub(super) channel: String,
    pub(super) sender: String,
    pub(super) id: u64,
    pub(super) attempt: u32,
    pub(super) payload: Payload,
}

/// The answer to a [`Call`].
#[derive(Clone, Debug)]
pub struct Reply(pub(super) Vec<u8>);

impl Reply {
    /// Encodes the result.
    ///
    /// # Errors
    ///
    /// 14002 when the value cannot be encoded, as a map whose keys are no strings.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Result<Self, Fault> {
        encode(value).map(Self)
    }
}

macro_rules! readable {
    ($($name:ident),*) => {
        $(impl $name {
            /// The body as the sender wrote it.
            #[must_use]
            pub fn payload(&self) -> &[u8] {
                &self.payload.body
            }

            /// Decodes the body.
            ///
            /// # Errors
            ///
            /// 10008 when it is not such a value.
            pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Fault> {
                decode(&self.payload)
            }
        })*
    };
}

readable!(Call, Event, Message);

impl Call {
    /// Name of the method.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Id of the calling plugin.
    #[must_use]
    pub fn caller(&self) -> &str {
        &self.caller
    }
}

impl Event {
    /// Its topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Id of the publishing plugin.
    #[must_use]
    pub fn publisher(&self) -> &str {
        &self.publisher
    }

    /// How many events were shed before this one since the last that came, because the actor was
    /// too slow for them.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl Message {
    /// Name of the channel.
    #[must_use]
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Id of the sending plugin.
    #[must_use]
    pub fn sender(&self) -> &str {
        &self.sender
    }

    /// Its number in the channel, counted from 1.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// 1 at first; more when it may have been handled before.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }
}

pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Fault> {
    rmp_serde::to_vec_named(value)
        .map_err(|error| Fault::new(Code::Internal, format!("cannot encode the value: {error}")))
}

/// Decodes by what the sender said that the body is.
pub(super) fn decode<T: DeserializeOwned>(payload: &Payload) -> Result<T, Fault> {
    let wrong = |error: String| Fault::new(Code::InvalidArgument, error);
    match payload.content {
        ContentType::Json => {
            serde_json::from_slice(&payload.body).map_err(|error| wrong(error.to_string()))
        }
        _ => rmp_serde::from_slice(&payload.body).map_err(|error| wrong(error.to_string())),
    }
}
