//! What is about to be stored: its length and digests, and the same bytes again for every attempt.

use std::fs::File;
use std::io::{self, Read};

use md5::Md5;
use sha2::Sha256;

use super::super::Body;
use super::super::http::Payload;
use crate::error::{Error, error_of, io_error};

const READ_BYTES: usize = 256 * 1024;

/// A body that was read once from start to end.
pub(super) struct Content<'a> {
    body: Body<'a>,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) md5: String,
    /// Of a body that was to be cut: its pieces in order.
    pub(super) pieces: Vec<Piece>,
}

/// A stretch of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) from: u64,
    pub(super) bytes: u64,
    pub(super) md5: String,
}

impl<'a> Content<'a> {
    /// Reads `body`, a file, and digests each `piece_bytes` of it besides the whole.
    pub(super) fn read(body: Body<'a>, piece_bytes: Option<u64>) -> Result<Content<'a>, Error> {
        let mut digests = Digests::new(piece_bytes);
        match body {
            Body::Bytes(bytes) => digests.update(bytes),
            Body::Hashed { bytes, sha256 } => {
                digests.known_sha256 = Some(sha256.to_owned());
                digests.update(bytes);
            }
            Body::File(path) => {
                let failed = |err: io::Error| io_error("unable to read", path, err);
                let mut file = File::open(path).map_err(failed)?;
                let mut buffer = vec![0; READ_BYTES];
                loop {
                    match file.read(&mut buffer).map_err(failed)? {
                        0 => break,
                        read => digests.update(&buffer[..read]),
                    }
                }
            }
        }
        Ok(digests.finish(body))
    }

    /// All of it.
    pub(super) fn payload(&self) -> Payload<'a> {
        match self.body {
            Body::Bytes(bytes) | Body::Hashed { bytes, .. } => Payload::Bytes(bytes),
            Body::File(path) => Payload::File { path, from: 0, bytes: self.bytes },
        }
    }

    /// A piece of it. Only files are cut.
    pub(super) fn piece(&self, piece: &Piece) -> Payload<'a> {
        match self.body {
            Body::Bytes(bytes) | Body::Hashed { bytes, .. } => {
                let from = usize::try_from(piece.from).unwrap_or(usize::MAX).min(bytes.len());
                let length = usize::try_from(piece.bytes).unwrap_or(usize::MAX).min(bytes.len() - from);
                Payload::Bytes(&bytes[from..from + length])
            }
            Body::File(path) => Payload::File { path, from: piece.from, bytes: piece.bytes },
        }
    }
}

/// Digests of bytes that come in whatever portions.
struct Digests {
    bytes: u64,
    known_sha256: Option<String>,
    sha256: Sha256,
    md5: Md5,
    piece_bytes: Option<u64>,
    piece: Md5,
    pieces: Vec<Piece>,
}

impl Digests {
    fn new(piece_bytes: Option<u64>) -> Digests {
        let piece_bytes = piece_bytes.map(|bytes| bytes.max(1));
        let (sha256, md5, piece) = (Sha256::default(), Md5::default(), Md5::default());
        Digests { bytes: 0, known_sha256: None, sha256, md5, piece_bytes, piece, pieces: Vec::new() }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        if self.known_sha256.is_none() {
            sha2::Digest::update(&mut self.sha256, bytes);
        }
        let Some(piece_bytes) = self.piece_bytes else {
            // The MD5 of a whole that is sent in pieces is of no use to anyone.
            md5::Digest::update(&mut self.md5, bytes);
            self.bytes += length(bytes);
            return;
        };
        while !bytes.is_empty() {
            let room = piece_bytes - self.bytes % piece_bytes;
            let (now, later) = bytes.split_at(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
            md5::Digest::update(&mut self.piece, now);
            self.bytes += length(now);
            bytes = later;
            if self.bytes.is_multiple_of(piece_bytes) {
                self.end_piece(piece_bytes);
            }
        }
    }

    fn end_piece(&mut self, bytes: u64) {
        let md5 = hex(&md5::Digest::finalize(std::mem::take(&mut self.piece)));
        self.pieces.push(Piece { from: self.bytes - bytes, bytes, md5 });
    }

    fn finish(mut self, body: Body<'_>) -> Content<'_> {
        if let Some(piece_bytes) = self.piece_bytes
            && !self.bytes.is_multiple_of(piece_bytes)
        {
            self.end_piece(self.bytes % piece_bytes);
        }
        Content {
            body,
            bytes: self.bytes,
            sha256: self.known_sha256.unwrap_or_else(|| hex(&sha2::Digest::finalize(self.sha256))),
            md5: hex(&md5::Digest::finalize(self.md5)),
            pieces: self.pieces,
        }
    }
}

/// The SHA-256 of all that `reader` brings.
pub(super) fn sha256_of(mut reader: impl Read) -> Result<String, Error> {
    let mut sha256 = Sha256::default();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match reader.read(&mut buffer).map_err(|err| error_of(err, "reading what is stored already"))? {
            0 => return Ok(hex(&sha2::Digest::finalize(sha256))),
            read => sha2::Digest::update(&mut sha256, &buffer[..read]),
        }
    }
}

/// The MD5 of `bytes`, as an ETag has it.
pub(super) fn md5_hex(bytes: &[u8]) -> String {
    hex(&<Md5 as md5::Digest>::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    const ABC_SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const ABC_MD5: &str = "900150983cd24fb0d6963f7d28e17f72";

    #[test]
    fn a_body_is_digested() {
        let content = Content::read(Body::Bytes(b"abc"), None).unwrap();
        assert_eq!((content.bytes, content.sha256.as_str(), content.md5.as_str()), (3, ABC_SHA256, ABC_MD5));
        assert!(content.pieces.is_empty());
        assert_eq!(sha256_of(&b"abc"[..]).unwrap(), ABC_SHA256);
        assert_eq!(md5_hex(b"abc"), ABC_MD5);
    }

    #[test]
    fn a_file_is_cut_without_a_gap() {
        let scratch = TempDir::new();
        let path = scratch.join("body");
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        crate::durable::write(&path, &bytes, 0o600).unwrap();
        for piece_bytes in [300_000, 250_000, 1_000_000, 2_000_000] {
            let content = Content::read(Body::File(&path), Some(piece_bytes)).unwrap();
            let mut at = 0;
            for piece in &content.pieces {
                assert_eq!(piece.from, at);
                at += piece.bytes;
                let range = usize::try_from(piece.from).unwrap()..usize::try_from(at).unwrap();
                assert_eq!(piece.md5, md5_hex(&bytes[range]));
            }
            assert_eq!((at, content.bytes), (1_000_000, 1_000_000));
            assert_eq!(content.pieces.len() as u64, 1_000_000_u64.div_ceil(piece_bytes));
            assert_eq!(content.sha256, sha256_of(&bytes[..]).unwrap());
        }
        assert!(Content::read(Body::File(&scratch.join("none")), None).is_err());
    }
}
