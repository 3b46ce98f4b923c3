//! A `tidemark` process as the operator runs it: settings by environment only, credentials in a folder of files.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemark_tests::{
    S3Server, TidemarkProcess,
    s3::{ACCESS_KEY, SECRET_KEY},
};

/// A key of a Secret.
pub(crate) const ID: &str = "AWS_ACCESS_KEY_ID";
/// The other key.
pub(crate) const SECRET: &str = "AWS_SECRET_ACCESS_KEY";

/// What a pod is started with.
pub(crate) struct PodSettings {
    environment: BTreeMap<String, String>,
    credentials: Arc<TempDir>,
}

impl PodSettings {
    /// An indexer's or a search pod's, of the log in bucket `log` at `endpoint`. There are no credentials yet.
    pub(crate) fn of(endpoint: &str) -> Self {
        let credentials = Arc::new(tempfile::tempdir().expect("a folder"));
        let store = json!({"endpoint": endpoint, "region": "us-east-1", "allowHTTP": true,
            "credentialsDir": credentials.path()});
        let stores = json!({"log": store, "metadata": store, "index": store});
        let settings = [
            ("LOG", "s3://log/orders"),
            ("METADATA", "s3://meta,s3://vmeta"),
            ("INDEX", "s3://index/orders"),
            ("STORES", &stores.to_string()),
            ("EXPIRY", "1s"),
            ("REQUEST_TIMEOUT", "1s"),
            ("VISIBILITY_DELAY", "0s"),
            ("LISTEN", "127.0.0.1:0"),
            ("NO_SEARCH", "true"),
            ("WAIT", "true"),
            ("IDENTITY", "pod-1"),
            ("OWNER", "k8s:cluster/data/orders/uid-1"),
        ];
        let environment = settings.map(|(name, value)| (format!("TIDEMARK_{name}"), value.to_owned())).into();
        Self { environment, credentials }
    }

    /// As [`Self::of`], with the credentials and the buckets of `server`.
    pub(crate) fn ready(server: &S3Server) -> Self {
        for bucket in ["log", "meta", "vmeta", "index"] {
            server.create_bucket(bucket);
        }
        let settings = Self::of(&server.endpoint());
        settings.credential(ID, ACCESS_KEY);
        settings.credential(SECRET, SECRET_KEY);
        settings
    }

    /// With `TIDEMARK_<name>` set, or taken away.
    pub(crate) fn with(mut self, name: &str, value: Option<&str>) -> Self {
        let name = format!("TIDEMARK_{name}");
        match value {
            Some(value) => drop(self.environment.insert(name, value.to_owned())),
            None => drop(self.environment.remove(&name)),
        }
        self
    }

    /// With an authority that all stores are of.
    pub(crate) fn with_authority(self, file: &Path) -> Self {
        let mut stores: Value = serde_json::from_str(&self.environment["TIDEMARK_STORES"]).expect("it is JSON");
        for store in stores.as_object_mut().expect("they are by place").values_mut() {
            store["caFile"] = json!(file);
        }
        self.with("STORES", Some(&stores.to_string()))
    }

    /// Writes a key of the Secret.
    pub(crate) fn credential(&self, name: &str, value: &str) {
        std::fs::write(self.folder().join(name), value).expect("it is written");
    }

    /// Where the Secret is mounted.
    pub(crate) fn folder(&self) -> &Path {
        self.credentials.path()
    }

    /// Starts `tidemark index` or `tidemark serve`, which says at once where it listens.
    pub(crate) async fn start(&self, command: &str) -> DataPod {
        let mut environment = self.environment.clone();
        if command == "serve" {
            environment.remove("TIDEMARK_NO_SEARCH");
        }
        let program = TidemarkProcess::serving(&[command], &environment).await.expect("it starts");
        DataPod { program, _credentials: Arc::clone(&self.credentials) }
    }

    /// Runs another command of the program in this environment.
    pub(crate) async fn run(&self, arguments: &[&str]) -> String {
        TidemarkProcess::output(arguments, &self.environment).await.expect("it succeeds")
    }
}

/// A running process, and the Secret that it reads.
pub(crate) struct DataPod {
    /// The process.
    pub(crate) program: TidemarkProcess,
    _credentials: Arc<TempDir>,
}

impl DataPod {
    /// What it says about itself.
    pub(crate) async fn process(&self) -> Value {
        self.program.get("/v1/process").await.expect("it tells at any time")
    }

    /// Waits until it says what is wanted, and gives that.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let ask = async || {
            let process = self.process().await;
            if wanted(&process) { Ok(process) } else { Err(format!("{process:#}")) }
        };
        self.program.until(what, ask).await
    }

    /// Waits until it has the problem, and gives its message.
    pub(crate) async fn until_problem(&self, reason: &str, role: Option<&str>) -> String {
        let wanted = |process: &Value| message(process, reason, role).is_some();
        let process = self.until(&format!("{reason} of {role:?}"), wanted).await;
        message(&process, reason, role).unwrap_or_default()
    }

    /// Waits until it works, and nothing is wrong.
    pub(crate) async fn until_well(&self, phase: &str) -> Value {
        let well = |process: &Value| process["phase"] == phase && process["problems"] == json!([]);
        self.until(&format!("it is well and {phase}"), well).await
    }

    /// The status with which it answers a request.
    pub(crate) async fn status(&self, path: &str) -> u16 {
        let answer = reqwest::get(format!("{}{path}", self.program.url())).await.expect("it answers");
        answer.status().as_u16()
    }
}

fn message(process: &Value, reason: &str, role: Option<&str>) -> Option<String> {
    let problems = process["problems"].as_array()?;
    let found = problems.iter().find(|problem| problem["reason"] == reason && problem["role"].as_str() == role)?;
    found["message"].as_str().map(str::to_owned)
}
