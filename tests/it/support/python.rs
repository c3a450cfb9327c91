//! Programs of other makers: a reader of Delta tables, and a server that speaks S3.

use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

static PYTHON: LazyLock<String> = LazyLock::new(|| {
    if let Ok(given) = std::env::var("PELTON_TEST_PYTHON") {
        return given;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/python.sh");
    let done = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(done.status.success(), "scripts/python.sh could not make its environment");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
});

/// The interpreter of the tests' environment.
pub fn program() -> &'static str {
    &PYTHON
}

/// Runs a program and returns what it prints.
pub fn run(program: &str, arguments: &[&str]) -> String {
    // pyarrow's threads may outlive its interpreter, whose end then aborts ("terminate called without an active exception")
    // after all is printed: it is left without that end.
    let program = format!("{program}\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n");
    let done = Command::new(&*PYTHON).arg("-c").arg(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// An S3 on the loopback with one bucket; it ends with the value.
pub struct S3 {
    child: Child,
    pub endpoint: String,
}

impl S3 {
    pub async fn start(bucket: &str) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(&*PYTHON)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &free.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, endpoint: format!("http://127.0.0.1:{free}") };
        let (client, url) = (reqwest::Client::new(), format!("{}/{bucket}", server.endpoint));
        let deadline = Instant::now() + Duration::from_secs(60);
        // The region is in the signature's scope, which the server reads and does not check.
        let scope =
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        while !client.put(&url).header("authorization", scope).send().await.is_ok_and(|r| r.status().is_success()) {
            assert!(Instant::now() < deadline, "the S3 server did not answer on {url}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        server
    }
}

impl S3 {
    /// A lake in the bucket.
    pub fn lake(&self, url: &str) -> pelton::config::Lake {
        let options = [
            ("aws_endpoint", self.endpoint.as_str()),
            ("aws_region", "us-east-1"),
            ("aws_access_key_id", "test"),
            ("aws_secret_access_key", "test"),
            ("aws_allow_http", "true"),
        ];
        let options = options.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        pelton::config::Lake { url: url.to_owned(), options, fsync: true }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
