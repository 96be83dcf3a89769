//! What stands in front of a chunk's bytes, in the clear: all the catalog knows, and how the bytes behind it are made and
//! what they must be, so that they can be proven by whoever cannot read them.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::domain::chunk::ChunkFacts;
use crate::domain::compression::Compression;
use crate::error::{Error, error_of};
use crate::repository::codec::{Form, HEAD_MAGIC};
use crate::repository::{FORMAT, check_format, corrupt, hex, sha256_hex, to_json};

/// A head holds GTIDs of every server and domain; even thousands of them fit.
const HEAD_BYTES_MAX: usize = 4 * 1024 * 1024;
const DIGEST_LINE_BYTES: usize = 1 + 64;

/// The first frame of a chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChunkHead {
    pub(crate) format: u32,
    pub(crate) facts: ChunkFacts,
    /// The format description event of the binlog file, in hex, so that a chunk can be read without the file's first.
    pub(crate) description: String,
    pub(crate) compression: Compression,
    /// The public keys that the payload is encrypted to; none: it is not.
    pub(crate) encrypted_to: Vec<String>,
    pub(crate) payload: Payload,
}

/// What is stored behind the head.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Payload {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl ChunkHead {
    /// The head of a chunk whose payload is still to be made.
    pub(super) fn begin(facts: &ChunkFacts, description: &[u8], form: Form, encrypted_to: &[String]) -> ChunkHead {
        ChunkHead {
            format: FORMAT,
            facts: facts.clone(),
            description: hex(description),
            compression: form.compression,
            encrypted_to: encrypted_to.to_vec(),
            payload: Payload { bytes: u64::MAX, sha256: "0".repeat(64) },
        }
    }

    pub(in crate::repository) fn form(&self) -> Form {
        Form { compression: self.compression, encrypted: !self.encrypted_to.is_empty() }
    }

    /// How many bytes the frame takes, whatever the payload becomes.
    pub(in crate::repository) fn frame_bytes(&self) -> Result<usize, Error> {
        let widest = Payload { bytes: u64::MAX, sha256: "0".repeat(64) };
        let json = to_json(&ChunkHead { payload: widest, ..self.clone() })?;
        Ok(8 + json.len() + DIGEST_LINE_BYTES)
    }

    /// The frame, `bytes` long: what is left over is filled with spaces behind the JSON.
    pub(in crate::repository) fn frame(&self, bytes: usize) -> Result<Vec<u8>, Error> {
        let mut json = to_json(self)?;
        let too_long = || super::internal(&self.facts, "has a head of more than 4 MiB");
        let json_bytes = bytes.checked_sub(8 + DIGEST_LINE_BYTES).ok_or_else(too_long)?;
        if json.len() > json_bytes || json_bytes > HEAD_BYTES_MAX {
            return Err(too_long());
        }
        json.resize(json_bytes, b' ');
        let length = u32::try_from(json.len() + DIGEST_LINE_BYTES).map_err(|_| too_long())?;
        let digest = sha256_hex(&json);
        Ok([&HEAD_MAGIC.to_le_bytes()[..], &length.to_le_bytes(), &json, b"\n", digest.as_bytes()].concat())
    }

    /// Reads the first frame of an object.
    pub(in crate::repository) fn read(object: &mut impl Read, location: &str) -> Result<ChunkHead, Error> {
        let corrupt = |why: &str| corrupt(location, why);
        let fault = |err: io::Error| match err.kind() {
            io::ErrorKind::UnexpectedEof => corrupt("it ends within its head"),
            _ => error_of(err, &format!("unable to read `{location}`")),
        };
        let mut magic = [0; 4];
        let mut length = [0; 4];
        object.read_exact(&mut magic).map_err(fault)?;
        object.read_exact(&mut length).map_err(fault)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if u32::from_le_bytes(magic) != HEAD_MAGIC || length > HEAD_BYTES_MAX + DIGEST_LINE_BYTES {
            return Err(corrupt("it does not begin as a chunk does"));
        }
        let json_length = length.checked_sub(DIGEST_LINE_BYTES).ok_or_else(|| corrupt("its head is too short"))?;
        let mut json = vec![0; length];
        object.read_exact(&mut json).map_err(fault)?;
        let digest = json.split_off(json_length);
        check_format(&json, location)?;
        if digest.strip_prefix(b"\n") != Some(sha256_hex(&json).as_bytes()) {
            return Err(corrupt("its head does not have its digest"));
        }
        serde_json::from_slice(&json).map_err(|err| super::super::corrupt(location, err))
    }
}
