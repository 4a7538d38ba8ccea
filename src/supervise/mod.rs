//! Supervision trees for actix applications: groups of children that are started in order, watched,
//! restarted when they fail, and stopped in reverse.
//!
//! The semantics are those of Erlang/OTP, with delays and quarantine added. A [`Group`] has a
//! [`Strategy`], an intensity (how many restarts are too many) and children in order; when it gives
//! up, the group that it is in decides. A child is whatever implements [`Child`]: a [`Group`], a
//! process, or an actix actor in a [`Shell`]. After a panic such an actor is made again by its
//! factory, and keeps its address and its mail.
//!
//! ```
//! use actix::prelude::*;
//! use plugbus::supervise::{ChildSpec, Group, GroupFlags, MailError, Shell, Strategy};
//!
//! struct Division;
//!
//! impl Actor for Division {
//!     type Context = Context<Self>;
//! }
//!
//! #[derive(Message)]
//! #[rtype(result = "i32")]
//! struct Divide(i32, i32);
//!
//! impl Handler<Divide> for Division {
//!     type Result = i32;
//!
//!     fn handle(&mut self, Divide(a, b): Divide, _ctx: &mut Self::Context) -> i32 {
//!         a / b
//!     }
//! }
//!
//! System::new().block_on(async {
//!     let shell = Shell::new(|_address| Division);
//!     let division = shell.address();
//!     let tree = Group::builder("app", GroupFlags::core(Strategy::OneForOne))
//!         .child(ChildSpec::new("division"), shell)
//!         .build()
//!         .expect("one child fits together")
//!         .start();
//!
//!     assert_eq!(division.send(Divide(6, 3)).await, Ok(2));
//!     assert_eq!(division.send(Divide(1, 0)).await, Err(MailError::Panicked));
//!     assert_eq!(division.send(Divide(8, 2)).await, Ok(4));
//!     assert_eq!(tree.children()[0].restarts, 1);
//!     tree.shutdown().await;
//! });
//! ```

#[cfg(panic = "abort")]
compile_error!(
    "feature `broker` heals actors that panic, so panics must unwind: set `panic = \"unwind\"` in \
     the profile"
);

mod change;
mod child;
mod driver;
mod front;
pub(crate) mod fuse;
mod group;
#[cfg(test)]
mod group_tests;
mod handle;
mod incarnation;
mod mail;
mod shell;
#[cfg(test)]
mod shell_tests;

pub use crate::engine::supervise::{
    Answer, AutoShutdown, Backoff, Cause, Changed, ChildId, ChildSpec, Delays, Exit, Governor,
    GroupFlags, Intensity, OnExhausted, Phase, Refusal, Restart, Shutdown, SpecError, State,
    Strategy,
};
pub use change::GroupChange;
pub use child::{Child, Reports, Transition};
pub use group::{Group, GroupBuilder, StartLimiter};
pub use handle::{ChildStatus, GroupHandle, Transitions, Waiting};
pub use incarnation::Panicked;
pub use mail::{MailError, Supervised};
pub use shell::Shell;
