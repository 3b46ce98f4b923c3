//! The way in: ports on this machine's loopback that lead into a cluster's network.
//!
//! A socket belongs to the network of the thread that made it. So one thread of the test's process enters the cluster's
//! network and connects from there, for connections that were accepted outside. No other program takes part.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    path::Path,
};

use anyhow::Context;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// A thread inside a network. Dropping it closes all ports and connections.
pub(crate) struct PortForwarder(UnboundedSender<ForwardOrder>);

struct ForwardOrder {
    listener: std::net::TcpListener,
    target: SocketAddr,
}

impl PortForwarder {
    /// Enters the network that a file stands for.
    pub(crate) fn enter(network: &Path) -> anyhow::Result<Self> {
        let network = File::open(network)?;
        let (orders, received) = unbounded_channel();
        let (said, entered) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("cluster-forward".to_owned()).spawn(move || {
            let _ = said.send(move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(serve(received));
            }
        })?;
        entered.recv()?.context("the cluster's network cannot be entered")?;
        Ok(Self(orders))
    }

    /// Opens a port on loopback that leads to an address inside, and gives its number.
    pub(crate) fn open(&self, target: SocketAddr) -> anyhow::Result<u16> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        self.0.send(ForwardOrder { listener, target }).ok().context("the forwarding thread has ended")?;
        Ok(port)
    }
}

async fn serve(mut orders: UnboundedReceiver<ForwardOrder>) {
    let mut ports = tokio::task::JoinSet::new();
    while let Some(ForwardOrder { listener, target }) = orders.recv().await {
        ports.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((outside, _)) = listener.accept().await {
                connections.spawn(pass(outside, target));
                while connections.try_join_next().is_some() {}
            }
        });
    }
}

/// A connection that cannot be made inside is closed outside: that is what a client sees of a dead service.
async fn pass(mut outside: TcpStream, target: SocketAddr) {
    if let Ok(mut inside) = TcpStream::connect(target).await {
        let _ = copy_bidirectional(&mut outside, &mut inside).await;
    }
}
