//! A data channel with backpressure: what does not fit its buffer waits here.

use std::{collections::VecDeque, rc::Rc};

use js_sys::{ArrayBuffer, Uint8Array};
use shoal_wire::limits;
use wasm_bindgen::{JsCast, closure::Closure};
use web_sys::{MessageEvent, RtcDataChannel, RtcDataChannelState, RtcDataChannelType};

/// Sending stops when this much is buffered, and goes on when it fell to [`BUFFERED_BYTES_LOW`].
const BUFFERED_BYTES_HIGH: u32 = 256 * 1024;
const BUFFERED_BYTES_LOW: u32 = 128 * 1024;
/// A link that lets this much wait is dead; peers ask for far less at a time.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Debug)]
pub enum LaneEvent {
    Open,
    Piece(Vec<u8>),
    /// There is room again: call [`Lane::flush`].
    Room,
    Closed,
}

/// The channel cannot be written to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

#[derive(Debug)]
pub struct Lane {
    channel: RtcDataChannel,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    // Dropped with the lane, after the channel forgot them.
    _on_signal: Vec<Closure<dyn FnMut()>>,
    _on_message: Closure<dyn FnMut(MessageEvent)>,
}

impl Lane {
    pub fn new(channel: RtcDataChannel, tell: Rc<dyn Fn(LaneEvent)>) -> Self {
        channel.set_binary_type(RtcDataChannelType::Arraybuffer);
        channel.set_buffered_amount_low_threshold(BUFFERED_BYTES_LOW);
        let signal = |event: fn() -> LaneEvent| {
            let tell = Rc::clone(&tell);
            Closure::<dyn FnMut()>::new(move || tell(event()))
        };
        let opened = signal(|| LaneEvent::Open);
        let room = signal(|| LaneEvent::Room);
        let closed = signal(|| LaneEvent::Closed);
        channel.set_onopen(Some(opened.as_ref().unchecked_ref()));
        channel.set_onbufferedamountlow(Some(room.as_ref().unchecked_ref()));
        channel.set_onclose(Some(closed.as_ref().unchecked_ref()));
        let on_message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            // Text, or more than a piece, is not of our protocol.
            let piece = event.data().dyn_into::<ArrayBuffer>().ok();
            match piece.filter(|buffer| buffer.byte_length() as usize <= limits::PIECE_BYTES_MAX) {
                Some(buffer) => tell(LaneEvent::Piece(Uint8Array::new(&buffer).to_vec())),
                None => tell(LaneEvent::Closed),
            }
        });
        channel.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        let listeners = vec![opened, room, closed];
        Self { channel, waiting: VecDeque::new(), waiting_bytes: 0, _on_signal: listeners, _on_message: on_message }
    }

    pub fn is_open(&self) -> bool {
        self.channel.ready_state() == RtcDataChannelState::Open
    }

    pub fn write(&mut self, piece: Vec<u8>) -> Result<(), Broken> {
        self.waiting_bytes += piece.len();
        self.waiting.push_back(piece);
        if self.waiting_bytes > WAITING_BYTES_MAX { Err(Broken) } else { self.flush() }
    }

    pub fn flush(&mut self) -> Result<(), Broken> {
        while self.channel.buffered_amount() < BUFFERED_BYTES_HIGH {
            let Some(piece) = self.waiting.pop_front() else { break };
            self.waiting_bytes -= piece.len();
            self.channel.send_with_u8_array(&piece).map_err(|_| Broken)?;
        }
        Ok(())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.channel.set_onopen(None);
        self.channel.set_onbufferedamountlow(None);
        self.channel.set_onclose(None);
        self.channel.set_onmessage(None);
        self.channel.close();
    }
}
