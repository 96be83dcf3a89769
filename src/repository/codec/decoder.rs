//! From stored bytes to raw ones. What is read here comes from outside: nothing of it is believed.
//!
//! The form is told by the first bytes and not by a name, so that an object is read by what it is. Exactly one object is
//! read: bytes behind its end are a fault.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use age::stream::StreamReader;
use age::{DecryptError, Decryptor};
use flate2::bufread::GzDecoder;

use super::NAME_MAGIC;
use super::identity::Keyring;

const AGE_BEGIN: [u8; 4] = *b"age-";
/// The last line of a header begins so.
const AGE_HEADER_END: &[u8] = b"---";
/// A header has 100 bytes or so for each of at most 64 recipients. age reads it from its begin again for every line, and
/// would never have enough of one without end.
const AGE_HEADER_BYTES_MAX: u64 = 32 * 1024;
const GZIP_BEGIN: [u8; 2] = [0x1F, 0x8B];
/// Longer than any key may be.
const NAME_BYTES_MAX: usize = 1024;
/// The window a decoder may be asked to hold; ours never exceed 8 MiB.
const WINDOW_LOG_MAX: u32 = 25;
/// What age encrypts at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// Why an object cannot be read.
#[derive(Debug)]
pub(in crate::repository) enum Fault {
    /// It is encrypted, and nothing here opens it. Damage in the first few hundred bytes may look like that.
    Locked(String),
    /// It is not what it must be.
    Damaged(String),
    /// The store failed.
    Read(io::Error),
}

/// Yields the raw bytes. What it has yielded is proven by nothing but the checksums of the formats; whoever knows the
/// digest compares it.
pub(in crate::repository) struct Decoder<R: BufRead>(Decompressor<R>);

enum Decompressor<R: BufRead> {
    Zstd(Box<zstd::Decoder<'static, Source<R>>>),
    Gzip(Box<GzDecoder<Source<R>>>),
}

/// What was read to tell the form, and the rest.
type Whole<R> = Chain<Cursor<[u8; 4]>, R>;
/// What was read as the header of an encrypted object, and the rest.
type Encrypted<R> = Chain<Cursor<Vec<u8>>, Whole<R>>;

/// What yields the compressed bytes.
enum Source<R: BufRead> {
    Plain(Whole<R>),
    Decrypted(Box<BufReader<StreamReader<Encrypted<R>>>>),
}

impl<R: BufRead> Decoder<R> {
    pub(super) fn open(name: &str, stored: R, keyring: &Keyring) -> Result<Decoder<R>, Fault> {
        let (begin, stored) = peek(stored)?;
        let source = if begin == AGE_BEGIN { decrypt(stored, keyring)? } else { Source::Plain(stored) };
        let (begin, source) = match source {
            Source::Plain(stored) => (begin, Source::Plain(stored)),
            Source::Decrypted(mut decrypted) => {
                let mut begin = [0; 4];
                let begun = decrypted.fill_buf().map_err(fault_of)?;
                begin.copy_from_slice(begun.get(..4).ok_or_else(too_short)?);
                (begin, Source::Decrypted(decrypted))
            }
        };
        let (found, decompressor) = if begin.starts_with(&GZIP_BEGIN) { gzip(source)? } else { zstd(begin, source)? };
        if found != name.as_bytes() {
            return Err(Fault::Damaged(format!("it holds `{}`", String::from_utf8_lossy(&found).escape_debug())));
        }
        Ok(Decoder(decompressor))
    }
}

/// The first four bytes, which are read again with the rest.
fn peek<R: BufRead>(mut stored: R) -> Result<([u8; 4], Whole<R>), Fault> {
    let mut begin = [0; 4];
    stored.read_exact(&mut begin).map_err(fault_of)?;
    Ok((begin, Cursor::new(begin).chain(stored)))
}

fn decrypt<R: BufRead>(stored: Whole<R>, keyring: &Keyring) -> Result<Source<R>, Fault> {
    let damaged = |err: DecryptError| match err {
        DecryptError::Io(err) => fault_of(err),
        err => Fault::Damaged(format!("its encryption is broken: {err}")),
    };
    let decryptor = Decryptor::new_buffered(with_header(stored)?).map_err(damaged)?;
    if decryptor.is_scrypt() {
        return Err(Fault::Damaged("it is encrypted with a passphrase, which coffer never does".to_owned()));
    }
    let identities = keyring.identities().map_err(|err| Fault::Locked(err.message()))?;
    let Some(identities) = identities else {
        return Err(Fault::Locked(keyring.absence()));
    };
    match decryptor.decrypt(identities.iter().map(|identity| identity as &dyn age::Identity)) {
        Ok(reader) => Ok(Source::Decrypted(Box::new(BufReader::with_capacity(BUFFER_BYTES, reader)))),
        Err(DecryptError::NoMatchingKeys) => Err(Fault::Locked(keyring.misfit(&identities))),
        Err(err) => Err(damaged(err)),
    }
}

/// Reads the header of an encrypted object, in front of which it stands again; nothing else is looked at here.
fn with_header<R: BufRead>(mut stored: Whole<R>) -> Result<Encrypted<R>, Fault> {
    let mut header = Vec::new();
    let mut lines = stored.by_ref().take(AGE_HEADER_BYTES_MAX);
    loop {
        let begin = header.len();
        lines.read_until(b'\n', &mut header).map_err(fault_of)?;
        let line = header.get(begin..).unwrap_or_default();
        if !line.ends_with(b"\n") {
            return Err(Fault::Damaged("its encryption is broken: its header does not end".to_owned()));
        }
        if line.starts_with(AGE_HEADER_END) {
            return Ok(Cursor::new(header).chain(stored));
        }
    }
}

fn zstd<R: BufRead>(begin: [u8; 4], mut source: Source<R>) -> Result<(Vec<u8>, Decompressor<R>), Fault> {
    if u32::from_le_bytes(begin) != NAME_MAGIC {
        return Err(Fault::Damaged("it does not begin with its name".to_owned()));
    }
    let mut magic_and_length = [0; 8];
    source.read_exact(&mut magic_and_length).map_err(fault_of)?;
    let [_, _, _, _, length @ ..] = magic_and_length;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > NAME_BYTES_MAX {
        return Err(Fault::Damaged(format!("its name has {length} bytes")));
    }
    let mut name = vec![0; length];
    source.read_exact(&mut name).map_err(fault_of)?;
    let unusable = |err: io::Error| Fault::Damaged(format!("unable to start zstd: {err}"));
    let mut decoder = zstd::Decoder::with_buffer(source).map_err(unusable)?.single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(unusable)?;
    Ok((name, Decompressor::Zstd(Box::new(decoder))))
}

fn gzip<R: BufRead>(source: Source<R>) -> Result<(Vec<u8>, Decompressor<R>), Fault> {
    let mut decoder = GzDecoder::new(source);
    if decoder.header().is_none() {
        // Why its header is none comes out where it is read.
        let _ = decoder.read(&mut []).map_err(fault_of)?;
    }
    let name = decoder.header().and_then(|header| header.filename()).unwrap_or_default().to_vec();
    Ok((name, Decompressor::Gzip(Box::new(decoder))))
}

fn too_short() -> Fault {
    Fault::Damaged("it is too short".to_owned())
}

/// Tells a store that fails from bytes that are wrong: the store's errors carry one of ours, or the system's number.
fn fault_of(err: io::Error) -> Fault {
    if is_of_the_store(&err) {
        return Fault::Read(err);
    }
    match err.kind() {
        io::ErrorKind::UnexpectedEof => too_short(),
        _ => Fault::Damaged(err.to_string()),
    }
}

/// Whether reading failed and not what was read.
pub(in crate::repository) fn is_of_the_store(err: &io::Error) -> bool {
    err.get_ref().is_some_and(|inner| inner.is::<crate::error::Error>()) || err.raw_os_error().is_some()
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let (read, source) = match &mut self.0 {
            Decompressor::Zstd(decoder) => (decoder.read(buf)?, decoder.get_mut()),
            Decompressor::Gzip(decoder) => (decoder.read(buf)?, decoder.get_mut()),
        };
        // Also lets age see its own end, without which a cut would go unseen.
        if read == 0 && !buf.is_empty() && !source.fill_buf()?.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes follow its end"));
        }
        Ok(read)
    }
}

impl<R: BufRead> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Plain(stored) => stored.read(buf),
            Source::Decrypted(decrypted) => decrypted.read(buf),
        }
    }
}

impl<R: BufRead> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Source::Plain(stored) => stored.fill_buf(),
            Source::Decrypted(decrypted) => decrypted.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match self {
            Source::Plain(stored) => stored.consume(amount),
            Source::Decrypted(decrypted) => decrypted.consume(amount),
        }
    }
}
