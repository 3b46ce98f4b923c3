//! Log lines as JSON on standard output; traces to an OpenTelemetry collector where one is named.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::args;

/// Sends what is left when it is dropped.
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.provider.take().map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Starts logging and tracing, once a process.
pub fn start(args: &args::Telemetry) -> anyhow::Result<Telemetry> {
    let filter = EnvFilter::try_new(&args.log_level)?;
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
    Ok(Telemetry { provider })
}

fn provider(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let exporter = SpanExporter::builder().with_http().with_endpoint(endpoint).build()?;
    let resource = Resource::builder().with_service_name("tidemark-operator").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}
