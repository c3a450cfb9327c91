//! Copies of requests to a challenger, whose answers nobody waits for: they are logged, with `shadow_of`, and that is all.

use super::State;
use super::asked::Asked;
use super::call::Call;
use super::keys::Admitted;
use super::record::{Ending, Record};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::http::request::Parts;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Sends a copy where one is drawn and there is room; never waits.
pub(super) fn copy(
    state: &Arc<State>,
    parts: &Parts,
    asked: &Asked,
    body: &Bytes,
    model: &str,
    request_id: &str,
    call: &mut Call,
) {
    let Some((challenger, most)) = state.versions.shadow(model, request_id) else { return };
    if state.shadows.fetch_add(1, Relaxed) >= most {
        state.shadows.fetch_sub(1, Relaxed);
        return;
    }
    let body = asked.with_model(body, &challenger);
    let mut copy = None;
    call.note(|record| copy = Some(record_of(record, &challenger, &body, request_id)));
    let (state, parts) = (Arc::clone(state), parts.clone());
    tokio::spawn(async move {
        if let Some(record) = copy {
            let patience = Duration::from_millis(state.settings.response_timeout_ms);
            drop(tokio::time::timeout(patience, ask(&state, &parts, body, &challenger, record)).await);
        }
        state.shadows.fetch_sub(1, Relaxed);
    });
}

fn record_of(record: &Record, challenger: &str, body: &Bytes, request_id: &str) -> Record {
    Record {
        request_id: format!("req-{}", uuid::Uuid::now_v7().simple()),
        client_request_id: None,
        request_time: record.request_time,
        path: record.path.clone(),
        status: 0,
        duration: Duration::ZERO,
        first_byte: None,
        upstream: None,
        requester: record.requester.clone(),
        model: record.model.clone(),
        version: Some(challenger.to_owned()),
        conversation: record.conversation.clone(),
        sampling_fraction: 1.0,
        request: body.clone(),
        response: Vec::new(),
        cut: false,
        streamed: false,
        ending: Ending::Complete,
        traceparent: record.traceparent.clone(),
        shadow_of: Some(request_id.to_owned()),
    }
}

async fn ask(state: &Arc<State>, parts: &Parts, body: Bytes, challenger: &str, record: Record) {
    // Only a server that has it: a copy must not make another answer with an error all the time.
    let Some(replica) = state.upstreams.choose(Some(challenger), &[]) else { return };
    let mut call = Box::new(Call::new(record, None, Arc::clone(&state.logging), Admitted::uncounted()));
    call.goes_to(Arc::clone(&replica.name), replica.enter());
    let Some(request) = super::proxy::request_for(&replica, parts, Either::Left(Full::new(body))) else { return };
    let Ok(response) = state.client.request(request).await else {
        drop(call.finish(Ending::Broken));
        return;
    };
    let kind = response.headers().get(hyper::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    call.answered(response.status().as_u16(), kind.is_some_and(|kind| kind.starts_with("text/event-stream")));
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => call.piece(&data),
            Ok(Err(_)) => {}
            Err(_) => return drop(call.finish(Ending::Broken)),
        }
    }
    drop(call.finish(Ending::Complete));
}
