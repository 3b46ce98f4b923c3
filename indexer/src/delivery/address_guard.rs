//! Which addresses a destination may have: not those that only this machine's network or its cloud's metadata service answer at.
//!
//! The check is made where a name becomes addresses, and the client connects to exactly what passed it: a name that answers otherwise the
//! second time leads nowhere else.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Addresses at which clouds answer with credentials or settings of the machine, beside those that are link-local.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
/// The first 96 bits of an address that leads to an IPv4 one through NAT64.
const NAT64: [u16; 6] = [0x64, 0xff9b, 0, 0, 0, 0];

/// What an address is that no destination may have; `None` for all others.
fn refused_kind(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local"),
        IpAddr::V4(v4) if METADATA_V4.contains(&v4) => Some("a metadata service's"),
        IpAddr::V4(v4) if v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast() => Some("no host's"),
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => refused_kind(IpAddr::V4(v4)),
            None if v6.is_unicast_link_local() => Some("a link-local"),
            None if v6 == METADATA_V6 => Some("a metadata service's"),
            None if v6.is_unspecified() || v6.is_multicast() => Some("no host's"),
            None => None,
        },
    }
}

/// The IPv4 address that an IPv6 one leads to: mapped, through NAT64, or by 6to4.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let parts = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    if parts[..6] == NAT64 {
        return Some(join(parts[6], parts[7]));
    }
    if parts[0] == 0x2002 {
        return Some(join(parts[1], parts[2]));
    }
    address.to_ipv4_mapped()
}

/// Looks a name up.
pub(super) type NameLookUp = fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// Resolves names, and leaves out what is refused.
pub(super) struct GuardedResolver {
    pub(super) look_up: NameLookUp,
}

impl Default for GuardedResolver {
    /// As the system does it.
    fn default() -> Self {
        Self { look_up: |name| Box::pin(look_up_by_system(name)) }
    }
}

async fn look_up_by_system(name: String) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((name.as_str(), 0)).await?.collect())
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let found = (self.look_up)(name.as_str().to_owned());
        Box::pin(async move {
            let (refused, allowed): (Vec<_>, Vec<_>) =
                found.await?.into_iter().partition(|address| refused_kind(address.ip()).is_some());
            match refused.first() {
                Some(address) if allowed.is_empty() => Err(refusal(name.as_str(), address.ip()).into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

/// Refuses a URL whose host is an address that no destination may have: those are not resolved.
pub(super) fn check_literal(url: &Url) -> Result<(), io::Error> {
    let address = match url.host() {
        Some(Host::Ipv4(v4)) => IpAddr::V4(v4),
        Some(Host::Ipv6(v6)) => IpAddr::V6(v6),
        Some(Host::Domain(_)) | None => return Ok(()),
    };
    refused_kind(address).map_or(Ok(()), |_| Err(refusal(url.host_str().unwrap_or_default(), address)))
}

fn refusal(name: &str, address: IpAddr) -> io::Error {
    let kind = refused_kind(address).unwrap_or("refused");
    let detail = format!("\"{name}\" is at {address}, {kind} address; give --allow-link-local if that is meant");
    io::Error::new(io::ErrorKind::PermissionDenied, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(address: &str) -> bool {
        refused_kind(address.parse().unwrap()).is_some()
    }

    #[test]
    fn addresses_of_links_and_metadata_services_are_refused_however_they_are_written() {
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "fe80::1",
            "::",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_refused(address), "{address}");
        }
        for address in ["127.0.0.1", "::1", "10.0.0.1", "93.184.216.34", "fd00::1", "2001:db8::1", "64:ff9b::a00:1"] {
            assert!(!is_refused(address), "{address}");
        }
    }

    #[test]
    fn an_address_in_a_url_is_refused_in_every_notation() {
        for url in [
            "http://169.254.169.254/",
            "http://0xa9fea9fe/",
            "http://2852039166/",
            "http://[fe80::1]/",
            "http://[::ffff:a9fe:a9fe]/",
        ] {
            assert!(check_literal(&url.parse().unwrap()).is_err(), "{url}");
        }
        for url in ["http://localhost/", "http://127.0.0.1/", "http://[::1]/"] {
            assert!(check_literal(&url.parse().unwrap()).is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_leads_only_where_it_may() {
        let found =
            GuardedResolver::default().resolve("localhost".parse().unwrap()).await.expect("loopback may be used");
        assert!(found.count() > 0);
        // The system reads an address that no URL parser has seen.
        let refused = GuardedResolver::default().resolve("169.254.169.254".parse().unwrap()).await;
        assert!(refused.err().expect("it is refused").to_string().contains("link-local"));
    }
}
