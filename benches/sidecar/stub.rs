//! An inference server that takes constant time.

use bytes::Bytes;
use futures::stream::BoxStream;
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::time::Duration;

/// How long an answer takes, and the first piece of a stream.
pub const LATENCY_MS: u64 = 5;
/// Between two pieces of a stream.
pub const BETWEEN_MS: u64 = 10;
/// Pieces of a stream.
const PIECES: u32 = 40;

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"There are forty-two customers in Lisbon, of whom seven ordered in the last month and three asked for a refund."},"finish_reason":"stop","logprobs":null}],"usage":{"prompt_tokens":57,"completion_tokens":24,"total_tokens":81}}"#;
const PIECE: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";

type Body = Either<Full<Bytes>, StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

/// Serves for ever.
pub async fn serve(port: u16) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)),
        );
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    if path == "/health" {
        return Ok(Response::new(Either::Left(Full::default())));
    }
    let streamed = memchr::memmem::find(&body, b"\"stream\":true").is_some();
    if !streamed {
        tokio::time::sleep(Duration::from_millis(LATENCY_MS)).await;
        let mut response = Response::new(Either::Left(Full::new(Bytes::from_static(ANSWER.as_bytes()))));
        response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
        return Ok(response);
    }
    let pieces = futures::stream::unfold(0, |n| async move {
        if n > PIECES {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(if n == 0 { LATENCY_MS } else { BETWEEN_MS })).await;
        let piece = if n == PIECES { "data: [DONE]\n\n" } else { PIECE };
        Some((Ok(Frame::data(Bytes::from_static(piece.as_bytes()))), n + 1))
    });
    let mut response = Response::new(Either::Right(StreamBody::new(Box::pin(pieces) as BoxStream<'static, _>)));
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("text/event-stream"));
    Ok(response)
}
