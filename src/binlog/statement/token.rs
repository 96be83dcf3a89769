//! Words, names, strings and marks of a statement; comments are passed over.

use std::ops::Range;

use crate::binlog::body::SqlMode;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// A keyword, a bare name or a number.
    Word(&'a [u8]),
    /// A name in backquotes (or, with ANSI_QUOTES, in double quotes).
    Name(String),
    /// A string.
    Text,
    /// Any other character.
    Mark(u8),
}

/// The tokens of a statement with their places in it.
#[derive(Debug, Clone)]
pub(crate) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    sql_mode: SqlMode,
}

impl<'a> Tokens<'a> {
    pub(crate) fn new(text: &'a [u8], sql_mode: SqlMode) -> Tokens<'a> {
        Tokens { text, at: 0, sql_mode }
    }

    fn byte(&self, offset: usize) -> Option<u8> {
        self.text.get(self.at + offset).copied()
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Passes over white space and comments. Of a comment that the server executes only the marks around it.
    fn pass_blank(&mut self) {
        loop {
            match self.byte(0) {
                Some(byte) if byte.is_ascii_whitespace() || byte == 0 => self.at += 1,
                Some(b'#') => self.pass_line(),
                Some(b'-')
                    if self.byte(1) == Some(b'-')
                        && self.byte(2).is_none_or(|b| b.is_ascii_whitespace() || b.is_ascii_control()) =>
                {
                    self.pass_line();
                }
                Some(b'/') if self.byte(1) == Some(b'*') => self.pass_comment(),
                // The end of an executed comment; nowhere else may the two stand together.
                Some(b'*') if self.byte(1) == Some(b'/') => self.at += 2,
                _ => return,
            }
        }
    }

    fn pass_line(&mut self) {
        self.at += self.rest().iter().position(|b| *b == b'\n').map_or(self.rest().len(), |end| end + 1);
    }

    fn pass_comment(&mut self) {
        let rest = self.rest();
        let (mark, of_mariadb) = match rest {
            [_, _, b'!', ..] => (3, false),
            [_, _, b'M', b'!', ..] => (4, true),
            _ => (0, false),
        };
        if mark > 0 {
            let digits = rest.iter().skip(mark).take(6).take_while(|b| b.is_ascii_digit()).count();
            let version = rest.iter().skip(mark).take(digits).fold(0u32, |v, b| v * 10 + u32::from(b - b'0'));
            // MariaDB takes 5.7 and what follows, up to 9.99.99, for versions of MySQL that it is not.
            if digits == 0 || of_mariadb || !(50_700..=99_999).contains(&version) {
                self.at += mark + digits;
                return;
            }
        }
        let end = rest.get(2..).unwrap_or_default().windows(2).position(|pair| pair == b"*/");
        self.at += end.map_or(rest.len(), |end| 2 + end + 2);
    }

    /// Passes over what stands in quotes and returns it, with the quotes taken off and doubled ones made single.
    fn quoted(&mut self, quote: u8, escapes: bool) -> Vec<u8> {
        self.at += 1;
        let mut inner = Vec::new();
        while let Some(byte) = self.byte(0) {
            self.at += 1;
            if byte == b'\\' && escapes {
                self.at += 1;
            } else if byte != quote {
                inner.push(byte);
            } else if self.byte(0) == Some(quote) {
                inner.push(quote);
                self.at += 1;
            } else {
                break;
            }
        }
        self.at = self.at.min(self.text.len());
        inner
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (Token<'a>, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        self.pass_blank();
        let begin = self.at;
        let token = match self.byte(0)? {
            b'`' => Token::Name(String::from_utf8_lossy(&self.quoted(b'`', false)).into_owned()),
            b'"' if self.sql_mode.has_ansi_quotes() => {
                Token::Name(String::from_utf8_lossy(&self.quoted(b'"', false)).into_owned())
            }
            quote @ (b'\'' | b'"') => {
                self.quoted(quote, !self.sql_mode.has_no_backslash_escapes());
                Token::Text
            }
            byte if is_word(byte) => {
                let bytes = self.rest().iter().take_while(|b| is_word(**b)).count();
                self.at += bytes;
                Token::Word(self.text.get(begin..self.at).unwrap_or_default())
            }
            mark => {
                self.at += 1;
                Token::Mark(mark)
            }
        };
        Some((token, begin..self.at))
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}
