//! NVIDIA's MPS: whether this session shares its GPUs through it, and what its client in libcuda needs.
//!
//! With the argument `--mps` libcuda is to connect to the control daemon whose sockets are in the folder that
//! `CUDA_MPS_PIPE_DIRECTORY` names. It maps the server's files in `/dev/shm`, and submits its work itself; but its channels
//! are the server's, so that they cannot be stopped or given a slice from here.
use std::path::PathBuf;

/// The argument that asks for it.
pub const ARGUMENT: &str = "--mps";

/// Whether the session shares its GPUs through MPS.
pub fn is_used() -> bool {
    std::env::args_os().skip(1).any(|argument| argument == ARGUMENT)
}

/// The folder of the daemon's sockets, if the session is to connect to it.
pub fn pipe_dir() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("CUDA_MPS_PIPE_DIRECTORY")?);
    is_used().then_some(dir)
}
