//! The answer's body on its way to the client: each piece goes on as it comes, a copy of it into the call's record.

use super::call::Call;
use super::record::Ending;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

/// What goes to an upstream: bytes that are known, or a body passed through.
pub type Outgoing = Either<Full<Bytes>, Incoming>;
/// What goes to a client: bytes of our own, or an upstream's answer.
pub type Answer = Either<Full<Bytes>, Tapped>;

/// An upstream's answer and the call that it belongs to.
pub struct Tapped {
    inner: Incoming,
    call: Option<Box<Call>>,
    idle: Pin<Box<Sleep>>,
    idle_max: Duration,
    /// The last piece, until the call's log is durable.
    held: Option<(Option<Bytes>, oneshot::Receiver<()>)>,
}

impl Tapped {
    /// A body that finishes `call` when it ends.
    #[must_use]
    pub fn new(inner: Incoming, call: Box<Call>, idle_max: Duration) -> Self {
        let mut body = Self { inner, call: Some(call), idle: Box::pin(sleep(idle_max)), idle_max, held: None };
        if body.inner.is_end_stream() {
            body.finish(Ending::Complete, None);
        }
        body
    }

    /// Ends the call; where its log must be durable first, the last piece waits for it.
    fn finish(&mut self, ending: Ending, last: Option<Bytes>) {
        if let Some(call) = self.call.take()
            && let Some(durable) = call.finish(ending)
        {
            self.held = Some((last, durable));
        }
    }

    /// Whether a piece must not go before the log is durable.
    fn is_last(&self, data: &Bytes) -> bool {
        let Some(call) = self.call.as_ref() else { return false };
        self.inner.is_end_stream() || (call.is_durable() && call.is_streamed() && ends_stream(data))
    }

    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some((last, durable)) = &mut self.held else { return Poll::Ready(None) };
        let logged = ready!(Pin::new(durable).poll(cx));
        let last = last.take();
        self.held = None;
        Poll::Ready(match (logged, last) {
            (Ok(()), last) => last.map(|data| Ok(Frame::data(data))),
            (Err(_), _) => Some(Err(io::Error::other("the call could not be logged"))),
        })
    }
}

/// Whether a piece has the line that ends a stream; the same words in an answer's text are within a JSON string, and no line.
fn ends_stream(data: &[u8]) -> bool {
    const END: &[u8] = b"data: [DONE]";
    memchr::memmem::find_iter(data, END).any(|at| at == 0 || matches!(data[at - 1], b'\n' | b'\r'))
}

impl Body for Tapped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if this.held.is_some() {
            return this.poll_held(cx);
        }
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                if this.call.is_some() && this.idle.as_mut().poll(cx).is_ready() {
                    this.finish(Ending::Broken, None);
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the upstream went silent"))));
                }
                return Poll::Pending;
            }
        };
        match frame {
            Some(Ok(frame)) => {
                this.idle.as_mut().reset(Instant::now() + this.idle_max);
                let Ok(data) = frame.into_data() else { return self.poll_frame(cx) };
                if let Some(call) = &mut this.call {
                    call.piece(&data);
                }
                if this.is_last(&data) {
                    this.finish(Ending::Complete, Some(data.clone()));
                    if this.held.is_some() {
                        return this.poll_held(cx);
                    }
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => {
                this.finish(Ending::Broken, None);
                Poll::Ready(Some(Err(io::Error::other(error))))
            }
            None => {
                this.finish(Ending::Complete, None);
                this.poll_held(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Tapped {
    fn drop(&mut self) {
        // Dropped before its end: the client hung up.
        self.finish(Ending::Cancelled, None);
    }
}
