//! What waits for a client, and for how long: writing to a connection that takes nothing, and reading a request's body
//! that does not come.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Runs from the first wait on; progress ends it.
struct Patience {
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, waiting: None }
    }

    fn progress(&mut self) {
        self.waiting = None;
    }

    /// Ready when this wait has lasted too long.
    fn poll_out(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let limit = self.limit;
        self.waiting.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(context)
    }

    fn judge<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.progress();
            return polled;
        }
        ready!(self.poll_out(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

/// A connection whose other side must go on taking what is written. Reading may wait: idle clients are somebody else's
/// concern.
pub struct Patient<S> {
    stream: S,
    patience: Patience,
}

impl<S> Patient<S> {
    pub fn new(stream: S, limit: Duration) -> Self {
        Self { stream, patience: Patience::new(limit) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.patience.judge(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.patience.judge(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.patience.judge(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.patience.judge(polled, context)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body stopped arriving")]
    Stalled,
    #[error(transparent)]
    Connection(#[from] hyper::Error),
}

/// A request's body that fails when it stops arriving.
pub struct Stalled<B> {
    body: B,
    patience: Patience,
}

impl<B> Stalled<B> {
    pub fn new(body: B, limit: Duration) -> Self {
        Self { body, patience: Patience::new(limit) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Stalled<B>
where
    BodyError: From<B::Error>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.patience.progress();
            return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)));
        }
        ready!(self.patience.poll_out(context));
        Poll::Ready(Some(Err(BodyError::Stalled)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{convert::Infallible, task::Waker};

    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const SHORT: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_hours(1);

    impl From<Infallible> for BodyError {
        fn from(never: Infallible) -> Self {
            match never {}
        }
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_loses_its_connection() {
        let (ours, _theirs) = duplex(16);
        let error = Patient::new(ours, SHORT).write_all(&[0; 17]).await.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn whatever_a_slow_reader_takes_starts_its_time_anew() {
        let (ours, mut theirs) = duplex(16);
        let mut ours = Patient::new(ours, LONG);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            ours.write_all(&[0; 16]).await.unwrap();
            assert!(ours.patience.waiting.is_none());
            assert!(Pin::new(&mut ours).poll_write(&mut context, &[0]).is_pending());
            assert!(ours.patience.waiting.is_some(), "its time runs");
            theirs.read_exact(&mut [0; 16]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_not_cut_off_here() {
        let (ours, mut theirs) = duplex(16);
        let mut ours = Patient::new(ours, SHORT);
        let mut context = Context::from_waker(Waker::noop());
        let mut bytes = [0; 4];
        assert!(Pin::new(&mut ours).poll_read(&mut context, &mut ReadBuf::new(&mut bytes)).is_pending());
        assert!(ours.patience.waiting.is_none());
        theirs.write_all(b"here").await.unwrap();
        ours.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"here");
    }

    /// Some frames, and then neither more nor an end.
    struct Stops(usize);

    impl Body for Stops {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.0 == 0 {
                return Poll::Pending;
            }
            self.0 -= 1;
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"a")))))
        }
    }

    #[tokio::test]
    async fn a_body_that_stops_arriving_is_given_up() {
        let mut body = Stalled::new(Stops(2), SHORT);
        for _ in 0..2 {
            body.frame().await.expect("a frame").expect("it came");
        }
        let error = body.frame().await.expect("an end").expect_err("given up");
        assert!(matches!(error, BodyError::Stalled));
    }
}
