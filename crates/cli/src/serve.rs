//! `aptvit serve`

use anyhow::Result;

use crate::args::{Global, Serve};
use crate::{End, device};

/// The variable that holds the secret which server and trainings share.
const TOKEN: &str = "APTVIT_TOKEN";

/// The shared secret, if there is one.
#[cfg(feature = "remote")]
pub fn token() -> Option<String> {
    std::env::var(TOKEN).ok().filter(|token| !token.is_empty())
}

#[cfg(feature = "remote")]
pub fn run(args: &Serve, global: &Global) -> Result<End> {
    use anyhow::Context;
    use burn::tensor::server::{RemoteServer, TokenAuthorizer, WebSocketTransport};

    let listener = std::net::TcpListener::bind(&args.listen)
        .with_context(|| format!("--listen {}", args.listen))?;
    let address = listener.local_addr()?;
    let devices = device::open_all()?;
    let count = devices.len();
    let mut server = RemoteServer::new(devices);
    match token() {
        Some(token) => server = server.with_authorizer(TokenAuthorizer::new(token)?),
        None if !address.ip().is_loopback() => eprintln!(
            "warning: anyone who reaches {address} can compute here; set {TOKEN} to the same secret \
             here and where you train"
        ),
        None => (),
    }
    match global.json {
        true => println!(
            "{}",
            serde_json::json!({ "address": address, "devices": count })
        ),
        false => eprintln!(
            "serving {count} device(s) on {address} until Ctrl-C; train with --device \
             DEVICE,remote:HOST:{}",
            address.port()
        ),
    }
    server.serve(WebSocketTransport::from_listener(listener))?;
    Ok(End::Done)
}

#[cfg(not(feature = "remote"))]
pub fn run(_: &Serve, _: &Global) -> Result<End> {
    anyhow::bail!(
        "this program was built without remote devices ({TOKEN} and --listen do nothing); {}",
        device::how_to_build(device::REMOTE)
    )
}
