//! Programs on the nodes that write under a lock.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tidemark_tests::{TidemarkProcess, cluster::StoreInside};
use tokio::task::JoinHandle;

use super::world::{FailureWorld, LOG, METADATA};

/// The lock.
pub(crate) const LOCK: &str = "counter";
/// The exit code of what came too late.
pub(crate) const FENCED: i32 = 4;
/// An entry with nothing but what it says.
const ENTRY: &str = r#"{"attributes": {"counted": "once"}, "ops": []}"#;
/// Runs a command with the first argument as its input; the last line of what it prints is its exit code.
const RUN: &str = "said=$1; shift; printf %s \"$said\" | \"$@\" 2>&1; echo $?";

/// `tidemark` on a node.
#[derive(Clone)]
pub(crate) struct NodeProgram {
    world: &'static FailureWorld,
    node: u8,
    program: &'static Path,
    environment: BTreeMap<String, String>,
}

impl NodeProgram {
    pub(crate) async fn on(world: &'static FailureWorld, node: u8) -> Self {
        // From a node the store is where pods find it.
        let store = StoreInside { outside: world.store.endpoint.clone(), ..world.store.clone() };
        let mut environment = store.environment();
        let log = [("TIDEMARK_LOG", LOG), ("TIDEMARK_METADATA", METADATA), ("TIDEMARK_LOCK", LOCK)];
        environment.extend(log.map(|(name, value)| (name.to_owned(), value.to_owned())));
        Self { world, node, program: TidemarkProcess::path().await.expect("it is built"), environment }
    }

    /// Tries to acquire the lock: the number of the grant, or the exit code.
    pub(crate) async fn acquire(&self, holder: &str, more: &[&str]) -> Result<u64, i32> {
        let words = ["lock", "acquire", LOCK, "--holder", holder, "--ttl", "4s", "--complete-within", "2s"];
        let (code, said) = self.run("", &[&words[..], more].concat()).await;
        let grant = said.lines().find_map(|line| line.parse().ok());
        if code == 0 { Ok(grant.unwrap_or_else(|| panic!("it prints the grant: {said}"))) } else { Err(code) }
    }

    /// Runs a command to its end: its exit code, and what it printed.
    async fn run(&self, input: &str, words: &[&str]) -> (i32, String) {
        let Self { world, node, program, environment } = self.clone();
        let variables = environment.iter().map(|(name, value)| format!("{name}={value}"));
        let shell = ["sh", "-c", RUN, "sh", input, "env"].map(str::to_owned);
        let command = shell.into_iter().chain(variables).chain([program.display().to_string()]);
        let command: Vec<String> = command.chain(words.iter().map(|word| (*word).to_owned())).collect();
        let ended = tokio::task::spawn_blocking(move || world.cluster.exec_in_node(node, &command)).await;
        let said = ended.expect("it does not panic").expect("the shell runs");
        let (said, code) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim()));
        (code.parse().expect("an exit code"), said.to_owned())
    }
}

/// A program that believes in its grant, whatever it is told: it renews the lock and appends under it, again and again.
pub(crate) struct ConvincedHolder {
    pub(crate) grant: u64,
    codes: Arc<Mutex<Vec<i32>>>,
    stop: Arc<AtomicBool>,
    renewing: JoinHandle<()>,
    appending: JoinHandle<()>,
}

impl ConvincedHolder {
    pub(crate) fn start(program: &NodeProgram, grant: u64) -> Self {
        let (codes, stop) = (Arc::<Mutex<Vec<i32>>>::default(), Arc::<AtomicBool>::default());
        let number = grant.to_string();
        let renewing = tokio::spawn({
            let (program, number, stop) = (program.clone(), number.clone(), Arc::clone(&stop));
            async move {
                while !stop.load(Ordering::SeqCst) {
                    program.run("", &["lock", "renew", LOCK, "--grant", &number]).await;
                    tokio::task::yield_now().await;
                }
            }
        });
        let appending = tokio::spawn({
            let (program, codes, stop) = (program.clone(), Arc::clone(&codes), Arc::clone(&stop));
            async move {
                while !stop.load(Ordering::SeqCst) {
                    let (code, said) = program.run(ENTRY, &["append", "--grant", &number, "-"]).await;
                    if code != 0 {
                        println!("node {}: an append under grant {number} ended with {code}: {said}", program.node);
                    }
                    codes.lock().push(code);
                }
            }
        });
        Self { grant, codes, stop, renewing, appending }
    }

    /// How many appends ended with this code so far.
    pub(crate) fn ended_with(&self, code: i32) -> usize {
        self.codes.lock().iter().filter(|ended| **ended == code).count()
    }

    /// Waits for what it does, and gives the codes of all its appends.
    pub(crate) async fn stop(self) -> Vec<i32> {
        self.stop.store(true, Ordering::SeqCst);
        self.renewing.await.expect("it does not panic");
        self.appending.await.expect("it does not panic");
        std::mem::take(&mut *self.codes.lock())
    }
}
