//! A queue from browser callbacks to the one loop that owns a worker's state.

use core::{
    cell::RefCell,
    future::poll_fn,
    task::{Poll, Waker},
};
use std::{collections::VecDeque, rc::Rc};

use js_sys::Uint8Array;
use serde::de::DeserializeOwned;
use wasm_bindgen::{JsCast, closure::Closure};
use web_sys::{MessageEvent, MessagePort};

use crate::{messages::Failure, scope};

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    waker: Option<Waker>,
}

/// Clones share one queue; only one of them may wait in [`Self::next`].
#[derive(Debug)]
pub struct Inbox<T>(Rc<RefCell<Queue<T>>>);

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Queue { items: VecDeque::new(), waker: None })))
    }
}

impl<T: 'static> Inbox<T> {
    /// Takes what the other worker posts to this port; what cannot be read is told to the page.
    pub fn listen<M: DeserializeOwned + 'static>(&self, port: &MessagePort, wrap: fn(M) -> T) {
        let inbox = self.clone();
        let on_message = Closure::<dyn FnMut(_)>::new(move |event: MessageEvent| {
            let bytes = Uint8Array::new(&event.data()).to_vec();
            match postcard::from_bytes(&bytes) {
                Ok(message) => inbox.push(wrap(message)),
                Err(error) => scope::post_failure(&Failure::new("panic", &error)),
            }
        });
        port.set_onmessage(Some(on_message.into_js_value().unchecked_ref()));
    }
}

impl<T> Inbox<T> {
    pub fn push(&self, item: T) {
        let waker = {
            let mut queue = self.0.borrow_mut();
            queue.items.push_back(item);
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub fn try_next(&self) -> Option<T> {
        self.0.borrow_mut().items.pop_front()
    }

    pub async fn next(&self) -> T {
        poll_fn(|context| {
            let mut queue = self.0.borrow_mut();
            if let Some(item) = queue.items.pop_front() {
                return Poll::Ready(item);
            }
            queue.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}
