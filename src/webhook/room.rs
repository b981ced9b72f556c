//! How much memory reviews may take at the same time: for bodies that are read, and for those that wait for what is not known yet.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};

/// The room that there is.
#[derive(Debug)]
pub(super) struct Room {
    small: Semaphore,
    large: Semaphore,
    waiting: Mutex<Waiting>,
}

/// A body that was read.
#[derive(Debug)]
pub(super) struct Read<'a> {
    /// All of it.
    pub text: Vec<u8>,
    /// The room that it takes; none where it is as small as most are.
    pub permit: Option<SemaphorePermit<'a>>,
}

/// Why a body was not read. It is no decision on a pod, so that the registration's failurePolicy says what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Too many others are read.
    Busy,
    /// It came too slowly.
    Late,
    /// It is larger than any that the API server sends.
    TooLarge,
    /// Its end never came.
    Broken,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: usize,
    by_namespace: HashMap<String, usize>,
}

/// Room in which to wait.
#[derive(Debug)]
pub(super) struct Wait<'a> {
    room: &'a Room,
    namespace: String,
    bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            small: Semaphore::new(SMALL_ROOM),
            large: Semaphore::new(LARGE_ROOM),
            waiting: Mutex::default(),
        }
    }
}

impl Room {
    /// Reads a body. One that promises much is let in once there is room for what it promises; and has to come soon then. Small ones
    /// never wait for large ones.
    pub(super) async fn read<B>(&self, mut body: B) -> Result<Read<'_>, Unread>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let promised = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
        let promised = promised.unwrap_or(LARGEST);
        if promised > LARGEST && body.size_hint().exact().is_some() {
            return Err(Unread::TooLarge);
        }
        // One piece of memory, however many frames it comes in.
        let mut text = Vec::with_capacity(promised.min(FREE));
        let (mut permit, mut until) = (None, Instant::now() + WHOLE);
        while !body.is_end_stream() {
            let frame = timeout_at(until, body.frame()).await.map_err(|_| Unread::Late)?;
            let Some(frame) = frame else { break };
            let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else { continue };
            let length = text.len() + data.len();
            if length > LARGEST {
                return Err(Unread::TooLarge);
            }
            if length > FREE && permit.is_none() {
                let most = promised.clamp(length, LARGEST);
                permit = Some(timeout(PATIENCE, self.enter(most)).await.map_err(|_| Unread::Busy)?);
                until = Instant::now() + SOON;
                text.reserve_exact(most - text.len());
            }
            text.extend_from_slice(&data);
        }
        Ok(Read { text, permit: permit.flatten() })
    }

    async fn enter(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        let semaphore = if bytes <= SMALL { &self.small } else { &self.large };
        semaphore.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await.ok()
    }

    /// Room in which a body of so many `bytes` may wait, if there is some for that namespace: what one tenant asks for must not be what
    /// others wait for.
    pub(super) fn wait(&self, namespace: &str, bytes: usize) -> Option<Wait<'_>> {
        let bytes = bytes.max(LEAST);
        let mut waiting = self.waiting();
        let own = waiting.by_namespace.get(namespace).copied().unwrap_or_default();
        if waiting.bytes + bytes > WAITING || own + bytes > SHARE {
            return None;
        }
        waiting.bytes += bytes;
        waiting.by_namespace.insert(namespace.to_owned(), own + bytes);
        Some(Wait { room: self, namespace: namespace.to_owned(), bytes })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let mut waiting = self.room.waiting();
        waiting.bytes -= self.bytes;
        if let Some(own) = waiting.by_namespace.get_mut(&self.namespace) {
            *own -= self.bytes;
            if *own == 0 {
                waiting.by_namespace.remove(&self.namespace);
            }
        }
    }
}

impl Unread {
    /// What the API server is told.
    pub(super) fn told(self) -> (StatusCode, &'static str) {
        match self {
            Self::Busy => {
                (StatusCode::SERVICE_UNAVAILABLE, "too many large pods are reviewed at the moment; try again")
            }
            Self::Late => (StatusCode::REQUEST_TIMEOUT, "the body came too slowly"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 3 MiB"),
            Self::Broken => (StatusCode::BAD_REQUEST, "the body broke off"),
        }
    }
}

/// What the API server itself accepts from a client.
const LARGEST: usize = 3 * 1024 * 1024;
/// So much of each body is read without asking for room: what an HTTP/2 client may send unasked, and more than most pods have.
const FREE: usize = 16 * 1024;
/// A body that is no larger is small.
const SMALL: usize = 64 * 1024;
/// Bytes of small bodies at the same time.
const SMALL_ROOM: usize = 4 * 1024 * 1024;
/// Bytes of large ones: one of the largest at least.
const LARGE_ROOM: usize = 4 * 1024 * 1024;
/// Bytes of bodies that wait, of all namespaces and of one: again one of the largest at least.
const WAITING: usize = 8 * 1024 * 1024;
const SHARE: usize = 4 * 1024 * 1024;
/// What a review takes beside its body.
const LEAST: usize = 4 * 1024;
/// For room: the API server waits for at least 5 s in all.
const PATIENCE: Duration = Duration::from_secs(1);
/// For the rest of a body that was let in.
const SOON: Duration = Duration::from_secs(3);
/// For a body that needs no room.
const WHOLE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::body::Body;
    use futures::{FutureExt as _, StreamExt as _, stream};

    use super::*;

    /// A body that begins, and never goes on.
    fn silent(begins_with: usize) -> Body {
        let begin = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b' '; begins_with]))]);
        Body::from_stream(begin.chain(stream::pending()))
    }

    #[tokio::test(start_paused = true)]
    async fn who_promises_and_sends_nothing_takes_no_room() {
        let room = Room::default();
        let mut silent: Vec<_> = (0..1000).map(|_| Box::pin(room.read(silent(FREE)))).collect();
        assert!(silent.iter_mut().all(|read| read.now_or_never().is_none()));
        let large = room.read(Body::from(vec![b' '; LARGEST])).await.unwrap();
        assert_eq!(large.text.len(), LARGEST);
        assert!(large.permit.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_let_in_has_to_come_soon_and_who_is_not_let_in_is_told_so() {
        let room = Room::default();
        let mut first = Box::pin(room.read(silent(FREE + 1)));
        assert!(
            first.as_mut().now_or_never().is_none(),
            "its length is not known, so it has nearly all room"
        );
        let began = Instant::now();
        assert_eq!(room.read(Body::from(vec![b' '; LARGEST])).await.unwrap_err(), Unread::Busy);
        assert_eq!(began.elapsed(), PATIENCE);
        let small = room.read(Body::from(vec![b' '; SMALL])).await.unwrap();
        assert_eq!(small.text.len(), SMALL);
        assert_eq!(first.await.unwrap_err(), Unread::Late);
        assert!(room.read(Body::from(vec![b' '; LARGEST])).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_in_many_pieces_is_one_piece_of_memory() {
        let pieces = stream::iter((0..100_000).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"x"))));
        let room = Room::default();
        let read = room.read(Body::from_stream(pieces)).await.unwrap();
        assert_eq!((read.text.len(), read.text.capacity() <= LARGEST), (100_000, true));
        let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 100_000])));
        assert_eq!(Room::default().read(Body::from_stream(endless)).await.unwrap_err(), Unread::TooLarge);
    }

    #[test]
    fn no_namespace_takes_all_the_room_to_wait_in() {
        let room = Room::default();
        let taken: Vec<_> = std::iter::from_fn(|| room.wait("greedy", SMALL)).collect();
        assert_eq!(taken.len(), SHARE / SMALL);
        let other = room.wait("shop", SMALL);
        assert!(other.is_some() && room.wait("greedy", 1).is_none());
        drop(taken);
        assert!(room.wait("greedy", 3 * 1024 * 1024).is_some());
        drop(other);
        assert!(room.waiting().by_namespace.is_empty() && room.waiting().bytes == 0);
    }
}
