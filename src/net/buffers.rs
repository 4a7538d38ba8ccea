//! Read buffers, pooled by thread.
//!
//! A session takes one when its socket is readable and gives it back when nothing of it is in use,
//! so that an idle session holds none.

use std::cell::RefCell;

use bytes::Bytes;

use crate::limit;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room for one read.
pub(crate) fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(limit::READ_BUFFER_SIZE))
}

/// Gives back a buffer of which nothing is in use.
pub(crate) fn give_back(mut buffer: Vec<u8>) {
    buffer.clear();
    if buffer.capacity() == limit::READ_BUFFER_SIZE {
        POOL.with_borrow_mut(|pool| {
            if pool.len() < POOLED_MAX {
                pool.push(buffer);
            }
        });
    }
}

/// Gives back what was read, unless a slice of it lives on.
pub(crate) fn recycle(input: Bytes) {
    if let Ok(mut buffer) = input.try_into_mut() {
        // An empty buffer becomes a vector without its bytes being moved.
        buffer.clear();
        give_back(buffer.into());
    }
}

/// Buffers kept by one thread: as many as can be busy between two turns of its sessions.
const POOLED_MAX: usize = 16;
