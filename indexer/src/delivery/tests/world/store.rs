//! The store of a consumer's world: in memory, with weather.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use parking_lot::Mutex;
use tidemark_store::{Entropy, Store};
use tokio::time::sleep;
use url::Url;

/// How the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::delivery::tests) enum StoreWeather {
    Fair,
    /// One call in four suffers something.
    Patchy,
    /// Refuses each call.
    Refusing,
    /// Applies each call, and loses the answer of each second one.
    Mute,
    /// Takes seconds for each call.
    Slow,
    /// Is cut off: a call waits for an answer in vain, and is not applied.
    Cut,
}

/// All of them but the fair one.
pub(in crate::delivery::tests) const WEATHERS: [StoreWeather; 5] =
    [StoreWeather::Patchy, StoreWeather::Refusing, StoreWeather::Mute, StoreWeather::Slow, StoreWeather::Cut];

/// What befalls a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::delivery::tests) enum StoreFault {
    /// It fails at once, and is not applied.
    Refused,
    /// It is applied, and fails.
    AnswerLost,
    /// It fails at once, and is applied seconds later.
    Late,
    /// It is applied and answered seconds later.
    Delayed,
    /// It fails after the time of a request, and is not applied.
    TimedOut,
}

/// How long a client waits for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct StoreState {
    weather: StoreWeather,
    faults: BTreeMap<StoreFault, u64>,
}

/// Clones share the objects and the weather.
#[derive(Clone, Debug)]
pub(super) struct WorldStore {
    objects: Arc<InMemory>,
    entropy: Entropy,
    state: Arc<Mutex<StoreState>>,
}

impl WorldStore {
    pub(super) fn new(seed: u64) -> Self {
        let state = StoreState { weather: StoreWeather::Fair, faults: BTreeMap::new() };
        Self { objects: Arc::default(), entropy: Entropy::seeded(!seed), state: Arc::new(Mutex::new(state)) }
    }

    /// Without weather.
    pub(super) fn calm(&self) -> Store {
        Store::over(Arc::clone(&self.objects) as _, url())
    }

    /// With the weather.
    pub(super) fn rough(&self) -> Store {
        Store::over(Arc::new(self.clone()), url())
    }

    pub(super) fn set_weather(&self, weather: StoreWeather) {
        self.state.lock().weather = weather;
    }

    pub(super) fn weather(&self) -> StoreWeather {
        self.state.lock().weather
    }

    pub(super) fn faults(&self) -> BTreeMap<StoreFault, u64> {
        self.state.lock().faults.clone()
    }

    fn number(&self, below: u64) -> u64 {
        u64::from_le_bytes(self.entropy.bytes()) % below
    }

    fn seconds(&self) -> Duration {
        Duration::from_millis(100 + self.number(8_000))
    }

    /// What befalls the next call.
    fn strike(&self) -> Option<StoreFault> {
        let mut state = self.state.lock();
        let fault = match state.weather {
            StoreWeather::Fair => None,
            StoreWeather::Patchy => match self.number(16) {
                0 => Some(StoreFault::Refused),
                1 => Some(StoreFault::AnswerLost),
                2 => Some(StoreFault::Late),
                3 => Some(StoreFault::Delayed),
                _ => None,
            },
            StoreWeather::Refusing => Some(StoreFault::Refused),
            StoreWeather::Mute => (self.number(2) == 0).then_some(StoreFault::AnswerLost),
            StoreWeather::Slow => Some(StoreFault::Delayed),
            StoreWeather::Cut => Some(StoreFault::TimedOut),
        };
        if let Some(fault) = fault {
            *state.faults.entry(fault).or_default() += 1;
        }
        fault
    }

    /// Acts out what comes before the call is applied; what is left comes back.
    async fn before(&self) -> Result<Option<StoreFault>> {
        let fault = self.strike();
        match fault {
            Some(StoreFault::Refused) => Err(failed("503: slow down")),
            Some(StoreFault::TimedOut) => {
                sleep(REQUEST_TIMEOUT).await;
                Err(failed("no answer in time"))
            }
            Some(StoreFault::Delayed) => {
                sleep(self.seconds()).await;
                Ok(fault)
            }
            _ => Ok(fault),
        }
    }
}

fn url() -> Url {
    Url::parse("memory:///").unwrap()
}

fn failed(why: &str) -> Error {
    Error::Generic { store: "world", source: why.into() }
}

/// What the caller hears of a call that was applied.
fn after<T>(fault: Option<StoreFault>, answer: Result<T>) -> Result<T> {
    match fault {
        Some(StoreFault::AnswerLost) => Err(failed("the connection broke")),
        _ => answer,
    }
}

impl fmt::Display for WorldStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorldStore")
    }
}

#[async_trait]
impl ObjectStore for WorldStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.before().await?;
        if fault == Some(StoreFault::Late) {
            let (objects, location, late) = (Arc::clone(&self.objects), location.clone(), self.seconds());
            // It lands whatever becomes of the process meanwhile.
            tokio::spawn(async move {
                sleep(late).await;
                objects.put_opts(&location, payload, options).await
            });
            return Err(failed("the connection broke"));
        }
        after(fault, self.objects.put_opts(location, payload, options).await)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failed("no consumer writes anything that large"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.before().await?;
        after(fault, self.objects.get_opts(location, options).await)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let delete = move |location: Result<Path>| {
            let this = this.clone();
            async move {
                let location = location?;
                let fault = this.before().await?;
                after(fault, this.objects.delete(&location).await.map(|()| location))
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listing = async move {
            match this.before().await.and_then(|fault| after(fault, Ok(()))) {
                Ok(()) => this.objects.list(prefix.as_ref()),
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            }
        };
        futures::stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fault = self.before().await?;
        after(fault, self.objects.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fault = self.before().await?;
        after(fault, self.objects.copy_opts(from, to, options).await)
    }
}
