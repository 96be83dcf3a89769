//! From raw bytes to stored ones: the name, then the bytes, compressed; then encrypted, if there is somebody to encrypt to.

use std::io::{self, Write};

use age::stream::StreamWriter;
use flate2::GzBuilder;
use flate2::write::GzEncoder;
use zstd::zstd_safe::{CCtx, CParameter};

use super::NAME_MAGIC;
use super::identity::Recipients;
use crate::domain::compression::Compression;
use crate::error::{Error, ErrorKind, error_of};

/// Backups and shipping share the host with the server: speed before size. Level 1 takes two and a half times as long and
/// saves an eighth of the size (measured on tables of text, numbers and random bytes).
const ZSTD_LEVEL: i32 = -1;
/// The fastest that leaves what cannot be compressed as it is: level 1 would make it longer.
const GZIP_LEVEL: u32 = 2;
/// By how much encryption makes a part longer: a stanza of 200 bytes a recipient, and 16 bytes every 64 KiB.
pub(super) const ENCRYPTION_BYTES_MAX: usize = 16 * 1024;

/// Takes raw bytes. What it writes is complete only after `finish`.
pub(in crate::repository) struct Encoder<'a, W: Write>(Compressor<'a, W>);

enum Compressor<'a, W: Write> {
    Zstd(zstd::Encoder<'a, Sink<W>>),
    Gzip(GzEncoder<Sink<W>>),
}

/// What takes the compressed bytes.
enum Sink<W: Write> {
    Plain(W),
    Encrypted(Box<StreamWriter<W>>),
}

/// A context that compresses as everything here is compressed.
pub(super) fn zstd_context() -> Result<CCtx<'static>, Error> {
    let unusable = |what| Error::new(ErrorKind::Internal, format!("unable to start zstd: {what}"));
    let mut context = CCtx::try_create().ok_or_else(|| unusable("out of memory"))?;
    for parameter in [CParameter::CompressionLevel(ZSTD_LEVEL), CParameter::ChecksumFlag(true)] {
        context.set_parameter(parameter).map_err(|code| unusable(zstd::zstd_safe::get_error_name(code)))?;
    }
    Ok(context)
}

impl<'a, W: Write> Encoder<'a, W> {
    pub(super) fn begin(
        compression: Compression,
        recipients: &Recipients,
        zstd: &'a mut CCtx<'static>,
        name: &str,
        raw_bytes: u64,
        out: W,
    ) -> Result<Encoder<'a, W>, Error> {
        let fault = |err| error_of(err, "unable to begin an object");
        let mut sink = match recipients.encryptor()? {
            None => Sink::Plain(out),
            Some(encryptor) => Sink::Encrypted(Box::new(encryptor.wrap_output(out).map_err(fault)?)),
        };
        Ok(Encoder(match compression {
            Compression::Zstd => {
                sink.write_all(&name_frame(name)?).map_err(fault)?;
                let mut encoder = zstd::Encoder::with_context(sink, zstd);
                encoder.set_pledged_src_size(Some(raw_bytes)).map_err(fault)?;
                Compressor::Zstd(encoder)
            }
            Compression::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                Compressor::Gzip(GzBuilder::new().filename(name).write(sink, level))
            }
        }))
    }

    /// Writes what is left and gives `out` back.
    pub(in crate::repository) fn finish(self) -> io::Result<W> {
        let sink = match self.0 {
            Compressor::Zstd(encoder) => encoder.finish()?,
            Compressor::Gzip(encoder) => encoder.finish()?,
        };
        match sink {
            Sink::Plain(out) => Ok(out),
            Sink::Encrypted(out) => out.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Compressor::Zstd(encoder) => encoder.write(buf),
            Compressor::Gzip(encoder) => encoder.write(buf),
        }
    }

    /// Does nothing: only a whole object can be read.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> Write for Sink<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Sink::Plain(out) => out.write(buf),
            Sink::Encrypted(out) => out.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn name_frame(name: &str) -> Result<Vec<u8>, Error> {
    let length = u32::try_from(name.len())
        .map_err(|_| Error::new(ErrorKind::Internal, "the name of an object is longer than 4 GiB"))?;
    Ok([&NAME_MAGIC.to_le_bytes()[..], &length.to_le_bytes(), name.as_bytes()].concat())
}
