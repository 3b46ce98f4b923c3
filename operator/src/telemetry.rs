//! Log lines as JSON on standard output; traces to an OpenTelemetry collector where one is named.

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tokio::runtime::Handle;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::args;

/// The operator's own line on a watch that fails has the same words, and does not repeat them each time.
const QUIET_TARGETS: &str = "kube_runtime::watcher=error";

/// How long the collector may take for one batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends what is left when it is dropped.
pub struct TelemetryGuard {
    provider: Option<SdkTracerProvider>,
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.provider.take().map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "failed to send the last traces");
        }
    }
}

/// Starts logging and tracing, once a process. Panics outside of a tokio runtime.
pub fn start(args: &args::TelemetryArgs) -> anyhow::Result<TelemetryGuard> {
    let filter = EnvFilter::try_new(format!("{QUIET_TARGETS},{}", args.log_level))?;
    let provider = args.otlp_endpoint.as_deref().map(provider).transpose()?;
    let traces = provider.as_ref().map(|provider| {
        // The exporter's own requests must not make spans.
        let filter = EnvFilter::new("off,tidemark_operator=info");
        tracing_opentelemetry::layer().with_tracer(provider.tracer("tidemark-operator")).with_filter(filter)
    });
    tracing_subscriber::registry()
        .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_filter(filter))
        .with(traces)
        .try_init()?;
    Ok(TelemetryGuard { provider })
}

fn provider(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let http = reqwest::Client::builder().timeout(EXPORT_TIMEOUT).build()?;
    let client = RuntimeHttpClient { http, runtime: Handle::current() };
    let exporter = SpanExporter::builder().with_http().with_http_client(client).with_endpoint(endpoint).build()?;
    let resource = Resource::builder().with_service_name("tidemark-operator").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

/// Sends on the runtime of the process: the exporter works on a thread of its own, where nothing drives a connection.
#[derive(Debug)]
struct RuntimeHttpClient {
    http: reqwest::Client,
    runtime: Handle,
}

#[async_trait::async_trait]
impl HttpClient for RuntimeHttpClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        self.runtime.spawn(async move { http.send_bytes(request).await }).await?
    }
}
