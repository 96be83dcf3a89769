//! Who may ask: the holder of a token, sent as `X-Auth-Token` or as the password of HTTP Basic. No cookies, so that no
//! page of another site can borrow a browser's right.

use crate::api::call::Request;
use crate::error::{Error, ErrorKind};
use crate::service::Service;

/// Fails with `Unauthorized` unless the request carries a known token.
pub(super) fn check(service: &Service, request: &Request) -> Result<(), Error> {
    let secret = match (&request.token, &request.authorization) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(authorization)) => basic_password(authorization),
        (None, None) => None,
    };
    let Some(secret) = secret else {
        return Err(Error::new(ErrorKind::Unauthorized, "the request carries no token").hint(HINT));
    };
    if service.knows_token(&secret)? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unauthorized, "the token is not known here").hint(HINT))
}

const HINT: &str = "Send the token from the file `token` in the state directory as X-Auth-Token.";

fn basic_password(authorization: &str) -> Option<String> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let pair = String::from_utf8(decode_base64(encoded.trim())?).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len());
    for group in text.chunks(4) {
        let mut bits = 0_u32;
        for symbol in group {
            let value = match symbol {
                b'A'..=b'Z' => symbol - b'A',
                b'a'..=b'z' => symbol - b'a' + 26,
                b'0'..=b'9' => symbol - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let count = match group.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        bits <<= 6 * (4 - group.len());
        bytes.extend(bits.to_be_bytes().iter().skip(1).take(count));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::bench::Bench;

    #[test]
    fn the_password_of_basic_is_read() {
        for (header, password) in [
            ("Basic dTpwYXNz", Some("pass")),
            ("basic dTpwYXNzdw==", Some("passw")),
            ("Basic dTpwYXNzdzA=", Some("passw0")),
            ("Basic dTpwOnE=", Some("p:q")),
            ("Basic dXBhc3M=", None),
            ("Basic d", None),
            ("Basic !!!!", None),
            ("Bearer dTpwYXNz", None),
            ("Basic", None),
        ] {
            assert_eq!(basic_password(header).as_deref(), password, "{header}");
        }
    }

    #[test]
    fn either_door_takes_the_token_and_nothing_else() {
        let bench = Bench::new();
        bench.store.write(|tx| tx.insert_token(&crate::service::hex_of("pass"), "first")).unwrap();
        let with = |token: Option<&str>, authorization: Option<&str>| {
            let request = Request {
                token: token.map(str::to_owned),
                authorization: authorization.map(str::to_owned),
                ..Request::default()
            };
            check(&bench.service, &request).map_err(|error| error.kind())
        };
        assert_eq!(with(Some("pass"), None), Ok(()));
        assert_eq!(with(None, Some("Basic dTpwYXNz")), Ok(()));
        for (token, authorization) in [
            (None, None),
            (Some(""), None),
            (Some("notused"), None),
            (Some("notused"), Some("Basic dTpwYXNz")),
            (None, Some("Basic dTpwYXNzdw==")),
        ] {
            assert_eq!(with(token, authorization), Err(ErrorKind::Unauthorized), "{token:?} {authorization:?}");
        }
    }
}
