//! Cuts the text of a dump into comments and statements, where the server's client would.
//!
//! It knows strings, quoted names and comments, so text within data that looks like a comment or like the end of a
//! statement is passed over. It does not know `DELIMITER`: stored code never passes through here. Pure, takes pieces of
//! any size, holds nothing of a statement.

use crate::error::{Error, ErrorKind};

/// A comment that is longer is cut; only its beginning is looked at.
const COMMENT_BYTES_MAX: usize = 4096;
/// The first line with which MariaDB's tool has a client give up its own commands. It is no statement.
const SANDBOX: &[u8] = b"/*M!999999\\-";
/// A first line is not longer.
const FIRST_LINE_BYTES_MAX: usize = 256;

/// What a scan finds, in order.
pub(super) trait Sink {
    /// A comment of one line between two statements, without its end.
    fn comment(&mut self, line: &[u8]) -> Result<(), Error>;
    /// The next bytes of a statement.
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error>;
    /// A statement has ended, with its semicolon.
    fn end(&mut self, statement: Statement) -> Result<(), Error>;
    /// The first line has a client give up its own commands.
    fn sandbox(&mut self, line: &[u8]);
}

/// What is known of a whole statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Statement {
    pub(super) bytes: u64,
    /// Pairs of parentheses that are in no other.
    pub(super) groups: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    FirstLine,
    Between,
    /// A line between statements that begins with a dash.
    Comment,
    Plain,
    /// Within quotes of this kind.
    Quoted(u8),
    /// Behind a backslash in quotes of this kind.
    Escaped(u8),
    /// Behind two dashes: a comment if white space follows.
    Dashes,
    /// Behind `/*`: a comment unless the server reads it.
    Slash,
    /// Behind `/*M`.
    SlashM,
    /// A comment up to the end of the line.
    Line,
    /// A comment up to `*/`; whether a star came just now.
    Block(bool),
}

pub(super) struct Scanner {
    state: State,
    /// The byte before, in plain text only.
    previous: u8,
    depth: u32,
    statement: Statement,
    line: Vec<u8>,
}

impl Scanner {
    pub(super) fn new() -> Scanner {
        Scanner {
            state: State::FirstLine,
            previous: 0,
            depth: 0,
            statement: Statement { bytes: 0, groups: 0 },
            line: Vec::new(),
        }
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, mut bytes: &[u8], sink: &mut impl Sink) -> Result<(), Error> {
        while !bytes.is_empty() {
            let taken = match self.state {
                State::FirstLine => self.take_first_line(bytes, sink)?,
                State::Between => self.take_between(bytes),
                State::Comment => self.take_comment(bytes, sink)?,
                _ => self.take_statement(bytes, sink)?,
            };
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Fails unless the text may end here.
    pub(super) fn finish(&self) -> Result<(), Error> {
        match self.state {
            State::Between => Ok(()),
            _ => Err(Error::new(ErrorKind::Corrupt, "the dump ends within a statement")),
        }
    }

    fn take_first_line(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Error> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        self.line.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.line.len() > FIRST_LINE_BYTES_MAX {
            return Err(Error::new(ErrorKind::Corrupt, "the dump does not begin as a dump does"));
        }
        if end.is_some() {
            let line = std::mem::take(&mut self.line);
            self.state = State::Between;
            if line.starts_with(SANDBOX) {
                sink.sandbox(&line);
            } else {
                self.push(&line, sink)?;
            }
        }
        Ok(taken)
    }

    fn take_between(&mut self, bytes: &[u8]) -> usize {
        let blank = bytes.iter().position(|byte| !byte.is_ascii_whitespace());
        match blank.and_then(|at| bytes.get(at)) {
            None => {}
            Some(b'-') => self.state = State::Comment,
            Some(_) => {
                self.state = State::Plain;
                (self.previous, self.depth, self.statement) = (0, 0, Statement { bytes: 0, groups: 0 });
            }
        }
        blank.unwrap_or(bytes.len())
    }

    fn take_comment(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Error> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let text = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let room = COMMENT_BYTES_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(text.get(..room.min(text.len())).unwrap_or_default());
        let Some(end) = end else { return Ok(bytes.len()) };
        let line = std::mem::take(&mut self.line);
        if !line.starts_with(b"--") {
            return Err(Error::new(ErrorKind::Corrupt, "the dump holds a line that is no statement and no comment"));
        }
        self.state = State::Between;
        sink.comment(&line)?;
        Ok(end + 1)
    }

    /// Takes bytes of a statement up to its end.
    fn take_statement(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<usize, Error> {
        let mut at = 0;
        let mut has_ended = false;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty() && !has_ended) {
            at += match self.state {
                State::Plain => self.take_plain(rest, &mut has_ended),
                State::Quoted(quote) => self.take_quoted(rest, quote),
                State::Line => self.take_until(rest, |byte| byte == b'\n'),
                _ => self.take_one(rest),
            };
        }
        self.statement.bytes += at as u64;
        sink.bytes(bytes.get(..at).unwrap_or_default())?;
        if has_ended {
            self.state = State::Between;
            sink.end(self.statement)?;
        }
        Ok(at)
    }

    fn take_plain(&mut self, bytes: &[u8], has_ended: &mut bool) -> usize {
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'\'' | b'"' | b'`' => self.state = State::Quoted(byte),
                b';' => *has_ended = true,
                b'(' => {
                    self.statement.groups += u64::from(self.depth == 0);
                    self.depth += 1;
                }
                b')' => self.depth = self.depth.saturating_sub(1),
                b'#' => self.state = State::Line,
                b'-' if self.previous == b'-' => self.state = State::Dashes,
                b'*' if self.previous == b'/' => self.state = State::Slash,
                _ => {}
            }
            self.previous = byte;
            if *has_ended || self.state != State::Plain {
                return at + 1;
            }
        }
        bytes.len()
    }

    fn take_quoted(&mut self, bytes: &[u8], quote: u8) -> usize {
        let is_special = |byte: &u8| *byte == quote || (*byte == b'\\' && quote != b'`');
        let Some(at) = bytes.iter().position(is_special) else { return bytes.len() };
        // A doubled quote ends the text and begins it again at once.
        self.state = if bytes.get(at) == Some(&quote) { State::Plain } else { State::Escaped(quote) };
        self.previous = 0;
        at + 1
    }

    fn take_until(&mut self, bytes: &[u8], is_end: impl Fn(u8) -> bool) -> usize {
        let Some(at) = bytes.iter().position(|byte| is_end(*byte)) else { return bytes.len() };
        (self.state, self.previous) = (State::Plain, 0);
        at + 1
    }

    /// Takes the one byte that decides how it goes on; none if it is to be looked at again.
    fn take_one(&mut self, bytes: &[u8]) -> usize {
        let Some(&byte) = bytes.first() else { return 0 };
        let (state, taken) = match (self.state, byte) {
            (State::Escaped(quote), _) => (State::Quoted(quote), 1),
            (State::Dashes, byte) if byte.is_ascii_whitespace() => (State::Line, 0),
            (State::Slash, b'!' | b'+') | (State::SlashM, b'!') => (State::Plain, 1),
            (State::Slash, b'M') => (State::SlashM, 1),
            (State::Slash | State::SlashM, _) => (State::Block(false), 0),
            (State::Block(true), b'/') => (State::Plain, 1),
            (State::Block(_), byte) => (State::Block(byte == b'*'), 1),
            _ => (State::Plain, 0),
        };
        if state == State::Plain {
            self.previous = 0;
        }
        self.state = state;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default, PartialEq, Debug)]
    struct Found {
        lines: Vec<String>,
        current: Vec<u8>,
    }

    impl Sink for Found {
        fn comment(&mut self, line: &[u8]) -> Result<(), Error> {
            self.lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        }

        fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
            self.current.extend_from_slice(bytes);
            Ok(())
        }

        fn end(&mut self, statement: Statement) -> Result<(), Error> {
            let text = String::from_utf8(std::mem::take(&mut self.current)).unwrap();
            assert_eq!(text.len() as u64, statement.bytes);
            self.lines.push(format!("{} {text}", statement.groups));
            Ok(())
        }

        fn sandbox(&mut self, line: &[u8]) {
            self.lines.push(format!("sandbox {}", String::from_utf8_lossy(line).trim_end()));
        }
    }

    fn scan(text: &str, size: usize) -> Result<Vec<String>, Error> {
        let (mut scanner, mut found) = (Scanner::new(), Found::default());
        for piece in text.as_bytes().chunks(size) {
            scanner.push(piece, &mut found)?;
        }
        scanner.finish()?;
        Ok(found.lines)
    }

    /// The same however the text comes.
    fn check(text: &str, expected: &[&str]) {
        for size in [1, 2, 3, 7, 1000] {
            assert_eq!(scan(text, size).unwrap(), expected, "in pieces of {size}: {text}");
        }
    }

    #[test]
    fn text_that_looks_like_a_comment_or_an_end_is_passed_over() {
        check("\nA 'x;\n-- y\n' \"z;'\\\";\" `q;\n-- ``'r\\`;\n", &["0 A 'x;\n-- y\n' \"z;'\\\";\" `q;\n-- ``'r\\`;"]);
        check("\nA '\\\\';\n--\n-- c 'd;\nB;;\n", &["0 A '\\\\';", "--", "-- c 'd;", "0 B;", "0 ;"]);
        check("\nA 'it''s;';\n", &["0 A 'it''s;';"]);
    }

    #[test]
    fn comments_within_a_statement_are_the_clients() {
        check("\nA -- it's;\n;\n", &["0 A -- it's;\n;"]);
        check("\nA # it's;\n;\n", &["0 A # it's;\n;"]);
        check("\nA /* it's; **/ B;\n", &["0 A /* it's; **/ B;"]);
        check(
            "\nA --1;\n/*!50001 'x;' */;\n/*M!101100 'y;' */;\n",
            &["0 A --1;", "0 /*!50001 'x;' */;", "0 /*M!101100 'y;' */;"],
        );
        check("\nA 1/'*;';\n", &["0 A 1/'*;';"]);
    }

    #[test]
    fn rows_are_groups_that_stand_in_no_other() {
        check(
            "\nINSERT INTO `t(` (`a(`, `b`) VALUES (1,'),('),\n(2,f(3)),(0x28,NULL);\n",
            &["4 INSERT INTO `t(` (`a(`, `b`) VALUES (1,'),('),\n(2,f(3)),(0x28,NULL);"],
        );
    }

    #[test]
    fn the_line_that_has_a_client_give_up_its_commands_is_no_statement() {
        check(
            "/*M!999999\\- enable the sandbox mode */ \n-- x\nA;\n",
            &["sandbox /*M!999999\\- enable the sandbox mode */", "-- x", "0 A;"],
        );
    }

    #[test]
    fn a_text_cut_off_within_a_statement_is_not_whole() {
        for text in ["\nA", "\nA 'x;\n", "\nA `;\n", "\n-- x", "-- Dump"] {
            assert_eq!(scan(text, 1000).unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
        }
        assert!(scan("\n-x\n", 1000).is_err());
    }
}
