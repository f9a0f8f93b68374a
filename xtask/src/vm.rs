//! One virtual machine on this terminal.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use vgpu_vm::{COMMAND_LIMIT, Vm};

use crate::build::{self, Profile};
use crate::util::{Layout, progress};

#[derive(clap::Args)]
pub struct Args {
    /// The vhost-user socket of a running vgpu-backend; without it the guest has no GPU
    #[arg(long)]
    socket: Option<PathBuf>,
    /// Guest memory
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u32,
    /// A guest without our software, which is then not built
    #[arg(long)]
    bare: bool,
    /// Put a host file into the guest
    #[arg(long, value_name = "GUEST=HOST")]
    file: Vec<String>,
    /// Add a word to the kernel's command line
    #[arg(long, value_name = "WORD")]
    word: Vec<String>,
    /// Run commands as the guest's root
    #[arg(long)]
    root: bool,
    /// How long a command may take
    #[arg(long, value_name = "SECONDS", default_value_t = COMMAND_LIMIT.as_secs())]
    limit: u64,
    /// Show the guest's console at the end
    #[arg(long)]
    console: bool,
    /// Commands to run instead of reading them from standard input; the first that fails ends it
    commands: Vec<String>,
}

pub fn run(layout: &Layout, args: &Args) -> Result<()> {
    let artifacts = if args.bare {
        build::system(layout, Profile::Dev)?
    } else {
        build::everything(layout, Profile::Dev)?
    };
    let mut builder = Vm::builder(&artifacts, "vm").memory_mib(args.memory);
    if args.bare {
        builder = builder.initrd(build::bare_initramfs(&artifacts));
    }
    if let Some(socket) = &args.socket {
        builder = builder.vhost_socket(socket);
    }
    for word in &args.word {
        builder = builder.kernel_word(word);
    }
    for file in &args.file {
        let Some((guest, host)) = file.split_once('=') else {
            anyhow::bail!("--file wants GUEST=HOST")
        };
        builder = builder.file(guest, host);
    }
    let mut vm = progress("booting", || Ok(builder.boot()?))?;
    let outcome = talk(&mut vm, args);
    if args.console || outcome.is_err() {
        println!("--- console of the guest\n{}", vm.console().join("\n"));
    }
    outcome
}

fn talk(vm: &mut Vm, args: &Args) -> Result<()> {
    let user = if args.root { "root" } else { "guest" };
    let limit = Duration::from_secs(args.limit);
    for command in &args.commands {
        if !show(vm, user, command, limit)? {
            anyhow::bail!("{command} failed");
        }
    }
    if args.commands.is_empty() {
        eprintln!("    one command per line; end with Ctrl-D");
        for line in std::io::stdin().lock().lines() {
            show(vm, user, &line?, limit)?;
        }
    }
    Ok(())
}

fn show(vm: &mut Vm, user: &str, command: &str, limit: Duration) -> Result<bool> {
    let job = vm.start_as(user, command)?;
    let output = vm.wait_for(job, limit)?;
    print!("{}", output.text);
    std::io::stdout().flush()?;
    if !output.success() {
        eprintln!("    exit status {}", output.status);
    }
    Ok(output.success())
}
