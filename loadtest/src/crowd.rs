//! Many connections that have said hello and then nothing.

use std::path::Path;

use anyhow::Result;

use crate::part::{Line, say};
use crate::wire::Connection;

/// Holds the connections until the process is killed.
pub(crate) fn gather(socket: &Path, count: usize) -> Result<()> {
    let crowd: Result<Vec<Connection>> =
        (0..count).map(|_| Connection::greet(socket, None)).collect();
    let _crowd = crowd?;
    say(&Line::Ready)?;
    loop {
        std::thread::park();
    }
}
