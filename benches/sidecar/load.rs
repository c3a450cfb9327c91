//! Load on kept-alive connections, and what it meets.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// A request like those of a support desk: some 700 bytes.
fn question(streamed: bool) -> Bytes {
    let system = "You answer questions on a shop's customers and orders. Be brief, name figures, and say where a number comes from. ".repeat(4);
    let stream = if streamed { "\"stream\":true," } else { "" };
    format!(
        "{{\"model\":\"m\",{stream}\"user\":\"user-7\",\"messages\":[{{\"role\":\"system\",\"content\":\"{system}\"}},\
         {{\"role\":\"user\",\"content\":\"How many customers live in Lisbon, and how many of them ordered last month?\"}}]}}"
    )
    .into()
}

/// Latencies of one measurement.
#[derive(Default)]
pub struct Measured {
    latencies: Vec<Duration>,
    pub answered: u64,
    pub failed: u64,
    pub seconds: f64,
}

impl Measured {
    /// The latency below which a share of the requests was, in milliseconds.
    pub fn latency_ms(&self, share: f64) -> f64 {
        let at = ((self.latencies.len().saturating_sub(1)) as f64 * share).round() as usize;
        self.latencies.get(at).map_or(f64::NAN, |l| l.as_secs_f64() * 1e3)
    }

    fn of(mut latencies: Vec<Duration>, failed: u64, seconds: f64) -> Self {
        latencies.sort_unstable();
        Self { answered: latencies.len() as u64, latencies, failed, seconds }
    }
}

/// A load.
pub struct Load {
    pub port: u16,
    pub connections: usize,
    /// Requests a second in all; as many as are answered where absent.
    pub rate: Option<u32>,
}

async fn connect(port: u16) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    Ok(sender)
}

fn request(body: &Bytes) -> Request<Full<Bytes>> {
    Request::post("/v1/chat/completions")
        .header("host", "localhost")
        .header("content-type", "application/json")
        .header("authorization", "Bearer sk-bench")
        .body(Full::new(body.clone()))
        .expect("it is a request")
}

impl Load {
    /// Runs for so long.
    pub async fn run(&self, seconds: Duration) -> io::Result<Measured> {
        let (body, begin) = (question(false), Instant::now() + Duration::from_millis(50));
        let mut tasks = Vec::new();
        for n in 0..self.connections {
            let (sender, body) = (connect(self.port).await?, body.clone());
            let every = self.rate.map(|rate| Duration::from_secs_f64(self.connections as f64 / f64::from(rate)));
            // The connections' times are spread over the interval.
            let first = begin + every.unwrap_or_default().mul_f64(n as f64 / self.connections as f64);
            tasks.push(tokio::spawn(worker(sender, body, first, every, begin + seconds)));
        }
        let (mut latencies, mut failed) = (Vec::new(), 0);
        for task in tasks {
            let (some, bad) = task.await.map_err(io::Error::other)?;
            latencies.extend(some);
            failed += bad;
        }
        Ok(Measured::of(latencies, failed, begin.elapsed().as_secs_f64()))
    }
}

async fn worker(
    mut sender: SendRequest<Full<Bytes>>,
    body: Bytes,
    first: Instant,
    every: Option<Duration>,
    end: Instant,
) -> (Vec<Duration>, u64) {
    let (mut latencies, mut failed) = (Vec::new(), 0);
    let mut due = first;
    while due < end {
        tokio::time::sleep_until(due.into()).await;
        // A timer may be a millisecond late; where nothing waits, that is the load's own delay and no latency.
        let from = if every.is_none() || due.elapsed() < Duration::from_millis(2) { Instant::now() } else { due };
        let answered = async {
            sender.ready().await?;
            let response = sender.send_request(request(&body)).await?;
            let fine = response.status().is_success();
            response.into_body().collect().await?;
            Ok::<bool, hyper::Error>(fine)
        };
        match answered.await {
            Ok(true) => latencies.push(from.elapsed()),
            Ok(false) => failed += 1,
            Err(_) => return (latencies, failed + 1),
        }
        due = every.map_or_else(Instant::now, |every| due + every);
    }
    (latencies, failed)
}

/// What streams met: until the first piece, and between pieces.
pub struct Streamed {
    pub first: Measured,
    pub between: Measured,
}

/// So many streams at once, again and again.
pub async fn streams(port: u16, at_once: usize, seconds: Duration) -> io::Result<Streamed> {
    let (body, begin) = (question(true), Instant::now());
    let mut tasks = Vec::new();
    for n in 0..at_once {
        let (mut sender, body) = (connect(port).await?, body.clone());
        tasks.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(400).mul_f64(n as f64 / at_once as f64)).await;
            let (mut first, mut between) = (Vec::new(), Vec::new());
            while begin.elapsed() < seconds {
                sender.ready().await?;
                let mut last = Instant::now();
                let mut body = sender.send_request(request(&body)).await?.into_body();
                let mut began = false;
                while let Some(frame) = body.frame().await {
                    frame?;
                    (if began { &mut between } else { &mut first }).push(last.elapsed());
                    began = true;
                    last = Instant::now();
                }
            }
            Ok::<_, hyper::Error>((first, between))
        }));
    }
    let (mut first, mut between) = (Vec::new(), Vec::new());
    for task in tasks {
        let (f, b) = task.await.map_err(io::Error::other)?.map_err(io::Error::other)?;
        first.extend(f);
        between.extend(b);
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Streamed { first: Measured::of(first, 0, seconds), between: Measured::of(between, 0, seconds) })
}
