//! `kubectl tidemark report`: what helps to find a bug, without secrets.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::{
    client::KubectlClient,
    objects::{PodReportResult, RESOURCE, WalObject, text},
    redact,
    sinks::sinks_of,
    status,
    task_object::tasks_of,
};
use crate::cli::output::print_line;

/// Lines of a log that are taken.
const TAIL: &str = "--tail=5000";
/// What the operator makes for a WAL. No Secret is among them: the users make those, and nothing here reads one.
const CHILDREN: [&str; 9] = [
    "deployments.apps",
    "replicasets.apps",
    "services",
    "endpointslices.discovery.k8s.io",
    "serviceaccounts",
    "configmaps",
    "poddisruptionbudgets.policy",
    "networkpolicies.networking.k8s.io",
    "jobs.batch",
];
const README: &str = "A report of `kubectl tidemark report` for a bug report.\n\
It holds the WAL, its tasks and sinks, its children, its Events, and the log and the report of each pod.\n\
No Secret was read. Values of environment variables, annotations and ConfigMaps that Tidemark does not know,\n\
credentials in URLs and headers, keys and tokens are replaced by \"(redacted)\".\n\
Names of buckets, namespaces, Secrets and hosts are in it, and what your entries' names say: read it before you share it.\n";

/// Collect what a bug report needs in one tar file, without secrets.
#[derive(Debug, Args)]
#[command(after_help = "Example: kubectl tidemark report orders -n data -o orders.tar")]
pub(super) struct WalReportCommand {
    /// The WAL; the only one of the namespace if left out.
    #[arg(value_name = "WAL")]
    wal: Option<String>,
    /// The file to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

impl WalReportCommand {
    pub(super) async fn run(self, client: &KubectlClient) -> anyhow::Result<()> {
        let Self { wal, output } = self;
        let wal = WalObject::get_or_only(client, wal.as_deref()).await?;
        let files = write(&wal, &output).await?;
        print_line(&format!("{files} files in \"{}\"; read it before you share it", output.display()))
    }
}

/// Writes the report to `file`, and answers how many files it holds.
pub(super) async fn write(wal: &WalObject, file: &Path) -> anyhow::Result<usize> {
    let opened = File::create(file).with_context(|| format!("\"{}\" cannot be written", file.display()))?;
    let mut bundle = ReportArchive::new(opened, &format!("tidemark-report-{}", wal.name));
    bundle.add("README.txt", README)?;
    collect(wal, &mut bundle).await?;
    let failures = bundle.failures.join("\n");
    bundle.add("not-collected.txt", &failures)?;
    bundle.finish()
}

async fn collect<W: Write>(wal: &WalObject, bundle: &mut ReportArchive<W>) -> anyhow::Result<()> {
    let client = &wal.client;
    bundle.add("version.txt", env!("CARGO_PKG_VERSION"))?;
    bundle.add_result("kubectl-version.txt", client.text(&["version"]).await)?;
    bundle.add_result("status.txt", status::describe(wal).await.map(|lines| lines.join("\n")))?;
    bundle.add_object("wal.yaml", wal.object.clone())?;
    bundle.add_objects("events.yaml", wal.events().await)?;
    let definition =
        ["get", "customresourcedefinitions.apiextensions.k8s.io", RESOURCE, "--output=jsonpath={.metadata}"];
    bundle.add_result("definition.txt", client.text(&definition).await)?;
    for kind in CHILDREN {
        let children = client.list(&["get", kind, "--selector", &wal.selector()]).await;
        bundle.add_objects(&format!("children/{kind}.yaml"), children)?;
    }
    bundle.add_objects("tasks.yaml", tasks_of(client, &wal.name).await)?;
    bundle.add_objects("sinks.yaml", sinks_of(client, &wal.name).await)?;
    match wal.task_pods().await {
        Err(error) => bundle.failed("pods of tasks", &error),
        Ok(pods) => {
            for pod in pods {
                collect_task_pod(wal, bundle, pod).await?;
            }
        }
    }
    for (what, pods) in [("pods", wal.pods().await), ("pods of sinks", wal.sink_pods().await)] {
        match pods {
            Err(error) => bundle.failed(what, &error),
            Ok(pods) => {
                for (pod, process) in wal.processes(pods).await {
                    collect_pod(wal, bundle, pod, process).await?;
                }
            }
        }
    }
    collect_operator(wal, bundle).await
}

async fn collect_pod<W: Write>(
    wal: &WalObject,
    bundle: &mut ReportArchive<W>,
    pod: Value,
    process: PodReportResult,
) -> anyhow::Result<()> {
    let name = text(&pod, "/metadata/name").to_owned();
    let folder = format!("pods/{name}");
    bundle.add_object(&format!("{folder}/pod.yaml"), pod)?;
    bundle.add_result(&format!("{folder}/process.json"), process.map(|process| format!("{process:#}")))?;
    let log = wal.client.text(&["logs", &name, "--all-containers", TAIL]).await;
    bundle.add_result(&format!("{folder}/log.txt"), log)?;
    // Most pods were never restarted: there is no earlier log, and that is not a failure.
    if let Ok(log) = wal.client.text(&["logs", &name, "--all-containers", "--previous", TAIL]).await {
        bundle.add(&format!("{folder}/previous-log.txt"), &log)?;
    }
    Ok(())
}

/// A pod of a Job: it has ended, or serves no report.
async fn collect_task_pod<W: Write>(wal: &WalObject, bundle: &mut ReportArchive<W>, pod: Value) -> anyhow::Result<()> {
    let name = text(&pod, "/metadata/name").to_owned();
    bundle.add_object(&format!("pods/{name}/pod.yaml"), pod)?;
    let log = wal.client.text(&["logs", &name, "--all-containers", TAIL]).await;
    bundle.add_result(&format!("pods/{name}/log.txt"), log)
}

/// What the operator logs of this WAL, where the user may read it.
async fn collect_operator<W: Write>(wal: &WalObject, bundle: &mut ReportArchive<W>) -> anyhow::Result<()> {
    let selector = "app.kubernetes.io/name=tidemark-operator";
    let pods = match wal.client.list(&["get", "pods", "--all-namespaces", "--selector", selector]).await {
        Ok(pods) => pods,
        Err(error) => {
            bundle.failed("operator", &error);
            return Ok(());
        }
    };
    for pod in pods {
        let (namespace, name) = (text(&pod, "/metadata/namespace"), text(&pod, "/metadata/name"));
        let log = wal.client.in_namespace(namespace).text(&["logs", name, TAIL]).await;
        // The log lines of other WALs stay in the cluster.
        let of_this = |log: String| {
            let lines: Vec<_> =
                log.lines().filter(|line| line.contains(&wal.name) && line.contains(&wal.namespace)).collect();
            lines.join("\n")
        };
        bundle.add_result(&format!("operator/{name}.txt"), log.map(of_this))?;
    }
    Ok(())
}

/// A tar file. Every file that is added is redacted here, so that no caller can forget it.
struct ReportArchive<W: Write> {
    tar: tar::Builder<W>,
    folder: String,
    files: usize,
    failures: Vec<String>,
}

impl<W: Write> ReportArchive<W> {
    fn new(out: W, folder: &str) -> Self {
        Self { tar: tar::Builder::new(out), folder: folder.to_owned(), files: 0, failures: Vec::new() }
    }

    fn add(&mut self, path: &str, content: &str) -> anyhow::Result<()> {
        let content = redact::text(content);
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        self.tar.append_data(&mut header, format!("{}/{path}", self.folder), content.as_bytes())?;
        self.files += 1;
        Ok(())
    }

    fn add_result(&mut self, path: &str, content: anyhow::Result<String>) -> anyhow::Result<()> {
        match content {
            Ok(content) => self.add(path, &content),
            Err(error) => {
                self.failed(path, &error);
                Ok(())
            }
        }
    }

    fn add_object(&mut self, path: &str, mut object: Value) -> anyhow::Result<()> {
        redact::object(&mut object);
        self.add(path, &serde_norway::to_string(&object)?)
    }

    fn add_objects(&mut self, path: &str, objects: anyhow::Result<Vec<Value>>) -> anyhow::Result<()> {
        match objects {
            Ok(mut objects) => {
                objects.iter_mut().for_each(redact::object);
                self.add(path, &serde_norway::to_string(&objects)?)
            }
            Err(error) => {
                self.failed(path, &error);
                Ok(())
            }
        }
    }

    fn failed(&mut self, path: &str, error: &anyhow::Error) {
        self.failures.push(format!("{path}: {error:#}"));
    }

    fn finish(self) -> anyhow::Result<usize> {
        self.tar.into_inner()?.flush()?;
        Ok(self.files)
    }
}
