//! Links: an uplink and a downlink for each peer, on which flows wait for each other.

/// In microseconds of simulated time.
pub type Micros = u64;

/// An uplink that has this much to send already takes no further blob.
const QUEUE_MAX: Micros = 600_000;

#[derive(Clone, Debug)]
pub struct Link {
    pub up_kbps: u64,
    pub down_kbps: u64,
    pub latency: Micros,
    up_free: Micros,
    down_free: Micros,
    pub sent_bytes: u64,
    pub received_bytes: u64,
}

fn transmission(bytes: u64, kbps: u64) -> Micros {
    bytes * 8_000 / kbps.max(1)
}

impl Link {
    pub fn new(up_kbps: u64, down_kbps: u64, latency: Micros) -> Self {
        Self { up_kbps, down_kbps, latency, up_free: 0, down_free: 0, sent_bytes: 0, received_bytes: 0 }
    }

    pub fn is_busy(&self, now: Micros) -> bool {
        self.up_free > now + QUEUE_MAX
    }

    /// A blob: when it has left. It waits for what is on its way already.
    pub fn send_blob(&mut self, now: Micros, bytes: u64) -> Micros {
        self.sent_bytes += bytes;
        self.up_free = self.up_free.max(now) + transmission(bytes, self.up_kbps);
        self.up_free
    }

    /// When a blob that left a peer at `left` has arrived here. A downlink takes blobs one after the other.
    pub fn receive_blob(&mut self, left: Micros, latency: Micros, bytes: u64) -> Micros {
        self.received_bytes += bytes;
        self.down_free = (left + latency).max(self.down_free + transmission(bytes, self.down_kbps));
        self.down_free
    }

    /// A message goes before blobs, which it delays: when it has left.
    pub fn send_message(&mut self, now: Micros, bytes: u64) -> Micros {
        self.sent_bytes += bytes;
        let time = transmission(bytes, self.up_kbps);
        self.up_free = self.up_free.max(now) + time;
        now + time
    }

    pub fn receive_message(&mut self, bytes: u64) -> Micros {
        self.received_bytes += bytes;
        transmission(bytes, self.down_kbps)
    }
}
