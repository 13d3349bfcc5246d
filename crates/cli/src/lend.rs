//! `aptvit lend`

use anyhow::Result;
use clap::Parser;

use crate::global::Global;
use crate::token::TOKEN;
use crate::{End, device};

const EXAMPLES: &str = "\
Examples:
  aptvit lend --device cuda --listen 10.0.0.2:3000         on the machine that lends
  aptvit train --device cuda,remote:10.0.0.2:3000          on the machine that trains

Set APTVIT_TOKEN to the same secret on both. It keeps strangers out, but nothing is encrypted: lend on
a network that you trust, or through a tunnel.";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Lend {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:3000")]
    pub listen: String,
}

#[cfg(feature = "remote")]
pub fn run(args: &Lend, global: &Global) -> Result<End> {
    use anyhow::Context;
    use burn::tensor::server::{RemoteServer, TokenAuthorizer, WebSocketTransport};

    let listener = std::net::TcpListener::bind(&args.listen)
        .with_context(|| format!("--listen {}", args.listen))?;
    let address = listener.local_addr()?;
    let devices = device::open_all()?;
    let count = devices.len();
    let mut server = RemoteServer::new(devices);
    match crate::token::token() {
        Some(token) => server = server.with_authorizer(TokenAuthorizer::new(token)?),
        None if !address.ip().is_loopback() => eprintln!(
            "warning: anyone who reaches {address} can compute here; set {TOKEN} to the same secret \
             here and where you train"
        ),
        None => (),
    }
    if global.json {
        println!(
            "{}",
            serde_json::json!({ "address": address, "devices": count })
        )
    } else {
        eprintln!(
            "lending {count} device(s) on {address} until Ctrl-C; train with --device \
             DEVICE,remote:HOST:{}",
            address.port()
        )
    }
    server.serve(WebSocketTransport::from_listener(listener))?;
    Ok(End::Done)
}

#[cfg(not(feature = "remote"))]
pub fn run(_: &Lend, _: &Global) -> Result<End> {
    anyhow::bail!(
        "this program was built without remote devices ({TOKEN} and --listen do nothing); {}",
        device::how_to_build(device::REMOTE)
    )
}
