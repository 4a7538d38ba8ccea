//! What sessions ask of the router.

use std::sync::Arc;

use crate::engine::channel::Channel;
use crate::engine::port::Port;
use crate::error::{Code, Fault};
use crate::id::{PluginId, RouteId};
use crate::wire::Kind;
use crate::wire::body::{
    self, Open, Query, Register, Report, Shutdown, Signal, Subscribe, Unregister, Unsubscribe,
};

/// Session to router: decide this.
#[derive(Clone, Debug)]
pub enum Change {
    /// A control frame.
    Asked {
        /// Who asks.
        port: Arc<Port>,
        /// Under which number the answer goes back.
        message_id: u64,
        /// What.
        kind: ChangeKind,
    },
    /// The last message of a channel whose sender has gone was acknowledged.
    ChannelDrained(Arc<Channel>),
    /// Something waits for this plugin, which may be asleep.
    Wanted(PluginId),
}

/// The control frames that change something or ask about everything.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "named as in the protocol")]
pub enum ChangeKind {
    Register(Register),
    Unregister(Unregister),
    Open(Open),
    Close(RouteId),
    Subscribe(Subscribe),
    Unsubscribe(Unsubscribe),
    Query(Query),
    Signal(Signal),
    Report(Report),
    Shutdown(Shutdown),
}

impl ChangeKind {
    /// Reads the body of a control frame.
    pub(crate) fn parse(kind: Kind, route: RouteId, body: &[u8]) -> Result<Self, Fault> {
        Ok(match kind {
            Kind::REGISTER => Self::Register(body::decode(body)?),
            Kind::UNREGISTER => Self::Unregister(body::decode(body)?),
            Kind::OPEN => Self::Open(body::decode(body)?),
            Kind::CLOSE => Self::Close(route),
            Kind::SUBSCRIBE => Self::Subscribe(body::decode(body)?),
            Kind::UNSUBSCRIBE => Self::Unsubscribe(body::decode(body)?),
            Kind::QUERY => Self::Query(body::decode(body)?),
            Kind::SIGNAL => Self::Signal(body::decode(body)?),
            Kind::REPORT => Self::Report(body::decode(body)?),
            Kind::SHUTDOWN if body.is_empty() => Self::Shutdown(Shutdown::default()),
            Kind::SHUTDOWN => Self::Shutdown(body::decode(body)?),
            Kind::HELLO => {
                return Err(Fault::new(Code::Unexpected, "the session has said hello already"));
            }
            Kind::RESPONSE | Kind::ERROR | Kind::STARTED => {
                return Err(Fault::new(
                    Code::NoSuchCall,
                    format!("a {kind} on route 0 answers nothing"),
                ));
            }
            Kind::REQUEST | Kind::MESSAGE | Kind::EVENT | Kind::BROADCAST => {
                return Err(Fault::new(
                    Code::UnknownRoute,
                    format!("a {kind} needs a route; open one first"),
                ));
            }
            Kind::WELCOME | Kind::ANNOUNCE | Kind::GAP | Kind::REDELIVERY | Kind::CREDIT => {
                return Err(Fault::new(
                    Code::Unexpected,
                    format!("only the broker sends frames of type {kind}"),
                ));
            }
            kind => {
                return Err(Fault::new(
                    Code::UnknownType,
                    format!("frames of type {} are not known to this version", kind.0),
                ));
            }
        })
    }
}
