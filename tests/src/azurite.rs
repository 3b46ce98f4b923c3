//! A real `azurite`, Microsoft's emulator of Azure's storage, on loopback.

use std::{collections::BTreeMap, ffi::OsString, time::Duration};

use anyhow::{bail, ensure};
use aws_lc_rs::hmac;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tidemark_store::Entropy;

use crate::{
    tools,
    watchdog::{ProcessRecipe, WatchedProcess, log_file},
};

/// How long a server may take to listen, or to create a container.
const PATIENCE: Duration = Duration::from_secs(90);
/// What it prints before its address, once it listens.
const LISTENS: &str = "successfully listens on ";
/// The version of the signature's form.
const VERSION: &str = "2022-11-02";
/// When the token of this process's own ends: later than any test.
const TOKEN_END: &str = "2097-05-17T15:09:54Z";

/// A running `azurite` with an account of its own, which keeps its data in memory. Dropping it stops it.
pub struct AzuriteServer {
    server: WatchedProcess,
    /// The URL of the account, without a trailing slash.
    endpoint: String,
    account: String,
    key: Vec<u8>,
}

impl AzuriteServer {
    /// Starts a server and waits until it listens; `None` where it is not installed and cannot be. The first start on a
    /// machine installs it.
    pub async fn start() -> anyhow::Result<Option<Self>> {
        let Some(folder) = tools::npm("azurite").await? else { return Ok(None) };
        let program = folder.join("node_modules/azurite/dist/src/blob/main.js");
        let entropy = Entropy::from_os();
        let (account, key) = (format!("a{:016x}", u64::from_be_bytes(entropy.bytes())), entropy.bytes::<32>().to_vec());
        // The system chooses the port.
        let options =
            ["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--silent", "--disableTelemetry"];
        let command = [OsString::from("node"), program.into()].into_iter().chain(options.map(OsString::from));
        let accounts = format!("{account}:{}", BASE64_STANDARD.encode(&key));
        let mut server = WatchedProcess::start(ProcessRecipe {
            environment: [("AZURITE_ACCOUNTS".to_owned(), accounts)].to_vec(),
            ..ProcessRecipe::new(command, log_file("azurite")?)
        })?;
        let endpoint = format!("{}/{account}", address(&mut server).await?);
        Ok(Some(Self { server, endpoint, account, key }))
    }

    /// The environment variables under which clients find this server.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let key = BASE64_STANDARD.encode(&self.key);
        [
            ("AZURE_STORAGE_ACCOUNT", self.account.as_str()),
            ("AZURE_STORAGE_KEY", &key),
            ("AZURE_STORAGE_ENDPOINT", &self.endpoint),
            ("AZURE_ALLOW_HTTP", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// A token (SAS) that may do everything in one container. With an account's token `azurite` 3.37 answers deletes, which go in
    /// batches, with 500: its table of permissions lacks them.
    pub fn container_token(&self, container: &str) -> String {
        let (account, permissions) = (&self.account, "racwdl");
        // Fields in between: identifier, address range, protocol; snapshot, encryption scope, five answer headers.
        let text =
            format!("{permissions}\n\n{TOKEN_END}\n/blob/{account}/{container}\n\n\n\n{VERSION}\nc\n\n\n\n\n\n\n");
        self.signed(&format!("sr=c&sp={permissions}"), &text)
    }

    /// Creates an empty container.
    pub async fn create_container(&self, name: &str) -> anyhow::Result<()> {
        let (permissions, services, kinds) = ("c", "b", "c");
        let text = format!("{}\n{permissions}\n{services}\n{kinds}\n\n{TOKEN_END}\n\n\n{VERSION}\n\n", self.account);
        let token = self.signed(&format!("ss={services}&srt={kinds}&sp={permissions}"), &text);
        let url = format!("{}/{name}?restype=container&{token}", self.endpoint);
        // A client of its own: a pool of connections must not outlive the runtime of the test that made it.
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let answer = client.put(url).header("content-length", "0").send().await?;
        ensure!(answer.status().is_success(), "container \"{name}\" was not created: {}", answer.text().await?);
        Ok(())
    }

    /// A token of the fields `fields`, whose form to sign is `text`.
    fn signed(&self, fields: &str, text: &str) -> String {
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.key), text.as_bytes());
        let signature = BASE64_STANDARD.encode(signature);
        let [end, signature] =
            [TOKEN_END, &signature].map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string());
        format!("sv={VERSION}&{fields}&se={end}&sig={signature}")
    }
}

impl Drop for AzuriteServer {
    fn drop(&mut self) {
        self.server.stop();
        if !std::thread::panicking() {
            let _ = std::fs::remove_file(self.server.log());
        }
    }
}

/// The address that the server prints once it listens.
async fn address(server: &mut WatchedProcess) -> anyhow::Result<String> {
    let give_up = tokio::time::Instant::now() + PATIENCE;
    loop {
        let printed = std::fs::read_to_string(server.log())?;
        let mut lines = printed.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        if let Some((_, address)) = lines.find_map(|line| line.split_once(LISTENS)) {
            return Ok(address.to_owned());
        }
        let log = server.log().display().to_string();
        if let Some(status) = server.ended() {
            bail!("azurite ended ({status}); its log is \"{log}\"");
        }
        ensure!(tokio::time::Instant::now() < give_up, "azurite does not listen; its log is \"{log}\"");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
