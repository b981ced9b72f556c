//! What the webhook knows of bindings: a watch cache first, then one live read, then for a while nothing more.
use std::{
    collections::{HashMap, VecDeque},
    fmt::Display,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::plan::inject::BindingFacts;

/// Answers for bindings by name.
pub trait BindingLookup: Send + Sync + 'static {
    /// Looks for the binding `name` of `namespace`. Answers within some seconds, whatever becomes of what it asks itself: the API
    /// server waits for it.
    fn find(&self, namespace: &str, name: &str) -> impl Future<Output = Lookup> + Send;
}

/// The answer for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// There is such a binding.
    Found(BindingFacts),
    /// There is none.
    Missing,
    /// Nobody could say in time.
    Unavailable,
}

/// A lookup in `cached`, a watch cache, and by `live`, a read from the API server, where the cache has nothing: caches lag,
/// and a binding is often created just before its pod.
pub struct CachedLookup<C, L, E> {
    cached: C,
    live: L,
    absent: Mutex<Absent>,
    shares: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// For the one read of a namespace that has no other under way.
    first: Semaphore,
    /// For its further ones.
    further: Semaphore,
    error: PhantomData<fn() -> E>,
}

impl<C, L, F, E> CachedLookup<C, L, E>
where
    C: Fn(&str, &str) -> Option<BindingFacts> + Send + Sync + 'static,
    L: Fn(String, String) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Option<BindingFacts>, E>> + Send,
    E: Display + 'static,
{
    /// Both functions take a namespace and a name.
    pub fn new(cached: C, live: L) -> Self {
        Self {
            cached,
            live,
            absent: Mutex::default(),
            shares: Mutex::default(),
            first: Semaphore::new(FIRST),
            further: Semaphore::new(FURTHER),
            error: PhantomData,
        }
    }

    async fn read(&self, namespace: &str, name: &str) -> Lookup {
        let share = self.share(namespace);
        let read = async {
            let _share = share.acquire().await;
            let is_first = share.available_permits() + 1 == SHARE;
            let _permit = if is_first { self.first.acquire().await } else { self.further.acquire().await };
            // Who was asked for the same while this one waited may know by now.
            match self.known(namespace, name) {
                Some(known) => known,
                None => self.ask(namespace, name).await,
            }
        };
        timeout(WAIT, read).await.unwrap_or_else(|_| {
            tracing::warn!(namespace, name, "binding not read in time: too many others are being read");
            Lookup::Unavailable
        })
    }

    async fn ask(&self, namespace: &str, name: &str) -> Lookup {
        match timeout(READ, (self.live)(namespace.to_owned(), name.to_owned())).await {
            Ok(Ok(Some(facts))) => Lookup::Found(facts),
            Ok(Ok(None)) => {
                self.absent().insert(namespace, name, Instant::now());
                Lookup::Missing
            }
            Ok(Err(error)) => {
                tracing::warn!(namespace, name, %error, "binding not read");
                Lookup::Unavailable
            }
            Err(_) => {
                tracing::warn!(namespace, name, "binding not read in time");
                Lookup::Unavailable
            }
        }
    }

    /// What is known without a read.
    fn known(&self, namespace: &str, name: &str) -> Option<Lookup> {
        if let Some(facts) = (self.cached)(namespace, name) {
            return Some(Lookup::Found(facts));
        }
        self.absent().contains(namespace, name, Instant::now()).then_some(Lookup::Missing)
    }

    /// What `namespace` may read at a time: its pods that name bindings by the hundred which don't exist keep nobody else waiting.
    fn share(&self, namespace: &str) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| Arc::strong_count(share) > 1); // those with a read under way
        shares.entry(namespace.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(SHARE))).clone()
    }

    fn absent(&self) -> MutexGuard<'_, Absent> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C, L, F, E> BindingLookup for CachedLookup<C, L, E>
where
    C: Fn(&str, &str) -> Option<BindingFacts> + Send + Sync + 'static,
    L: Fn(String, String) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Option<BindingFacts>, E>> + Send,
    E: Display + 'static,
{
    async fn find(&self, namespace: &str, name: &str) -> Lookup {
        match self.known(namespace, name) {
            Some(known) => known,
            None => self.read(namespace, name).await,
        }
    }
}

/// Names that were not there a moment ago, in the order in which they were asked for.
#[derive(Default)]
struct Absent {
    until: HashMap<(String, String), Instant>,
    order: VecDeque<((String, String), Instant)>,
}

impl Absent {
    fn contains(&mut self, namespace: &str, name: &str, now: Instant) -> bool {
        self.forget(now);
        self.until.contains_key(&(namespace.to_owned(), name.to_owned()))
    }

    fn insert(&mut self, namespace: &str, name: &str, now: Instant) {
        let (key, until) = ((namespace.to_owned(), name.to_owned()), now + ABSENT);
        self.until.insert(key.clone(), until);
        self.order.push_back((key, until));
        self.forget(now);
    }

    /// Drops what is over, and the oldest where there are too many.
    fn forget(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(_, until)| *until <= now || self.order.len() > MOST_ABSENT) {
            let Some((key, until)) = self.order.pop_front() else {
                return;
            };
            if self.until.get(&key) == Some(&until) {
                self.until.remove(&key);
            }
        }
    }
}

/// How long the API server has for one answer.
const READ: Duration = Duration::from_secs(2);
/// How long a name may take, with its turn: the API server waits for our answer for at least 5 s (the chart's `webhook.timeoutSeconds`).
const WAIT: Duration = Duration::from_secs(4);
/// Namespaces that read at the same time: however many reads some have under way, there is room for the first of others.
const FIRST: usize = 32;
/// Reads at the same time beside these.
const FURTHER: usize = 8;
/// Reads of one namespace at the same time.
const SHARE: usize = 4;
/// How long a missing binding counts as missing. The watch cache is asked first all the same.
const ABSENT: Duration = Duration::from_secs(5);
/// Bounds the memory that somebody can take by asking for names that don't exist.
const MOST_ABSENT: usize = 4096;

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    use super::*;

    fn facts() -> BindingFacts {
        BindingFacts {
            secret_name: "s".into(),
            key: "k".into(),
            authorization_key: None,
            expiration_time: None,
        }
    }

    /// A lookup whose cache holds `cached` only, and the number of live reads so far.
    fn lookup(
        live: impl Fn(&str) -> Result<Option<BindingFacts>, &'static str> + Send + Sync + 'static,
    ) -> (impl BindingLookup, Arc<AtomicUsize>) {
        let reads = Arc::new(AtomicUsize::new(0));
        let count = reads.clone();
        let live = move |_: String, name: String| {
            count.fetch_add(1, Ordering::SeqCst);
            std::future::ready(live(&name))
        };
        (CachedLookup::new(|_: &str, name: &str| (name == "cached").then(facts), live), reads)
    }

    #[tokio::test(start_paused = true)]
    async fn cache_answers_without_a_read() {
        let (lookup, reads) = lookup(|_| Err("not asked"));
        assert_eq!(lookup.find("ns", "cached").await, Lookup::Found(facts()));
        assert_eq!(reads.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn binding_that_the_cache_lacks_is_read() {
        let (lookup, _) = lookup(|_| Ok(Some(facts())));
        assert_eq!(lookup.find("ns", "new").await, Lookup::Found(facts()));
    }

    #[tokio::test(start_paused = true)]
    async fn absence_is_remembered_for_five_seconds() {
        let created = Arc::new(AtomicBool::new(false));
        let there = created.clone();
        let (lookup, reads) = lookup(move |_| Ok(there.load(Ordering::SeqCst).then(facts)));
        assert_eq!(lookup.find("ns", "a").await, Lookup::Missing);
        created.store(true, Ordering::SeqCst);
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert_eq!(lookup.find("ns", "a").await, Lookup::Missing);
        assert_eq!(reads.load(Ordering::SeqCst), 1);
        assert_eq!(lookup.find("other", "a").await, Lookup::Found(facts()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(lookup.find("ns", "a").await, Lookup::Found(facts()));
        assert_eq!(reads.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_read_is_not_an_absence() {
        let (lookup, reads) = lookup(|_| Err("connection refused"));
        assert_eq!(lookup.find("ns", "a").await, Lookup::Unavailable);
        assert_eq!(lookup.find("ns", "a").await, Lookup::Unavailable);
        assert_eq!(reads.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn read_that_hangs_is_given_up_after_two_seconds() {
        let live = |_, _| std::future::pending::<Result<_, &str>>();
        let lookup = CachedLookup::new(|_: &str, _: &str| None, live);
        let start = Instant::now();
        assert_eq!(lookup.find("ns", "a").await, Lookup::Unavailable);
        assert_eq!(start.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn greedy_namespaces_keep_no_other_one_waiting() {
        let live = async |namespace: String, _: String| {
            if namespace.starts_with("greedy") {
                std::future::pending::<()>().await;
            }
            Ok::<_, &str>(Some(facts()))
        };
        let lookup = Arc::new(CachedLookup::new(|_: &str, _: &str| None, live));
        let start = Instant::now();
        let greedy = (0..64 * 8).map(|i| {
            let lookup = lookup.clone();
            tokio::spawn(async move { lookup.find(&format!("greedy-{}", i % 8), &i.to_string()).await })
        });
        let greedy: Vec<_> = greedy.collect();
        tokio::task::yield_now().await; // all of them ask
        assert_eq!(lookup.find("other", "a").await, Lookup::Found(facts()));
        assert_eq!(start.elapsed(), Duration::ZERO);
        for asked in greedy {
            assert_eq!(asked.await.unwrap(), Lookup::Unavailable);
        }
        assert_eq!(start.elapsed(), Duration::from_secs(4));
        let _ = lookup.find("last", "a").await;
        assert_eq!(lookup.shares.lock().unwrap().len(), 1, "a share is kept no longer than it is used");
    }

    /// As when a Job's pods are created at once, and before their binding.
    #[tokio::test(start_paused = true)]
    async fn what_many_ask_for_at_once_is_read_a_few_times_only() {
        let reads = Arc::new(AtomicUsize::new(0));
        let count = reads.clone();
        let live = move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                Ok::<_, &str>(None)
            }
        };
        let lookup = CachedLookup::new(|_: &str, _: &str| None, live);
        let start = Instant::now();
        let answers = futures::future::join_all((0..500).map(|_| lookup.find("ns", "late"))).await;
        assert!(answers.iter().all(|answer| *answer == Lookup::Missing));
        assert_eq!((reads.load(Ordering::SeqCst), start.elapsed()), (4, Duration::from_millis(500)));
    }

    #[test]
    fn memory_of_absences_is_bounded() {
        let (mut absent, now) = (Absent::default(), Instant::now());
        for i in 0..5_000 {
            absent.insert("ns", &i.to_string(), now);
        }
        assert_eq!((absent.until.len(), absent.order.len()), (4096, 4096));
        assert!(!absent.contains("ns", "903", now) && absent.contains("ns", "904", now));
        absent.forget(now + Duration::from_secs(5));
        assert_eq!((absent.until.len(), absent.order.len()), (0, 0));
    }
}
