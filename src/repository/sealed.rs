//! JSON that carries its own digest: the last member, `seal`, is the SHA-256 of the text without it.
//!
//! The digest is taken over bytes as they stand in the file and not over a form made again from what was parsed, so that
//! it does not depend on how any version of a library writes JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{check_format, corrupt, sha256_hex};
use crate::error::{Error, ErrorKind};

pub(super) const SEAL_BEFORE: &[u8] = b",\n  \"seal\": \"";
pub(super) const SEAL_BEHIND: &[u8] = b"\"\n}\n";
pub(super) const BODY_END: &[u8] = b"\n}";

/// The sealed text of `value`, which serializes to an object with at least one member.
pub(super) fn render<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    let internal = || Error::new(ErrorKind::Internal, "unable to write JSON");
    let mut text = serde_json::to_vec_pretty(value).map_err(|err| internal().with_source(err))?;
    let digest = sha256_hex(&text);
    if !text.ends_with(BODY_END) {
        return Err(internal());
    }
    text.truncate(text.len() - BODY_END.len());
    for piece in [SEAL_BEFORE, digest.as_bytes(), SEAL_BEHIND] {
        text.extend_from_slice(piece);
    }
    Ok(text)
}

/// What `render` wrote. A newer format is refused by its number before anything else is looked at.
pub(super) fn parse<T: DeserializeOwned>(mut text: Vec<u8>, location: &str) -> Result<T, Error> {
    check_format(&text, location)?;
    let unsealed = |why: &str| corrupt(location, why);
    let seal_length = SEAL_BEFORE.len() + 64 + SEAL_BEHIND.len();
    let body_length = text.len().checked_sub(seal_length).ok_or_else(|| unsealed("its seal is missing"))?;
    let seal = text.split_off(body_length);
    let digest = seal
        .strip_prefix(SEAL_BEFORE)
        .and_then(|rest| rest.strip_suffix(SEAL_BEHIND))
        .ok_or_else(|| unsealed("its seal is missing"))?;
    text.extend_from_slice(BODY_END);
    if sha256_hex(&text).as_bytes() != digest {
        return Err(unsealed("its seal does not match"));
    }
    serde_json::from_slice(&text).map_err(|err| corrupt(location, err))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        format: u32,
        text: String,
    }

    #[test]
    fn what_is_sealed_is_json_and_reads_back() {
        let thing = Thing { format: 1, text: "}\n\"".to_owned() };
        let text = render(&thing).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(json["text"], "}\n\"");
        assert_eq!(json["seal"].as_str().unwrap().len(), 64);
        assert_eq!(parse::<Thing>(text, "here").unwrap(), thing);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_seen() {
        let text = render(&Thing { format: 1, text: "abc".to_owned() }).unwrap();
        for at in 0..text.len() * 8 {
            let mut bad = text.clone();
            bad[at / 8] ^= 1 << (at % 8);
            let err = parse::<Thing>(bad, "here").unwrap_err();
            // A flip in the format number may make it a newer one, which is told first.
            assert!(matches!(err.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported), "bit {at}: {err}");
            assert!(err.message().contains("`here`"));
        }
        for cut in 0..text.len() {
            assert_eq!(parse::<Thing>(text[..cut].to_vec(), "here").unwrap_err().kind(), ErrorKind::Corrupt, "{cut}");
        }
    }

    #[test]
    fn a_newer_format_is_told_before_a_missing_seal() {
        let err = parse::<Thing>(br#"{"format": 2, "other": []}"#.to_vec(), "here").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::Unsupported);
        assert!(err.message().contains("format 2"));
    }
}
