//! What must hold for any input.
//!
//! Every target is a function of bytes. Most targets make structured input of them; a first byte
//! above [`RAW`] takes the rest as it is, so that real traffic can seed a corpus.

mod decoder;
mod handshake;
mod peers;
mod session;

use std::collections::BTreeSet;

/// What inputs have led to. A runner without coverage keeps inputs that lead to something new.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeSet<u64>);

impl Seen {
    /// Notes an outcome.
    pub(crate) fn note(&mut self, what: u64, detail: u64) {
        self.0.insert(what << 48 | (detail & 0xFFFF_FFFF_FFFF));
    }

    /// How many different ones there were.
    #[allow(dead_code, reason = "only the runner without coverage asks")]
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

/// One target.
pub(crate) type Target = fn(&[u8], &mut Seen);

/// All of them, by name.
pub(crate) const TARGETS: [(&str, Target); 3] =
    [("decoder", decoder::run), ("handshake", handshake::run), ("session", session::run)];

/// First bytes above this stand before raw input.
pub(crate) const RAW: u8 = 0xDF;
