//! Lines of a file or of standard input, read by a thread of their own.
//!
//! Reading a terminal or a pipe blocks, and cannot be called off. The thread may then stay behind
//! when the command ends; the process does not wait for it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use tokio::sync::mpsc::{Receiver, channel};

use super::failure::{Failure, Result};
use crate::limit;

/// Reads `path`, or standard input where that is `-`. Lines come without their ends, and the last
/// may lack its own. An error is the last thing that comes.
pub(crate) fn read(path: &Path) -> Result<Receiver<Result<String>>> {
    let input: Box<dyn Read + Send> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        let file = File::open(path).map_err(|error| cannot_read(path, &error))?;
        Box::new(file)
    };
    let (sender, receiver) = channel(LINES_MAX);
    let path = path.to_owned();
    let run = move || {
        let mut input = BufReader::new(input);
        for number in 1.. {
            let line = next(&mut input, &path, number).transpose();
            let Some(line) = line else { return };
            let is_last = line.is_err();
            if sender.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("plugbus-input".to_owned())
        .spawn(run)
        .map_err(|error| Failure::failed(format_args!("cannot start a thread: {error}")))?;
    Ok(receiver)
}

fn next(input: &mut impl BufRead, path: &Path, number: u64) -> Result<Option<String>> {
    let mut line = Vec::new();
    input
        .take(limit::MESSAGE_MAX + 1)
        .read_until(b'\n', &mut line)
        .map_err(|error| cannot_read(path, &error))?;
    let line = match line.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None if line.is_empty() => return Ok(None),
        None => &line,
    };
    if line.len() as u64 > limit::MESSAGE_MAX {
        return Err(Failure::usage(format_args!(
            "line {number} is longer than the {} bytes of the largest message",
            limit::MESSAGE_MAX
        )));
    }
    match std::str::from_utf8(line) {
        Ok(line) => Ok(Some(line.to_owned())),
        Err(_) => Err(Failure::usage(format_args!("line {number} is not UTF-8"))),
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::usage(format_args!("cannot read {}: {error}", path.display()))
}

/// Lines that wait to be sent. The channel's window is what really holds them.
const LINES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        let cases: &[(&[u8], &[&str])] = &[
            (b"", &[]),
            (b"a\nb", &["a", "b"]),
            (b"a\r\n\n b \n", &["a", "", " b "]),
            (b"\xc3\xbc\n\xff\nrest", &["\u{fc}", "line 2 is not UTF-8"]),
        ];
        for (input, expected) in cases {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), input).unwrap();
            let mut lines = read(file.path()).unwrap();
            let mut found = Vec::new();
            while let Some(line) = lines.blocking_recv() {
                found.push(line.unwrap_or_else(|failure| failure.message().to_owned()));
            }
            assert_eq!(found, *expected);
        }
    }
}
