//! Connections: how many, how slow, how old, and the end.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::ServerError;
use crate::limits::Limits;
use crate::router::router;
use crate::service::Service;
use crate::tls::{TlsFiles, acceptor};

/// The answer to a connection that is one too many.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: application/json\r\n\
                      Content-Length: 46\r\nConnection: close\r\n\r\n{\"error\":\"too many connections are open now\"}\n";
/// How long a connection that is turned away may take to send its request.
const TURNED_AWAY: Duration = Duration::from_millis(500);
/// Bytes of a request's head, at most.
const HEAD: usize = 32 << 10;
/// How long to wait where the system has no more room for connections.
const NO_ROOM: Duration = Duration::from_millis(50);

/// How often the histograms are brought up to date where nobody reads the metrics.
const UPKEEP: Duration = Duration::from_secs(10);

/// At the end, connections are taken in until none has come for this long,
const QUIET: Duration = Duration::from_millis(5);
/// and for this long at most.
const LAST_CONNECTIONS: Duration = Duration::from_millis(100);

/// A server that listens, and does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    service: Arc<Service>,
}

impl Server {
    /// Listens on `address`; port 0 is any that is free.
    ///
    /// # Errors
    ///
    /// Where the address cannot be listened on, or the certificate cannot be used.
    pub async fn bind(
        address: &str,
        tls: Option<&TlsFiles>,
        service: Arc<Service>,
    ) -> Result<Self, ServerError> {
        let refused = |source| ServerError::Listen {
            address: address.to_string(),
            source,
        };
        let tls = tls.map(acceptor).transpose()?;
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self {
            listener,
            address,
            tls,
            service,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is done; then takes in no more, answers what it took in, and ends the engines. Returns how
    /// many connections it had to cut because they did not end in time.
    pub async fn run(self, stop: impl Future<Output = ()>) -> usize {
        let limits = self.service.settings().limits.clone();
        let places = Arc::new(Semaphore::new(limits.connections));
        let (ending, _) = watch::channel(false);
        let answers = router(Arc::clone(&self.service));
        let take_in = |stream: TcpStream| {
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.service.metrics().turned_away.increment(1);
                turn_away(stream, self.tls.is_some());
                return;
            };
            let connection = Connection {
                answers: answers.clone(),
                limits: limits.clone(),
                ending: ending.subscribe(),
                service: Arc::clone(&self.service),
                _place: place,
            };
            tokio::spawn(connection.serve(stream, self.tls.clone()));
        };
        let mut stop = pin!(stop);
        let mut upkeep = interval(UPKEEP);
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = upkeep.tick() => {
                    self.service.metrics().upkeep();
                    continue;
                }
                () = &mut stop => break,
            };
            match accepted {
                Ok((stream, _)) => take_in(stream),
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(NO_ROOM).await;
                }
            }
        }
        // The system has accepted these already, and may hold their requests.
        let known = async {
            while let Ok(Ok((stream, _))) = timeout(QUIET, self.listener.accept()).await {
                take_in(stream);
            }
        };
        let _ = timeout(LAST_CONNECTIONS, known).await;
        drop(self.listener);
        self.service.drain();
        ending.send_replace(true);
        let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
        let ended = timeout(limits.drain, places.acquire_many(all)).await;
        let left = match ended {
            Ok(_) => 0,
            Err(_) => limits.connections - places.available_permits(),
        };
        let service = self.service;
        // Threads are waited for where waiting stops nobody.
        let _ = tokio::task::spawn_blocking(move || service.end()).await;
        left
    }
}

/// Answers a connection that is one too many with 503. A client that does not read the answer is not waited for.
fn turn_away(stream: TcpStream, is_tls: bool) {
    if is_tls {
        return;
    }
    tokio::spawn(timeout(TURNED_AWAY, async move {
        // A new connection has room for so little.
        let _ = stream.writable().await;
        let _ = stream.try_write(FULL);
        // A connection that ends with its request unread is reset, and the answer may be lost.
        let _ = stream.readable().await;
        let _ = stream.try_read(&mut [0; 4096]);
    }));
}

/// One connection.
struct Connection {
    answers: Router,
    limits: Limits,
    ending: watch::Receiver<bool>,
    service: Arc<Service>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let gauge = self.service.metrics().connections.clone();
        gauge.increment(1.0);
        let _ = stream.set_nodelay(true);
        match tls {
            None => self.answer(stream).await,
            // A handshake is a head, too.
            Some(tls) => {
                if let Ok(Ok(stream)) = timeout(self.limits.head, tls.accept(stream)).await {
                    self.answer(stream).await;
                }
            }
        }
        gauge.decrement(1.0);
    }

    async fn answer(mut self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let answers = TowerToHyperService::new(self.answers);
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .max_buf_size(HEAD);
        let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answers));
        let end = async {
            tokio::select! {
                _ = self.ending.wait_for(|ending| *ending) => (),
                () = sleep(self.limits.age) => (),
            }
        };
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = end => {
                connection.as_mut().graceful_shutdown();
                // A client that does not read its answer is cut.
                match timeout(self.limits.drain, connection).await {
                    Ok(result) => result,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!("a connection ended: {error}");
        }
    }
}
