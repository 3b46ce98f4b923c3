//! Running `kubectl`: objects as JSON, text, and ports forwarded for as long as they are needed.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    time::timeout,
};

/// How long `kubectl` may take for one answer, and a port to be forwarded.
const KUBECTL_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a pod may take for one answer.
/// A pod ends each request itself after 30 s, and its answer must arrive.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(35);

/// The user's `kubectl` with the flags that say which cluster.
#[derive(Clone, Debug)]
pub(super) struct KubectlClient {
    program: PathBuf,
    namespace: Option<String>,
    flags: Vec<String>,
}

impl KubectlClient {
    pub(super) fn new(
        program: PathBuf,
        namespace: Option<String>,
        context: Option<String>,
        kubeconfig: Option<PathBuf>,
    ) -> Self {
        let context = context.map(|context| format!("--context={context}"));
        let kubeconfig = kubeconfig.map(|file| format!("--kubeconfig={}", file.display()));
        Self { program, namespace, flags: context.into_iter().chain(kubeconfig).collect() }
    }

    /// The same cluster, in `namespace`.
    pub(super) fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.flags);
        if let (Some(namespace), false) = (&self.namespace, args.contains(&"--all-namespaces")) {
            command.arg(format!("--namespace={namespace}"));
        }
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// What `kubectl` prints for `args`.
    pub(super) async fn text(&self, args: &[&str]) -> anyhow::Result<String> {
        self.answer(args, None).await
    }

    /// What `kubectl` prints for `args` with `input` on its standard input.
    async fn answer(&self, args: &[&str], input: Option<String>) -> anyhow::Result<String> {
        let asked = format!("kubectl {}", args.join(" "));
        let output = timeout(KUBECTL_TIMEOUT, self.output(args, input)).await;
        let output = output.map_err(|_| anyhow!("\"{asked}\" does not answer; is the cluster reachable?"))?;
        let output = output.map_err(|error| self.missing(error))?;
        if !output.status.success() {
            bail!("\"{asked}\" failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn output(&self, args: &[&str], input: Option<String>) -> std::io::Result<Output> {
        let mut command = self.command(args);
        let Some(input) = input else { return command.output().await };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A `kubectl` that reads nothing says why it ends.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        child.wait_with_output().await
    }

    /// Creates an object, and answers it as the API server made it.
    pub(super) async fn create(&self, object: &Value) -> anyhow::Result<Value> {
        let args = ["create", "--filename=-", "--output=json"];
        let created = self.answer(&args, Some(object.to_string())).await?;
        serde_json::from_str(&created).context("\"kubectl create\" printed no JSON")
    }

    /// What `kubectl` prints for `args` and `--output=json`.
    pub(super) async fn json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = self.text(&[args, &["--output=json"]].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("\"kubectl {}\" printed no JSON", args.join(" ")))
    }

    /// The items of a list.
    pub(super) async fn list(&self, args: &[&str]) -> anyhow::Result<Vec<Value>> {
        let mut list = self.json(args).await?;
        Ok(match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        })
    }

    /// Forwards a free port of this machine to `port` of `target`, such as `svc/orders-search`.
    pub(super) async fn forward(&self, target: &str, port: u16) -> anyhow::Result<PortForward> {
        let ports = format!(":{port}");
        let mut command = self.command(&["port-forward", "--address=127.0.0.1", target, &ports]);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| self.missing(error))?;
        let stdout = child.stdout.take().context("kubectl has no output")?;
        let mut line = String::new();
        let mut lines = BufReader::new(stdout);
        let read = timeout(KUBECTL_TIMEOUT, lines.read_line(&mut line)).await;
        read.map_err(|_| anyhow!("no port of \"{target}\" was forwarded within {} s", KUBECTL_TIMEOUT.as_secs()))??;
        let Some(local) = local_port(&line) else {
            let mut output = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                // A `kubectl` that does not end keeps the pipe open; show what it wrote until now.
                let _ = timeout(Duration::from_secs(5), stderr.read_to_string(&mut output)).await;
            }
            bail!("port {port} of \"{target}\" cannot be forwarded: {}", output.trim());
        };
        // What `kubectl` says of each connection has to be read, or it stops at a full pipe.
        tokio::spawn(async move { tokio::io::copy(&mut lines, &mut tokio::io::sink()).await });
        if let Some(mut stderr) = child.stderr.take() {
            tokio::spawn(async move { tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await });
        }
        Ok(PortForward { base: format!("http://127.0.0.1:{local}"), _child: child })
    }

    fn missing(&self, error: std::io::Error) -> anyhow::Error {
        let program = self.program.display();
        anyhow::Error::from(error)
            .context(format!("\"{program}\" cannot be run; install kubectl or name it with --kubectl"))
    }
}

/// The port in "Forwarding from 127.0.0.1:40001 -> 7280".
fn local_port(line: &str) -> Option<u16> {
    line.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok()
}

/// A forwarded port; closed when dropped.
pub(super) struct PortForward {
    base: String,
    _child: Child,
}

/// An answer over a forwarded port.
pub(super) struct ForwardedResponse {
    pub(super) status: reqwest::StatusCode,
    pub(super) body: String,
}

impl PortForward {
    /// GET of `path` (with its query), with `token` as bearer if there is one.
    pub(super) async fn get(
        &self,
        path: &str,
        query: &[(String, String)],
        token: Option<&str>,
    ) -> anyhow::Result<ForwardedResponse> {
        // A proxy of the environment knows nothing of a port on this machine.
        let client = reqwest::Client::builder().no_proxy().timeout(RESPONSE_TIMEOUT).build()?;
        let mut request = client.get(format!("{}{path}", self.base)).query(query);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.map_err(reqwest::Error::without_url)?;
        let status = answer.status();
        Ok(ForwardedResponse { status, body: answer.text().await.map_err(reqwest::Error::without_url)? })
    }
}
