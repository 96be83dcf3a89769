//! How raw bytes become the bytes of an object, and back: the one place that knows compression and encryption.
//!
//! What is stored of a part or a chunk is, from the inside out: the object's own name (its key up to the digest) and the
//! raw bytes, compressed; that, encrypted with age to every recipient, if there are recipients. The name inside binds
//! the bytes to their place: an object that lies under the name of another is told, even when its name and all digests
//! were made to fit. Everything streams, so a part needs no second copy of itself on its way.
//!
//! Writing needs public keys only. The identity is asked for when something has to be decrypted, and not before.

mod decoder;
mod encoder;
mod identity;

use std::io::{Read, Write};
use std::sync::Arc;

pub(crate) use identity::IdentitySource;

pub(super) use decoder::{Decoder, Fault, is_of_the_store};
pub(super) use encoder::Encoder;

use super::Settings;
use crate::block::Block;
use crate::domain::compression::Compression;
use crate::error::{Error, ErrorKind, error_of};
use identity::{Keyring, Recipients};

/// Frames that decoders skip: a chunk's head, and the name in front of zstd's frame of the bytes.
pub(super) const HEAD_MAGIC: u32 = 0x184D_2A50;
const NAME_MAGIC: u32 = 0x184D_2A51;

/// What an object's bytes are made with. Stands at the end of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) compression: Compression,
    pub(super) encrypted: bool,
}

impl Form {
    pub(super) fn suffix(self) -> &'static str {
        match (self.compression, self.encrypted) {
            (Compression::Zstd, false) => "zst",
            (Compression::Zstd, true) => "zst.age",
            (Compression::Gzip, false) => "gz",
            (Compression::Gzip, true) => "gz.age",
        }
    }
}

/// How a repository's objects are written, and what is there to read them with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Codec {
    compression: Compression,
    recipients: Arc<Recipients>,
    keyring: Arc<Keyring>,
}

impl Codec {
    /// Refuses recipients that are none, and an identity file that is there and cannot be used.
    pub(crate) fn new(settings: &Settings) -> Result<Codec, Error> {
        let recipients = Arc::new(Recipients::parse(&settings.encrypt_to)?);
        let keyring = Arc::new(Keyring::open(settings.identity.clone())?);
        Ok(Codec { compression: settings.compression, recipients, keyring })
    }

    /// The form of what is written now.
    pub(super) fn form(&self) -> Form {
        Form { compression: self.compression, encrypted: !self.recipients.is_empty() }
    }

    /// The public keys to which everything written now is encrypted; none: it is not.
    pub(crate) fn recipients(&self) -> &[String] {
        self.recipients.names()
    }

    /// What decides how a part is packed: parts of two codecs that say the same can stand in one backup.
    pub(super) fn describe(&self) -> String {
        [&[self.compression.name().to_owned()], self.recipients()].concat().join(" ")
    }

    /// Whether there is an identity here for something that was encrypted to `recipients`; why not, otherwise.
    pub(super) fn check_opens(&self, recipients: &[String]) -> Result<(), String> {
        self.keyring.check_opens(recipients)
    }

    /// The public keys of the identities that are here. Runs the command, if they come from one.
    pub(crate) fn identities(&self) -> Result<Vec<String>, Error> {
        self.keyring.names()
    }

    pub(crate) fn packer(&self) -> Result<Packer, Error> {
        Ok(Packer { form: self.compression, recipients: Arc::clone(&self.recipients), zstd: encoder::zstd_context()? })
    }

    /// The raw bytes of the part of `name`, `raw_bytes` of them; why not, as the end of a sentence, otherwise: `Corrupt`,
    /// or `Refused` when it is encrypted and nothing here opens it.
    pub(crate) fn unpack(&self, name: &str, stored: &[u8], raw_bytes: usize) -> Result<Vec<u8>, Error> {
        let mut raw = vec![0; raw_bytes];
        self.unpack_into(name, stored, &mut raw)?;
        Ok(raw)
    }

    /// As `unpack`, into `raw`, which is as long as there must be bytes.
    pub(super) fn unpack_into(&self, name: &str, stored: &[u8], raw: &mut [u8]) -> Result<(), Error> {
        let raw_bytes = raw.len();
        let corrupt = |why: String| Error::new(ErrorKind::Corrupt, why);
        let mut decoder = match self.decoder(name, stored) {
            Ok(decoder) => decoder,
            Err(Fault::Locked(why)) => return Err(Error::new(ErrorKind::Refused, why)),
            Err(Fault::Damaged(why)) => return Err(corrupt(why)),
            Err(Fault::Read(err)) => return Err(corrupt(err.to_string())),
        };
        // As long as it must be, so that a whole frame is decompressed right into its place.
        let mut filled = 0;
        loop {
            let free = raw.get_mut(filled..).unwrap_or_default();
            let mut behind = [0];
            let room = if free.is_empty() { &mut behind[..] } else { free };
            match decoder.read(room).map_err(|err| corrupt(err.to_string()))? {
                0 if filled == raw_bytes => return Ok(()),
                0 => return Err(corrupt(format!("it unpacks to {filled} bytes, not {raw_bytes}"))),
                _ if filled == raw_bytes => return Err(corrupt(format!("it unpacks to more than {raw_bytes} bytes"))),
                read => filled += read,
            }
        }
    }

    /// Reads the raw bytes of the object of `name` from what is stored of it.
    pub(super) fn decoder<R: std::io::BufRead>(&self, name: &str, stored: R) -> Result<Decoder<R>, Fault> {
        Decoder::open(name, stored, &self.keyring)
    }
}

/// Packs one object after the other, reusing its memory.
pub(crate) struct Packer {
    form: Compression,
    recipients: Arc<Recipients>,
    zstd: zstd::zstd_safe::CCtx<'static>,
}

impl Packer {
    /// Replaces `stored` by the bytes to store for `raw`. `name` is what the part will be called, without its digest.
    pub(crate) fn pack(&mut self, name: &str, raw: &[u8], stored: &mut Vec<u8>) -> Result<(), Error> {
        let fault = |err| error_of(err, "unable to compress a part");
        stored.clear();
        // Room for what cannot be compressed, so that it never grows by doubling; untouched pages cost nothing.
        stored.reserve_exact(zstd::zstd_safe::compress_bound(raw.len()) + encoder::ENCRYPTION_BYTES_MAX);
        let mut encoder = self.encoder(name, raw.len() as u64, stored)?;
        encoder.write_all(raw).map_err(fault)?;
        encoder.finish().map_err(fault).map(|_| ())
    }

    /// As `pack`, into memory that has room for a part.
    pub(super) fn pack_into(&mut self, name: &str, raw: &[u8], stored: &mut Block) -> Result<(), Error> {
        let fault = |err| error_of(err, "unable to compress a part");
        stored.clear();
        if self.form == Compression::Zstd && self.recipients.is_empty() {
            // In one go from place to place: a stream would copy everything first, and look for what repeats in two places.
            stored.write_all(&encoder::name_frame(name)?).map_err(fault)?;
            let packed = self.zstd.compress2(stored.room(), raw).map_err(|code| {
                let what = zstd::zstd_safe::get_error_name(code);
                Error::new(ErrorKind::Internal, format!("unable to compress a part: {what}"))
            })?;
            stored.extend(packed);
            return Ok(());
        }
        let mut encoder = self.encoder(name, raw.len() as u64, stored)?;
        encoder.write_all(raw).map_err(fault)?;
        encoder.finish().map_err(fault).map(|_| ())
    }

    /// Takes the `raw_bytes` raw bytes of the object of `name` and writes to `out` what is to be stored of them.
    pub(super) fn encoder<W: Write>(&mut self, name: &str, raw_bytes: u64, out: W) -> Result<Encoder<'_, W>, Error> {
        Encoder::begin(self.form, &self.recipients, &mut self.zstd, name, raw_bytes, out)
    }
}

#[cfg(test)]
mod tests;
