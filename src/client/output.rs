//! What the clients print, in one place.
//!
//! Everything goes through `clean`, since names, statements and messages come from elsewhere and a terminal obeys
//! control characters. A reader that went away (`coffer ... | head`) is no failure.

use std::io::{self, IsTerminal, Write};

use serde_json::Value;

/// One line on standard output.
pub(crate) fn say(line: impl AsRef<str>) {
    write_to(&mut io::stdout().lock(), line.as_ref());
}

/// One line on standard error: progress and what went wrong.
pub(crate) fn note(line: impl AsRef<str>) {
    write_to(&mut io::stderr().lock(), line.as_ref());
}

/// The API's answer, for scripts.
pub(crate) fn say_json(value: &Value) {
    // JSON escapes control characters by itself.
    let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| "null".to_owned());
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Whether somebody watches.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// `text` without anything a terminal would obey; line ends stay.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn write_to(out: &mut impl Write, line: &str) {
    // There is nobody to tell when the reader is gone.
    let _ = writeln!(out, "{}", clean(line));
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn a_terminal_is_not_commanded_by_a_name() {
        assert_eq!(clean("a\u{1b}[2Jb\rc\nd"), "a\u{fffd}[2Jb\u{fffd}c\nd");
    }
}
