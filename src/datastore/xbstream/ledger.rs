//! How far an unpacking has come, on disk, so that one that was killed goes on instead of beginning again.
//!
//! One file of JSON lines: what stream it is, then each file that has ended and is on disk, and every so often a
//! checkpoint: everything up to this byte of the stream is on disk. Only what stands before the last whole checkpoint
//! counts. Bounded memory needs it this way: a stream may hold millions of files, and no checkpoint lists them again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::error::{Error, ErrorKind, io_error};

const FORMAT: u32 = 1;

/// A place in a stream, at the begin of a chunk, up to which everything is on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checkpoint {
    /// Bytes of the stream before it.
    pub(crate) offset: u64,
    /// Files that were begun, and the bytes they have.
    pub(super) files: u64,
    pub(crate) bytes: u64,
    /// Files that have not ended, and how much of each has come.
    pub(super) open: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Line {
    Stream { format: u32, id: String },
    File { path: String, bytes: u64 },
    Checkpoint(Checkpoint),
}

/// Writes the lines. What was appended counts once a checkpoint is noted.
pub(super) struct Ledger {
    out: BufWriter<File>,
    path: PathBuf,
}

impl Ledger {
    /// Goes on behind the last checkpoint, or begins the ledger of a stream from its start.
    pub(super) fn open(path: &Path, id: &str, from: &Checkpoint) -> Result<Ledger, Error> {
        let begins = from.offset == 0;
        let mut file = OpenOptions::new()
            .write(true)
            .create(begins)
            .truncate(begins)
            .mode(0o600)
            .open(path)
            .map_err(|err| io_error("unable to open", path, err))?;
        file.seek(SeekFrom::End(0)).map_err(|err| io_error("unable to open", path, err))?;
        let mut ledger = Ledger { out: BufWriter::new(file), path: path.to_owned() };
        if begins {
            ledger.append(&Line::Stream { format: FORMAT, id: id.to_owned() })?;
            ledger.sync()?;
            durable::sync_parent(path)?;
        }
        Ok(ledger)
    }

    /// A file that is whole and on disk.
    pub(super) fn ended(&mut self, path: String, bytes: u64) -> Result<(), Error> {
        self.append(&Line::File { path, bytes })
    }

    /// Makes everything so far count; durable when this returns.
    pub(super) fn checkpoint(&mut self, checkpoint: Checkpoint) -> Result<(), Error> {
        self.append(&Line::Checkpoint(checkpoint))?;
        self.sync()
    }

    fn append(&mut self, line: &Line) -> Result<(), Error> {
        let mut text = serde_json::to_vec(line)
            .map_err(|err| Error::new(ErrorKind::Internal, "unable to write JSON").with_source(err))?;
        text.push(b'\n');
        self.out.write_all(&text).map_err(|err| io_error("unable to write", &self.path, err))
    }

    fn sync(&mut self) -> Result<(), Error> {
        let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_data());
        synced.map_err(|err| io_error("unable to sync", &self.path, err))
    }
}

/// The checkpoint from which the unpacking of stream `id` into `dir` can go on, with `dir` brought to what it held then.
/// `None` when there is none to be relied upon.
pub(crate) fn last_checkpoint(dir: &Path, ledger: &Path, id: &str) -> Result<Option<Checkpoint>, Error> {
    let failed = |err| io_error("unable to read", ledger, err);
    let file = match OpenOptions::new().read(true).write(true).open(ledger) {
        Ok(file) => file,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(failed(err)),
    };
    let Some(noted) = read(&file, id).map_err(failed)?.filter(Noted::adds_up) else { return Ok(None) };
    let Noted { checkpoint, ended, length } = noted;
    for (path, bytes) in &ended {
        if length_of(&dir.join(path)) != Some(*bytes) {
            return Ok(None);
        }
    }
    for (path, bytes) in &checkpoint.open {
        if length_of(&dir.join(path)).is_none_or(|found| found < *bytes) {
            return Ok(None);
        }
    }
    file.set_len(length).map_err(failed)?;
    remove_others(dir, &|path| ended.contains_key(path) || checkpoint.open.contains_key(path))?;
    Ok(Some(checkpoint))
}

/// What a ledger holds up to its last checkpoint.
struct Noted {
    checkpoint: Checkpoint,
    ended: HashMap<String, u64>,
    /// Bytes of the ledger up to there.
    length: u64,
}

impl Noted {
    /// Whether the checkpoint counts what was noted before it.
    fn adds_up(&self) -> bool {
        let Checkpoint { offset, files, bytes, open } = &self.checkpoint;
        let lengths = self.ended.values().chain(open.values());
        let sum = lengths.copied().try_fold(0_u64, u64::checked_add);
        // Holes take no bytes of the stream, but whatever was begun took some.
        let has_begun = *offset > 0 || *files == 0;
        has_begun && sum == Some(*bytes) && (self.ended.len() + open.len()) as u64 == *files
    }
}

fn read(file: &File, id: &str) -> std::io::Result<Option<Noted>> {
    let mut noted = None;
    let (mut ended, mut fresh) = (HashMap::new(), Vec::new());
    let mut reader = BufReader::new(file);
    let (mut text, mut length) = (Vec::new(), 0);
    loop {
        text.clear();
        length += reader.read_until(b'\n', &mut text)? as u64;
        let line = text.strip_suffix(b"\n").and_then(|text| serde_json::from_slice(text).ok());
        match line {
            Some(Line::Stream { format: FORMAT, id: found }) if found == id => {}
            Some(Line::File { path, bytes }) => fresh.push((path, bytes)),
            Some(Line::Checkpoint(checkpoint)) => {
                ended.extend(fresh.drain(..));
                noted = Some((checkpoint, length));
            }
            // The end, a torn line, another stream: nothing from here on counts.
            Some(Line::Stream { .. }) | None => break,
        }
    }
    Ok(noted.map(|(checkpoint, length)| Noted { checkpoint, ended, length }))
}

/// The length of a regular file.
fn length_of(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map(|metadata| metadata.len())
}

/// Removes the files below `dir` that are not to be `kept`: those that were begun behind the checkpoint.
fn remove_others(dir: &Path, kept: &dyn Fn(&str) -> bool) -> Result<(), Error> {
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let at = dir.join(&below);
        let entries = fs::read_dir(&at).map_err(|err| io_error("unable to read directory", &at, err))?;
        for entry in entries {
            let entry = entry.map_err(|err| io_error("unable to read directory", &at, err))?;
            let path = below.join(entry.file_name());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(path);
            } else if !path.to_str().is_some_and(kept) {
                fs::remove_file(entry.path()).map_err(|err| io_error("unable to remove", &entry.path(), err))?;
            }
        }
    }
    Ok(())
}
