//! The WebSocket to the relay.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use shoal_wire::{
    limits,
    relay::{FromRelay, ToRelay},
};
use tokio::{
    sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinHandle,
};
use tokio_tungstenite::{
    Connector, connect_async_tls_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) enum SocketEvent {
    Open,
    Message(FromRelay),
    Lost(String),
}

/// One connection, or an attempt at one. Dropping it closes the connection; its events carry its number, so that
/// late ones of an earlier connection can be told apart.
#[derive(Debug)]
pub(crate) struct Socket {
    pub number: u64,
    messages: UnboundedSender<ToRelay>,
    task: JoinHandle<()>,
}

impl Socket {
    pub fn connect(number: u64, url: String, connector: Connector, events: Sender<(u64, SocketEvent)>) -> Self {
        let (messages, outgoing) = unbounded_channel();
        let task = tokio::spawn(async move {
            let why = run(number, &url, connector, outgoing, &events).await;
            if events.send((number, SocketEvent::Lost(why))).await.is_err() {
                tracing::trace!("nobody is interested in the relay any more");
            }
        });
        Self { number, messages, task }
    }

    pub fn send(&self, message: ToRelay) {
        if self.messages.send(message).is_err() {
            tracing::trace!("the relay's socket closed before a message");
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs a connection to its end; returns why it ended.
async fn run(
    number: u64,
    url: &str,
    connector: Connector,
    mut outgoing: UnboundedReceiver<ToRelay>,
    events: &Sender<(u64, SocketEvent)>,
) -> String {
    let config = WebSocketConfig::default()
        .max_message_size(Some(limits::RELAY_MESSAGE_BYTES_MAX))
        .max_frame_size(Some(limits::RELAY_MESSAGE_BYTES_MAX));
    let connecting = connect_async_tls_with_config(url, Some(config), true, Some(connector));
    let socket = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Err(_) => return "no answer in time".to_owned(),
        Ok(Err(error)) => return error.to_string(),
        Ok(Ok((socket, _))) => socket,
    };
    let (mut sink, mut stream) = socket.split();
    if events.send((number, SocketEvent::Open)).await.is_err() {
        return "this peer stopped".to_owned();
    }
    // Two loops, so that reading never waits for writing: a relay may stop taking messages until its own are taken.
    let write = async {
        while let Some(message) = outgoing.recv().await {
            if let Err(error) = sink.send(Message::binary(message.encode())).await {
                return error.to_string();
            }
        }
        "this peer left".to_owned()
    };
    let read = async {
        loop {
            let message = match stream.next().await {
                None | Some(Ok(Message::Close(_))) => return "the relay closed the connection".to_owned(),
                Some(Err(error)) => return error.to_string(),
                Some(Ok(Message::Binary(bytes))) => match FromRelay::decode(&bytes) {
                    Ok(message) => message,
                    Err(error) => return format!("the relay speaks another protocol: {error}"),
                },
                Some(Ok(_)) => continue,
            };
            if events.send((number, SocketEvent::Message(message))).await.is_err() {
                return "this peer stopped".to_owned();
            }
        }
    };
    tokio::select! {
        why = write => why,
        why = read => why,
    }
}
