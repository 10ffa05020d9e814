//! Addresses that stand for names, so that a connection to one of them is known by its name.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

/// The first address; those below are the device's.
const FIRST: u32 = u32::from_be_bytes([198, 18, 4, 0]);

/// How many addresses there are: up to 198.19.255.255.
const COUNT: usize = (u32::from_be_bytes([198, 20, 0, 0]) - FIRST) as usize;

/// The names, each with an address. The oldest gives up its address if all are used.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By the offset of the address.
    names: Vec<String>,
    offsets: HashMap<String, usize>,
    next: usize,
}

impl Names {
    /// The address of a name.
    pub(super) fn address(&mut self, name: &str) -> Ipv4Addr {
        let offset = match self.offsets.get(name) {
            Some(offset) => *offset,
            None => self.add(name),
        };
        Ipv4Addr::from(FIRST + u32::try_from(offset).unwrap_or(0))
    }

    fn add(&mut self, name: &str) -> usize {
        let offset = self.next;
        self.next = (offset + 1) % COUNT;
        match self.names.get_mut(offset) {
            Some(oldest) => {
                self.offsets.remove(oldest);
                name.clone_into(oldest);
            }
            None => self.names.push(name.to_owned()),
        }
        self.offsets.insert(name.to_owned(), offset);
        offset
    }

    /// The name that an address stands for.
    pub(super) fn name(&self, address: IpAddr) -> Option<&str> {
        let IpAddr::V4(address) = address.to_canonical() else {
            return None;
        };
        let offset = u32::from(address).checked_sub(FIRST)? as usize;
        self.names.get(offset).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_one_address_and_keeps_it() {
        let mut names = Names::default();
        let one = names.address("a.example");
        let two = names.address("b.example");
        assert_ne!(one, two);
        assert_eq!(names.address("a.example"), one);
        assert_eq!(names.name(one.into()), Some("a.example"));
        assert_eq!(
            names.name(IpAddr::V6(two.to_ipv6_mapped())),
            Some("b.example")
        );
        assert_eq!(names.name("198.18.0.1".parse().unwrap()), None);
        assert_eq!(names.name("1.1.1.1".parse().unwrap()), None);
        // The oldest is given up, and never two names have one address.
        for number in 0..COUNT {
            names.address(&format!("n{number}.example"));
        }
        assert_eq!(names.names.len(), COUNT);
        assert_eq!(
            names.name(one.into()),
            Some(format!("n{}.example", COUNT - 2).as_str())
        );
        assert_ne!(names.address("a.example"), one);
    }
}
