//! A message broker for plugins.

#[cfg(feature = "broker")]
mod broker;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod engine;
pub mod error;
#[cfg(feature = "broker")]
pub mod host;
pub mod id;
pub mod limit;
pub mod net;
pub mod peer;
#[cfg(feature = "plugin")]
pub mod plugin;
#[cfg(feature = "broker")]
pub mod supervise;
mod sys;
pub mod wire;

#[cfg(feature = "broker")]
pub use broker::{
    Broker, BrokerBuilder, BrokerError, Call, Event, Message, Participant, ParticipantBuilder,
    Reply,
};
#[cfg(feature = "broker")]
pub use engine::{Attachment, InstanceInfo, PluginExit, Presence, RegistrationDifference};
#[cfg(feature = "broker")]
pub use host::{PluginSpec, Plugins};

#[cfg(not(target_os = "linux"))]
compile_error!("plugbus runs on Linux only for now: it needs pidfd, memfd and SO_PEERCRED");
