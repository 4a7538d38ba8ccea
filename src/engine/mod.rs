//! Every decision of the broker, without I/O, tasks or clock.
//!
//! The engine is made of small machines. A [`Session`] takes what one peer sends and hands runs of
//! frames to *routes*: a [`MethodRoute`], a [`Channel`] or a [`TopicRoute`], each behind a short
//! lock of its own. Routes put runs into the outboxes of other sessions, which are reached through
//! their [`Port`]. The [`Router`] owns names, registrations and subscriptions; it makes routes and
//! never sees a payload. What is left to do for the driver is collected in [`Effects`].
//!
//! The driver is the actix shell in `broker`, or the simulator in [`sim`]: both call the same
//! functions. The time is an argument ([`Now`]); random session ids come from a seed.

#![forbid(unsafe_code)]

mod abandoned;
mod calls;
mod channel;
mod delivery;
mod effects;
mod ledger;
mod method;
mod outbox;
mod plain;
mod port;
mod router;
mod run;
mod session;
pub mod sim;
pub mod supervise;
mod tally;
#[cfg(test)]
mod tests;
mod topic;

pub use channel::Channel;
pub use effects::{Effects, Now};
pub use ledger::{Account, Charge, Ledger, Resource};
pub use method::MethodRoute;
pub use outbox::Outbox;
pub use port::{Features, NextDeadline, Pending, Port, Wake};
pub use router::{
    Attachment, Change, ChangeKind, DeadLetter, InstanceInfo, PluginExit, Presence, Quarantined,
    RegistrationDifference, Router, RouterSettings, Vitals,
};
pub use session::Session;
pub use tally::{Tallies, Tally, TallySnapshot};
pub use topic::TopicRoute;
