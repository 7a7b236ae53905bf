//! Caps on connections, from one address and in all.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// Counts the connections of each address.
#[derive(Debug)]
pub struct Admission {
    per_address_max: usize,
    total_max: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// A place that an accepted connection holds, and after an upgrade its WebSocket.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    pub fn new(per_address_max: usize, total_max: usize) -> Arc<Self> {
        Arc::new(Self { per_address_max, total_max, counts: Mutex::default() })
    }

    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = group(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let held = counts.by_address.get(&address).copied().unwrap_or(0);
        if held >= self.per_address_max || counts.total >= self.total_max {
            return None;
        }
        counts.total += 1;
        counts.by_address.insert(address, held + 1);
        Some(Place { admission: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.admission.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(held) = counts.by_address.get_mut(&self.address) {
            *held -= 1;
            if *held == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

/// One household or server usually holds a whole IPv6 /64, so that is what counts as one address.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn an_address_gets_its_share_and_places_come_back() {
        let admission = Admission::new(2, 3);
        let (home, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let places: Vec<_> = (0..2).map(|_| admission.admit(home).expect("within its share")).collect();
        assert!(admission.admit(home).is_none(), "a third from one address");
        let _one_more = admission.admit(other).expect("within the total");
        assert!(admission.admit(other).is_none(), "beyond the total");
        drop(places);
        assert!(admission.admit(home).is_some());
    }

    #[test]
    fn a_v6_network_counts_as_one_address_and_mapped_v4_as_v4() {
        let admission = Admission::new(1, 10);
        let _place = admission.admit("2001:db8::1".parse().unwrap()).unwrap();
        assert!(admission.admit("2001:db8::ffff:2".parse().unwrap()).is_none());
        assert!(admission.admit("2001:db8:0:1::1".parse().unwrap()).is_some());
        let _v4 = admission.admit("::ffff:10.0.0.1".parse().unwrap()).unwrap();
        assert!(admission.admit("10.0.0.1".parse().unwrap()).is_none());
    }
}
