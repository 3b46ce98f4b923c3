//! A Google Cloud Storage server inside the test's process. It is our own: of those that can be installed none enforces
//! generations and signed URLs. It knows the part of the XML API that Tidemark uses, by Google's documents: conditions on
//! generations, metadata, listings, uploads in parts, tokens and V4 signed URLs of one service account. That Google itself
//! answers so is not tested by it. There is no JSON API, since nothing here calls that.

mod api;
mod authorization;
mod objects;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio::{net::TcpListener, runtime::Runtime};

use self::objects::GcsBucket;
use crate::s3::StoreClock;

/// The service account that the server knows.
const ACCOUNT: &str = "writer@tidemark-test.iam.gserviceaccount.com";

/// Its private key, one for the process.
static ACCOUNT_KEY: LazyLock<KeyPair> = LazyLock::new(new_key);
/// The key of somebody who claims to be that account.
static STRANGERS_KEY: LazyLock<KeyPair> = LazyLock::new(new_key);

/// What the parts of the server share.
#[derive(Default)]
struct GcsState {
    buckets: Mutex<BTreeMap<String, GcsBucket>>,
    ignore_preconditions: AtomicBool,
    clock: StoreClock,
}

impl GcsState {
    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, GcsBucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server. It has a thread of its own; dropping it stops it.
pub struct GcsServer {
    state: Arc<GcsState>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl GcsServer {
    /// Starts a server with one empty bucket on a free loopback port.
    pub fn with_bucket(name: &str) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("gcs").enable_all().build()?;
        let state = Arc::<GcsState>::default();
        state.buckets().insert(name.to_owned(), GcsBucket::default());
        let entered = runtime.enter();
        runtime.spawn(serve(TcpListener::from_std(listener)?, Arc::clone(&state)));
        drop(entered);
        Ok(Self { state, address, runtime: Some(runtime) })
    }

    /// The environment variables under which clients find this server, with the key of its service account.
    pub fn environment(&self) -> BTreeMap<String, String> {
        self.environment_with(&ACCOUNT_KEY)
    }

    /// The same with another key, whose holder must be refused.
    pub fn strangers_environment(&self) -> BTreeMap<String, String> {
        self.environment_with(&STRANGERS_KEY)
    }

    /// Puts an object past the HTTP interface, whatever its key, with the store's present time.
    pub fn insert(&self, bucket: &str, key: &str, body: impl Into<Bytes>) {
        let now = self.state.clock.now();
        if let Some(bucket) = self.state.buckets().get_mut(bucket) {
            bucket.write(key, body.into(), Vec::new(), now);
        }
    }

    /// The store's clock: object times, `Date` headers and the end of signed URLs follow it.
    pub fn clock(&self) -> &StoreClock {
        &self.state.clock
    }

    /// Conditional writes succeed as if they had no condition, from now on: a store that Tidemark must refuse.
    pub fn ignore_preconditions(&self) {
        self.state.ignore_preconditions.store(true, Ordering::Relaxed);
    }

    fn environment_with(&self, key: &KeyPair) -> BTreeMap<String, String> {
        let credentials = serde_json::json!({
            "type": "service_account", "client_email": ACCOUNT, "private_key_id": "1", "private_key": pem(key),
        });
        [
            ("GOOGLE_SERVICE_ACCOUNT_KEY", credentials.to_string()),
            ("GOOGLE_BASE_URL", format!("http://{}", self.address)),
            ("GOOGLE_ALLOW_HTTP", "true".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

impl Drop for GcsServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Serves connections until the runtime ends.
async fn serve(listener: TcpListener, state: Arc<GcsState>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        let answer = service_fn(move |request| {
            let state = Arc::clone(&state);
            async move { Ok::<_, Infallible>(api::answer(&state, request).await) }
        });
        // A broken connection is the client's business.
        tokio::spawn(async move {
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate(KeySize::Rsa2048).expect("a key is generated")
}

fn pem(key: &KeyPair) -> String {
    let der: Pkcs8V1Der<'_> = key.as_der().expect("a key has this form");
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(der.as_ref()))
}
