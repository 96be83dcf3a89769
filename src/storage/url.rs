//! Addresses of stores.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, ErrorKind};

/// The folder a `file://` address names. Other schemes are not offered yet and are told by name.
pub(super) fn parse(url: &str) -> Result<PathBuf, Error> {
    let bad = |why: &str| {
        Error::new(ErrorKind::InvalidInput, format!("the repository address `{url}` {why}"))
            .hint("Write it as file:///absolute/folder.")
    };
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(bad("has no scheme"));
    };
    match scheme {
        "file" => {}
        "s3" | "swift" => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("repositories in `{scheme}://` are not supported yet"),
            )
            .hint("Use a folder: file:///absolute/folder."));
        }
        _ => return Err(bad("has an unknown scheme")),
    }
    let path = PathBuf::from(decode(rest).ok_or_else(|| bad("is not well-formed"))?);
    if !path.is_absolute() {
        return Err(bad("does not name an absolute folder"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(bad("contains `..`"));
    }
    // Collected anew, so that a trailing slash does not show up in what people read.
    Ok(path.components().collect())
}

/// The address of `folder`.
pub(super) fn render(folder: &Path) -> String {
    let mut url = String::from("file://");
    for byte in folder.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || b"/.-_~+@:,=".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

/// Resolves `%41`; `None` when the text is not well-formed or not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                bytes.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'?' | b'#' | 0 => return None,
            byte => bytes.push(byte),
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains('\0')).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_address_goes_there_and_back() {
        for (url, folder) in
            [("file:///srv/backups/", "/srv/backups"), ("file:///my%20disk/%C3%A4", "/my disk/ä"), ("file:///", "/")]
        {
            let parsed = parse(url).unwrap();
            assert_eq!(parsed, Path::new(folder));
            assert_eq!(parse(&render(&parsed)).unwrap(), parsed);
        }
    }

    #[test]
    fn bad_addresses_are_told_apart() {
        for bad in [
            "/srv",
            "file://host/dir",
            "file://rel",
            "ftp://x/y",
            "file:///a%2",
            "file:///a%zz",
            "file:///a?b",
            "file:///a/../b",
            "file:///%00",
            "",
        ] {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        for later in ["s3://bucket/prefix", "swift://container/prefix"] {
            let err = parse(later).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unsupported);
            assert!(err.message().contains(later.split(':').next().unwrap()));
        }
    }
}
