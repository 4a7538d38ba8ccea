//! Rust source as tokens with line numbers: enough for the checks of `tidy`, and no more.
//!
//! This is not a parser. It knows comments, literals and lifetimes, so that no check mistakes text
//! for code, and it knows where test code begins and ends. Code that rustc refuses gives tokens of
//! some kind, never a panic.

/// A word, a literal or one character of punctuation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// Counted from 1.
    pub(crate) line: usize,
}

/// A file without its comments.
#[derive(Debug)]
pub(crate) struct Source {
    /// The tokens outside of `#[cfg(test)]` items.
    pub(crate) tokens: Vec<Token>,
    /// How many lines lie in such items.
    pub(crate) test_line_count: usize,
    /// The text of all `//!` lines.
    pub(crate) module_docs: String,
}

impl Source {
    pub(crate) fn parse(text: &str) -> Self {
        let module_docs = text
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("//!"))
            .collect::<Vec<_>>()
            .join("\n");
        let mut tokens = tokens(text);
        let mut test_line_count = 0;
        let mut index = 0;
        while index < tokens.len() {
            match test_item_end(&tokens, index) {
                Some(end) => {
                    test_line_count += tokens[end - 1].line - tokens[index].line + 1;
                    tokens.drain(index..end);
                }
                None => index += 1,
            }
        }
        Self { tokens, test_line_count, module_docs }
    }

    /// Lines at which these tokens follow each other.
    pub(crate) fn find<'a>(&'a self, wanted: &'a [&'a str]) -> impl Iterator<Item = usize> + 'a {
        self.tokens
            .windows(wanted.len())
            .filter(move |window| matches(window, wanted))
            .map(|window| window[0].line)
    }
}

pub(crate) fn matches(tokens: &[Token], wanted: &[&str]) -> bool {
    tokens.len() >= wanted.len()
        && tokens.iter().zip(wanted).all(|(token, wanted)| token.text == *wanted)
}

/// The index behind the bracket that closes the one at `open`.
pub(crate) fn group_end(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index + 1;
                }
            }
            _ => (),
        }
    }
    tokens.len()
}

/// Where the item ends that starts at `start` with an attribute of test code, if one does. For the
/// inner attribute `#![cfg(test)]` that is the end of the file.
fn test_item_end(tokens: &[Token], start: usize) -> Option<usize> {
    let inner = matches(&tokens[start..], &["#", "!", "[", "cfg"]);
    if !inner && !matches(&tokens[start..], &["#", "[", "cfg"]) {
        return None;
    }
    let open = start + if inner { 2 } else { 1 };
    let mut index = group_end(tokens, open);
    let mentions = |word| tokens[open..index].iter().any(|token| token.text == word);
    if !mentions("test") || mentions("not") {
        return None;
    }
    if inner {
        return Some(tokens.len());
    }
    while index < tokens.len() {
        match tokens[index].text.as_str() {
            ";" => return Some(index + 1),
            "{" => {
                let end = group_end(tokens, index);
                // A `use` with braces goes on to its semicolon.
                return Some(if matches(&tokens[end..], &[";"]) { end + 1 } else { end });
            }
            "(" | "[" => index = group_end(tokens, index),
            _ => index += 1,
        }
    }
    Some(tokens.len())
}

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let mut scanner = Scanner { chars: &chars, index: 0, line: 1 };
    let mut tokens = Vec::new();
    while let Some(token) = scanner.next_token() {
        tokens.push(token);
    }
    tokens
}

struct Scanner<'a> {
    chars: &'a [char],
    index: usize,
    line: usize,
}

impl Scanner<'_> {
    fn next_token(&mut self) -> Option<Token> {
        loop {
            let (start, line) = (self.index, self.line);
            let is_token = match self.peek(0)? {
                '/' if self.peek(1) == Some('/') => self.skip_line(),
                '/' if self.peek(1) == Some('*') => self.skip_block_comment(),
                '"' => self.skip_string(),
                '\'' => self.skip_quote(),
                letter if is_word(letter) => self.skip_word_or_prefixed_literal(),
                letter => {
                    self.bump(1);
                    !letter.is_whitespace()
                }
            };
            if is_token {
                let text = self.chars[start..self.index].iter().collect();
                return Some(Token { text, line });
            }
        }
    }

    // Each of these skips one thing and says whether it was a token.

    fn skip_line(&mut self) -> bool {
        while self.peek(0).is_some_and(|letter| letter != '\n') {
            self.bump(1);
        }
        false
    }

    fn skip_block_comment(&mut self) -> bool {
        let mut depth = 0;
        while self.peek(0).is_some() {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.bump(2);
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.bump(2);
                    if depth == 0 {
                        break;
                    }
                }
                _ => self.bump(1),
            }
        }
        false
    }

    fn skip_string(&mut self) -> bool {
        self.bump(1);
        while let Some(letter) = self.peek(0) {
            match letter {
                '\\' => self.bump(2),
                '"' => {
                    self.bump(1);
                    break;
                }
                _ => self.bump(1),
            }
        }
        true
    }

    fn skip_raw_string(&mut self) -> bool {
        let mut hashes = 0;
        while self.peek(0) == Some('#') {
            hashes += 1;
            self.bump(1);
        }
        self.bump(1);
        while let Some(letter) = self.peek(0) {
            self.bump(1);
            if letter == '"' && (0..hashes).all(|ahead| self.peek(ahead) == Some('#')) {
                self.bump(hashes);
                break;
            }
        }
        true
    }

    /// A character, or a lifetime, which has no closing quote.
    fn skip_quote(&mut self) -> bool {
        if self.peek(1) == Some('\\') {
            self.bump(3);
            while self.peek(0).is_some_and(|letter| letter != '\'') {
                self.bump(1);
            }
            self.bump(1);
        } else if self.peek(2) == Some('\'') {
            self.bump(3);
        } else {
            self.bump(1);
            while self.peek(0).is_some_and(is_word) {
                self.bump(1);
            }
        }
        true
    }

    fn skip_word_or_prefixed_literal(&mut self) -> bool {
        let start = self.index;
        while self.peek(0).is_some_and(is_word) {
            self.bump(1);
        }
        let word: String = self.chars[start..self.index].iter().collect();
        match (word.as_str(), self.peek(0)) {
            ("b" | "c", Some('"')) => self.skip_string(),
            ("b", Some('\'')) => self.skip_quote(),
            ("r" | "br" | "cr", Some('"')) => self.skip_raw_string(),
            // `r#"` opens a raw string, `r#name` is a word.
            ("r" | "br" | "cr", Some('#')) if matches!(self.peek(1), Some('#' | '"')) => {
                self.skip_raw_string()
            }
            _ => true,
        }
    }

    fn bump(&mut self, count: usize) {
        for _ in 0..count {
            if self.peek(0) == Some('\n') {
                self.line += 1;
            }
            self.index = (self.index + 1).min(self.chars.len());
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.index + ahead).copied()
    }
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_not_code() {
        let text = r####"
            // crate::a
            /* crate::b /* nested */ crate::c */
            let s = "crate::d \" crate::e"; let r = r#"crate::f " "#; let c = '"'; let l: &'a str;
            let b = b"crate::g"; let e = '\''; crate::h
        "####;
        let words: Vec<String> = tokens(text).into_iter().map(|token| token.text).collect();
        let paths: Vec<&String> = words
            .iter()
            .enumerate()
            .filter(|(_, word)| *word == "crate")
            .map(|(index, _)| &words[index + 3])
            .collect();
        assert_eq!(paths, ["h"]);
        assert!(words.contains(&"'a".to_owned()));
    }

    #[test]
    fn test_items_are_left_out() {
        let source = Source::parse(
            "//! Docs.\n\nfn a() {}\n#[cfg(test)]\nuse x::{y, z};\n#[cfg(not(test))]\nfn b() {}\n\
             #[cfg(all(test, unix))]\n#[path = \"t.rs\"]\nmod tests {\n    fn c() { d() }\n}\n\
             fn e() {}\n",
        );
        let functions: Vec<usize> = source.find(&["fn"]).collect();
        assert_eq!(functions, [3, 7, 13]);
        assert_eq!(source.test_line_count, 2 + 5);
        assert_eq!(source.module_docs, " Docs.");
    }

    #[test]
    fn a_test_only_file_has_no_tokens() {
        assert_eq!(Source::parse("#![cfg(test)]\nfn a() {}\n").tokens, []);
    }
}
