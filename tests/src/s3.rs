//! An S3 server inside the test's process: one locked map behind `s3s`, which parses requests and checks signatures.

mod api;
mod clock;
mod front;
mod objects;

use std::{collections::BTreeMap, net::TcpListener, sync::Arc};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tidemark_store::StoreSecond;

pub use self::clock::MovableClock;
use self::objects::S3Buckets;
use crate::{
    faults::{FaultRule, FaultRules, RuleId, StoreOperation},
    in_process_server::InProcessServer,
    program::index_environment,
    workload::SampleLog,
};

/// The access key that the server knows.
pub const ACCESS_KEY: &str = "tidemark-test";
/// The secret that belongs to [`ACCESS_KEY`].
pub const SECRET_KEY: &str = "tidemark-test-secret";

/// What the parts of the server share.
struct S3State {
    buckets: Mutex<S3Buckets>,
    faults: Mutex<FaultRules>,
    counts: Mutex<BTreeMap<StoreOperation, u64>>,
    clock: MovableClock,
    /// The one access key and its secret.
    keys: Mutex<(String, String)>,
}

impl S3State {
    fn buckets(&self) -> MutexGuard<'_, S3Buckets> {
        self.buckets.lock()
    }

    fn faults(&self) -> MutexGuard<'_, FaultRules> {
        self.faults.lock()
    }

    fn counts(&self) -> MutexGuard<'_, BTreeMap<StoreOperation, u64>> {
        self.counts.lock()
    }
}

/// A running server; dropping it stops it. It has threads of its own, so that a test may block or pause its clock.
pub struct S3Server {
    shared: Arc<S3State>,
    server: InProcessServer,
}

impl S3Server {
    /// Starts a server without buckets on a free loopback port.
    pub fn start() -> anyhow::Result<Self> {
        Self::on(TcpListener::bind("127.0.0.1:0")?)
    }

    /// Starts a server without buckets behind a listener, such as one inside a cluster's network.
    pub fn on(listener: TcpListener) -> anyhow::Result<Self> {
        let shared = Arc::new(S3State {
            buckets: Mutex::default(),
            faults: Mutex::default(),
            counts: Mutex::default(),
            clock: MovableClock::default(),
            keys: Mutex::new((ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
        });
        let (state, service) = (Arc::clone(&shared), front::service(&shared));
        let answer = move |request| front::answer(Arc::clone(&state), service.clone(), request);
        Ok(Self { shared, server: InProcessServer::start(listener, "s3", answer)? })
    }

    /// Starts a server with one empty bucket.
    pub fn with_bucket(name: &str) -> anyhow::Result<Self> {
        let server = Self::start()?;
        server.create_bucket(name);
        Ok(server)
    }

    /// The server's URL, without a trailing slash.
    pub fn endpoint(&self) -> String {
        self.server.url()
    }

    /// The environment variables under which S3 clients find this server.
    pub fn environment(&self) -> BTreeMap<String, String> {
        environment(&self.endpoint(), ACCESS_KEY, SECRET_KEY)
    }

    /// The environment of a `tidemark index` on the buckets `log`, `meta` and `index` of this server: it listens on a free port of
    /// loopback, and a second is sealed 3 s after it.
    pub fn index_environment(&self) -> BTreeMap<String, String> {
        let own = index_environment("s3://log", "s3://meta", "s3://index");
        self.environment().into_iter().chain(own).collect()
    }

    /// Rotates the one access key: the one before is refused from now on.
    pub fn set_keys(&self, access_key: &str, secret_key: &str) {
        let mut keys = self.shared.keys.lock();
        *keys = (access_key.to_owned(), secret_key.to_owned());
    }

    /// Creates an empty bucket.
    pub fn create_bucket(&self, name: &str) {
        self.shared.buckets().create(name);
    }

    /// The bucket keeps the versions of what is put into it from now on.
    pub fn keep_versions(&self, name: &str) {
        self.shared.buckets().keep_versions(name);
    }

    /// Makes the bucket disappear, with everything in it, until [`Self::restore_bucket`].
    pub fn hide_bucket(&self, name: &str) {
        self.shared.buckets().hide(name);
    }

    /// Brings a hidden bucket back as it was.
    pub fn restore_bucket(&self, name: &str) {
        self.shared.buckets().restore(name);
    }

    /// Puts an object past the HTTP interface, whatever its key, with the store's present time.
    pub fn insert(&self, bucket: &str, key: &str, body: impl Into<Bytes>) {
        let now = self.shared.clock.now();
        self.shared.buckets().insert(bucket, key, body.into(), now);
    }

    /// Puts an object that looks as if it had been written at `time`.
    pub fn insert_at(&self, bucket: &str, key: &str, body: impl Into<Bytes>, time: StoreSecond) {
        self.shared.buckets().insert(bucket, key, body.into(), time.timestamp());
    }

    /// The buckets `log` and `metadata` hold the objects of `sample` as well, which take no memory.
    pub fn hold(&self, sample: SampleLog, log: &str, metadata: &str) {
        self.shared.buckets().hold(sample, log, metadata);
    }

    /// The bytes of a bucket's objects, those of a sample left out.
    pub fn bytes(&self, bucket: &str) -> u64 {
        self.shared.buckets().bytes(bucket)
    }

    /// Removes an object past the HTTP interface.
    pub fn remove(&self, bucket: &str, key: &str) {
        self.shared.buckets().remove(bucket, key);
    }

    /// The body of an object, past the HTTP interface.
    pub fn body(&self, bucket: &str, key: &str) -> Option<Bytes> {
        let object = self.shared.buckets().get(bucket, key).ok().flatten()?;
        object.body.read(0..object.body.len()).ok()
    }

    /// Every key of the bucket, in order.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.shared.buckets().keys(bucket)
    }

    /// The store's clock: object times, `Date` headers and the end of signed URLs follow it.
    pub fn clock(&self) -> &MovableClock {
        &self.shared.clock
    }

    /// Conditional writes succeed as if they had no condition, from now on: a store that Tidemark must refuse.
    pub fn ignore_preconditions(&self) {
        self.shared.buckets().ignore_preconditions = true;
    }

    /// Conditional writes keep their condition again, as they did at first.
    pub fn keep_preconditions(&self) {
        self.shared.buckets().ignore_preconditions = false;
    }

    /// At most this many keys a listing page (1 000 at first), so that paging shows with few objects.
    pub fn limit_pages(&self, keys: usize) {
        self.shared.buckets().page_limit = keys;
    }

    /// Adds a fault. Rules are asked in the order in which they were added; the first that matches acts.
    pub fn inject(&self, rule: FaultRule) -> RuleId {
        self.shared.faults().add(rule)
    }

    /// Takes one fault away.
    pub fn lift(&self, rule: RuleId) {
        self.shared.faults().remove(rule);
    }

    /// Takes every fault away.
    pub fn calm(&self) {
        self.shared.faults().clear();
    }

    /// How many requests acted out a fault so far.
    pub fn faults_seen(&self) -> u64 {
        self.shared.faults().seen()
    }

    /// Requests by operation since the start or the last [`Self::reset_counts`], those that failed included.
    pub fn counts(&self) -> BTreeMap<StoreOperation, u64> {
        self.shared.counts().clone()
    }

    /// All requests since the start or the last [`Self::reset_counts`].
    pub fn requests(&self) -> u64 {
        self.shared.counts().values().sum()
    }

    /// Starts counting anew.
    pub fn reset_counts(&self) {
        self.shared.counts().clear();
    }
}

/// The variables that the AWS tools read, for a server at `endpoint`.
pub(crate) fn environment(endpoint: &str, access_key: &str, secret_key: &str) -> BTreeMap<String, String> {
    [
        ("AWS_ACCESS_KEY_ID", access_key),
        ("AWS_SECRET_ACCESS_KEY", secret_key),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::TryStreamExt;
    use object_store::{
        ObjectStore, ObjectStoreExt, PutMode, PutOptions,
        aws::{AmazonS3, AmazonS3Builder},
        path::Path,
    };

    use super::*;
    use crate::faults::InjectedFault;

    fn client(server: &S3Server) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(server.endpoint())
            .with_allow_http(true)
            .with_bucket_name("bucket")
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .with_retry(object_store::RetryConfig { max_retries: 0, ..Default::default() })
            .build()
            .expect("the client builds")
    }

    fn server() -> S3Server {
        S3Server::with_bucket("bucket").expect("the server starts")
    }

    #[tokio::test]
    async fn a_create_succeeds_once_and_the_object_reads_back() {
        let server = server();
        let client = client(&server);
        let (path, create) = (Path::from("a b/ü%"), || PutOptions::from(PutMode::Create));
        client.put_opts(&path, "1".into(), create()).await.expect("the key is free");
        let second = client.put_opts(&path, "2".into(), create()).await;
        assert!(matches!(second, Err(object_store::Error::AlreadyExists { .. })), "{second:?}");
        assert_eq!(client.get(&path).await.expect("it is there").bytes().await.expect("it reads"), "1");
        assert_eq!(server.counts()[&StoreOperation::Put], 2);
    }

    #[tokio::test]
    async fn an_answer_that_is_lost_leaves_the_object() {
        let server = server();
        let client = client(&server);
        server.inject(FaultRule::always(InjectedFault::FailAfter).on(StoreOperation::Put).times(1));
        assert!(client.put(&Path::from("a"), "1".into()).await.is_err());
        assert_eq!(server.body("bucket", "a").expect("it landed"), "1");
        server.inject(FaultRule::always(InjectedFault::Drop).on(StoreOperation::Put).times(1));
        assert!(client.put(&Path::from("b"), "1".into()).await.is_err());
        assert_eq!(server.body("bucket", "b"), None);
        assert_eq!(server.faults_seen(), 2);
    }

    #[tokio::test]
    async fn lists_every_page_in_order() {
        let server = server();
        server.limit_pages(3);
        for number in 0..10 {
            server.insert("bucket", &format!("k{number}"), "x");
        }
        let listed = client(&server).list_with_offset(None, &Path::from("k1"));
        let keys: Vec<_> = listed.map_ok(|meta| meta.location.to_string()).try_collect().await.expect("it lists");
        assert_eq!(keys, (2..10).map(|number| format!("k{number}")).collect::<Vec<_>>());
        assert_eq!(server.counts()[&StoreOperation::List], 3);
    }

    #[tokio::test]
    async fn the_clock_moves_and_the_bucket_comes_and_goes() {
        let server = server();
        let client = client(&server);
        let path = Path::from("a");
        server.clock().advance(Duration::from_hours(1));
        let before = server.clock().second();
        client.put(&path, "1".into()).await.expect("it is written");
        let time = client.head(&path).await.expect("it is there").last_modified.timestamp();
        assert!(u64::try_from(time).expect("after 1970") >= before.unix());
        server.hide_bucket("bucket");
        assert!(client.put(&path, "1".into()).await.is_err());
        server.restore_bucket("bucket");
        assert!(client.head(&path).await.is_ok());
    }
}
