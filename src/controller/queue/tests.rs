use futures::FutureExt as _;
use tokio::time::{advance, timeout};

use super::*;

fn queue(places: usize) -> Queue {
    Queue::new(NonZeroUsize::new(places).unwrap(), Gauge::default())
}

#[expect(clippy::unnecessary_wraps)] // as `Queue::next` has it
const fn without(_: &Name, asked: Duration) -> Option<Rank> {
    Some(Rank::Without(asked))
}

/// The next visit, if it is time for one.
fn called(queue: &Queue) -> Option<Visit> {
    queue.next(without).now_or_never()
}

fn name(visit: &Visit) -> &str {
    &visit.name().name
}

const fn lag(worst: u64, stalled: Option<u64>) -> Lag {
    let stalled = match stalled {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => None,
    };
    Lag { worst: Duration::from_secs(worst), stalled }
}

#[tokio::test(start_paused = true)]
async fn who_is_woken_is_visited_once_and_again_where_something_happens_meanwhile() {
    let queue = queue(5);
    queue.wake(Name::new("shop", "orders"));
    queue.wake(Name::new("shop", "orders"));
    let visit = called(&queue).unwrap();
    assert_eq!((&*visit.name().namespace, name(&visit)), ("shop", "orders"));
    assert!(called(&queue).is_none(), "one visit at a time");
    queue.wake(Name::new("shop", "orders"));
    queue.wake(Name::new("shop", "orders"));
    assert!(called(&queue).is_none(), "still one at a time");
    visit.ends(None);
    let again = called(&queue).unwrap();
    again.ends(None);
    assert!(called(&queue).is_none());
    assert!(queue.lock().bindings.is_empty(), "nothing is left of it");
}

#[tokio::test(start_paused = true)]
async fn who_rests_is_visited_when_it_is_due_or_woken_before() {
    let queue = queue(5);
    queue.wake(Name::new("shop", "orders"));
    called(&queue).unwrap().ends(Some(Duration::from_secs(60)));
    let (began, next) = (Instant::now(), queue.next(without));
    next.await.ends(Some(Duration::from_secs(60)));
    assert_eq!(began.elapsed().as_secs(), 60);
    advance(Duration::from_secs(10)).await;
    queue.wake(Name::new("shop", "orders"));
    called(&queue).unwrap().ends(Some(Duration::from_secs(60)));
    let began = Instant::now();
    let _visit = queue.next(without).await;
    assert_eq!(began.elapsed().as_secs(), 60, "and not after the 50 s that were left");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_next_visit_hears_of_a_wake_an_end_and_an_earlier_one() {
    let queue = queue(1);
    let waiting = {
        let queue = queue.clone();
        tokio::spawn(async move { name(&queue.next(without).await).to_owned() })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    queue.wake(Name::new("shop", "orders"));
    assert_eq!(waiting.await.unwrap(), "orders");
    // It was dropped without an end, as by a panic, and comes back after a while.
    let began = Instant::now();
    let visit = queue.next(without).await;
    assert_eq!(began.elapsed().as_secs(), 5);
    queue.wake(Name::new("shop", "stock"));
    let (second, ()) = futures::join!(queue.next(without), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        visit.ends(Some(Duration::from_secs(60)));
    });
    assert_eq!((name(&second), began.elapsed().as_secs()), ("stock", 8), "there is one place");
}

#[tokio::test(start_paused = true)]
async fn the_turn_goes_by_need_and_stays_while_it_is_waited_for() {
    let queue = queue(1);
    queue.wake(Name::new("shop", "first"));
    let first = called(&queue).unwrap();
    let rank = |name: &Name, asked| {
        let left = match &*name.name {
            "later" => Some(Duration::from_secs(9 * 60)),
            "sooner" => Some(Duration::from_secs(3 * 60)),
            _ => None,
        };
        Some(Rank::of(left, &*name.name == "failing", asked))
    };
    for name in ["failing", "later", "sooner", "new"] {
        queue.wake(Name::new("shop", name));
    }
    assert!(queue.next(rank).now_or_never().is_none());
    assert_eq!((queue.lock().line.len(), queue.0.line.get()), (4, 4));
    advance(Duration::from_secs(5 * 60)).await;
    queue.wake(Name::new("shop", "newest"));
    let (mut visit, mut order) = (first, Vec::new());
    for _ in 0..5 {
        visit.ends(None);
        visit = queue.next(rank).now_or_never().unwrap();
        order.push(name(&visit).to_owned());
    }
    assert_eq!(
        order,
        ["new", "sooner", "newest", "later", "failing"],
        "two minutes ago the sooner one's token ended"
    );
    assert_eq!(queue.0.line.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_for_nobody_to_visit_is_forgotten_until_it_is_woken_or_adopted() {
    let queue = queue(1);
    queue.wake(Name::new("shop", "orders"));
    assert!(timeout(Duration::from_hours(24), queue.next(|_, _| None)).await.is_err());
    assert!(queue.lock().bindings.is_empty() && called(&queue).is_none());
    let known = || ["orders", "stock"].map(|name| Name::new("shop", name));
    assert_eq!(queue.adopt(known()), 2);
    let visits: Vec<_> = std::iter::from_fn(|| {
        let visit = called(&queue)?;
        let name = name(&visit).to_owned();
        visit.ends(Some(Duration::from_secs(60)));
        Some(name)
    })
    .collect();
    assert_eq!(visits, ["orders", "stock"]);
    assert_eq!(queue.adopt(known()), 0);
    assert!(called(&queue).is_none(), "they are known, and not due");
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_stands_still_is_noticed_after_five_minutes() {
    let queue = queue(1);
    assert_eq!(queue.look(), lag(0, None));
    for name in ["a", "b", "c"] {
        queue.wake(Name::new("shop", name));
    }
    called(&queue).unwrap().ends(Some(Duration::from_secs(1000)));
    let visit = called(&queue).unwrap();
    advance(Duration::from_secs(299)).await;
    assert_eq!(queue.look(), lag(299, None));
    advance(Duration::from_secs(1)).await;
    assert_eq!(queue.look(), lag(300, Some(300)));
    visit.ends(None);
    assert_eq!(queue.look(), lag(300, None), "slow it may be, but it goes on");
    called(&queue).unwrap().ends(None);
    advance(Duration::from_secs(600)).await;
    assert_eq!(queue.look(), lag(0, None), "nothing is due");
}
