//! A `MinIO` on the cluster's network, beside the API server: no cut and no lost pod takes it away, only the test does.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::{Context, ensure};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tidemark_store::Entropy;

use super::{Cluster, control_plane::DNS, namespaces::NetworkPlace};
use crate::{
    tools,
    watchdog::{ProcessRecipe, WatchedProcess},
};

const PORT: u16 = 9000;
const PATIENCE: Duration = Duration::from_mins(4);

/// Where an object store is and how to enter it.
#[derive(Clone, Debug)]
pub struct StoreInside {
    /// Its URL for pods, without a trailing slash.
    pub endpoint: String,
    /// Its URL for this machine, without a trailing slash.
    pub outside: String,
    /// The access key of its administrator.
    pub access_key: String,
    /// The secret of that key.
    pub secret_key: String,
}

impl StoreInside {
    /// The environment variables under which S3 clients of this machine find it.
    pub fn environment(&self) -> BTreeMap<String, String> {
        crate::s3::environment(&self.outside, &self.access_key, &self.secret_key)
    }

    /// Creates an empty bucket.
    pub async fn create_bucket(&self, name: &str) -> anyhow::Result<()> {
        let bucket = Bucket::new(self.outside.parse()?, UrlStyle::Path, name.to_owned(), "us-east-1")?;
        let credentials = Credentials::new(&self.access_key, &self.secret_key);
        let url = bucket.create_bucket(&credentials).sign(Duration::from_mins(1));
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        let answer = client.put(url).send().await?;
        ensure!(answer.status().is_success(), "bucket \"{name}\" was not created: {}", answer.text().await?);
        Ok(())
    }
}

impl Cluster {
    /// The cluster's object store, started at the first call. Its data outlives [`Self::stop_minio`].
    pub async fn minio(&self) -> anyhow::Result<StoreInside> {
        let program = tools::go("minio").await?.join("minio");
        let started = self.store.lock().as_ref().map(|(store, _)| store.clone());
        if let Some(store) = started {
            // Another caller may have started it just now.
            self.wait_for_minio(&store).await?;
            return Ok(store);
        }
        let address: IpAddr = DNS.parse()?;
        let entropy = Entropy::from_os();
        let store = StoreInside {
            endpoint: format!("http://{address}:{PORT}"),
            outside: self.url(address, PORT)?,
            access_key: entropy.nonce(),
            secret_key: entropy.nonce(),
        };
        let data = self.namespaces.reaper().state().join("minio");
        let variables = [
            ("MINIO_ROOT_USER", store.access_key.clone()),
            ("MINIO_ROOT_PASSWORD", store.secret_key.clone()),
            // As in the demo: a request for another region is refused.
            ("MINIO_REGION", "us-east-1".to_owned()),
            ("MINIO_BROWSER", "off".to_owned()),
            ("MINIO_CALLHOME_ENABLE", "off".to_owned()),
            ("MINIO_UPDATE", "off".to_owned()),
            ("HOME", data.display().to_string()),
        ];
        let listen = format!("--address={address}:{PORT}");
        let command = [program.into_os_string(), "server".into(), "--quiet".into(), listen.into(), data.into()];
        let process = WatchedProcess::start(ProcessRecipe {
            prefix: self.namespaces.prefix(NetworkPlace::ControlPlane),
            environment: variables.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            ..ProcessRecipe::new(command, self.logs().join("minio.log"))
        })?;
        *self.store.lock() = Some((store.clone(), process));
        self.wait_for_minio(&store).await?;
        Ok(store)
    }

    /// SIGKILL to the object store.
    pub fn stop_minio(&self) {
        if let Some((_, process)) = &mut *self.store.lock() {
            process.stop();
        }
    }

    /// Starts it with what it held, and waits until it answers.
    pub async fn start_minio(&self) -> anyhow::Result<()> {
        let store = {
            let mut started = self.store.lock();
            let (store, process) = started.as_mut().context("the object store was never started")?;
            process.start_again()?;
            store.clone()
        };
        self.wait_for_minio(&store).await
    }

    async fn wait_for_minio(&self, store: &StoreInside) -> anyhow::Result<()> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        let give_up = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = client.get(format!("{}/minio/health/ready", store.outside)).send().await;
            if answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            let log = self.logs().join("minio.log");
            ensure!(
                tokio::time::Instant::now() < give_up,
                "minio is not ready; its log is \"{}\": {answer:?}",
                log.display()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
