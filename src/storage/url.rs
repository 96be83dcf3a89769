//! Addresses of stores.
//!
//! An address is one URL. What is not secret about reaching the store stands in its query; credentials never do.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use ureq::http::Uri;

use super::KEY_BYTES_MAX;
use crate::error::{Error, ErrorKind};

const FORMS: &str = "Write it as file:///absolute/folder, as s3://bucket/prefix?endpoint=https://host&region=name, or as \
                     swift://container/prefix?auth_url=https://host/v3.";
const S3_KEYS: &[&str] = &["endpoint", "region", "path_style"];
const SWIFT_KEYS: &[&str] = &["auth_url", "region", "interface"];
const S3_REGION_DEFAULT: &str = "us-east-1";

/// A store, as its address names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Folder(PathBuf),
    S3(S3Address),
    Swift(SwiftAddress),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct S3Address {
    pub(super) bucket: String,
    /// Empty, or ends in `/`: what stands in front of every key.
    pub(super) prefix: String,
    /// `https://host[:port]`, without the bucket and without a slash at the end.
    pub(super) endpoint: String,
    pub(super) region: String,
    /// The bucket is the first segment of the path, and not the first label of the host.
    pub(super) path_style: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SwiftAddress {
    pub(super) container: String,
    /// Empty, or ends in `/`: what stands in front of every key.
    pub(super) prefix: String,
    /// Without a slash at the end. Of auth v1 the address to ask, of Keystone the one that ends in `/v3`.
    pub(super) auth_url: String,
    pub(super) auth: SwiftAuth,
    /// Which of the catalog's regions; the only one when there is one.
    pub(super) region: Option<String>,
    pub(super) interface: SwiftInterface,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SwiftAuth {
    /// TempAuth and its like.
    V1,
    /// Keystone.
    V3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SwiftInterface {
    Public,
    Internal,
}

impl S3Address {
    /// The address without its query, as it stands in `locationRef`s.
    pub(super) fn render(&self) -> String {
        render_object("s3", &self.bucket, &self.prefix)
    }
}

impl SwiftAddress {
    /// As `S3Address::render`.
    pub(super) fn render(&self) -> String {
        render_object("swift", &self.container, &self.prefix)
    }
}

fn render_object(scheme: &str, holder: &str, prefix: &str) -> String {
    let mut url = format!("{scheme}://");
    escape_into(&mut url, holder.as_bytes());
    if !prefix.is_empty() {
        url.push('/');
        url.push_str(prefix.trim_end_matches('/'));
    }
    url
}

/// What `url` names, or what is wrong with it.
pub(super) fn parse(url: &str) -> Result<Address, Error> {
    let bad = Mistake { url };
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(bad.is("has no scheme"));
    };
    match scheme {
        "file" => Ok(Address::Folder(parse_folder(&bad, rest)?)),
        "s3" => Ok(Address::S3(parse_s3(&bad, rest)?)),
        "swift" => Ok(Address::Swift(parse_swift(&bad, rest)?)),
        _ => Err(bad.is("has an unknown scheme")),
    }
}

/// A mistake in an address. Credentials that somebody wrote into it are not repeated.
struct Mistake<'a> {
    url: &'a str,
}

impl Mistake<'_> {
    fn is(&self, what: impl std::fmt::Display) -> Error {
        let shown = match (self.url.split_once("://"), self.url.rfind('@')) {
            (Some((scheme, _)), Some(at)) => format!("{scheme}://…{}", &self.url[at..]),
            _ => self.url.to_owned(),
        };
        let shown = shown.split('?').next().unwrap_or_default();
        Error::new(ErrorKind::InvalidInput, format!("the repository address `{}` {what}", shown.escape_debug()))
            .hint(FORMS)
    }
}

fn parse_folder(bad: &Mistake<'_>, rest: &str) -> Result<PathBuf, Error> {
    if rest.contains(['?', '#']) {
        return Err(bad.is("is not well-formed: a folder takes no parameters"));
    }
    let path = PathBuf::from(decode(rest).ok_or_else(|| bad.is("is not well-formed"))?);
    if !path.is_absolute() {
        return Err(bad.is("does not name an absolute folder"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(bad.is("contains `..`"));
    }
    // Collected anew, so that a trailing slash does not show up in what people read.
    Ok(path.components().collect())
}

fn parse_s3(bad: &Mistake<'_>, rest: &str) -> Result<S3Address, Error> {
    let ObjectUrl { holder: bucket, prefix, mut query } = ObjectUrl::parse(bad, rest, "bucket", S3_KEYS)?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let ends = bucket.starts_with(|c: char| c.is_ascii_alphanumeric())
        && bucket.ends_with(|c: char| c.is_ascii_alphanumeric());
    if !(3..=255).contains(&bucket.len()) || !bucket.chars().all(good) || !ends {
        return Err(bad.is(format_args!("names no bucket: `{}` cannot be one's name", bucket.escape_debug())));
    }
    let region = query.remove("region").unwrap_or_else(|| S3_REGION_DEFAULT.to_owned());
    let region_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if region.is_empty() || region.len() > 64 || !region.chars().all(region_char) {
        return Err(bad.is("has a `region` that is no name"));
    }
    let endpoint = query.remove("endpoint").map(|text| parse_http(bad, "endpoint", &text)).transpose()?;
    if let Some(endpoint) = &endpoint
        && endpoint.splitn(4, '/').nth(3).is_some()
    {
        return Err(bad.is("has a path in its `endpoint`, which must end behind host and port"));
    }
    let path_style = match query.remove("path_style").as_deref() {
        // A certificate for `*.host` does not cover a bucket with a dot in it.
        None => endpoint.is_some() || bucket.contains('.'),
        Some("true") => true,
        Some("false") => false,
        Some(_) => return Err(bad.is("has a `path_style` that is neither true nor false")),
    };
    let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    let fits_host = bucket.chars().all(is_label) && bucket.len() <= 63;
    if !path_style && !fits_host {
        return Err(bad.is("names a bucket that cannot be part of a host name; add path_style=true"));
    }
    let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    Ok(S3Address { bucket, prefix, endpoint, region, path_style })
}

fn parse_swift(bad: &Mistake<'_>, rest: &str) -> Result<SwiftAddress, Error> {
    let ObjectUrl { holder: container, prefix, mut query } = ObjectUrl::parse(bad, rest, "container", SWIFT_KEYS)?;
    if container.len() > 256 || container.contains(char::is_control) {
        return Err(bad.is("names no container: its name is too long or unprintable"));
    }
    let Some(auth_url) = query.remove("auth_url") else {
        return Err(bad.is("has no `auth_url`"));
    };
    let auth_url = parse_http(bad, "auth_url", &auth_url)?;
    let path: Vec<&str> = auth_url.splitn(4, '/').nth(3).unwrap_or_default().split('/').collect();
    let auth = if path.contains(&"v3") {
        SwiftAuth::V3
    } else if path.iter().any(|segment| matches!(*segment, "v1" | "v1.0")) {
        SwiftAuth::V1
    } else {
        return Err(bad.is("has an `auth_url` whose path tells neither Keystone (/v3) nor auth v1 (/auth/v1.0)"));
    };
    let region = query.remove("region").filter(|region| !region.is_empty());
    let interface = match query.remove("interface").as_deref() {
        None | Some("public") => SwiftInterface::Public,
        Some("internal") => SwiftInterface::Internal,
        Some(_) => return Err(bad.is("has an `interface` that is neither public nor internal")),
    };
    Ok(SwiftAddress { container, prefix, auth_url, auth, region, interface })
}

/// `holder/prefix?query`, taken apart and decoded.
struct ObjectUrl {
    holder: String,
    prefix: String,
    query: BTreeMap<String, String>,
}

impl ObjectUrl {
    fn parse(bad: &Mistake<'_>, rest: &str, what: &str, known: &[&str]) -> Result<ObjectUrl, Error> {
        if rest.contains('#') {
            return Err(bad.is("contains `#`"));
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.contains('@') {
            return Err(bad.is("holds credentials, which belong into the credentials file"));
        }
        let (holder, prefix) = path.split_once('/').unwrap_or((path, ""));
        let holder = decode(holder).ok_or_else(|| bad.is("is not well-formed"))?;
        if holder.is_empty() || holder.contains('/') {
            return Err(bad.is(format_args!("names no {what}")));
        }
        let prefix = prefix.trim_end_matches('/');
        let prefix = match prefix {
            "" => String::new(),
            // Together with the longest key it has to stay below what stores take.
            prefix if super::check_key(prefix).is_ok() && prefix.len() < KEY_BYTES_MAX => format!("{prefix}/"),
            _ => {
                return Err(bad.is(format_args!(
                    "has a prefix that is not made of letters, digits, `.`, `_`, `-` and single slashes"
                )));
            }
        };
        let mut parameters = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !known.contains(&key) {
                let shown = key.escape_debug();
                return Err(bad.is(format_args!("has a parameter `{shown}`, which is not one of {}", known.join(", "))));
            }
            let value =
                decode_query(value).ok_or_else(|| bad.is(format_args!("has a `{key}` that is not well-formed")))?;
            if parameters.insert(key.to_owned(), value).is_some() {
                return Err(bad.is(format_args!("has `{key}` twice")));
            }
        }
        Ok(ObjectUrl { holder, prefix, query: parameters })
    }
}

/// A parameter that is an address itself, without a slash at the end.
fn parse_http(bad: &Mistake<'_>, key: &str, text: &str) -> Result<String, Error> {
    let wrong = |why: &str| bad.is(format_args!("has an `{key}` {why}"));
    let uri: Uri = text.parse().map_err(|_| wrong("that is no address"))?;
    let authority = uri.authority().ok_or_else(|| wrong("without a host"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        _ => return Err(wrong("that begins neither with http:// nor with https://")),
    }
    if authority.as_str().contains('@') {
        return Err(wrong("with credentials, which belong into the credentials file"));
    }
    if uri.query().is_some() || text.contains('#') {
        return Err(wrong("with parameters of its own"));
    }
    if authority.host().is_empty() {
        return Err(wrong("without a host"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// The address of `folder`.
pub(super) fn render(folder: &Path) -> String {
    let mut url = String::from("file://");
    escape_into(&mut url, folder.to_string_lossy().as_bytes());
    url
}

fn escape_into(url: &mut String, bytes: &[u8]) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"/.-_~+@:,=".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
}

/// As `decode`, where a plain address may stand as it is.
fn decode_query(text: &str) -> Option<String> {
    decode(&text.replace('?', "%3F"))
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

    fn s3(url: &str) -> S3Address {
        match parse(url).unwrap() {
            Address::S3(address) => address,
            other => panic!("{other:?}"),
        }
    }

    fn swift(url: &str) -> SwiftAddress {
        match parse(url).unwrap() {
            Address::Swift(address) => address,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_folder_address_goes_there_and_back() {
        for (url, folder) in
            [("file:///srv/backups/", "/srv/backups"), ("file:///my%20disk/%C3%A4", "/my disk/ä"), ("file:///", "/")]
        {
            let parsed = parse(url).unwrap();
            assert_eq!(parsed, Address::Folder(PathBuf::from(folder)));
            assert_eq!(parse(&render(Path::new(folder))).unwrap(), parsed);
        }
    }

    #[test]
    fn a_bucket_is_at_amazon_unless_an_endpoint_is_named() {
        let plain = s3("s3://my-bucket");
        assert_eq!(plain.endpoint, "https://s3.us-east-1.amazonaws.com");
        assert_eq!((plain.prefix.as_str(), plain.path_style), ("", false));
        assert_eq!(s3("s3://b-1/?region=eu-west-3").endpoint, "https://s3.eu-west-3.amazonaws.com");
        let own = s3("s3://b-1/a/b/?endpoint=http://127.0.0.1:3900/&region=garage");
        assert_eq!(
            own,
            S3Address {
                bucket: "b-1".into(),
                prefix: "a/b/".into(),
                endpoint: "http://127.0.0.1:3900".into(),
                region: "garage".into(),
                path_style: true,
            }
        );
        assert_eq!(own.render(), "s3://b-1/a/b");
        assert_eq!(s3("s3://b-1?endpoint=https%3A%2F%2Fhost&path_style=false").endpoint, "https://host");
        assert!(s3("s3://Old_Bucket?path_style=true").path_style);
        assert!(s3("s3://my.bucket").path_style && !s3("s3://my.bucket?path_style=false").path_style);
    }

    #[test]
    fn a_container_is_where_its_auth_url_says() {
        let v1 = swift("swift://backups/prod?auth_url=http://127.0.0.1:8080/auth/v1.0");
        assert_eq!((v1.auth, v1.interface, v1.region.as_deref()), (SwiftAuth::V1, SwiftInterface::Public, None));
        assert_eq!(v1.render(), "swift://backups/prod");
        let v3 = swift("swift://back%20ups?auth_url=https://id:5000/v3/&region=RegionOne&interface=internal");
        assert_eq!(
            (v3.auth, v3.interface, v3.region.as_deref()),
            (SwiftAuth::V3, SwiftInterface::Internal, Some("RegionOne"))
        );
        assert_eq!((v3.container.as_str(), v3.auth_url.as_str()), ("back ups", "https://id:5000/v3"));
        assert_eq!(v3.render(), "swift://back%20ups");
        assert_eq!(swift("swift://c?auth_url=https://id/identity/v3").auth, SwiftAuth::V3);
    }

    #[test]
    fn each_mistake_in_an_address_is_named() {
        for (url, named) in [
            ("/srv", "no scheme"),
            ("", "no scheme"),
            ("ftp://x/y", "unknown scheme"),
            ("file://host/dir", "absolute"),
            ("file://rel", "absolute"),
            ("file:///a%2", "well-formed"),
            ("file:///a%zz", "well-formed"),
            ("file:///a?b", "well-formed"),
            ("file:///a/../b", "`..`"),
            ("file:///%00", "well-formed"),
            ("s3://", "no bucket"),
            ("s3:///prefix", "no bucket"),
            ("s3://ab", "`ab`"),
            ("s3://a%2Fb/c", "no bucket"),
            ("s3://-bucket", "`-bucket`"),
            ("s3://bucket/a//b", "prefix"),
            ("s3://bucket/../b", "prefix"),
            ("s3://bucket/.hidden", "prefix"),
            ("s3://bucket/a b", "prefix"),
            ("s3://Bucket", "path_style=true"),
            ("s3://bucket?regoin=x", "`regoin`"),
            ("s3://bucket?region=a&region=b", "`region` twice"),
            ("s3://bucket?region=a/b", "`region`"),
            ("s3://bucket?path_style=yes", "`path_style`"),
            ("s3://bucket?endpoint=host:9000", "`endpoint`"),
            ("s3://bucket?endpoint=ftp://host", "http://"),
            ("s3://bucket?endpoint=https://host/path", "path"),
            ("s3://bucket?endpoint=https://host?x=1", "parameters"),
            ("s3://bucket?endpoint=https://u:hush@host", "credentials"),
            ("s3://AK:hush@bucket", "credentials"),
            ("s3://bucket?access_key=hush", "`access_key`"),
            ("s3://bucket#x", "#"),
            ("swift://", "no container"),
            ("swift://c", "no `auth_url`"),
            ("swift://c?auth_url=https://host", "neither Keystone"),
            ("swift://c?auth_url=https://host/v2.0", "neither Keystone"),
            ("swift://c?auth_url=https://host/v3&interface=admin", "`interface`"),
            ("swift://c?auth_url=https://host/v3&endpoint=x", "`endpoint`"),
        ] {
            let err = parse(url).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{url}");
            assert!(err.message().contains(named), "{url}: {err}");
            assert!(!err.to_string().contains("hush"), "{url}: {err}");
        }
    }
}
