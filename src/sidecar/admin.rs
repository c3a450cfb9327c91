//! For operators: health, metrics, what each server has and which version answers, and the share by hand.

use super::State;
use crate::runtime::Shutdown;
use crate::telemetry;
use axum::Router;
use axum::extract::{Json, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Serves until the end.
pub(super) async fn serve(listener: TcpListener, state: Arc<State>, end: Shutdown) {
    let metrics =
        || async { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], telemetry::render()) };
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/rollout", post(rollout))
        .with_state(state);
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(end.cancelled_owned()).await {
        tracing::warn!(%error, "the operators' address is served no longer");
    }
}

async fn ready(Shared(state): Shared<Arc<State>>) -> (StatusCode, String) {
    match super::server::ready(&state) {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn status(Shared(state): Shared<Arc<State>>) -> Json<Value> {
    let upstreams = state.upstreams.all.iter().map(|replica| {
        json!({
            "upstream": &*replica.name,
            "up": replica.is_up(),
            "requests_under_way": replica.under_way(),
            "models": &*replica.models(),
        })
    });
    Json(json!({
        "since": state.began.to_string(),
        "draining": state.draining.is_cancelled(),
        "requests_under_way": state.keys.under_way(),
        "upstreams": upstreams.collect::<Vec<_>>(),
        "models": state.versions.status(),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollout {
    model: String,
    share: Option<f64>,
}

async fn rollout(Shared(state): Shared<Arc<State>>, Json(asked): Json<Rollout>) -> Response {
    if asked.share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
        return (StatusCode::BAD_REQUEST, "`share` is from 0 to 1, or null for the schedule\n").into_response();
    }
    match state.versions.set_share(&asked.model, asked.share) {
        Ok(()) => {
            state.changed.notify_one();
            Json(state.versions.status()).into_response()
        }
        Err(error) => (StatusCode::NOT_FOUND, format!("{error}\n")).into_response(),
    }
}
