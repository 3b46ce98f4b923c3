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
    net::TcpListener,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::{
    encoding::{AsDer as _, Pkcs8V1Der},
    rsa::{KeyPair, KeySize},
};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use self::objects::GcsBucket;
use crate::{in_process_server::InProcessServer, s3::MovableClock};

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
    clock: MovableClock,
}

impl GcsState {
    fn buckets(&self) -> MutexGuard<'_, BTreeMap<String, GcsBucket>> {
        self.buckets.lock()
    }
}

/// A running server; dropping it stops it.
pub struct GcsServer {
    state: Arc<GcsState>,
    server: InProcessServer,
}

impl GcsServer {
    /// Starts a server with one empty bucket on a free loopback port.
    pub fn with_bucket(name: &str) -> anyhow::Result<Self> {
        let state = Arc::<GcsState>::default();
        state.buckets().insert(name.to_owned(), GcsBucket::default());
        let shared = Arc::clone(&state);
        let server = InProcessServer::start(TcpListener::bind("127.0.0.1:0")?, "gcs", move |request| {
            let state = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(api::answer(&state, request).await) }
        })?;
        Ok(Self { state, server })
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

    /// Every key of the bucket, in order.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.state.buckets().get(bucket).map(|bucket| bucket.objects.keys().cloned().collect()).unwrap_or_default()
    }

    /// The body of an object, past the HTTP interface.
    pub fn body(&self, bucket: &str, key: &str) -> Option<Bytes> {
        Some(self.state.buckets().get(bucket)?.objects.get(key)?.body.clone())
    }

    /// The store's clock: object times, `Date` headers and the end of signed URLs follow it.
    pub fn clock(&self) -> &MovableClock {
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
            ("GOOGLE_BASE_URL", self.server.url()),
            ("GOOGLE_ALLOW_HTTP", "true".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate(KeySize::Rsa2048).expect("a key is generated")
}

fn pem(key: &KeyPair) -> String {
    let der: Pkcs8V1Der<'_> = key.as_der().expect("a key has this form");
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(der.as_ref()))
}
