//! The WebSocket to the relay. The mesh says when to open it; a generation number tells news of the socket
//! in use from echoes of earlier ones.

use js_sys::{ArrayBuffer, Uint8Array};
use shoal_wire::{
    limits,
    relay::{FromRelay, ToRelay},
};
use wasm_bindgen::{JsCast, closure::Closure};
use web_sys::{BinaryType, MessageEvent, WebSocket};

use super::driver::News;
use crate::inbox::Inbox;

#[derive(Debug)]
pub enum RelayNews {
    Open,
    Lost,
    Said { message: FromRelay, bytes: usize },
}

struct Socket {
    raw: WebSocket,
    _on_signal: [Closure<dyn FnMut()>; 2],
    _on_message: Closure<dyn FnMut(MessageEvent)>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.raw.set_onopen(None);
        self.raw.set_onclose(None);
        self.raw.set_onmessage(None);
        // Closing a socket that is closed already is no error.
        self.raw.close().ok();
    }
}

pub struct Relay {
    url: String,
    inbox: Inbox<News>,
    generation: u64,
    socket: Option<Socket>,
}

impl Relay {
    pub fn new(origin: &str, inbox: Inbox<News>) -> Self {
        // https becomes wss, http becomes ws
        let url = format!("{}/api/signal", origin.replacen("http", "ws", 1));
        Self { url, inbox, generation: 0, socket: None }
    }

    /// Whether news came from the socket in use.
    pub fn is_current(&self, generation: u64) -> bool {
        self.generation == generation
    }

    pub fn connect(&mut self) {
        self.leave();
        match self.open() {
            Ok(socket) => self.socket = Some(socket),
            Err(_) => self.inbox.push(News::Relay(self.generation, RelayNews::Lost)),
        }
    }

    pub fn leave(&mut self) {
        self.generation += 1;
        self.socket = None;
    }

    fn open(&self) -> Result<Socket, wasm_bindgen::JsValue> {
        let socket = WebSocket::new(&self.url)?;
        socket.set_binary_type(BinaryType::Arraybuffer);
        let generation = self.generation;
        let signal = |news: fn() -> RelayNews| {
            let inbox = self.inbox.clone();
            Closure::<dyn FnMut()>::new(move || inbox.push(News::Relay(generation, news())))
        };
        let signals = [signal(|| RelayNews::Open), signal(|| RelayNews::Lost)];
        socket.set_onopen(Some(signals[0].as_ref().unchecked_ref()));
        // A failing socket closes too, so its error event says nothing more.
        socket.set_onclose(Some(signals[1].as_ref().unchecked_ref()));
        let inbox = self.inbox.clone();
        let on_message = Closure::<dyn FnMut(_)>::new(move |event: MessageEvent| {
            let Ok(buffer) = event.data().dyn_into::<ArrayBuffer>() else { return };
            if buffer.byte_length() as usize > limits::RELAY_MESSAGE_BYTES_MAX {
                return;
            }
            let bytes = Uint8Array::new(&buffer).to_vec();
            // A relay that says what we do not understand may be newer; the rest of what it says still counts.
            if let Ok(message) = FromRelay::decode(&bytes) {
                inbox.push(News::Relay(generation, RelayNews::Said { message, bytes: bytes.len() }));
            }
        });
        socket.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        Ok(Socket { raw: socket, _on_signal: signals, _on_message: on_message })
    }

    /// Sends, and says how many bytes; messages to a lost relay are lost, and its loss is told on its own.
    pub fn send(&self, message: &ToRelay) -> usize {
        let Some(socket) = self.socket.as_ref().filter(|open| open.raw.ready_state() == WebSocket::OPEN) else {
            return 0;
        };
        let bytes = message.encode();
        if socket.raw.send_with_u8_array(&bytes).is_ok() { bytes.len() } else { 0 }
    }
}
