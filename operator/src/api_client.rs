//! The client of the API server, which counts what it asks.
//!
//! The counter is a tower service of our own: kube has none, and `TraceLayer` of tower-http does not show the request to the
//! closure that sees its answer, so that verb and status could not be counted together.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use axum::http::{Method, Request, Response};
use kube::{Client, Config, client::ClientBuilder};
use tower::{BoxError, Layer, Service};

use crate::metrics::OperatorMetrics;

/// A client for the cluster that the process runs in, or of the present kubectl context.
pub(crate) async fn client(metrics: &OperatorMetrics) -> anyhow::Result<Client> {
    let config = Config::infer().await?;
    Ok(ClientBuilder::try_from(config)?.with_layer(&ApiRequestCountLayer { metrics: metrics.clone() }).build())
}

#[derive(Clone)]
struct ApiRequestCountLayer {
    metrics: OperatorMetrics,
}

impl<S> Layer<S> for ApiRequestCountLayer {
    type Service = ApiRequestCounter<S>;

    fn layer(&self, inner: S) -> ApiRequestCounter<S> {
        ApiRequestCounter { inner, metrics: self.metrics.clone() }
    }
}

#[derive(Clone)]
struct ApiRequestCounter<S> {
    inner: S,
    metrics: OperatorMetrics,
}

impl<S, B, R> Service<Request<B>> for ApiRequestCounter<S>
where
    S: Service<Request<B>, Response = Response<R>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let verb = verb(request.method(), request.uri().query().unwrap_or_default());
        let metrics = self.metrics.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            metrics.requested(verb, answer.as_ref().map_or("error", |answer| class(answer.status().as_u16())));
            answer
        })
    }
}

fn verb(method: &Method, query: &str) -> &'static str {
    let watches = query.split('&').any(|field| matches!(field, "watch=true" | "watch=1"));
    match *method {
        Method::GET if watches => "watch",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

fn class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_told_from_a_read() {
        assert_eq!(verb(&Method::GET, "labelSelector=a%3Db&watch=true&timeoutSeconds=290"), "watch");
        assert_eq!(verb(&Method::GET, "limit=500"), "get");
        assert_eq!(verb(&Method::PATCH, "fieldManager=x"), "patch");
    }
}
