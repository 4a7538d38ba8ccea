//! Safe wrappers of system calls. Nothing here decides anything.
//!
//! rustix comes first; `unsafe` appears only where it has no safe call, one operation a block.

#[cfg(feature = "broker")]
pub(crate) mod errand;
#[cfg(feature = "plugin")]
pub(crate) mod fd;
#[cfg(feature = "broker")]
pub(crate) mod guardian;
#[cfg(feature = "cli")]
pub(crate) mod limits;
#[cfg(feature = "broker")]
pub(crate) mod peer;
