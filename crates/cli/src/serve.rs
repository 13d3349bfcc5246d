//! `aptvit serve`

use std::env::VarError;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use apt_inference::{Model, OpenOptions};
use apt_memory::Held;
use apt_pruning_agent::PolicyConfig;
use apt_rl_trainer::StopRequest;
use apt_rl_trainer::sweep::DENSE;
use apt_server::{
    API_KEY, ApiKey, EngineSettings, Limits, Server, Service, Settings, TlsFiles, Usual,
};
use clap::Parser;

use crate::global::Global;
use crate::model_args::read_classes;
use crate::values::{at_least_one, batch_size, duration, share};
use crate::{End, device, fit};

/// Threads that talk to clients; computing has its own.
const THREADS: usize = 2;

const EXAMPLES: &str = "\
Examples:
  aptvit serve --model mine=runs/mine                          then open http://127.0.0.1:8080
  aptvit serve --model vit=weights/ --flops 1.0:0.35           less compute for each image under load
  aptvit serve --model a=runs/a --model b=exported/b --listen 0.0.0.0:8443 \\
      --tls-cert cert.pem --tls-key key.pem                    with APTVIT_API_KEY set to a secret
  aptvit serve --model mine=runs/mine --memory mine=pets.safetensors

  curl --data-binary @cat.jpg 'http://127.0.0.1:8080/v1/models/mine/classify?flops=0.5'

Set APTVIT_API_KEY, and requests have to say `Authorization: Bearer` and that secret. SIGTERM and Ctrl-C end it when all
that was taken in is answered; the second one ends it at once.";

#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
pub struct Serve {
    /// A model and its name in addresses: a run's folder, an exported folder, or published weights with a head. Several
    /// are served where this is given several times
    #[arg(long = "model", visible_alias = "run", value_name = "NAME=PATH", value_parser = named::<PathBuf>, required = true)]
    pub models: Vec<(String, PathBuf)>,
    /// What a model's classes are called, one a line in the order of its outputs, the last of several names where tabs
    /// are [default: as the run or the weights say]
    #[arg(long, value_name = "NAME=FILE", value_parser = named::<PathBuf>)]
    pub classes: Vec<(String, PathBuf)>,
    /// A model's memory, which it asks where it is unsure (see `aptvit memory`): a file, or
    /// postgres://user@host/database#name. Pictures are added over HTTP, too
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = named::<String>)]
    pub memory: Vec<(String, String)>,
    /// Another policy than the models' own, its weights fresh; `aptvit info --policies` lists them
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Compute this share of the dense model's FLOPs where a request names none; MOST:LEAST lets the load choose between
    /// two [default: as the model was trained]
    #[arg(long, value_name = "SHARE[:LEAST]", value_parser = usual)]
    pub flops: Option<Usual>,
    /// How long an image may wait before each gets less compute
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub target_latency: Duration,
    /// FLOPs of a batch, as so many dense images: pruned images are more. It is smaller where it would take more than a
    /// quarter of the target latency
    #[arg(long, value_name = "IMAGES", value_parser = batch_size, default_value = "32")]
    pub batch: usize,
    /// Compute one in so many pruned answers again, dense, when there is nothing else to do, and say how near it was
    #[arg(long, value_name = "N", value_parser = at_least_one, default_value = "1000")]
    pub fidelity_sample: usize,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: String,
    /// A certificate with its chain, as PEM: HTTPS instead of HTTP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, as PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Let pages of this origin call the server, as in `https://example.org` [default: its own page alone]
    #[arg(long, value_name = "ORIGIN")]
    pub cors: Vec<String>,
    /// Bytes of a request's body, at most
    #[arg(long, value_name = "BYTES", value_parser = at_least_one, default_value = "8388608")]
    pub max_body: usize,
    /// Pixels of a picture, at most
    #[arg(long, value_name = "PIXELS", value_parser = at_least_one, default_value = "25000000")]
    pub max_pixels: usize,
    /// Images of a request, at most
    #[arg(long, value_name = "N", value_parser = at_least_one, default_value = "32")]
    pub max_images: usize,
    /// Requests that are answered at once, at most; more get 429
    #[arg(long, value_name = "N", value_parser = at_least_one, default_value = "256")]
    pub max_requests: usize,
    /// Open connections, at most; more get 503
    #[arg(long, value_name = "N", value_parser = at_least_one, default_value = "1024")]
    pub max_connections: usize,
    /// How long an image may wait at the least compute; more gets 429
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub max_wait: Duration,
    /// Until a request is answered, at most; later gets 503
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub deadline: Duration,
}

pub fn run(args: &Serve, global: &Global) -> Result<End> {
    let models = args.models.iter().map(|(name, path)| {
        let model = args
            .open(name, path, global)
            .with_context(|| format!("--model {name}"))?;
        Ok((name.clone(), model))
    });
    let models = models.collect::<Result<Vec<_>>>()?;
    for (name, file) in &args.classes {
        if !models.iter().any(|(model, _)| model == name) {
            bail!(
                "--classes {name}={}: there is no model `{name}`",
                file.display()
            );
        }
    }
    let key = match std::env::var(API_KEY) {
        // Taken for unset, it would leave the server open.
        Err(VarError::NotUnicode(_)) => bail!("{API_KEY}: expected UTF-8"),
        key => key.ok().filter(|key| !key.is_empty()),
    };
    let is_open = key.is_none();
    let memories = args
        .memory
        .iter()
        .map(|(name, address)| Ok((name.clone(), memory(name, address)?)));
    let memories = memories.collect::<Result<Vec<_>>>()?;
    let service = Service::with_memories(models, memories, args.settings(key))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("http")
        .enable_all()
        .build()?;
    runtime.block_on(serve(args, global, is_open, service))
}

/// A model's memory; where its database is away, the model answers alone until it is there.
fn memory(name: &str, address: &str) -> Result<Held> {
    match apt_memory::open(address, &device::open()) {
        Err(error) if error.is_away() => {
            eprintln!("warning: --memory {name}: {error}; {name} answers alone until it is there");
            Ok(Held::later(address))
        }
        opened => Ok(opened.with_context(|| format!("--memory {name}"))?.into()),
    }
}

async fn serve(args: &Serve, global: &Global, is_open: bool, service: Arc<Service>) -> Result<End> {
    let tls = args.tls_cert.clone().zip(args.tls_key.clone());
    let tls = tls.map(|(certificate, key)| TlsFiles { certificate, key });
    let server = Server::bind(&args.listen, tls.as_ref(), service).await?;
    let address = server.address();
    let scheme = if tls.is_some() { "https" } else { "http" };
    if is_open && !address.ip().is_loopback() {
        eprintln!(
            "warning: anyone who reaches {address} can compute here; set {API_KEY} to a secret"
        );
    }
    if global.json {
        println!(
            "{}",
            serde_json::json!({ "address": address, "url": format!("{scheme}://{address}") })
        );
    } else {
        eprintln!("serving on {scheme}://{address} until Ctrl-C");
    }
    let cut = server.run(stopped()).await;
    if cut > 0 {
        bail!("{cut} connections did not end in time, and were cut");
    }
    Ok(End::Done)
}

/// Done at the first SIGTERM or Ctrl-C; the second ends the program.
async fn stopped() {
    signalled().await;
    eprintln!("answering what was taken in; once more to stop at once");
    tokio::spawn(async {
        signalled().await;
        StopRequest::end_now(130);
    });
}

#[cfg(unix)]
async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let watched = [SignalKind::terminate(), SignalKind::interrupt()].map(signal);
    match watched {
        [Ok(mut terminate), Ok(mut interrupt)] => {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
        }
        // Without them, a signal ends the program as it always does.
        _ => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn signalled() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

impl Serve {
    fn open(&self, name: &str, path: &Path, global: &Global) -> Result<Model> {
        let options = OpenOptions {
            precision: global.dtype,
            ..OpenOptions::default()
        };
        let mut model = Model::open_with(path, options, &device::open())?;
        if let Some((_, file)) = self.classes.iter().find(|(of, _)| of == name) {
            let classes = read_classes(file)?.into_iter();
            let names = classes.map(|mut names| names.pop().unwrap_or_default());
            model = model
                .with_class_names(names.collect())
                .with_context(|| file.display().to_string())?;
        }
        if let Some(policy) = &self.policy {
            if policy == DENSE {
                bail!(
                    "--policy {DENSE}: it meets no budget that a request may name; leave it out: where neither --flops nor a \
                     request names a share, weights are served dense"
                );
            }
            if self.flops.is_none() {
                eprintln!(
                    "{name}: {policy} prunes where a request names a share; --flops 0.5 makes that the rule"
                );
            }
            model = model.with_policy(PolicyConfig::named(policy).context("--policy")?)?;
            fit::warn_untaught(&model);
        }
        Ok(model)
    }

    fn settings(&self, key: Option<String>) -> Settings {
        Settings {
            limits: Limits {
                body: self.max_body,
                pixels: self.max_pixels as u64,
                images: self.max_images,
                requests: self.max_requests,
                connections: self.max_connections,
                deadline: self.deadline,
                ..Limits::default()
            },
            engine: EngineSettings {
                usual: self.flops.unwrap_or_default(),
                target_latency: self.target_latency,
                batch: self.batch as f64,
                most_wait: self.max_wait,
                sample_every: self.fidelity_sample as u64,
            },
            key: key.as_deref().map(ApiKey::new),
            origins: self.cors.clone(),
        }
    }
}

/// `NAME=PATH`.
fn named<T: for<'a> From<&'a str>>(text: &str) -> Result<(String, T), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.into(), path.into()))
        }
        _ => Err("expected NAME=PATH, as in mine=runs/mine".into()),
    }
}

/// `0.5` or `1.0:0.35`.
fn usual(text: &str) -> Result<Usual, String> {
    match text.split_once(':') {
        None => share(text).map(Usual::Share),
        Some((most, least)) => {
            let (most, least) = (share(most)?, share(least)?);
            if least >= most {
                return Err("expected MOST:LEAST, as in 1.0:0.35".into());
            }
            Ok(Usual::Elastic { most, least })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_share_or_two() {
        assert_eq!(usual("0.5"), Ok(Usual::Share(0.5)));
        let (most, least) = (1.0, 0.35);
        assert_eq!(usual("1.0:0.35"), Ok(Usual::Elastic { most, least }));
        for text in ["0.35:1.0", "1:1", "1.5:0.5", "1:", "half"] {
            assert!(usual(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_model_has_a_name() {
        assert_eq!(named::<String>("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(named::<String>("runs/mine").is_err() && named::<String>("=x").is_err());
    }
}
