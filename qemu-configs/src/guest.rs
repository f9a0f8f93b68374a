//! The scripts that run in a guest; whoever builds an initial file system puts them there.

/// `/init`, the first process.
pub const INIT: &str = include_str!("../guest/init");
/// `/usr/libexec/vgpu-agent`, the other end of the launcher's command line.
pub const AGENT: &str = include_str!("../guest/agent");
