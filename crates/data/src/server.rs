//! A small HTTP server on this machine for tests: it answers its connections as told.

use crate::download::Downloader;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The answer to one request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    /// The file, from where the request's range begins.
    File,
    /// The whole file, whatever range was asked for.
    WholeFile,
    /// As many bytes as said, although more are announced.
    CutAfter(usize),
    /// The file with a byte changed.
    Corrupt,
    /// A range that begins one byte too late.
    WrongRange,
    /// Nothing but a status.
    Status(u16),
    /// Nothing is left to send.
    NothingLeft,
    /// The whole file, or the rest of it for who has the same `"etag"`, cut after so many bytes.
    Tagged(&'static str, usize),
    /// Somewhere else on this server.
    Redirect,
    /// Not even a status.
    Close,
    /// As many bytes as said, although more are announced, and then silence with an open connection.
    SilentAfter(usize),
    /// Not even that: silence from the beginning.
    Silent,
}

/// Answers one request after the other, then none.
pub(crate) struct Server {
    address: SocketAddr,
    ranges: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Server {
    pub fn start(content: Vec<u8>, answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let seen = ranges.clone();
        std::thread::spawn(move || {
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                let tag = match answer {
                    Answer::Tagged(tag, _) => Some(tag),
                    _ => None,
                };
                let range = read_request(&stream, tag);
                seen.lock().unwrap().push(range);
                // A client that has heard enough may hang up.
                let _ = respond(stream, answer, range, &content);
            }
        });
        Self { address, ranges }
    }

    pub fn url(&self, file: &str) -> String {
        format!("http://{}/{file}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The first byte that each request asked for.
    pub fn ranges(&self) -> Vec<Option<usize>> {
        self.ranges.lock().unwrap().clone()
    }
}

/// The first byte that is asked for, unless the file has another tag than asked for.
fn read_request(stream: &TcpStream, tag: Option<&str>) -> Option<usize> {
    let mut range = None;
    let mut other = false;
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(start) = line.strip_prefix("range: bytes=") {
            range = start.trim_end_matches('-').parse().ok();
        }
        if let (Some(wanted), Some(tag)) = (line.strip_prefix("if-range: "), tag) {
            other = wanted != tag;
        }
    }
    range.filter(|_| !other)
}

/// A proxy that leads one connection to `target`, whatever host is asked for.
pub(crate) fn proxy_to(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(client.try_clone().unwrap());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).unwrap();
        }
        let mut server = TcpStream::connect(target).unwrap();
        let mut answers = server.try_clone().unwrap();
        let tunnel = head.starts_with("CONNECT");
        let requests = std::thread::spawn(move || {
            if !tunnel {
                server.write_all(head.as_bytes()).unwrap();
            }
            // Either side may hang up.
            let _ = std::io::copy(&mut reader, &mut server);
        });
        if tunnel {
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        }
        let _ = std::io::copy(&mut answers, &mut client);
        let _ = client.shutdown(std::net::Shutdown::Both);
        let _ = requests.join();
    });
    address
}

fn respond(
    mut stream: TcpStream,
    answer: Answer,
    range: Option<usize>,
    content: &[u8],
) -> std::io::Result<()> {
    let mut send = |status: &str, headers: &str, announced: usize, body: &[u8]| {
        write!(
            stream,
            "HTTP/1.1 {status} x\r\nConnection: close\r\n{headers}Content-Length: {announced}\r\n\r\n",
        )?;
        stream.write_all(body)
    };
    let total = content.len();
    let from = |start: usize| format!("Content-Range: bytes {start}-{}/{total}\r\n", total - 1);
    match (answer, range) {
        (Answer::Close, _) => Ok(()),
        (Answer::Silent, _) => {
            stay_silent(stream);
            Ok(())
        }
        (Answer::SilentAfter(sent), _) => {
            send("200", "", total, &content[..sent])?;
            stay_silent(stream);
            Ok(())
        }
        (Answer::NothingLeft, _) => send(
            "416",
            &format!("Content-Range: bytes */{total}\r\n"),
            0,
            &[],
        ),
        (Answer::Tagged(tag, sent), range) => {
            let start = range.unwrap_or(0);
            let rest = &content[start..];
            let (status, headers) = match range {
                Some(start) => ("206", from(start)),
                None => ("200", format!("ETag: {tag}\r\n")),
            };
            send(status, &headers, rest.len(), &rest[..sent.min(rest.len())])
        }
        (Answer::Status(status), _) => send(&status.to_string(), "", 0, &[]),
        (Answer::Redirect, _) => send("302", "Location: /elsewhere\r\n", 0, &[]),
        (Answer::File, Some(start)) => {
            let rest = &content[start..];
            send("206", &from(start), rest.len(), rest)
        }
        (Answer::WrongRange, Some(start)) => {
            let rest = &content[start + 1..];
            send("206", &from(start + 1), rest.len(), rest)
        }
        (Answer::CutAfter(sent), _) => send("200", "", total, &content[..sent]),
        (Answer::Corrupt, _) => {
            let mut spoilt = content.to_vec();
            spoilt[total / 2] ^= 1;
            send("200", "", total, &spoilt)
        }
        (Answer::File | Answer::WholeFile | Answer::WrongRange, _) => {
            send("200", "", total, content)
        }
    }
}

/// Keeps a connection open until the other side has hung up.
fn stay_silent(stream: TcpStream) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut &stream, &mut std::io::sink());
    });
}

impl Downloader {
    /// Impatient, and deaf to the environment's proxy.
    pub fn for_tests() -> Self {
        Self::new(
            Self::agent(std::time::Duration::from_secs(20)).proxy(None),
            3,
            std::time::Duration::from_millis(1),
        )
    }
}
