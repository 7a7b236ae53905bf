//! One client's WebSocket: challenge, entry, then messages both ways until either side ends it.
//!
//! The reader paces a client that sends too much; the writer drops one that reads too little. Neither holds
//! anything that another client waits for.

use std::{sync::Arc, time::Duration};

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use shoal_wire::{
    Millis,
    relay::{FromRelay, Refusal, ToRelay},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep, timeout},
};
use tracing::debug;

use crate::{
    admission::Place,
    hub::{Counts, Ending, Hub, Outgoing},
    rate::Bucket,
    rooms::{Connection, Greeting},
};

/// A client has this long to answer the challenge.
const ENTER_TIMEOUT: Duration = Duration::from_secs(10);
const PING_EVERY: Duration = Duration::from_secs(15);
/// Without a sign of life (a message or a pong) for three pings, a client is gone.
const IDLE_TIMEOUT: Duration = Duration::from_secs(46);
/// One message must leave within this time, or the client is too slow.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// With the largest pieces, these need 13 KB/s to leave in time.
const MESSAGES_AT_ONCE: usize = 7;
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Added to a piece's size when it is paced, so that many tiny ones cost something.
const PIECE_OVERHEAD_BYTES: u64 = 256;

/// What one client may send.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Signals, pings and other small messages a second; more than the burst ends the connection.
    pub messages_per_second: u64,
    pub messages_burst: u64,
    /// Forwarded bytes a second; a client that sends more is read more slowly.
    pub forward_bytes_per_second: u64,
    pub forward_bytes_burst: u64,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            messages_per_second: 100,
            messages_burst: 2000,
            forward_bytes_per_second: 16 * 1024 * 1024,
            forward_bytes_burst: 8 * 1024 * 1024,
        }
    }
}

/// Serves one client until it ends. It holds its connection's place as long.
pub async fn serve(hub: Arc<Hub>, rates: Rates, socket: WebSocket, _place: Arc<Place>) {
    let mut nonce = [0; 32];
    if let Err(error) = getrandom::fill(&mut nonce) {
        tracing::error!(%error, "no randomness for a challenge");
        return;
    }
    let (sink, stream) = socket.split();
    let (connection, outgoing) = hub.connect();
    let (greeting, challenge) = Greeting::new(nonce);
    let mut writer = tokio::spawn(write(sink, outgoing, challenge));
    let mut reader = Reader { hub: &hub, connection, stream, rates };
    let ending = tokio::select! {
        ending = reader.run(&greeting) => ending,
        // The writer ends first when the hub says so, or when nothing can be written any more.
        _ = &mut writer => Ending::Gone,
    };
    debug!(connection = connection.0, ?ending, "connection ends");
    hub.disconnect(connection, ending);
    if !writer.is_finished()
        && let Err(error) = writer.await
    {
        tracing::error!(%error, "a writer failed");
    }
}

struct Reader<'a> {
    hub: &'a Hub,
    connection: Connection,
    stream: SplitStream<WebSocket>,
    rates: Rates,
}

impl Reader<'_> {
    async fn run(&mut self, greeting: &Greeting) -> Ending {
        let entered = timeout(ENTER_TIMEOUT, self.enter(greeting)).await;
        let result = match entered {
            Err(_late) => Err(Ending::Gone),
            Ok(Err(ending)) => Err(ending),
            Ok(Ok(())) => self.converse().await,
        };
        result.err().unwrap_or(Ending::Gone)
    }

    async fn enter(&mut self, greeting: &Greeting) -> Result<(), Ending> {
        let message = loop {
            if let Some(message) = self.next().await? {
                break message;
            }
        };
        let (run, peer) = greeting.check(&message).map_err(Ending::Refused)?;
        self.hub.enter(self.connection, run, peer).map_err(Ending::Refused)?;
        debug!(connection = self.connection.0, run = run.short(), peer = peer.short(), "peer entered");
        Ok(())
    }

    async fn converse(&mut self) -> Result<(), Ending> {
        let start = Instant::now();
        let mut messages = Bucket::full(Millis(0), self.rates.messages_per_second, self.rates.messages_burst);
        let mut bytes = Bucket::full(Millis(0), self.rates.forward_bytes_per_second, self.rates.forward_bytes_burst);
        loop {
            let received = timeout(IDLE_TIMEOUT, self.next()).await.map_err(|_silent| Ending::Gone)??;
            let now = Millis(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
            match &received {
                Some(ToRelay::Forward { piece, .. }) => {
                    let wait_ms = bytes.take(now, piece.len() as u64 + PIECE_OVERHEAD_BYTES);
                    if wait_ms > 0 {
                        sleep(Duration::from_millis(wait_ms)).await;
                    }
                }
                _ if messages.take(now, 1) > 0 => return Err(Ending::Refused(Refusal::TooFast)),
                _ => {}
            }
            if let Some(message) = received {
                self.hub.receive(self.connection, message).map_err(Ending::Refused)?;
            }
        }
    }

    /// The next frame; `None` for one that only shows that the client is there.
    async fn next(&mut self) -> Result<Option<ToRelay>, Ending> {
        match self.stream.next().await {
            Some(Ok(Message::Binary(bytes))) => {
                ToRelay::decode(&bytes).map(Some).map_err(|_| Ending::Refused(Refusal::Malformed))
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
            Some(Ok(Message::Text(_))) => Err(Ending::Refused(Refusal::Malformed)),
            Some(Ok(Message::Close(_))) | None => Err(Ending::Gone),
            Some(Err(error)) => {
                // A message above the limit ends here, before it is held in memory.
                debug!(connection = self.connection.0, %error, "unreadable");
                Err(Ending::Refused(Refusal::Malformed))
            }
        }
    }
}

type Sink = SplitSink<WebSocket, Message>;

async fn write(mut sink: Sink, mut outgoing: Outgoing, challenge: FromRelay) {
    if !put(&mut sink, Message::Binary(challenge.encode().into())).await {
        return;
    }
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ending = loop {
        tokio::select! {
            biased;
            ending = outgoing.ending.recv() => break ending.unwrap_or(Ending::Gone),
            message = outgoing.queue.recv() => {
                let Some(message) = message else { break Ending::Gone };
                let Outgoing { queue, ending, counts, .. } = &mut outgoing;
                counts.taken(&message);
                tokio::select! {
                    biased;
                    ok = put_all(&mut sink, queue, counts, message) => if !ok {
                        debug!("dropped a client that does not read");
                        return;
                    },
                    // What is written so far stays in the sink's buffer, so stopping here cuts no message.
                    ending = ending.recv() => break ending.unwrap_or(Ending::Gone),
                }
            }
            _ = ping.tick() => {
                if !put(&mut sink, Message::Ping(Bytes::new())).await {
                    return;
                }
            }
        }
    };
    goodbye(&mut sink, ending).await;
}

/// Writes a message and those that already wait behind it, with one flush.
async fn put_all(sink: &mut Sink, queue: &mut mpsc::Receiver<Bytes>, counts: &Counts, first: Bytes) -> bool {
    let all = async {
        sink.feed(Message::Binary(first)).await?;
        for _ in 0..MESSAGES_AT_ONCE {
            let Ok(message) = queue.try_recv() else { break };
            counts.taken(&message);
            sink.feed(Message::Binary(message)).await?;
        }
        sink.flush().await
    };
    matches!(timeout(WRITE_TIMEOUT, all).await, Ok(Ok(())))
}

async fn put(sink: &mut Sink, message: Message) -> bool {
    matches!(timeout(WRITE_TIMEOUT, sink.send(message)).await, Ok(Ok(())))
}

async fn goodbye(sink: &mut Sink, ending: Ending) {
    let (last, code, reason) = match ending {
        Ending::Refused(refusal) => (Some(FromRelay::Refused(refusal)), close_code::POLICY, "refused"),
        Ending::Draining { retry_ms } => (Some(FromRelay::Draining { retry_ms }), close_code::RESTART, "draining"),
        // It does not read, so it would not read this either.
        Ending::Slow => return debug!("dropped a client that reads too slowly"),
        Ending::Gone => (None, close_code::NORMAL, ""),
    };
    let words = async {
        if let Some(last) = last {
            sink.send(Message::Binary(last.encode().into())).await?;
        }
        sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await
    };
    // The connection ends in any case; a client that cannot be told learns it from its closing.
    timeout(GOODBYE_TIMEOUT, words).await.ok();
}
