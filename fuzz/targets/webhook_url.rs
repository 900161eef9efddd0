//! A webhook URL that somebody typed: what is accepted goes by https to a host of the type, and never to
//! an address that is not public.

#![no_main]

use std::net::IpAddr;

use dunmore_connectors::{
    destination::{Checks, ConnectorType, Settings},
    egress::EgressPolicy,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use url::{Host, Url};

fuzz_target!(|data: &str| {
    let egress = EgressPolicy::default();
    let checks = Checks { egress: &egress };
    let value = Value::String(data.to_owned());
    for kind in ConnectorType::ALL {
        for name in ["webhookUrl", "instanceUrl"] {
            let Some(field) = kind.field(name) else { continue };
            if Settings::read(field, &value, &checks).is_err() {
                continue;
            }
            let url = Url::parse(data).expect("an accepted URL");
            assert_eq!(url.scheme(), "https", "{kind}");
            assert!(url.username().is_empty() && url.password().is_none(), "{kind}");
            match url.host().expect("an accepted host") {
                Host::Domain(name) => assert!(name.contains('.'), "{kind}: {name}"),
                Host::Ipv4(address) => assert!(is_public(address.into()), "{kind}: {address}"),
                Host::Ipv6(address) => assert!(is_public(address.into()), "{kind}: {address}"),
            }
        }
    }
});

/// What the standard library knows of it, told apart from the program's own list.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation())
        }
        IpAddr::V6(v6) => {
            let mapped = v6.to_ipv4_mapped().is_none_or(|v4| is_public(v4.into()));
            let local = v6.is_unique_local() || v6.is_unicast_link_local();
            mapped && !(v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || local)
        }
    }
}
