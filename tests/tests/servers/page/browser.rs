//! A Chromium of the system, driven over its own protocol, which writes down every request that its pages make.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use chromiumoxide::{
    BrowserConfig, Page,
    cdp::{
        browser_protocol::{
            emulation::{SetDeviceMetricsOverrideParams, SetScriptExecutionDisabledParams},
            log::{EnableParams, EventEntryAdded, LogEntryLevel},
            network::EventRequestWillBeSent,
        },
        js_protocol::runtime::EventExceptionThrown,
    },
};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

/// Names under which Chromium is installed.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// How long a page may take to come to what is waited for, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A page whose script has run, so that it listens.
const COMPLETE: &str = "document.readyState === 'complete'";

/// A Chromium without a window.
pub(crate) struct HeadlessBrowser {
    browser: chromiumoxide::Browser,
    events: tokio::task::JoinHandle<()>,
    _profile: TempDir,
}

/// One page of it.
pub(crate) struct BrowserTab {
    page: Page,
    requests: Arc<Mutex<Vec<String>>>,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl HeadlessBrowser {
    /// Starts the browser: the one that `TIDEMARK_CHROMIUM` names, else one in the path. Without any, the tests of the
    /// page are skipped, but not in CI.
    pub(crate) async fn start() -> Option<Self> {
        if std::env::var_os("TIDEMARK_SKIP_BROWSER").is_some() {
            eprintln!("SKIPPED: TIDEMARK_SKIP_BROWSER is set, so the page is not tested");
            return None;
        }
        let Some(executable) = named().or_else(installed) else {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "no Chromium was found: apt-get install chromium");
            eprintln!("SKIPPED: no Chromium was found, so the page is not tested; apt-get install chromium");
            return None;
        };
        let profile = tempfile::tempdir().expect("a folder");
        let config = BrowserConfig::builder()
            .chrome_executable(executable)
            .user_data_dir(profile.path())
            .no_sandbox()
            .launch_timeout(PATIENCE)
            .request_timeout(PATIENCE)
            .window_size(1280, 900)
            .build()
            .expect("a configuration");
        let (browser, mut handler) = chromiumoxide::Browser::launch(config).await.expect("Chromium starts");
        let events = tokio::spawn(async move { while handler.next().await.is_some() {} });
        Some(Self { browser, events, _profile: profile })
    }

    /// Opens a page.
    pub(crate) async fn open(&self, url: &str) -> BrowserTab {
        let page = self.browser.new_page("about:blank").await.expect("a page");
        page.execute(EnableParams::default()).await.expect("the log is on");
        let tab = BrowserTab { page, requests: Arc::default(), complaints: Arc::default() };
        tab.listen().await;
        tab.go(url).await;
        tab
    }

    /// Ends the browser.
    pub(crate) async fn close(mut self) {
        // It may end before it has answered.
        let _ = self.browser.close().await;
        let ended = tokio::time::timeout(PATIENCE, self.browser.wait()).await;
        ended.expect("it ends in time").expect("it ends");
        self.events.abort();
    }
}

impl BrowserTab {
    /// Goes to an address.
    pub(crate) async fn go(&self, url: &str) {
        self.page.goto(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    /// Presses a key, once the page listens.
    pub(crate) async fn press(&self, key: &str) {
        self.until("the page is complete", COMPLETE).await;
        let body = self.page.find_element("body").await.expect("a body");
        body.press_key(key).await.unwrap_or_else(|error| panic!("{key}: {error}"));
    }

    /// Types where the focus is.
    pub(crate) async fn type_text(&self, text: &str) {
        self.until("the page is complete", COMPLETE).await;
        let body = self.page.find_element("body").await.expect("a body");
        body.type_str(text).await.unwrap_or_else(|error| panic!("{text}: {error}"));
    }

    /// Clicks on the first element that the selector finds.
    pub(crate) async fn click(&self, selector: &str) {
        // Found and clicked in one step, tried again until it is done: a refresh may replace what was found, and a page that
        // is about to be left takes no step. Chromium answers the step before it follows the link.
        let click =
            format!("{COMPLETE} && (found => (found?.click(), found !== null))(document.querySelector({selector:?}))");
        self.until(selector, &click).await;
    }

    /// The text of the first element that the selector finds.
    pub(crate) async fn text(&self, selector: &str) -> String {
        self.value(&format!("document.querySelector({selector:?})?.innerText")).await
    }

    /// Does a step on the page, which may leave it.
    pub(crate) async fn run(&self, step: &str) {
        self.until(step, &format!("if ({COMPLETE}) {{ {step}; true }} else {{ false }}")).await;
    }

    /// Waits until a condition holds.
    pub(crate) async fn until(&self, what: &str, condition: &str) {
        self.awaited(what, condition, |holds: &bool| *holds).await;
    }

    /// What an expression gives, as soon as it gives something.
    pub(crate) async fn value<T: DeserializeOwned>(&self, expression: &str) -> T {
        self.awaited(expression, expression, |_| true).await
    }

    /// What an expression gives, once it is wanted: a page that is about to be left has no answer, and what a refresh replaces is
    /// not there for a moment.
    async fn awaited<T: DeserializeOwned>(&self, what: &str, expression: &str, wanted: impl Fn(&T) -> bool) -> T {
        let asked = tokio::time::timeout(PATIENCE, async {
            loop {
                let answer = self.page.evaluate(expression).await.ok();
                let value = answer.and_then(|answer| answer.into_value::<Option<T>>().ok().flatten());
                if let Some(value) = value.filter(&wanted) {
                    return value;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let Ok(value) = asked.await else {
            let page = self.page.content().await.unwrap_or_default();
            panic!("{what}: does not come\n{:?}\n{page}", self.page.url().await);
        };
        value
    }

    /// The address of the page.
    pub(crate) async fn address(&self) -> String {
        self.page.url().await.expect("an address").expect("an address")
    }

    /// Gives the window another width.
    pub(crate) async fn resize(&self, width: u32) {
        let size = SetDeviceMetricsOverrideParams::new(i64::from(width), 900, 1.0, false);
        self.page.execute(size).await.expect("another width");
    }

    /// Runs no script from now on.
    pub(crate) async fn without_scripts(&self) {
        self.page.execute(SetScriptExecutionDisabledParams::new(true)).await.expect("scripts are off");
    }

    /// Every request so far went below this address.
    pub(crate) fn asked_only(&self, base: &str) {
        let requests = self.requests.lock().expect("a list");
        assert!(requests.len() > 3, "requests are written down: {requests:?}");
        for url in requests.iter() {
            assert!(url.starts_with(base) || url.starts_with("about:") || url.starts_with("data:"), "{url}");
        }
    }

    /// Nothing was blocked, missing or thrown.
    pub(crate) fn no_complaints(&self) {
        let complaints = self.complaints.lock().expect("a list");
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    async fn listen(&self) {
        let mut sent = self.page.event_listener::<EventRequestWillBeSent>().await.expect("a listener");
        let requests = Arc::clone(&self.requests);
        tokio::spawn(async move {
            while let Some(event) = sent.next().await {
                requests.lock().expect("a list").push(event.request.url.clone());
            }
        });
        let mut logged = self.page.event_listener::<EventEntryAdded>().await.expect("a listener");
        let complaints = Arc::clone(&self.complaints);
        tokio::spawn(async move {
            while let Some(event) = logged.next().await {
                if event.entry.level == LogEntryLevel::Error {
                    complaints.lock().expect("a list").push(event.entry.text.clone());
                }
            }
        });
        let mut thrown = self.page.event_listener::<EventExceptionThrown>().await.expect("a listener");
        let complaints = Arc::clone(&self.complaints);
        tokio::spawn(async move {
            while let Some(event) = thrown.next().await {
                complaints.lock().expect("a list").push(format!("{:?}", event.exception_details));
            }
        });
    }
}

fn named() -> Option<PathBuf> {
    std::env::var_os("TIDEMARK_CHROMIUM").map(PathBuf::from).filter(|named| named.is_file())
}

fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places = std::env::split_paths(&path);
    let candidates = places.flat_map(|place| NAMES.map(|name| place.join(name)));
    candidates.into_iter().find(|candidate| candidate.is_file())
}
