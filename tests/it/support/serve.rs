//! `pelton serve` on the tiny model, in this process.

use pelton::model::Model;
use pelton::serve::{CallLog, Options, Server, router};
use std::path::Path;
use std::sync::Arc;

/// The model in the repository.
pub fn tiny() -> Arc<Model> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/sql-tiny");
    Arc::new(Model::load(&folder, &candle_core::Device::Cpu).unwrap())
}

/// Serves it; gives the address, without a path.
pub async fn serve(base: Arc<Model>, log: Option<Arc<dyn CallLog>>) -> String {
    let options = Options {
        model_name: "sql-tiny".to_owned(),
        tokens_default: 48,
        tokens_max: 64,
        batch_rows: 16,
        queue_max: 64,
    };
    let server = Server::new(base, options, log).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router(server)).await });
    url
}
