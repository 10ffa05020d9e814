//! Which program a socket belongs to, from `/proc`. Best effort: the host shows it, and decides nothing by it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::system::netlink;
use crate::wire::network::{MAX_COMMAND, Program};

/// How many processes are looked at, newest first.
const MOST: usize = 400;

/// The kind of a socket.
#[derive(Debug, Clone, Copy)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

/// The process that was found last: it often has the next connection, too.
static LAST: AtomicU32 = AtomicU32::new(0);

/// The program that has a socket with this address; none if it is in another network namespace, or gone.
pub(super) fn of(protocol: Protocol, address: SocketAddr) -> Option<Program> {
    with(inode(protocol, address)?)
}

/// The program that has this end of a TCP connection.
pub(super) fn of_connection(own: SocketAddr, other: SocketAddr) -> Option<Program> {
    with(
        netlink::tcp_inode(own, other)
            .ok()
            .filter(|inode| *inode != 0)?,
    )
}

/// The program that has a socket.
fn with(inode: u64) -> Option<Program> {
    let wanted = format!("socket:[{inode}]");
    let has = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        // A new one is mostly the last one.
        let mut paths: Vec<_> = descriptors.flatten().map(|entry| entry.path()).collect();
        paths.reverse();
        paths
            .into_iter()
            .filter_map(|path| fs::read_link(path).ok())
            .any(|target| target.as_os_str().as_bytes() == wanted.as_bytes())
    };
    let last = Some(LAST.load(Relaxed)).filter(|last| *last != 0 && has(last));
    let pid = match last {
        Some(last) => last,
        None => processes().find(has)?,
    };
    LAST.store(pid, Relaxed);
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let mut command = read("cmdline");
    command.truncate(MAX_COMMAND);
    let words: Vec<_> = command
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy)
        .collect();
    Some(Program {
        pid,
        name: String::from_utf8_lossy(&read("comm")).trim_end().to_owned(),
        command: words.join(" ").trim_end().to_owned(),
    })
}

/// The processes, the newest first.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut processes: Vec<u32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    processes.sort_unstable_by(|a, b| b.cmp(a));
    processes.truncate(MOST);
    processes.into_iter()
}

/// The inode of the socket with this local address.
fn inode(protocol: Protocol, address: SocketAddr) -> Option<u64> {
    let table = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    // A socket of IPv6 may have an address of IPv4.
    let mut tables = [String::new(), "6".to_owned()].into_iter();
    tables.find_map(|family| {
        let text = fs::read_to_string(format!("/proc/net/{table}{family}")).ok()?;
        find(&text, address)
    })
}

/// The inode in a table of the kernel's; a socket that is bound to no address has that of its connection.
fn find(table: &str, wanted: SocketAddr) -> Option<u64> {
    let mut unbound = None;
    for line in table.lines().skip(1) {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1).and_then(parse)?;
        let inode = fields.nth(7)?.parse().ok()?;
        if local.port() != wanted.port() || inode == 0 {
            continue;
        }
        if local.ip().to_canonical() == wanted.ip().to_canonical() {
            return Some(inode);
        }
        if local.ip().is_unspecified() {
            unbound.get_or_insert(inode);
        }
    }
    unbound
}

/// An address as the kernel writes it: groups of four bytes in the machine's order.
pub(super) fn parse(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at..at + 8)?, 16).ok();
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut octets = [0; 16];
            for (at, octets) in octets.chunks_exact_mut(4).enumerate() {
                octets.copy_from_slice(&word(at * 8)?.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let program = of(Protocol::Tcp, client.local_addr().unwrap()).unwrap();
        assert_eq!(program.pid, std::process::id());
        assert!(!program.name.is_empty() && !program.command.is_empty());
        let (own, other) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert_eq!(of_connection(own, other), Some(program));
        assert_eq!(of_connection(own, own), None);
        let v6 = std::net::TcpListener::bind("[::1]:0").unwrap();
        let client = std::net::TcpStream::connect(v6.local_addr().unwrap()).unwrap();
        let (own, other) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert!(of_connection(own, other).is_some());
        let udp = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        udp.connect("127.0.0.1:9").unwrap();
        assert!(of(Protocol::Udp, udp.local_addr().unwrap()).is_some());
        assert_eq!(of(Protocol::Tcp, "203.0.113.1:1".parse().unwrap()), None);
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let v4 = parse("0100007F:0035").unwrap();
        assert_eq!(v4, "127.0.0.1:53".parse().unwrap());
        let v6 = parse("00000000000000000000000001000000:1F90").unwrap();
        assert_eq!(v6, "[::1]:8080".parse().unwrap());
        assert_eq!(parse("0100007F"), None);
    }
}
