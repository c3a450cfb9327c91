//! A schema registry over HTTP that speaks Confluent's API, and does what a test tells it.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What the registry has, and how it behaves.
#[derive(Default)]
pub struct Books {
    pub ids: BTreeMap<u32, Value>,
    pub subjects: BTreeMap<(String, u32), Value>,
    /// Answers 503 to everything.
    pub away: bool,
    /// Ids that get no answer but 500.
    pub sick: Vec<u32>,
    /// What the `authorization` header has to be.
    pub password: Option<String>,
    pub asked: Vec<String>,
}

/// A running registry.
pub struct Registry {
    pub url: String,
    pub books: Arc<Mutex<Books>>,
}

type Shared = State<Arc<Mutex<Books>>>;

impl Registry {
    pub async fn start(books: Books) -> Self {
        let books = Arc::new(Mutex::new(books));
        let app = Router::new()
            .route("/schemas/ids/{id}", get(by_id))
            .route("/subjects/{subject}/versions/{version}", get(by_subject))
            .with_state(Arc::clone(&books));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, books }
    }

    pub fn asked(&self) -> Vec<String> {
        self.books.lock().unwrap().asked.clone()
    }
}

fn refused(books: &mut Books, headers: &HeaderMap, what: String) -> Option<Response> {
    books.asked.push(what);
    if books.away {
        return Some(StatusCode::SERVICE_UNAVAILABLE.into_response());
    }
    let given = headers.get("authorization").and_then(|h| h.to_str().ok()).map(str::to_owned);
    if books.password.is_some() && books.password != given {
        return Some((StatusCode::UNAUTHORIZED, Json(json!({"error_code": 401, "message": "no"}))).into_response());
    }
    None
}

fn found(schema: Option<&Value>, code: u32) -> Response {
    match schema {
        Some(schema) => Json(schema.clone()).into_response(),
        None => (StatusCode::NOT_FOUND, Json(json!({"error_code": code, "message": "not found"}))).into_response(),
    }
}

async fn by_id(State(books): Shared, headers: HeaderMap, Path(id): Path<u32>) -> Response {
    let mut books = books.lock().unwrap();
    if let Some(refused) = refused(&mut books, &headers, format!("id {id}")) {
        return refused;
    }
    if books.sick.contains(&id) {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    found(books.ids.get(&id), 40403)
}

async fn by_subject(
    State(books): Shared,
    headers: HeaderMap,
    Path((subject, version)): Path<(String, u32)>,
) -> Response {
    let mut books = books.lock().unwrap();
    if let Some(refused) = refused(&mut books, &headers, format!("subject {subject}/{version}")) {
        return refused;
    }
    found(books.subjects.get(&(subject, version)), 40402)
}
