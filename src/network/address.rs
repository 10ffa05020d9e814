//! Which addresses are the public network's.
//!
//! A name of the public network may resolve to an address of this machine or of its neighbours; a connection there
//! would give the guest what only the host may reach. Such addresses need an entry of `[network.hosts]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why an address is not the public network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotPublic(&'static str);

/// Ranges of IANA's registries of special addresses, and why each is refused. Those for documentation are not here:
/// only networks of tests have them.
const SPECIAL_V4: [([u8; 4], u8, &str); 12] = [
    ([0, 0, 0, 0], 8, "an address of this machine"),
    ([10, 0, 0, 0], 8, "a private address"),
    (
        [100, 64, 0, 0],
        10,
        "an address shared by a provider's customers",
    ),
    ([127, 0, 0, 0], 8, "an address of this machine"),
    (
        [169, 254, 0, 0],
        16,
        "a link-local address, as cloud metadata has",
    ),
    ([172, 16, 0, 0], 12, "a private address"),
    ([192, 0, 0, 0], 24, "an address reserved for protocols"),
    ([192, 88, 99, 0], 24, "an address of a relay"),
    ([192, 168, 0, 0], 16, "a private address"),
    ([198, 18, 0, 0], 15, "an address for tests of devices"),
    ([224, 0, 0, 0], 4, "a multicast address"),
    ([240, 0, 0, 0], 4, "a reserved address"),
];

const SPECIAL_V6: [([u16; 8], u8, &str); 7] = [
    ([0; 8], 8, "an address of this machine, or a reserved one"),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "an address that discards"),
    (
        [0x2001, 0, 0, 0, 0, 0, 0, 0],
        23,
        "an address reserved for protocols",
    ),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "an address of a segment"),
    (
        [0xfc00, 0, 0, 0, 0, 0, 0, 0],
        7,
        "a private address, as cloud metadata has",
    ),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 9, "a link-local address"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "a multicast address"),
];

/// Whether an address is the public network's. An address of IPv6 that stands for one of IPv4 is as that one.
pub fn check(address: IpAddr) -> Result<(), NotPublic> {
    let special = match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => match embedded(v6) {
            Some(v4) => special_v4(v4),
            None => special_v6(v6),
        },
    };
    special.map_or(Ok(()), |why| Err(NotPublic(why)))
}

/// Refuses an address of this machine, which may be a public one.
pub fn check_own(address: IpAddr, own: &[IpAddr]) -> Result<(), NotPublic> {
    let address = canonical(address);
    match own.iter().any(|own| canonical(*own) == address) {
        true => Err(NotPublic("an address of this machine")),
        false => Ok(()),
    }
}

/// The address that is reached: that of IPv4, if one of IPv6 stands for it.
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => embedded(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let of = |(net, length, why): &([u8; 4], u8, &'static str)| {
        let net = Ipv4Net::new(Ipv4Addr::from(*net), *length).ok()?;
        IpNet::from(net)
            .contains(&IpAddr::V4(address))
            .then_some(*why)
    };
    SPECIAL_V4.iter().find_map(of)
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let of = |(net, length, why): &([u16; 8], u8, &'static str)| {
        let net = Ipv6Net::new(Ipv6Addr::from(*net), *length).ok()?;
        IpNet::from(net)
            .contains(&IpAddr::V6(address))
            .then_some(*why)
    };
    SPECIAL_V6.iter().find_map(of)
}

/// The address of IPv4 in one of IPv6: mapped, compatible, translated (NAT64, both prefixes), 6to4, Teredo.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let low = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, a, b] | [0, 0, 0, 0, 0xffff, 0, a, b] => Some(low(a, b)),
        [0, 0, 0, 0, 0, 0, a, b] if (a, b) != (0, 0) && (a, b) != (0, 1) => Some(low(a, b)),
        [0x64, 0xff9b, 0, 0, 0, 0, a, b] | [0x64, 0xff9b, 1, _, _, _, a, b] => Some(low(a, b)),
        [0x2002, a, b, ..] => Some(low(a, b)),
        [0x2001, 0, _, _, _, _, a, b] => Some(low(!a, !b)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_pass() {
        for refused in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.31.255.255",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fec0::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2001:0:0:0:0:0:80ff:fffe",
            "::ffff:0:127.0.0.1",
        ] {
            let address: IpAddr = refused.parse().unwrap();
            assert!(check(address).is_err(), "{refused}");
        }
        for allowed in [
            "1.1.1.1",
            "203.0.113.80",
            "151.101.0.223",
            "2606:4700::1111",
            "2a04:4e42::223",
            "64:ff9b::101:101",
            "::ffff:1.1.1.1",
        ] {
            let address: IpAddr = allowed.parse().unwrap();
            assert_eq!(check(address), Ok(()), "{allowed}");
        }
    }

    #[test]
    fn an_address_of_this_machine_is_refused_in_any_form() {
        let own = ["1.2.3.4".parse().unwrap()];
        for form in ["1.2.3.4", "::ffff:1.2.3.4", "64:ff9b::102:304"] {
            assert!(check_own(form.parse().unwrap(), &own).is_err(), "{form}");
        }
        assert_eq!(check_own("1.2.3.5".parse().unwrap(), &own), Ok(()));
    }
}
