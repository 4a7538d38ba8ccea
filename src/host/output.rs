//! What a plugin prints, line by line.
//!
//! Output is read as fast as it comes, whether or not anybody looks at it, so that a plugin never
//! blocks on its own `print`. What to do with a flood is the business of the sink.

use std::io;
use std::os::fd::OwnedFd;

use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;

use super::exit::Exit;
use crate::limit;

/// Where a plugin printed something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Hands every line to `sink` until the stream ends, or the process has ended and what it left in
/// the pipe has been read. Somebody else may hold the pipe open for ever, and even write to it.
pub(crate) async fn read_lines(
    pipe: OwnedFd,
    mut exit: watch::Receiver<Option<Exit>>,
    mut sink: impl FnMut(&str),
) -> io::Result<()> {
    let pipe = Receiver::from_owned_fd(pipe)?;
    let mut splitter = LineSplitter::default();
    let mut has_ended = false;
    let mut rest = limit::OUTPUT_REST_MAX;
    // Kept only while there is something to read: most plugins are silent most of the time.
    let mut buffer = Vec::new();
    loop {
        has_ended |= exit.borrow().is_some();
        buffer.resize(limit::OUTPUT_LINE_MAX, 0);
        match pipe.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                splitter.push(&buffer[..count], &mut sink);
                if has_ended {
                    rest = rest.saturating_sub(count);
                    if rest == 0 {
                        break;
                    }
                }
                // A plugin that prints without pause must not keep this thread to itself.
                tokio::task::yield_now().await;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && has_ended => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = Vec::new(),
            Err(error) => return Err(error),
        }
        tokio::select! {
            ready = pipe.readable() => ready?,
            // An error means that nobody watches the process any more; its output ends here too.
            _ = exit.wait_for(Option::is_some) => has_ended = true,
        }
    }
    splitter.finish(&mut sink);
    Ok(())
}

/// Cuts bytes into lines of at most [`limit::OUTPUT_LINE_MAX`] bytes; longer ones come in pieces.
#[derive(Debug, Default)]
struct LineSplitter {
    partial: Vec<u8>,
}

impl LineSplitter {
    fn push(&mut self, mut bytes: &[u8], sink: &mut impl FnMut(&str)) {
        while !bytes.is_empty() {
            let room = limit::OUTPUT_LINE_MAX - self.partial.len();
            let newline = bytes.iter().position(|&byte| byte == b'\n');
            match newline {
                Some(end) if end <= room => {
                    self.partial.extend_from_slice(&bytes[..end]);
                    self.emit(sink);
                    bytes = &bytes[end + 1..];
                }
                _ => {
                    let (piece, rest) = bytes.split_at(room.min(bytes.len()));
                    self.partial.extend_from_slice(piece);
                    bytes = rest;
                    if self.partial.len() == limit::OUTPUT_LINE_MAX
                        && newline.is_none_or(|end| end > room)
                    {
                        self.emit_piece(sink);
                    }
                }
            }
        }
    }

    /// Emits what has no line end.
    fn finish(&mut self, sink: &mut impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.emit(sink);
        }
    }

    fn emit(&mut self, sink: &mut impl FnMut(&str)) {
        let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        sink(&String::from_utf8_lossy(line));
        self.partial.clear();
    }

    /// Emits a full buffer, but keeps the bytes of a character that is not complete yet.
    fn emit_piece(&mut self, sink: &mut impl FnMut(&str)) {
        let cut = match std::str::from_utf8(&self.partial) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Ok(_) | Err(_) => self.partial.len(),
        };
        let cut = if cut == 0 { self.partial.len() } else { cut };
        sink(&String::from_utf8_lossy(&self.partial[..cut]));
        self.partial.drain(..cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_the_bytes_arrive() {
        let text = "one\ntwo\r\n\nthrée\nlast".as_bytes();
        let expected = ["one", "two", "", "thrée", "last"];
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(split(&pieces), expected, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_line_without_end_comes_in_bounded_pieces_and_nothing_is_lost() {
        for shift in 0..4 {
            let text = "x".repeat(shift) + &"ü€".repeat(limit::OUTPUT_LINE_MAX);
            let lines = split(&text.as_bytes().chunks(1000).collect::<Vec<_>>());
            assert!(lines.len() > 4);
            assert!(lines.iter().all(|line| line.len() <= limit::OUTPUT_LINE_MAX));
            assert_eq!(lines.concat(), text);
        }
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_line() {
        let line = "y".repeat(limit::OUTPUT_LINE_MAX);
        assert_eq!(split(&[format!("{line}\nz\n").as_bytes()]), [line.as_str(), "z"]);
    }

    #[test]
    fn what_is_not_utf_8_is_shown_as_such() {
        assert_eq!(split(&[b"a\xff\xfeb\n"]), ["a\u{fffd}\u{fffd}b"]);
        let binary = vec![0xff; limit::OUTPUT_LINE_MAX * 2];
        assert!(split(&[&binary]).iter().all(|line| line.chars().all(|c| c == '\u{fffd}')));
    }

    fn split(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut splitter = LineSplitter::default();
        for piece in pieces {
            splitter.push(piece, &mut |line: &str| lines.push(line.to_owned()));
        }
        splitter.finish(&mut |line: &str| lines.push(line.to_owned()));
        lines
    }
}
