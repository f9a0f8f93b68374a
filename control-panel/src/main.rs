//! `vgpu-panel`: the control panel in the browser, and the same for programs. A client of `vgpud`, which does what it asks
//! for in the name of somebody whom the panel knows.
mod access;
mod guard;
mod history;
mod live;
mod news;
mod openapi;
mod routes;
mod server;
mod tokens;
mod vgpud;

use access::Doors;
use anyhow::{Context, Result};
use axum::http::uri::Authority;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use guard::Names;
use history::History;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokens::{Role, Tokens};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use vgpu_program::service;
use vgpud::Vgpud;

/// Threads that wait for an answer of vgpud's at most.
const ASKING_MAX: usize = 8;

/// Shows in a browser how virtual machines share the GPUs of this host, tells programs, and changes it for those who may.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(flatten)]
    panel: Panel,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Args)]
struct Panel {
    /// The address and port to listen at
    #[arg(long, value_name = "ADDRESS:PORT", env = "VGPU_PANEL_LISTEN", default_value = "127.0.0.1:8460", value_parser = address)]
    listen: SocketAddr,
    /// vgpud's socket
    #[arg(
        long,
        value_name = "PATH",
        env = "VGPU_PANEL_SOCKET",
        default_value = "/run/vgpu/vgpud.sock"
    )]
    socket: PathBuf,
    /// Who may look, and who may change things: a file that `vgpu-panel token` adds to. Without, everybody on this host may look
    #[arg(long, value_name = "FILE", env = "VGPU_PANEL_TOKENS")]
    tokens: Option<PathBuf>,
    /// A name or address, besides localhost, under which the panel is asked for; may be given several times
    #[arg(long = "host", value_name = "NAME", value_parser = host)]
    hosts: Vec<String>,
    /// The certificates to show for TLS, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The private key of the first of them, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A proxy with TLS stands before it
    #[arg(long)]
    behind_proxy: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a token, print it, and add its line to the file of tokens
    Token {
        /// The file; made if it is not there
        #[arg(long, value_name = "FILE", env = "VGPU_PANEL_TOKENS")]
        tokens: PathBuf,
        /// What its owner may do
        #[arg(long)]
        role: Role,
        /// Its owner, as the audit is to name him
        #[arg(long)]
        name: String,
    },
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "expected an address and a port, such as 127.0.0.1:8460 or [::1]:8460".to_owned())
}

/// What a Host header says without its port.
fn host(text: &str) -> Result<String, String> {
    let address = text.parse::<IpAddr>().is_ok();
    let name = text
        .parse::<Authority>()
        .is_ok_and(|authority| authority.host() == text && !text.contains('['));
    match address || name {
        true => Ok(text.to_owned()),
        false => {
            Err("expected a name or an address alone, such as panel.example.org or 192.0.2.1".to_owned())
        }
    }
}

impl Panel {
    /// What of this must not be together.
    fn check(&self) -> Result<(), String> {
        let address = self.listen.ip();
        let outside = !address.is_loopback();
        if outside && self.tls_cert.is_none() && !self.behind_proxy {
            return Err(format!(
                "--listen {}: expected a loopback address, such as 127.0.0.1:8460, or TLS (--tls-cert, --tls-key), or \
                 --behind-proxy if a proxy with TLS stands before it: {address} may be reached from elsewhere, and what is said \
                 could be read on the way. From another machine: ssh -L 8460:127.0.0.1:8460 HOST",
                self.listen
            ));
        }
        if (outside || self.behind_proxy) && self.tokens.is_none() {
            return Err(
                "expected --tokens FILE: where others reach the panel, it must know who may look".to_owned(),
            );
        }
        if (self.behind_proxy || address.is_unspecified()) && self.hosts.is_empty() {
            return Err("expected --host NAME: the name by which browsers ask for the panel, so that other names are \
                        refused"
                .to_owned());
        }
        Ok(())
    }

    fn names(&self) -> Names {
        Names {
            others: self
                .hosts
                .iter()
                .cloned()
                .chain([self.listen.ip().to_string()])
                .collect(),
            behind_proxy: self.behind_proxy,
        }
    }
}

fn main() -> ExitCode {
    vgpu_program::log::builder().init();
    if let Some(code) = vgpu_program::manual::if_asked::<Arguments>() {
        return code;
    }
    vgpu_program::ended(start(Arguments::parse()))
}

fn start(arguments: Arguments) -> Result<()> {
    if let Some(Command::Token { tokens, role, name }) = &arguments.command {
        println!("{}", tokens::add(tokens, *role, name)?);
        return Ok(());
    }
    let panel = arguments.panel;
    if let Err(message) = panel.check() {
        Arguments::command()
            .error(ErrorKind::ValueValidation, message)
            .exit();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(ASKING_MAX)
        .enable_all()
        .build()?;
    let result = runtime.block_on(run(panel));
    // Who waits for vgpud is not waited for.
    runtime.shutdown_background();
    result
}

async fn run(panel: Panel) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let tls = match (&panel.tls_cert, &panel.tls_key) {
        (Some(certificates), Some(key)) => Some(server::tls(certificates, key)?),
        _ => None,
    };
    let tokens = panel.tokens.clone().map(Tokens::open).transpose()?;
    let listener = TcpListener::bind(panel.listen)
        .await
        .with_context(|| format!("cannot listen at {}", panel.listen))?;
    let vgpud = Vgpud::new(panel.socket.clone());
    if let Some(failure) = &vgpud.look().await.failure {
        log::warn!("{}", failure.message);
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let doing = format!("listening at {scheme}://{}/", listener.local_addr()?);
    log::info!("{doing}");
    let history = Arc::<History>::default();
    tokio::spawn(history.clone().follow(vgpud.clone()));
    let doors = Doors::new(tokens, tls.is_some() || panel.behind_proxy);
    tokio::select! {
        () = server::serve(listener, tls, routes::router(vgpud, history, doors, panel.names())) => {}
        () = watch_over(doing) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    service::stopping();
    log::info!("ended");
    Ok(())
}

/// Tells the service manager, where one listens, that the tasks of this program get on; it has no end.
async fn watch_over(doing: String) {
    let Some(mut heartbeat) = service::ready(&doing) else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(heartbeat.period()).await;
        heartbeat.beat(doing.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<(), String> {
        let words = ["vgpu-panel"].into_iter().chain(line.split_whitespace());
        Arguments::try_parse_from(words)
            .map_err(|error| error.to_string())?
            .panel
            .check()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn others_reach_it_through_tls_and_with_a_token_only() {
        for right in [
            "",
            "--listen 127.0.0.1:8460",
            "--listen [::1]:0",
            "--listen 127.1.2.3:80",
            "--tokens t",
            "--tls-cert c --tls-key k",
            "--listen 192.0.2.1:443 --tls-cert c --tls-key k --tokens t",
            "--listen 0.0.0.0:443 --tls-cert c --tls-key k --tokens t --host a --host b",
            "--listen 0.0.0.0:80 --behind-proxy --tokens t --host a",
            "--behind-proxy --tokens t --host a",
            "--host panel.example.org --host 2001:db8::1 --host 192.0.2.1",
        ] {
            assert_eq!(check(right), Ok(()), "{right}");
        }
        for (wrong, told) in [
            ("--listen 0.0.0.0:8460", "expected a loopback address"),
            (
                "--listen [::]:8460 --tokens t",
                "or TLS (--tls-cert, --tls-key), or --behind-proxy",
            ),
            (
                "--listen 192.0.2.1:8460 --tokens t --host a",
                "expected a loopback address",
            ),
            (
                "--listen 192.0.2.1:443 --tls-cert c --tls-key k",
                "expected --tokens FILE",
            ),
            ("--behind-proxy --host a", "expected --tokens FILE"),
            ("--behind-proxy --tokens t", "expected --host NAME"),
            (
                "--listen [::]:443 --tls-cert c --tls-key k --tokens t",
                "expected --host NAME",
            ),
            ("--host https://a", "expected a name or an address alone"),
            ("--host a:80", "expected a name or an address alone"),
            ("--host a@b", "expected a name or an address alone"),
            ("--host [::1]", "expected a name or an address alone"),
            ("--tls-cert c", "--tls-key"),
            ("--tls-key k", "--tls-cert"),
            ("--listen localhost:8460", "expected an address and a port"),
            ("--listen 127.0.0.1", "expected an address and a port"),
            (
                "--tokens t token --role admin --name a --tokens t",
                "cannot be used with",
            ),
        ] {
            let error = check(wrong).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }
}
