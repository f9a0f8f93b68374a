//! What the tests of the panel's page drive a browser with: Playwright, from its package for Python, which brings the
//! Node.js that it runs on, and axe-core, which finds what keeps people from using a page. The browser is Debian's.

use anyhow::Result;
use vgpu_vm::Artifacts;

use crate::setup;
use crate::util::{Layout, link};
use crate::wheels::{self, Wheel};

/// Its folder in the cache; raise the number when the set of packages changes.
const NAME: &str = "playwright-1.65-1";

const PACKAGES: [Wheel; 2] = [
    (
        "playwright",
        "1.65.2",
        "58932d35f56767ab7ebcdd3d4a733bfb3e62a1a5bc43c08e28b9fa9b3e61cf33",
    ),
    (
        "axe-playwright-python",
        "0.1.8",
        "fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8",
    ),
];

/// Installs the browser, and puts what drives it beside the artifacts.
pub fn fetch(layout: &Layout, artifacts: &Artifacts) -> Result<()> {
    setup::install_missing(&setup::FOR_BROWSER)?;
    let folder = layout.cached(NAME, "fetching what drives a browser (54 MB)", |folder| {
        wheels::unpack(layout, &PACKAGES, folder)?;
        wheels::make_program(&folder.join("playwright/driver/node"))
    })?;
    link(&folder, &artifacts.playwright_dir())
}
