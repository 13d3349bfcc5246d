//! A server in this process, and a client that can misbehave.
#![allow(dead_code, clippy::unwrap_used)]

#[path = "../../../src/testing.rs"]
pub mod testing;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use apt_inference::Model;
use apt_memory::{About, FileStore, Judge, Store, Whitening};
use apt_server::{Server, Service, Settings, TlsFiles};
use burn::tensor::Device;
use serde_json::Value;
use tokio::sync::oneshot;

/// A server on a free port. It ends when it is dropped, and nothing of it computes after that.
pub struct Running {
    pub address: SocketAddr,
    pub service: Arc<Service>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<usize>>,
}

/// Serves the tiny model as `tiny`.
pub fn start(settings: Settings) -> Running {
    start_with(settings, None)
}

/// The same, over TLS where there are a certificate and a key.
pub fn start_with(settings: Settings, tls: Option<TlsFiles>) -> Running {
    start_model(testing::tiny_model(), settings, tls)
}

/// The same of another model, which is called `tiny`, too.
pub fn start_model(model: Model, settings: Settings, tls: Option<TlsFiles>) -> Running {
    start_service(
        Service::new(vec![("tiny".into(), model)], settings).unwrap(),
        tls,
    )
}

/// The same of what there is to serve.
pub fn start_service(service: Arc<Service>, tls: Option<TlsFiles>) -> Running {
    let served = Arc::clone(&service);
    let (tell, told) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let server = Server::bind("127.0.0.1:0", tls.as_ref(), served)
                .await
                .unwrap();
            tell.send(server.address()).unwrap();
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(stopped).await
        })
    });
    Running {
        address: told.recv().unwrap(),
        service,
        stop: Some(stop),
        thread: Some(thread),
    }
}

/// One with the usual settings.
pub fn usual() -> Running {
    start(Settings::default())
}

/// One with a memory in this folder that is empty and always believed.
pub fn remembering(folder: &Path) -> Running {
    let model = testing::tiny_model();
    let mut judge = Judge {
        neighbors: 1,
        ..Judge::default()
    };
    judge.trust[0] = 9.0;
    let whitening = Whitening::none(model.description().model.hidden_size);
    let about = About::new(&model, whitening, judge).unwrap();
    let path = folder.join("m.safetensors");
    let store = FileStore::create(&path, about, Vec::new(), &Device::default()).unwrap();
    let store: Box<dyn Store> = Box::new(store);
    let memories = vec![("tiny".into(), store.into())];
    let models = vec![("tiny".into(), model)];
    let service = Service::with_memories(models, memories, Settings::default()).unwrap();
    start_service(service, None)
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.head, self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1);
        let mut pairs = lines.filter_map(|line| line.split_once(':'));
        pairs
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_string())
    }
}

impl Running {
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream
    }

    /// A request with its body, on a connection of its own.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        // A server that refuses may close before all is sent.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body);
        receive(&mut stream)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, kind: &str, body: &[u8]) -> Answer {
        self.send("POST", path, &[("Content-Type", kind)], body)
    }

    /// A picture to `classify`, with what stands behind the question mark.
    pub fn classify(&self, options: &str, body: &[u8]) -> Answer {
        let path = format!("/v1/models/tiny/classify{options}");
        self.post(&path, "application/octet-stream", body)
    }

    /// Begins the end, as SIGTERM does.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// Waits for the end; says how many connections were cut.
    pub fn end(mut self) -> usize {
        self.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        // A failed test has said why already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Reads one answer to the end of the connection.
pub fn receive(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes.extend(&piece[..count]),
        }
    }
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end else {
        let (head, body) = (String::new(), bytes);
        return Answer {
            status: 0,
            head,
            body,
        };
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = bytes[end + 4..].to_vec();
    Answer { status, head, body }
}
