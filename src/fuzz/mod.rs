//! Readers of bytes from outside, fed with real files that were damaged on purpose.
//!
//! Every input is made of the files of a corpus (what real servers and tools wrote, or our own writer) by a few changes
//! that know the format: lengths and checksums are mended behind them, so that what stands behind a checksum is reached
//! too. Whatever an input is, its reader must not panic, must come to an end, must hold no more memory than a bound that
//! grows with the input alone, and must keep what each target says of it.
//!
//! An input follows from one number, its seed. The tests do a short run; `scripts/fuzz` does a long one. A failure leaves the
//! input in `target/fuzz` and says how to repeat it. Targets stand beside the readers, in modules of the name `fuzz`.

#![allow(clippy::cast_possible_truncation, reason = "numbers are cut to whatever there is room for")]

mod run;

use crate::testing::fuzz::Target;

/// Every target there is.
fn targets() -> Vec<Box<dyn Target>> {
    let mut all = crate::binlog::fuzz::targets();
    all.extend(crate::domain::fuzz::targets());
    all.extend(crate::datastore::fuzz::targets());
    all.extend(crate::repository::fuzz::targets());
    all
}
