//! How raw bytes become the bytes of an object, and back: the one place that knows compression.
//!
//! Everything stored passes through here on its way out (`pack`) and in (`unpack`), one whole part at a time, so that
//! what a part holds is proven before anybody looks into it.

use super::Settings;
use crate::error::{Error, ErrorKind};

const LEVEL: i32 = 1;

/// What a repository's parts are made with. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Codec {}

/// Packs one part after the other, reusing its memory.
pub(crate) struct Packer {
    zstd: zstd::bulk::Compressor<'static>,
}

impl Codec {
    pub(crate) fn new(_settings: &Settings) -> Result<Codec, Error> {
        Ok(Codec {})
    }

    /// What decides how a part is packed: parts of two codecs that say the same can stand in one backup.
    pub(super) fn describe(&self) -> String {
        super::manifest::COMPRESSION.to_owned()
    }

    pub(crate) fn packer(&self) -> Result<Packer, Error> {
        let fault = |err| Error::new(ErrorKind::Internal, "unable to start zstd").with_source(err);
        let mut zstd = zstd::bulk::Compressor::new(LEVEL).map_err(fault)?;
        zstd.include_checksum(true).map_err(fault)?;
        Ok(Packer { zstd })
    }

    /// The raw bytes of the part of `name`, `raw_bytes` of them; why not, as the end of a sentence, otherwise.
    pub(crate) fn unpack(&self, _name: &str, stored: &[u8], raw_bytes: usize) -> Result<Vec<u8>, Error> {
        let corrupt = |why: String| Error::new(ErrorKind::Corrupt, why);
        let raw = zstd::bulk::decompress(stored, raw_bytes).map_err(|err| corrupt(err.to_string()))?;
        if raw.len() != raw_bytes {
            return Err(corrupt(format!("it unpacks to {} bytes, not {raw_bytes}", raw.len())));
        }
        Ok(raw)
    }
}

impl Packer {
    /// Replaces `stored` by the bytes to store for `raw`. `name` is what the part will be called, without its digest.
    pub(crate) fn pack(&mut self, _name: &str, raw: &[u8], stored: &mut Vec<u8>) -> Result<(), Error> {
        stored.clear();
        stored.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        let fault = |err| Error::new(ErrorKind::Internal, "unable to compress a part").with_source(err);
        self.zstd.compress_to_buffer(raw, stored).map_err(fault).map(|_| ())
    }
}
