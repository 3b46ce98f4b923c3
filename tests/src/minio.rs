//! A real `MinIO` on loopback.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{IpAddr, TcpListener},
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tidemark_store::Entropy;

use crate::{
    cluster::pki::{CertificateAuthority, CertificateSubject},
    tools,
    watchdog::{ProcessRecipe, WatchedProcess, log_file},
};

/// How long a server may take to answer. On a loaded machine it has been seen to take 10 s.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long a signed URL counts.
const URL_LIFETIME: Duration = Duration::from_mins(1);
/// The header by which a new bucket gets object lock.
const LOCK_HEADER: &str = "x-amz-bucket-object-lock-enabled";
/// What locks each new object of a bucket.
const LOCKED_FOR_A_DAY: &str = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
    <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
/// Tries at finding a port that stays free until the server has it.
const TRIES: u32 = 5;

/// A running `MinIO` with an access key and a data folder of its own. Dropping it stops it.
pub struct MinioServer {
    server: WatchedProcess,
    endpoint: String,
    access_key: String,
    secret_key: String,
    /// The authority that the server's certificate is of, for a server that speaks TLS.
    authority: Option<Vec<u8>>,
}

impl MinioServer {
    /// Starts a server and waits until it answers. The first start on a machine builds `MinIO`, which takes minutes.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(None).await
    }

    /// Starts a server that speaks TLS with the certificate of [`issue_certificate`] in a folder, and with later ones there.
    pub async fn start_with_tls(certificates: &Path) -> anyhow::Result<Self> {
        Self::start_with(Some(certificates)).await
    }

    async fn start_with(certificates: Option<&Path>) -> anyhow::Result<Self> {
        let program = tools::go("minio").await?.join("minio");
        let mut last = None;
        for _ in 0..TRIES {
            match Self::try_start(&program, certificates).await {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no try was made")?)
    }

    /// The server's URL, without a trailing slash.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The environment variables under which S3 clients find this server.
    pub fn environment(&self) -> BTreeMap<String, String> {
        crate::s3::environment(&self.endpoint, &self.access_key, &self.secret_key)
    }

    /// Creates an empty bucket.
    pub async fn create_bucket(&self, name: &str) -> anyhow::Result<()> {
        let (bucket, credentials) = (self.bucket(name)?, self.credentials());
        let url = bucket.create_bucket(&credentials).sign(URL_LIFETIME);
        let answer = self.client()?.put(url).send().await?;
        ensure!(answer.status().is_success(), "bucket \"{name}\" was not created: {}", answer.text().await?);
        Ok(())
    }

    /// Creates an empty bucket with object lock: what is written to it is locked for a day, and nobody can end that sooner.
    pub async fn create_locked_bucket(&self, name: &str) -> anyhow::Result<()> {
        let (bucket, credentials) = (self.bucket(name)?, self.credentials());
        let mut create = bucket.create_bucket(&credentials);
        create.headers_mut().insert(LOCK_HEADER, "true");
        let request = self.client()?.put(create.sign(URL_LIFETIME)).header(LOCK_HEADER, "true");
        let answer = request.send().await?;
        ensure!(answer.status().is_success(), "bucket \"{name}\" was not created: {}", answer.text().await?);
        let mut configure = bucket.put_object(Some(&credentials), "");
        configure.query_mut().insert("object-lock", "");
        let answer = self.client()?.put(configure.sign(URL_LIFETIME)).body(LOCKED_FOR_A_DAY).send().await?;
        ensure!(answer.status().is_success(), "bucket \"{name}\" locks nothing: {}", answer.text().await?);
        Ok(())
    }

    /// Deletes one version of an object for good.
    pub async fn delete_version(&self, bucket: &str, key: &str, version: &str) -> anyhow::Result<()> {
        let (bucket, credentials) = (self.bucket(bucket)?, self.credentials());
        let mut delete = bucket.delete_object(Some(&credentials), key);
        delete.query_mut().insert("versionId", version.to_owned());
        let answer = self.client()?.delete(delete.sign(URL_LIFETIME)).send().await?;
        ensure!(answer.status().is_success(), "version {version} of \"{key}\" stays: {}", answer.text().await?);
        Ok(())
    }

    fn bucket(&self, name: &str) -> anyhow::Result<Bucket> {
        Ok(Bucket::new(self.endpoint.parse()?, UrlStyle::Path, name.to_owned(), "us-east-1")?)
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(&self.access_key, &self.secret_key)
    }

    fn client(&self) -> anyhow::Result<reqwest::Client> {
        // A client of its own: a pool of connections must not outlive the runtime of the test that made it.
        let mut client = reqwest::Client::builder().timeout(Duration::from_secs(10));
        if let Some(authority) = &self.authority {
            client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(authority)?);
        }
        Ok(client.build()?)
    }

    async fn try_start(program: &Path, certificates: Option<&Path>) -> anyhow::Result<Self> {
        let data = tempfile::Builder::new().prefix("tidemark-minio-").tempdir()?.keep();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let entropy = Entropy::from_os();
        let (access_key, secret_key) = (entropy.nonce(), entropy.nonce());
        let mut command: Vec<OsString> =
            ["server".into(), "--quiet".into(), format!("--address=127.0.0.1:{port}").into()].into();
        if let Some(certificates) = certificates {
            command.extend(["--certs-dir".into(), certificates.into()]);
        }
        command.push(data.clone().into());
        let environment = [
            ("MINIO_ROOT_USER", access_key.as_str()),
            ("MINIO_ROOT_PASSWORD", secret_key.as_str()),
            ("MINIO_BROWSER", "off"),
            ("MINIO_CALLHOME_ENABLE", "off"),
            ("MINIO_UPDATE", "off"),
            ("HOME", data.to_str().context("the temporary folder's name is text")?),
        ];
        let server = WatchedProcess::start(ProcessRecipe {
            environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            scratch: Some(data.clone()),
            ..ProcessRecipe::new([OsString::from(program)].into_iter().chain(command), log_file("minio")?)
        })?;
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{port}");
        let authority = certificates.map(|folder| std::fs::read(folder.join("ca.crt"))).transpose()?;
        let mut server = Self { server, endpoint, access_key, secret_key, authority };
        server.wait_until_ready().await?;
        Ok(server)
    }

    /// Ready is when a signed request is answered: another process's server on the port would refuse our key.
    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let give_up = tokio::time::Instant::now() + PATIENCE;
        loop {
            let Err(error) = self.create_bucket("ready").await else {
                return Ok(());
            };
            if let Some(status) = self.server.ended() {
                bail!("minio ended ({status}); its log is \"{}\"", self.server.log().display());
            }
            if tokio::time::Instant::now() > give_up {
                return Err(
                    error.context(format!("minio is not ready; its log is \"{}\"", self.server.log().display()))
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for MinioServer {
    fn drop(&mut self) {
        self.server.stop();
        if !std::thread::panicking() {
            let _ = std::fs::remove_file(self.server.log());
        }
    }
}

/// Writes a certificate for an address into `folder`, as `MinIO` takes it, and its new authority as `ca.crt`.
pub fn issue_certificate(folder: &Path, address: IpAddr) -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let pki = CertificateAuthority::create(scratch.path().to_owned())?;
    let server = CertificateSubject { user: "minio", group: "tests" };
    pki.issue("server", server, &[], &[address])?;
    for (from, to) in [("ca.crt", "ca.crt"), ("server.key", "private.key"), ("server.crt", "public.crt")] {
        std::fs::copy(pki.path(from), folder.join(to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_answers_and_leaves_nothing_behind() {
        let server = MinioServer::start().await.expect("minio starts");
        server.create_bucket("first").await.expect("a bucket is created");
        let endpoint = server.endpoint().to_owned();
        drop(server);
        assert!(reqwest::get(endpoint).await.is_err(), "the server is gone");
    }
}
