//! The rooms with their clients' outgoing queues: what every WebSocket task shares.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use shoal_wire::{
    PeerId, RunId,
    limits::{QUEUE_BYTES_MAX, QUEUE_MESSAGES_MAX, QUEUES_BYTES_MAX},
    relay::{FromRelay, Refusal, ToRelay},
};
use tokio::sync::{mpsc, watch};

use crate::rooms::{Connection, Effect, Rooms};

/// Why the relay ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Refused(Refusal),
    /// It does not read what it is sent.
    Slow,
    Draining {
        retry_ms: u32,
    },
    /// The client went away.
    Gone,
}

/// A client's way out, as the hub sees it.
#[derive(Debug)]
struct Outbox {
    queue: mpsc::Sender<Bytes>,
    ending: mpsc::Sender<Ending>,
    queued_bytes: Arc<AtomicUsize>,
}

impl Outbox {
    fn end(&self, ending: Ending) {
        // A full channel means that an earlier reason already ends this connection.
        self.ending.try_send(ending).ok();
    }
}

/// A client's way out, as its writer sees it.
#[derive(Debug)]
pub struct Outgoing {
    pub queue: mpsc::Receiver<Bytes>,
    pub ending: mpsc::Receiver<Ending>,
    pub counts: Counts,
    connections: watch::Sender<usize>,
}

/// How many bytes wait, for one client and for all.
#[derive(Debug)]
pub struct Counts {
    queued_bytes: Arc<AtomicUsize>,
    total_bytes: Arc<AtomicUsize>,
}

impl Counts {
    /// The writer took this message out of the queue.
    pub fn taken(&self, message: &Bytes) {
        self.queued_bytes.fetch_sub(message.len(), Ordering::Relaxed);
        self.total_bytes.fetch_sub(message.len(), Ordering::Relaxed);
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.queue.close();
        while let Ok(message) = self.queue.try_recv() {
            self.counts.taken(&message);
        }
        self.connections.send_modify(|count| *count -= 1);
    }
}

#[derive(Debug)]
struct State {
    rooms: Rooms,
    outboxes: BTreeMap<Connection, Outbox>,
    draining: Option<u32>,
}

#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    next: AtomicU64,
    total_bytes: Arc<AtomicUsize>,
    connections: watch::Sender<usize>,
}

impl Hub {
    pub fn new(room_peers_max: usize) -> Self {
        let state = State { rooms: Rooms::new(room_peers_max), outboxes: BTreeMap::new(), draining: None };
        Self {
            state: Mutex::new(state),
            next: AtomicU64::new(1),
            total_bytes: Arc::default(),
            connections: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock can leave the state half-changed, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn open(&self, run: RunId) {
        self.state().rooms.open(run);
    }

    pub fn peers(&self, run: RunId) -> usize {
        self.state().rooms.peers(run)
    }

    pub fn peers_total(&self) -> usize {
        self.state().rooms.peers_total()
    }

    pub fn connections(&self) -> usize {
        *self.connections.borrow()
    }

    /// Registers a connection; [`Self::disconnect`] must follow.
    pub fn connect(&self) -> (Connection, Outgoing) {
        let connection = Connection(self.next.fetch_add(1, Ordering::Relaxed));
        let (queue, queue_out) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let (ending, ending_out) = mpsc::channel(1);
        let queued_bytes = Arc::<AtomicUsize>::default();
        let outbox = Outbox { queue, ending, queued_bytes: queued_bytes.clone() };
        let mut state = self.state();
        if let Some(retry_ms) = state.draining {
            outbox.end(Ending::Draining { retry_ms });
        }
        state.outboxes.insert(connection, outbox);
        self.connections.send_modify(|count| *count += 1);
        let counts = Counts { queued_bytes, total_bytes: self.total_bytes.clone() };
        let connections = self.connections.clone();
        (connection, Outgoing { queue: queue_out, ending: ending_out, counts, connections })
    }

    pub fn enter(&self, connection: Connection, run: RunId, peer: PeerId) -> Result<(), Refusal> {
        let mut state = self.state();
        let effects = state.rooms.enter(connection, run, peer)?;
        self.carry_out(&state, effects);
        Ok(())
    }

    pub fn receive(&self, connection: Connection, message: ToRelay) -> Result<(), Refusal> {
        let state = self.state();
        let effect = state.rooms.receive(connection, message)?;
        self.carry_out(&state, effect);
        Ok(())
    }

    /// The client takes part no more; its writer says why, if there is something to say.
    pub fn disconnect(&self, connection: Connection, ending: Ending) {
        let mut state = self.state();
        let effects = state.rooms.leave(connection);
        if let Some(outbox) = state.outboxes.remove(&connection) {
            outbox.end(ending);
        }
        self.carry_out(&state, effects);
    }

    /// Tells every client, now and from now on, to come back later.
    pub fn drain(&self, retry_ms: u32) {
        let mut state = self.state();
        state.draining = Some(retry_ms);
        for outbox in state.outboxes.values() {
            outbox.end(Ending::Draining { retry_ms });
        }
    }

    /// Waits until every connection has said its last word.
    pub async fn empty(&self) {
        let mut connections = self.connections.subscribe();
        // An error means that the sender, which `self` holds, is gone: it cannot be.
        connections.wait_for(|&count| count == 0).await.ok();
    }

    /// Queues under the lock, so that what two tasks say to one client arrives in the order in which it happened.
    fn carry_out(&self, state: &State, effects: impl IntoIterator<Item = Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } => {
                    if let Some(outbox) = state.outboxes.get(&to) {
                        self.send(outbox, &message);
                    }
                }
                Effect::Close { connection, refusal } => {
                    if let Some(outbox) = state.outboxes.get(&connection) {
                        outbox.end(Ending::Refused(refusal));
                    }
                }
            }
        }
    }

    fn send(&self, outbox: &Outbox, message: &FromRelay) {
        let bytes = Bytes::from(message.encode());
        let size = bytes.len();
        let queued = outbox.queued_bytes.fetch_add(size, Ordering::Relaxed) + size;
        let total = self.total_bytes.fetch_add(size, Ordering::Relaxed) + size;
        let fits = queued <= QUEUE_BYTES_MAX && total <= QUEUES_BYTES_MAX;
        if !fits || outbox.queue.try_send(bytes).is_err() {
            outbox.queued_bytes.fetch_sub(size, Ordering::Relaxed);
            self.total_bytes.fetch_sub(size, Ordering::Relaxed);
            outbox.end(Ending::Slow);
        }
    }
}
