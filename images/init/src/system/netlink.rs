//! Messages to the kernel about its network (netlink), one at a time.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketType};

const NLMSG_ERROR: u16 = 2;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

/// It is a request.
const REQUEST: u16 = 1;
/// It wants an answer also if it succeeds.
const ACKNOWLEDGE: u16 = 4;
/// It makes something new.
const CREATE: u16 = 0x400;

const IFF_UP: u32 = 1;
const IFA_LOCAL: u16 = 2;
/// No other machine on the link has the address, so it counts at once.
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const SCOPE_LINK: u8 = 253;
const UNICAST: u8 = 1;

const TCP: u8 = 6;

/// The length of a message's head, in bytes.
const HEAD: usize = 16;

/// Where an answer about a socket has its inode: after the head, what it is, its ends, its queues and its user.
const INODE: usize = HEAD + 68;

/// Switches an interface on.
pub fn switch_on(interface: u32) -> io::Result<()> {
    let mut body = vec![0; 4];
    body.extend(interface.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    ask(RTM_NEWLINK, 0, &body)
}

/// Gives an interface an address that no other machine on its link has, and a route to those that begin with the same bits.
pub fn add_address(interface: u32, address: IpAddr, bits: u8) -> io::Result<()> {
    let (family, octets) = match address {
        IpAddr::V4(v4) => (AddressFamily::INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::INET6, v6.octets().to_vec()),
    };
    let mut body = vec![low(family), bits, IFA_F_NODAD, 0];
    body.extend(interface.to_ne_bytes());
    body.extend(attribute(IFA_LOCAL, &octets));
    ask(RTM_NEWADDR, CREATE, &body)
}

/// Makes an interface the default route of a family.
pub fn add_default_route(interface: u32, family: AddressFamily) -> io::Result<()> {
    let mut body = vec![low(family), 0, 0, 0];
    body.extend([TABLE_MAIN, PROTOCOL_BOOT, SCOPE_LINK, UNICAST, 0, 0, 0, 0]);
    body.extend(attribute(RTA_OIF, &interface.to_ne_bytes()));
    ask(RTM_NEWROUTE, CREATE, &body)
}

fn low(family: AddressFamily) -> u8 {
    u8::try_from(family.as_raw()).unwrap_or_default()
}

/// An attribute; those used here need no bytes after them.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or_default();
    let mut attribute = length.to_ne_bytes().to_vec();
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute
}

/// The inode of the TCP socket with these ends. The tables in `/proc/net` have it, too, but are read from the beginning
/// each time.
pub(crate) fn tcp_inode(own: SocketAddr, other: SocketAddr) -> io::Result<u64> {
    let family = match own.ip() {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let mut body = vec![low(family), TCP, 0, 0];
    // In any state.
    body.extend([0xff; 4]);
    body.extend(own.port().to_be_bytes());
    body.extend(other.port().to_be_bytes());
    for address in [own.ip(), other.ip()] {
        let mut octets = [0; 16];
        match address {
            IpAddr::V4(v4) => octets[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => octets = v6.octets(),
        }
        body.extend(octets);
    }
    // On any interface, with any cookie.
    body.extend([0; 4]);
    body.extend([0xff; 8]);
    let answer = exchange(Some(SOCK_DIAG), SOCK_DIAG_BY_FAMILY, REQUEST, &body)?;
    if kind(&answer) != Some(SOCK_DIAG_BY_FAMILY) {
        outcome(&answer)?;
    }
    let inode = word(&answer, INODE).map(u32::from_ne_bytes);
    inode
        .map(u64::from)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Changes something, and sees that it is done.
fn ask(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    outcome(&exchange(None, kind, REQUEST | ACKNOWLEDGE | flags, body)?)
}

/// Sends a message, and waits for the kernel's answer.
fn exchange(protocol: Option<Protocol>, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEAD + body.len()).map_err(io::Error::other)?;
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // The sequence number and the sender: one message at a time needs neither.
    message.extend([0; 8]);
    message.extend(body);
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, protocol)?;
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut answer = vec![0; 512];
    let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

fn word(answer: &[u8], at: usize) -> Option<[u8; 4]> {
    answer.get(at..at + 4)?.try_into().ok()
}

fn kind(answer: &[u8]) -> Option<u16> {
    word(answer, 4).map(|[low, high, ..]| u16::from_ne_bytes([low, high]))
}

/// What an answer tells: the number of an error, negative, or zero.
fn outcome(answer: &[u8]) -> io::Result<()> {
    match word(answer, HEAD).map(i32::from_ne_bytes) {
        Some(0) if kind(answer) == Some(NLMSG_ERROR) => Ok(()),
        Some(error) if kind(answer) == Some(NLMSG_ERROR) => {
            Err(io::Error::from_raw_os_error(error.wrapping_neg()))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_refuses_is_an_error() {
        // No machine has so many interfaces; a user who may not change any hears of that first.
        let error = add_default_route(u32::MAX >> 1, AddressFamily::INET).unwrap_err();
        let known = [19, 1].map(Some);
        assert!(known.contains(&error.raw_os_error()), "{error}");
    }

    #[test]
    fn an_answer_is_an_error_or_none() {
        let answer = |kind: u16, error: i32| {
            let mut answer = 36u32.to_ne_bytes().to_vec();
            answer.extend(kind.to_ne_bytes());
            answer.extend([0; 10]);
            answer.extend(error.to_ne_bytes());
            answer
        };
        assert!(outcome(&answer(NLMSG_ERROR, 0)).is_ok());
        let refused = outcome(&answer(NLMSG_ERROR, -17)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(17));
        assert!(outcome(&answer(3, 0)).is_err());
        assert!(outcome(&[]).is_err());
    }
}
