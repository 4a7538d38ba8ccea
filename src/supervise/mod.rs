//! Supervision trees for actix applications: groups of children that are started in order, watched,
//! restarted when they fail, and stopped in reverse.
//!
//! A child is whatever implements [`Child`]. [`Shell`] is the one for actix actors: after a panic
//! the actor is made again by its factory, and keeps its address and its mail.

#[cfg(panic = "abort")]
compile_error!(
    "feature `broker` heals actors that panic, so panics must unwind: set `panic = \"unwind\"` in \
     the profile"
);

mod child;
mod front;
mod incarnation;
mod mail;
mod shell;
#[cfg(test)]
mod shell_tests;

pub use crate::engine::supervise::{ChildId, Exit};
pub use child::{Child, Reports};
pub use incarnation::Panicked;
pub use mail::{MailError, Supervised};
pub use shell::Shell;
