use crate::cli;
use crate::error::Error;
pub(super) fn run(_demo: &cli::Demo) -> Result<(), Error> {
    Ok(())
}
