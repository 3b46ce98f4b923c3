//! Every command of the README runs, in the README's order, on an S3 server of this test's own.
#![expect(clippy::unwrap_used, reason = "the helpers belong to tests")]

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tempfile::TempDir;
use tidemark_tests::{S3Server, TidemarkProcess};

/// How long a service may take to answer. Generous: a test machine may be loaded.
const PATIENCE: Duration = Duration::from_mins(10);

/// A block of the README as it stands there.
fn blocks() -> Vec<String> {
    let fenced = include_str!("../../../README.md").split("```sh\n").skip(1);
    fenced.map(|rest| rest.split("```").next().unwrap().trim().to_owned()).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A newcomer's machine: the repository, another git repository beside it, and S3 credentials in the environment.
struct NewcomerMachine {
    program: &'static Path,
    server: S3Server,
    folder: TempDir,
    ports: BTreeMap<&'static str, u16>,
    running: Vec<Child>,
}

impl NewcomerMachine {
    async fn new() -> Self {
        let program = TidemarkProcess::path().await.unwrap();
        let server = S3Server::start().unwrap();
        for bucket in ["wal", "meta", "vmeta", "idx"] {
            server.create_bucket(bucket);
        }
        let folder = tempfile::tempdir().unwrap();
        let repository = folder.path().join("my-repository");
        std::fs::create_dir(&repository).unwrap();
        for args in [
            &["init", "-q"][..],
            &[
                "-c",
                "user.name=Ada",
                "-c",
                "user.email=ada@example.org",
                "commit",
                "-q",
                "--allow-empty",
                "-m",
                "a first step",
            ],
            &["tag", "v1"],
        ] {
            assert!(
                Command::new("git").args(args).current_dir(&repository).status().unwrap().success(),
                "git {args:?}"
            );
        }
        let ports = ["7280", "7281"].map(|printed| (printed, free_port())).into();
        Self { program, server, folder, ports, running: Vec::new() }
    }

    /// The block with this machine's ports and folders in place of the printed ones.
    fn here(&self, block: &str) -> String {
        let mut block = block.to_owned();
        for (printed, port) in &self.ports {
            block = block.replace(&format!("127.0.0.1:{printed}"), &format!("127.0.0.1:{port}"));
        }
        let folder = self.folder.path().display();
        block = block.replace("../my-repository", &format!("{folder}/my-repository"));
        block = block.replace("../tidemark-demo", &format!("{folder}/tidemark-demo"));
        // The program is built already, as all of the workspace is: cargo would build it and much else again. That the package exists
        // is asked all the same.
        let block = block.replace("cargo build --release -p tidemark-indexer\n", "cargo pkgid -p tidemark-indexer\n");
        block.replace("cargo run --release -p tidemark-indexer --features demo --", "tidemark")
    }

    fn bash(&self, block: &str) -> Command {
        let path = format!("{}:{}", self.program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &self.here(block)]).current_dir(root()).env("PATH", path);
        bash.envs(self.server.environment());
        // `make demo` takes the program from the environment, too.
        bash.env("TIDEMARK_PROGRAM", self.program);
        // A command that names no address would take the usual one, which may be taken on this machine.
        bash.env("TIDEMARK_LISTEN", format!("127.0.0.1:{}", self.ports["7280"]));
        // `make demo` takes where to listen and where to keep its folder from the environment.
        bash.env("LISTEN", format!("127.0.0.1:{}", self.ports["7280"]));
        bash.env("DIR", self.folder.path().join("demo"));
        bash
    }

    fn run(&self, block: &str) -> String {
        let Output { status, stdout, stderr } = self.bash(block).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{block}\nends with {status}:\n{out}\n{err}");
        out.into_owned()
    }

    /// Starts a block that serves, and waits until `port` answers.
    async fn serve(&mut self, block: &str, printed: &'static str) {
        use std::os::unix::process::CommandExt as _;
        let mut command = self.bash(block);
        let child =
            command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
        self.running.push(child.unwrap());
        self.answers(printed, "/readyz", |_| true).await;
    }

    /// Waits until a GET of `path` answers 200 with what is wanted.
    async fn answers(&mut self, printed: &'static str, path: &str, wanted: impl Fn(&str) -> bool) {
        let url = format!("http://127.0.0.1:{}{path}", self.ports[printed]);
        let give_up = tokio::time::Instant::now() + PATIENCE;
        let mut last = String::new();
        while tokio::time::Instant::now() < give_up {
            if let Ok(answer) = reqwest::get(&url).await {
                let ok = answer.status().is_success();
                last = answer.text().await.unwrap_or_default();
                if ok && wanted(&last) {
                    return;
                }
            }
            for child in &mut self.running {
                assert!(child.try_wait().unwrap().is_none(), "a service ended while \"{url}\" was waited for");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        panic!("\"{url}\" did not answer as wanted; the last answer was {last}");
    }

    fn stop(&mut self) {
        for mut child in self.running.drain(..) {
            let group = format!("-{}", child.id());
            let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
            let _ = child.wait();
        }
    }
}

impl Drop for NewcomerMachine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port below the ephemeral range, which no other test takes meanwhile; another one at each call.
fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = first + TRIED.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_block_runs_in_the_order_of_the_readme() {
    let [demo, query, own, build, check, index, serve, append] =
        blocks().try_into().expect("the README has eight blocks");
    let mut machine = NewcomerMachine::new().await;

    assert_eq!(demo, "make demo");
    machine.serve(&demo, "7280").await;
    let all = "/v1/search?kind=bundle&size=1";
    machine.answers("7280", all, |answer| answer.contains("\"token\"")).await;
    assert!(machine.run(&query).contains("\"total\""), "{query}");
    machine.stop();

    machine.serve(&own, "7280").await;
    machine.answers("7280", "/v1/search?q=step", |answer| answer.contains("a first step")).await;
    let sealed = "/v1/search?q=label:v1&outcome=committed";
    machine.answers("7280", sealed, |answer| answer.contains("\"sealed\":true")).await;
    machine.stop();

    let built = machine.run(&build);
    assert!(built.contains("tidemark ") && built.contains(env!("CARGO_PKG_VERSION")), "{built}");

    let checked = machine.run(&check);
    assert!(checked.contains("s3://wal/orders") && checked.contains("passed"), "{checked}");
    assert!(!checked.contains("FAILED"), "{checked}");

    machine.serve(&index, "7280").await;
    machine.serve(&serve, "7281").await;
    let printed = machine.run(&append);
    let token = printed.lines().next().unwrap().to_owned();
    let line = printed.lines().nth(1).expect("`tidemark log --json` prints the entry");
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["token"], token, "{printed}");
    assert_eq!(line["outcome"], "pending", "{printed}");
    for printed in ["7280", "7281"] {
        let path = format!("/v1/search?q=import&min_token={token}");
        machine.answers(printed, &path, |answer| answer.contains(&token)).await;
    }
    for printed in ["7280", "7281"] {
        for path in ["/v1/status", "/healthz", "/metrics", "/openapi.json", "/"] {
            machine.answers(printed, path, |_| true).await;
        }
        machine.answers(printed, &format!("/v1/entries/{token}"), |answer| answer.contains("first import")).await;
        machine.answers(printed, "/v1/entities/bundle/orders/b1", |answer| answer.contains(&token)).await;
    }
    for query in queries() {
        let url = reqwest::Url::parse_with_params("http://h/v1/search", [("q", &query)]).unwrap();
        machine
            .answers("7281", &format!("{}?{}", url.path(), url.query().unwrap()), |answer| answer.contains("\"total\""))
            .await;
    }
}

/// Every query of the README's table.
fn queries() -> Vec<String> {
    let table = include_str!("../../../README.md").split("| query | finds |").nth(1).unwrap();
    let rows = table.split("\n\n").next().unwrap().lines().filter_map(|row| row.strip_prefix("| `"));
    let cells = rows.map(|row| row.split("` | ").next().unwrap());
    let queries: Vec<_> = cells.flat_map(|cell| cell.split("`, `")).map(str::to_owned).collect();
    assert!(queries.len() > 8 && queries.contains(&"horizn~1".to_owned()), "{queries:?}");
    queries
}
