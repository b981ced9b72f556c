//! One value for all callers, fetched by one of them at a time.

use tokio::{sync::Mutex, time::Instant};

use super::Error;

/// A value that everybody needs alike. Whoever comes while it is fetched waits for that one answer, also where the answer
/// is a failure: else a silent server would cost each caller one more time-out after all those before.
#[derive(Debug)]
pub(super) struct Shared<T> {
    /// Locked across the fetch, on purpose. Every fetch is bounded by its time-out.
    last: Mutex<Option<Answer<T>>>,
}

#[derive(Debug)]
struct Answer<T> {
    result: Result<T, Error>,
    at: Instant,
}

impl<T: Clone> Shared<T> {
    pub(super) fn new() -> Self {
        Self { last: Mutex::new(None) }
    }

    /// The value that is held where `is_fresh` (told its age) says so; else what `fetch` gives.
    pub(super) async fn get(
        &self,
        is_fresh: impl Fn(&T, std::time::Duration) -> bool,
        fetch: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(Answer { result, at }) = last.as_ref() {
            let serves = match result {
                Ok(value) => is_fresh(value, at.elapsed()),
                Err(_) => *at > asked,
            };
            if serves {
                return result.clone();
            }
        }
        let result = fetch.await;
        *last = Some(Answer { result: result.clone(), at: Instant::now() });
        result
    }

    /// Drops the value where it is still one that `is_refused`.
    pub(super) async fn forget(&self, is_refused: impl Fn(&T) -> bool) {
        let mut last = self.last.lock().await;
        last.take_if(|answer| answer.result.as_ref().is_ok_and(is_refused));
    }
}
