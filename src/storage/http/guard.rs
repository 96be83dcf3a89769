//! Where requests may not go: addresses that answer anyone on this host with secrets.
//!
//! Every name is resolved here, right before the connection is made to what was found, so neither a literal address, nor
//! a name, nor a name that changes its mind reaches the metadata service of a cloud.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use crate::error::{Error, ErrorKind};

/// Metadata services outside the link-local ranges: Alibaba's, Azure's, Oracle's.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
/// AWS's metadata service by IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// The system's resolver without the addresses above.
#[derive(Debug)]
pub(super) struct GuardedResolver;

impl Resolver for GuardedResolver {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let found = match DefaultResolver::default().resolve(uri, config, timeout) {
            Ok(found) => found,
            Err(err @ ureq::Error::Timeout(_)) => return Err(err),
            Err(err) => {
                let error = Error::new(ErrorKind::Unavailable, format!("the name `{host}` cannot be resolved"))
                    .hint("Check the host in the repository's address, and this host's name service.")
                    .with_source(err);
                return Err(ureq::Error::Other(Box::new(error)));
            }
        };
        let mut allowed = self.empty();
        for address in found.iter().filter(|address| !is_forbidden(address.ip())) {
            allowed.push(*address);
        }
        if allowed.is_empty() {
            let what = format!("`{host}` is a link-local or metadata address, where no repository may be");
            let error = Error::new(ErrorKind::Refused, what).hint("Name the address of an object store.");
            return Err(ureq::Error::Other(Box::new(error)));
        }
        Ok(allowed)
    }
}

fn is_forbidden(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || METADATA_V4.contains(&v4),
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            // NAT64 leads to the IPv4 address in the last two words.
            let translated = segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
            let [.., a, b, c, d] = v6.octets();
            segments[0] & 0xffc0 == 0xfe80
                || v6 == METADATA_V6
                || (translated && is_forbidden(IpAddr::V4(Ipv4Addr::new(a, b, c, d))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_addresses_are_known_in_every_dress() {
        for bad in [
            "169.254.169.254",
            "169.254.0.1",
            "::ffff:169.254.169.254",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "64:ff9b::169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
        ] {
            assert!(is_forbidden(bad.parse().unwrap()), "{bad}");
        }
        for good in ["127.0.0.1", "10.0.0.1", "::1", "fec0::1", "fd00::1", "192.168.1.1", "64:ff9b::1.2.3.4"] {
            assert!(!is_forbidden(good.parse().unwrap()), "{good}");
        }
    }
}
