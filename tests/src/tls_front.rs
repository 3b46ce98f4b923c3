//! TLS before a server that speaks plain HTTP, with a certificate that a test exchanges.

use std::{net::SocketAddr, path::Path, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs},
};

/// A listener that decrypts connections and hands them on to a server. It ends with the runtime of the test that made it, or when
/// it is dropped.
pub struct TlsFront {
    listener: Arc<TcpListener>,
    server: SocketAddr,
    serving: JoinHandle<()>,
}

impl TlsFront {
    /// Serves `server` behind a listener, with the certificate of [`issue_certificate`](crate::issue_certificate) in a folder.
    pub fn start(listener: std::net::TcpListener, server: SocketAddr, certificate: &Path) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = Arc::new(TcpListener::from_std(listener)?);
        let serving = tokio::spawn(serve(Arc::clone(&listener), acceptor(certificate)?, server));
        Ok(Self { listener, server, serving })
    }

    /// Its URL, without a trailing slash.
    pub fn url(&self) -> anyhow::Result<String> {
        Ok(format!("https://{}", self.listener.local_addr()?))
    }

    /// Closes every connection and serves with another certificate from now on.
    pub fn exchange_certificate(&mut self, certificate: &Path) -> anyhow::Result<()> {
        let acceptor = acceptor(certificate)?;
        self.serving.abort();
        self.serving = tokio::spawn(serve(Arc::clone(&self.listener), acceptor, self.server));
        Ok(())
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn acceptor(certificate: &Path) -> anyhow::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(certificate.join("public.crt"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(certificate.join("private.key"))?;
    let config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into());
    let config = config.with_safe_default_protocol_versions()?.with_no_client_auth().with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(listener: Arc<TcpListener>, acceptor: TlsAcceptor, server: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            // A client that does not trust the certificate ends the connection here.
            let Ok(mut outside) = acceptor.accept(stream).await else { return };
            if let Ok(mut inside) = TcpStream::connect(server).await {
                let _ = copy_bidirectional(&mut outside, &mut inside).await;
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{S3Server, issue_certificate};

    #[tokio::test]
    async fn only_the_authority_of_the_certificate_that_is_served_is_trusted() {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        for folder in [&first, &second] {
            issue_certificate(folder.path(), Ipv4Addr::LOCALHOST.into()).expect("it is written");
        }
        let store = S3Server::start().expect("the server starts");
        let server = store.endpoint().trim_start_matches("http://").parse().expect("an address");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("it listens");
        let mut front = TlsFront::start(listener, server, first.path()).expect("it starts");
        let url = front.url().expect("it listens");
        let trusting = |folder: &Path| {
            let authority = std::fs::read(folder.join("ca.crt")).expect("it is readable");
            let authority = reqwest::Certificate::from_pem_bundle(&authority).expect("a certificate");
            reqwest::Client::builder().no_proxy().tls_certs_only(authority).build().expect("a client")
        };
        let clients = [trusting(first.path()), trusting(second.path())];
        let answers = async || {
            let [one, two] = clients.each_ref().map(|client| client.get(&url).send());
            (one.await.is_ok(), two.await.is_ok())
        };
        assert_eq!(answers().await, (true, false));
        front.exchange_certificate(second.path()).expect("it is served");
        assert_eq!(answers().await, (false, true), "the connection of before is closed as well");
    }
}
