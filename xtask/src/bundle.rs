//! One archive with everything that runs.

use anyhow::Result;

use crate::util::Layout;

pub fn run(_layout: &Layout) -> Result<()> {
    Ok(())
}
