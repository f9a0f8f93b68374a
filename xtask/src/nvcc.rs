//! NVIDIA's CUDA compiler, from its packages for Python, for programs that use the CUDA runtime as any other
//! program does: no GPU and no toolkit is needed to build them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::glibc::Glibc;
use crate::util::{Layout, capture, files_below};
use crate::wheels::{self, Wheel};

/// The compiler's folder in the cache; raise the number when the set of packages changes.
const NAME: &str = "nvcc-13.0-1";

const PACKAGES: [Wheel; 5] = [
    (
        "nvidia-cuda-nvcc",
        "13.0.88",
        "56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03",
    ),
    (
        "nvidia-nvvm",
        "13.0.88",
        "c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0",
    ),
    (
        "nvidia-cuda-crt",
        "13.0.88",
        "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
    ),
    (
        "nvidia-cuda-cccl",
        "13.0.85",
        "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649",
    ),
    (
        "nvidia-cuda-runtime",
        "13.0.96",
        "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    ),
];

/// The compiler and what it compiles against.
pub struct Nvcc {
    folder: PathBuf,
}

impl Nvcc {
    pub fn fetch(layout: &Layout) -> Result<Self> {
        let folder = layout.cached(NAME, "fetching NVIDIA's CUDA compiler (about 105 MB)", |folder| {
            wheels::unpack(layout, &PACKAGES, folder)?;
            for programs in ["bin", "nvvm/bin"] {
                for program in files_below(&folder.join("nvidia/cu13").join(programs), &|_| true)? {
                    wheels::make_program(&program)?;
                }
            }
            Ok(())
        })?;
        Ok(Self {
            folder: folder.join("nvidia/cu13"),
        })
    }

    /// Compiles a program with the CUDA runtime inside. Its kernels are PTX, which every GPU's driver compiles
    /// for itself, and which the software GPU runs.
    pub fn compile(&self, glibc: &Glibc, source: &Path, program: &Path) -> Result<()> {
        if let Some(folder) = program.parent() {
            fs::create_dir_all(folder)?;
        }
        let object = program.with_extension("o");
        let mut nvcc = Command::new(self.folder.join("bin/nvcc"));
        nvcc.args(["-std=c++17", "-O2", "-c"]);
        nvcc.args(["-gencode", "arch=compute_90,code=compute_90"]);
        nvcc.args(["-Xcompiler", "-Wall,-Wextra,-Werror"]);
        nvcc.arg("-o").arg(&object).arg(source);
        // Its own way of linking would take this machine's C library.
        let mut link = Command::new("g++");
        link.args(glibc.gcc_arguments());
        link.arg("-o").arg(program).arg(&object);
        link.arg("-L").arg(self.folder.join("lib"));
        link.args(["-lcudart_static", "-lrt", "-lpthread", "-ldl"]);
        link.args(["-Wl,--as-needed", "-Wl,--allow-shlib-undefined"]);
        let linked = capture(&mut nvcc).and_then(|_| capture(&mut link));
        // The folder holds programs only.
        fs::remove_file(&object).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        linked
            .map(drop)
            .with_context(|| format!("cannot compile {}", source.display()))
    }
}
