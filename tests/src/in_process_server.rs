//! What the stores inside the test's process have in common: a listener, threads of their own, an end.

use std::{error::Error, net::SocketAddr, time::Duration};

use hyper::{
    Request, Response,
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use tokio::{net::TcpListener, runtime::Runtime};

/// How long the threads of a server may take to end.
const MAX_END: Duration = Duration::from_secs(20);

/// A running HTTP server. It has threads of its own, so that a test may block or pause its clock; dropping it stops it.
pub(crate) struct InProcessServer {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl InProcessServer {
    /// Starts a server behind a listener. An error of `answer` breaks the connection.
    pub(crate) fn start<A, F, B, E>(
        listener: std::net::TcpListener,
        thread_name: &str,
        answer: A,
    ) -> anyhow::Result<Self>
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
        E: Into<Box<dyn Error + Send + Sync>> + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(thread_name)
            .enable_all()
            .build()?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let entered = runtime.enter();
        let listener = TcpListener::from_std(listener)?;
        drop(entered);
        runtime.spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                let answer = service_fn(answer.clone());
                tokio::spawn(async move {
                    // A broken connection is the client's business, or a fault that a test asked for.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Ok(Self { address, runtime: Some(runtime) })
    }

    /// Ends it, and waits until nobody listens any more and every connection is broken.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        let Some(runtime) = self.runtime.take() else { return Ok(()) };
        // A runtime does not wait for its end within another one.
        let ending = std::thread::spawn(move || runtime.shutdown_timeout(MAX_END));
        ending.join().map_err(|_| anyhow::anyhow!("the server's threads panicked"))
    }

    /// The server's URL, without a trailing slash.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for InProcessServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
