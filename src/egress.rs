//! Where this program may call to: the rules for URLs and addresses that users type.
//!
//! Users' URLs are called from inside a company's network, so the address behind a URL must be
//! public unless the operator allows it. The shell applies [`EgressPolicy::allows`] to every
//! resolved address and connects to the address that was checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use url::{Host, Url};

/// The ports that users' URLs may name: those of https, and those on which webhooks are commonly
/// served beside it. Any port of a public host would make this program a scanner of ports.
pub const PORTS: &[u16] = &[443, 5678, 8443];

/// What the operator allows beside public addresses over https.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    /// Private networks that may be called.
    pub allow_cidrs: Vec<IpNet>,
    /// Whether plain http is allowed to addresses in [`Self::allow_cidrs`].
    pub allow_http: bool,
}

impl EgressPolicy {
    /// Whether a connection to this address is allowed.
    #[must_use]
    pub fn allows(&self, address: IpAddr) -> bool {
        let plain = embedded(address);
        self.permits(address) || self.permits(plain) || (is_public(plain) && is_public(address))
    }

    /// Whether the operator named a network with this address.
    #[must_use]
    pub fn permits(&self, address: IpAddr) -> bool {
        self.allow_cidrs.iter().any(|network| network.contains(&address))
    }

    /// Checks a user's URL as far as that goes without resolving its name.
    pub fn check_url(&self, url: &Url) -> Result<(), String> {
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not contain a user name or password".to_owned());
        }
        if url.fragment().is_some() {
            return Err("must not contain a fragment (#…)".to_owned());
        }
        let address = match url.host() {
            None => return Err("must name a host".to_owned()),
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            Some(Host::Domain(name)) => {
                self.check_name(name)?;
                None
            }
        };
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http && !self.allow_cidrs.is_empty() => {
                if address.is_some_and(|address| !self.permits(address)) {
                    return Err("plain http is allowed only to the operator's networks".to_owned());
                }
            }
            _ => return Err("must begin with https://".to_owned()),
        }
        match address {
            Some(address) if !self.allows(address) => {
                Err("must not name a private or reserved address".to_owned())
            }
            _ => self.check_port(url, address),
        }
    }

    /// Checks the port of a user's URL. The operator's networks may be called on any port; which
    /// network a name leads to shows only when it is resolved.
    pub fn check_port(&self, url: &Url, address: Option<IpAddr>) -> Result<(), String> {
        let is_operators = match address {
            Some(address) => self.permits(address),
            None => !self.allow_cidrs.is_empty(),
        };
        match url.port_or_known_default() {
            _ if is_operators => Ok(()),
            Some(port) if PORTS.contains(&port) => Ok(()),
            _ => {
                let ports: Vec<String> = PORTS.iter().map(ToString::to_string).collect();
                Err(format!("must have no port but {}", ports.join(", ")))
            }
        }
    }

    fn check_name(&self, name: &str) -> Result<(), String> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let local =
            ["localhost", "local", "internal", "localdomain", "home.arpa", "lan", "intranet"];
        let is_local =
            local.iter().any(|suffix| name == *suffix || name.ends_with(&format!(".{suffix}")));
        if (is_local || !name.contains('.')) && self.allow_cidrs.is_empty() {
            return Err("must name a public host".to_owned());
        }
        Ok(())
    }
}

/// The IPv4 address inside an IPv6 address that stands for one, else the address itself.
///
/// IPv4-mapped and IPv4-compatible (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056). The local prefix
/// of NAT64 (`64:ff9b:1::/48`, RFC 8215) is none of them: where the address stands in it is the
/// operator's choice, and what it leads to is the inside of a network.
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let low = |high: u16, low: u16| {
        let [w, x] = high.to_be_bytes();
        let [y, z] = low.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(w, x, y, z))
    };
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0 | 0xffff) | (0, 0, 0, 0, 0xffff, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => {
            low(g, h)
        }
        (0x2002, ..) => low(b, c),
        _ => address,
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Public by its number, but inside every machine of Azure: its wire server.
const AZURE_WIRE_SERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);

/// The IANA IPv4 special-purpose registry's "not globally reachable", multicast and reserved.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || address == AZURE_WIRE_SERVER
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b)) // shared address space, RFC 6598
        || (a == 192 && b == 0 && c == 0) // protocol assignments, RFC 6890
        || (a == 192 && b == 88 && c == 99) // 6to4 relay anycast, RFC 7526
        || (a == 198 && (b == 18 || b == 19))) // benchmarking, RFC 2544
}

/// Global unicast (`2000::/3`) without its special-purpose parts.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // The mapped and translated forms were judged by the IPv4 address inside them.
    if matches!(embedded(IpAddr::V6(address)), IpAddr::V4(_)) && a != 0x2002 {
        return true;
    }
    (0x2000..0x4000).contains(&a)
        && !(a == 0x2001 && b < 0x200) // protocol assignments, Teredo, ORCHID
        && !(a == 0x2001 && b == 0xdb8) // documentation
        && !(a == 0x3fff && b < 0x1000) // documentation, RFC 9637
        && a != 0x2002 // 6to4 is no way that a webhook is reached today
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(policy: &EgressPolicy, address: &str) -> bool {
        policy.allows(address.parse().unwrap())
    }

    #[test]
    fn only_public_addresses_are_allowed() {
        let policy = EgressPolicy::default();
        for public in
            ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
        {
            assert!(allows(&policy, public), "{public}");
        }
        let private = [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "64:ff9b:1::101:101",
            "64:ff9b:1:a00:1::",
            "64:ff9b:1:ffff:808:808:808:808",
            "168.63.129.16",
            "::ffff:168.63.129.16",
            "64:ff9b::a83f:8110",
            "2002:a00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "fd00:ec2::254",
        ];
        for private in private {
            assert!(!allows(&policy, private), "{private}");
        }
    }

    #[test]
    fn an_operator_can_allow_networks() {
        let policy =
            EgressPolicy { allow_cidrs: vec!["127.0.0.0/8".parse().unwrap()], allow_http: true };
        assert!(allows(&policy, "127.0.0.1"));
        assert!(allows(&policy, "::ffff:127.0.0.1"));
        assert!(!allows(&policy, "10.0.0.1"));
        let check = |url: &str| policy.check_url(&Url::parse(url).unwrap());
        assert!(check("http://127.0.0.1:5678/webhook/1").is_ok());
        assert!(check("http://10.0.0.1/webhook/1").is_err());
        assert!(check("http://93.184.216.34/webhook/1").is_err());
        assert!(check("https://93.184.216.34:22/webhook/1").is_err());
        assert!(check("http://localhost:5678/webhook/1").is_ok());
    }

    #[test]
    fn a_url_is_checked_before_anything_is_resolved() {
        let policy = EgressPolicy::default();
        let check = |url: &str| policy.check_url(&Url::parse(url).unwrap());
        assert!(check("https://n8n.example.com/webhook/1").is_ok());
        assert!(check("https://n8n.example.com:443/webhook/1").is_ok());
        assert!(check("https://n8n.example.com:8443/webhook/1").is_ok());
        for bad in [
            "http://n8n.example.com/webhook/1",
            "ftp://n8n.example.com/",
            "https://user@n8n.example.com/",
            "https://:pass@n8n.example.com/",
            "https://n8n.example.com/#x",
            "https://localhost/",
            "https://printer/",
            "https://db.internal/",
            "https://db.local./",
            "https://127.1/",
            "https://0x7f000001/",
            "https://2130706433/",
            "https://0177.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:7f00:1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://n8n.example.com:22/",
            "https://n8n.example.com:80/",
            "https://93.184.216.34:6379/",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
