//! `vgpu-panel`: the control panel in the browser, and the same for programs. A client of `vgpud` that only reads.
mod guard;
mod live;
mod routes;
mod server;
mod vgpud;

use anyhow::{Context, Result};
use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use vgpud::Vgpud;

/// Threads that wait for an answer of vgpud's at most.
const ASKING_MAX: usize = 8;

/// Shows in a browser how virtual machines share the GPUs of this host, and tells programs.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The address and port to listen at; a loopback address.
    #[arg(long, value_name = "ADDRESS:PORT", env = "VGPU_PANEL_LISTEN", default_value = "127.0.0.1:8460", value_parser = loopback)]
    listen: SocketAddr,
    /// vgpud's socket.
    #[arg(
        long,
        value_name = "PATH",
        env = "VGPU_PANEL_SOCKET",
        default_value = "/run/vgpu/vgpud.sock"
    )]
    socket: PathBuf,
}

/// An address that only this host reaches: who may look is not checked.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Err("expected an address and a port, such as 127.0.0.1:8460 or [::1]:8460".to_owned());
    };
    if !address.ip().is_loopback() {
        return Err(format!(
            "expected a loopback address, such as 127.0.0.1:8460: vgpu-panel has no authentication yet, and {} may be \
             reached from elsewhere. From another machine: ssh -L 8460:127.0.0.1:8460 HOST",
            address.ip()
        ));
    }
    Ok(address)
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // In one line, without the backtrace that an error may have: it is for who runs this, not for who wrote it.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(ASKING_MAX)
        .enable_all()
        .build()?;
    let result = runtime.block_on(run(arguments));
    // Who waits for vgpud is not waited for.
    runtime.shutdown_background();
    result
}

async fn run(arguments: Arguments) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen at {}", arguments.listen))?;
    let vgpud = Vgpud::new(arguments.socket);
    if let Some(failure) = &vgpud.look().await.failure {
        log::warn!("{}", failure.message);
    }
    log::info!("listening at http://{}/", listener.local_addr()?);
    tokio::select! {
        () = server::serve(listener, routes::router(vgpud)) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_taken() {
        for right in ["127.0.0.1:8460", "[::1]:0", "127.1.2.3:80"] {
            assert_eq!(loopback(right).unwrap().to_string(), right);
        }
        for wrong in ["0.0.0.0:8460", "[::]:8460", "192.0.2.1:8460"] {
            let told = loopback(wrong).unwrap_err();
            assert!(
                told.contains("expected a loopback address") && told.contains("no authentication"),
                "{told}"
            );
        }
        for wrong in ["localhost:8460", "127.0.0.1", "8460", ""] {
            assert!(
                loopback(wrong)
                    .unwrap_err()
                    .starts_with("expected an address and a port")
            );
        }
    }
}
