//! A queue from browser callbacks to the one loop that owns a worker's state.

use core::{
    cell::RefCell,
    future::poll_fn,
    task::{Poll, Waker},
};
use std::{collections::VecDeque, rc::Rc};

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
