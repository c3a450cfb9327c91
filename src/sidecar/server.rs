//! Listens, takes connections of HTTP/1.1 and HTTP/2, and drains them at the end.
//!
//! A drain has three steps. For a while connections are still taken and every answer asks its client to close: who talks to us
//! learns it by the protocol. Then nothing new is taken, connections that rest are closed, and what is under way is answered.
//! What is not done within the timeout is cut off.

use super::body::Answer;
use super::{Error, State, feedback, json, proxy};
use crate::runtime::Shutdown;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::convert::Infallible;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

/// How long connections that are cut off take to end.
const CUT: Duration = Duration::from_secs(2);
/// How long a client may take for the head of a request, and for the handshake of TLS.
const HEAD: Duration = Duration::from_secs(30);

/// Reads a certificate and its key.
pub(super) fn tls(certificate: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
    let wrong = |path: &Path, error: &dyn std::fmt::Display| Error::Tls(format!("{}: {error}", path.display()));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(certificate, &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Tls(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| wrong(certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What a connection needs.
#[derive(Clone)]
struct Context {
    builder: Arc<Builder<TokioExecutor>>,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
    closing: Shutdown,
    /// What is still under way is cut off.
    cut: Shutdown,
}

/// Serves until the shutdown, and drains.
pub(super) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>, shutdown: Shutdown) {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder.http2().timer(TokioTimer::new());
    let closing = Shutdown::new();
    let cut = Shutdown::new();
    let (now_closing, now_cut) = (closing.clone(), cut.clone());
    let context = Context { builder: Arc::new(builder), tls, state: Arc::clone(&state), closing, cut };
    let (alive, mut ended) = mpsc::channel::<()>(1);
    accept(&listener, &context, &alive, shutdown.cancelled()).await;
    state.draining.cancel();
    let grace = Instant::now() + Duration::from_millis(state.settings.drain_grace_ms);
    accept(&listener, &context, &alive, sleep_until(grace)).await;
    drop(listener);
    now_closing.cancel();
    drop((context, alive));
    let patience = Duration::from_millis(state.settings.drain_timeout_ms);
    if timeout(patience, ended.recv()).await.is_err() {
        tracing::warn!("requests were still under way after {} s and are cut off", patience.as_secs());
        // Their calls end with them, and are logged before the log is closed.
        now_cut.cancel();
        drop(timeout(CUT, ended.recv()).await);
    }
}

async fn accept(listener: &TcpListener, context: &Context, alive: &mpsc::Sender<()>, end: impl Future<Output = ()>) {
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (context, alive) = (context.clone(), alive.clone());
                tokio::spawn(async move {
                    let cut = context.cut.clone();
                    tokio::select! {
                        () = take(stream, context) => {}
                        () = cut.cancelled() => {}
                    }
                    drop(alive);
                });
            }
            // Too many open files: those that are served will close.
            Err(error) => {
                tracing::warn!(%error, "a connection was not taken");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn take(stream: TcpStream, context: Context) {
    // Pieces of an answer go at once.
    drop(stream.set_nodelay(true));
    match context.tls.clone() {
        None => {
            // Who connects and says nothing does not stay for ever.
            if timeout(HEAD, stream.readable()).await.is_ok() {
                connection(TokioIo::new(stream), context).await;
            }
        }
        Some(tls) => {
            if let Ok(Ok(stream)) = timeout(HEAD, tls.accept(stream)).await {
                connection(TokioIo::new(stream), context).await;
            }
        }
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(io: TokioIo<S>, context: Context) {
    let Context { builder, state, closing, .. } = context;
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(state, request).await) }
    });
    let mut connection = pin!(builder.serve_connection(io, service));
    // An error is a client that hung up or spoke no HTTP; its calls are logged by their own end.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Response<Answer> {
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::POST, "/v1/feedback") => feedback::take(state, request).await,
        (_, path) if path.starts_with("/v1/") => proxy::answer(state, request).await,
        (&Method::GET, "/healthz") => json(StatusCode::OK, &serde_json::json!({"status": "ok"})),
        (&Method::GET, "/readyz") => match ready(&state) {
            Ok(()) => json(StatusCode::OK, &serde_json::json!({"status": "ready"})),
            Err(why) => json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({"status": why})),
        },
        _ => {
            let message = format!("there is no {path}; the API is under /v1/");
            let error = serde_json::json!({"error": {
                "message": message, "type": "invalid_request_error", "param": null, "code": null,
            }});
            json(StatusCode::NOT_FOUND, &error)
        }
    }
}

/// Whether requests should come here.
pub(super) fn ready(state: &State) -> Result<(), &'static str> {
    if state.draining.is_cancelled() {
        return Err("draining");
    }
    if !state.looked.load(Relaxed) {
        return Err("the upstreams were not asked for their models yet");
    }
    if !state.upstreams.all.iter().any(|replica| replica.is_up()) {
        return Err("no upstream answers");
    }
    Ok(())
}
