use std::{
    future::ready,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::plan::{refresh::Lifetime, validate::validate};

/// A wall clock that goes with tokio's.
fn wall_clock() -> Timestamp {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let elapsed = Instant::now().saturating_duration_since(*BEGAN.get_or_init(Instant::now));
    "2026-11-22T12:00:00Z".parse::<Timestamp>().unwrap() + elapsed
}

/// A source that counts how often it is asked, and takes a second.
#[derive(Default)]
struct Source {
    asked: AtomicU32,
}

impl Source {
    async fn token(&self) -> Result<Obtained, Problem> {
        self.answer(Ok(())).await
    }

    async fn fails(&self, problem: &Problem) -> Result<Obtained, Problem> {
        self.answer(Err(problem.clone())).await
    }

    /// A token by its number, good for an hour.
    async fn answer(&self, result: Result<(), Problem>) -> Result<Obtained, Problem> {
        let number = self.asked.fetch_add(1, SeqCst) + 1;
        sleep(Duration::from_secs(1)).await;
        let issued = clock::now();
        let life = Lifetime { issued, expires: issued + SignedDuration::from_hours(1) };
        result.map(|()| Obtained::untested(&format!("token {number}"), life))
    }

    fn count(&self) -> u32 {
        self.asked.load(SeqCst)
    }
}

/// A binding's own side of the question.
struct Binding {
    owner: Owner,
    wanted: Wanted,
    credential: Option<&'static str>,
}

impl Binding {
    fn new(namespace: &str, name: &str, audience: &str, source: &Value) -> Self {
        let binding = json!({
            "apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding",
            "metadata": {"name": name}, "spec": {"audience": audience, "source": source},
        });
        let wanted = validate(&serde_json::from_value(binding).unwrap()).unwrap();
        let owner = Owner {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            uid: format!("uid of {namespace}/{name}"),
        };
        Self { owner, wanted, credential: None }
    }

    fn impersonating(namespace: &str, name: &str, audience: &str) -> Self {
        let source = json!({"impersonation": {"serviceAccount": "caller@p.iam.gserviceaccount.com"}});
        Self::new(namespace, name, audience, &source)
    }

    fn asked(&self) -> Asked<'_> {
        let Self { owner, wanted, credential } = self;
        Asked { owner, wanted, credential: *credential, forced: false, urgent: true }
    }
}

fn text(result: Result<Arc<Obtained>, NotObtained>) -> String {
    result.unwrap().token.expose().to_owned()
}

fn unavailable() -> Problem {
    Problem::transient(Reason::SourceUnavailable, "HTTP 503")
}

fn failed(result: Result<Arc<Obtained>, NotObtained>) -> Problem {
    match result {
        Err(NotObtained::Failed { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_hundred_bindings_cost_one_mint_while_it_is_under_way_and_for_minutes_afterwards() {
    let (mints, source) = (Mints::new(), Source::default());
    let bindings: Vec<_> =
        (0..100).map(|i| Binding::impersonating(&format!("ns{}", i % 7), &i.to_string(), "a")).collect();
    let all = join_all(bindings.iter().map(|b| mints.get(b.asked(), source.token()))).await;
    assert!(all.into_iter().all(|got| text(got) == "token 1"));
    advance(Duration::from_mins(4)).await;
    assert_eq!(text(mints.get(bindings[3].asked(), source.token()).await), "token 1");
    assert_eq!(source.count(), 1);
    advance(Duration::from_mins(1)).await;
    assert_eq!(text(mints.get(bindings[3].asked(), source.token()).await), "token 2");
    let other = Binding::impersonating("ns1", "other", "b");
    assert_eq!(text(mints.get(other.asked(), source.token()).await), "token 3", "another audience");
}

#[tokio::test(start_paused = true)]
async fn no_token_is_kept_for_longer_than_others_may_need_it() {
    let (mints, source) = (Mints::new(), Source::default());
    let binding = Binding::impersonating("shop", "a", "a");
    mints.get(binding.asked(), source.token()).await.unwrap();
    mints.sweep();
    let key = TokenKey::of("shop", &binding.wanted, None).unwrap();
    assert!(mints.flights.get(&key).is_some());
    advance(Duration::from_mins(5)).await;
    mints.sweep();
    assert!(mints.flights.get(&key).is_none());
}

#[tokio::test(start_paused = true)]
async fn two_tenants_with_equal_specs_never_share() {
    let (mints, source) = (Mints::new(), Source::default());
    let spec = json!({"kubernetesServiceAccount": {"name": "app"}});
    let mut tenants = ["shop", "bank"].map(|namespace| Binding::new(namespace, "b", "a", &spec));
    for tenant in &mut tenants {
        tenant.credential = Some("the same version");
    }
    let all = join_all(tenants.iter().map(|b| mints.get(b.asked(), source.token()))).await;
    assert_eq!(all.into_iter().map(text).collect::<Vec<_>>(), ["token 1", "token 2"]);
    // Where nobody knows whose credential it is, nobody shares either.
    for tenant in &mut tenants {
        tenant.credential = None;
    }
    for number in 3..6 {
        let got = mints.get(tenants[0].asked(), source.token()).await;
        assert_eq!(text(got), format!("token {number}"));
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_shares_a_failure_too_but_not_a_missing_grant() {
    let (mints, source) = (Mints::new(), Source::default());
    let bindings: Vec<_> = (0..10).map(|i| Binding::impersonating(&format!("ns{i}"), "b", "a")).collect();
    let problem = unavailable();
    let all = join_all(bindings.iter().map(|b| mints.get(b.asked(), source.fails(&problem)))).await;
    assert!(all.into_iter().all(|got| failed(got) == problem));
    assert_eq!(source.count(), 1);

    let (mints, not_granted) = (Mints::new(), Problem::on_change(Reason::NotGranted, "no grant"));
    let first = mints.get(bindings[0].asked(), source.fails(&not_granted));
    let second = mints.get(bindings[1].asked(), source.token());
    let (first, second) = futures::join!(first, second);
    assert_eq!((failed(first), text(second).as_str()), (not_granted, "token 3"));
}

#[tokio::test(start_paused = true)]
async fn a_forced_refresh_takes_no_token_that_was_asked_for_before() {
    let (mints, source) = (Mints::new(), Source::default());
    let binding = Binding::impersonating("shop", "a", "a");
    let forced = Asked { forced: true, ..binding.asked() };
    let first = mints.get(binding.asked(), source.token());
    let second = async {
        sleep(Duration::from_millis(500)).await;
        mints.get(forced, source.token()).await
    };
    let (first, second) = futures::join!(first, second);
    assert_eq!((text(first).as_str(), text(second).as_str()), ("token 1", "token 2"));
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_gets_no_answers_is_tried_by_one_with_back_off_and_harms_nobody_else() {
    let (mints, source) = (Mints::new(), Source::default());
    let bindings: Vec<_> = (0..50)
        .map(|i| Binding::impersonating("shop", &i.to_string(), &format!("audience {i}").replace(' ', "-")))
        .collect();
    let problem = unavailable();
    let got = mints.get(bindings[0].asked(), source.fails(&problem)).await;
    let Err(NotObtained::Failed { until: Some(first), .. }) = got else { panic!("{got:?}") };
    let now = clock::now();
    for binding in &bindings {
        let got = mints.get(binding.asked(), ready(Err(unavailable()))).await;
        let Err(NotObtained::Failed { until: Some(until), .. }) = got else { panic!("{got:?}") };
        assert!(until >= first && until <= first + SignedDuration::from_secs(5), "{until}");
        assert!(until > now);
    }
    assert_eq!(source.count(), 1, "nobody else has asked");
    // Neither the same identity for another tenant nor another one of this tenant has to wait.
    let elsewhere = Binding::impersonating("bank", "b", "a");
    assert_eq!(text(mints.get(elsewhere.asked(), source.token()).await), "token 2");
    let other = json!({"impersonation": {"serviceAccount": "other@p.iam.gserviceaccount.com"}});
    let other = Binding::new("shop", "other", "a", &other);
    assert_eq!(text(mints.get(other.asked(), source.token()).await), "token 3");
}

#[tokio::test(start_paused = true)]
async fn an_identity_that_gets_no_answers_is_tried_ever_more_slowly_up_to_two_and_a_half_minutes() {
    clock::simulate(wall_clock);
    let (mints, source) = (Mints::new(), Source::default());
    let bindings: Vec<_> =
        (0..20).map(|i| Binding::impersonating("shop", &i.to_string(), &format!("audience-{i}"))).collect();
    let mut tries: Vec<Instant> = Vec::new();
    while tries.len() < 12 {
        for binding in &bindings {
            let (asked, at) = (source.count(), Instant::now());
            failed(mints.get(binding.asked(), source.fails(&unavailable())).await);
            if source.count() > asked {
                tries.push(at);
            }
        }
        advance(Duration::from_millis(100)).await;
    }
    let pauses: Vec<_> = tries.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_millis()).collect();
    // A try takes a second, and up to a quarter is added to each pause.
    let least = [2_000, 3_000, 5_000, 9_000, 17_000, 33_000, 65_000, 121_000, 121_000, 121_000, 121_000];
    for (pause, least) in pauses.iter().zip(least) {
        let most = 1_000 + (least - 1_000) * 5 / 4 + 200;
        assert!((least..=most).contains(pause), "{pauses:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_down_and_says_for_how_long_is_believed_up_to_five_minutes() {
    clock::simulate(wall_clock);
    for (told, pause) in [(200, 200), (290, 290), (3000, 300)] {
        let (mints, source) = (Mints::new(), Source::default());
        let [first, next] =
            ["first", "next"].map(|audience| Binding::impersonating("shop", audience, audience));
        let problem = Problem { retry: Retry::Transient { retry_after: Some(told) }, ..unavailable() };
        failed(mints.get(first.asked(), source.fails(&problem)).await);
        advance(Duration::from_secs(pause - 1)).await;
        failed(mints.get(next.asked(), source.token()).await);
        assert_eq!(source.count(), 1, "{told}");
        advance(Duration::from_secs(3)).await;
        assert_eq!(text(mints.get(next.asked(), source.token()).await), "token 2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_audience_holds_up_no_other_audience() {
    let (mints, source) = (Mints::new(), Source::default());
    let [bad, good] = ["bad", "good"].map(|audience| Binding::impersonating("shop", audience, audience));
    let denied = Problem::slow(Reason::SourceDenied, "HTTP 400");
    for _ in 0..3 {
        assert_eq!(failed(mints.get(bad.asked(), source.fails(&denied)).await), denied);
    }
    assert_eq!(source.count(), 1, "it is tried again slowly");
    assert_eq!(text(mints.get(good.asked(), source.token()).await), "token 2");
}

#[tokio::test(start_paused = true)]
async fn as_long_as_the_quota_is_used_up_google_is_not_asked() {
    let (mints, source) = (Mints::new(), Source::default());
    let [one, two] = ["one", "two"].map(|audience| Binding::impersonating("shop", audience, audience));
    let retry = Retry::Transient { retry_after: Some(30) };
    let quota = Problem { reason: Reason::QuotaExceeded, message: "HTTP 429".to_owned(), retry };
    assert_eq!(failed(mints.get(one.asked(), source.fails(&quota)).await), quota);
    let Err(NotObtained::Later(wait)) = mints.get(two.asked(), source.token()).await else { panic!("asked") };
    assert!((30_000..30_100).contains(&wait.as_millis()), "{wait:?}");
    assert_eq!(source.count(), 1);
    // What counts against another quota goes on.
    let mut own = Binding::new("shop", "own", "a", &json!({"kubernetesServiceAccount": {"name": "app"}}));
    own.credential = Some("v");
    assert_eq!(text(mints.get(own.asked(), source.token()).await), "token 2");
    advance(Duration::from_secs(30)).await;
    assert_eq!(text(mints.get(two.asked(), source.token()).await), "token 3");
}

#[tokio::test(start_paused = true)]
async fn who_needs_a_token_that_is_put_off_is_put_off_with_it_unless_that_is_more_urgent() {
    let (mints, source) = (Mints::new(), Source::default());
    let retry = Retry::Transient { retry_after: Some(30) };
    let quota = Problem { reason: Reason::QuotaExceeded, message: "HTTP 429".to_owned(), retry };
    let other = Binding::impersonating("shop", "other", "other");
    failed(mints.get(other.asked(), source.fails(&quota)).await);
    let bindings: Vec<_> = (0..20).map(|i| Binding::impersonating("shop", &i.to_string(), "a")).collect();
    let idle = bindings.iter().map(|b| Asked { urgent: false, ..b.asked() });
    let waits = async |asked| match mints.get(asked, source.token()).await {
        Err(NotObtained::Later(wait)) => wait,
        other => panic!("{other:?}"),
    };
    let all = join_all(idle.map(waits)).await;
    assert!(all.iter().all(|wait| *wait == all[0]), "one place in line for all of them: {all:?}");
    let behind = Binding::impersonating("shop", "behind", "b");
    let behind = waits(Asked { urgent: false, ..behind.asked() }).await;
    assert!(behind > all[0], "one place for each token");
    advance(Duration::from_secs(1)).await;
    let urgent = waits(bindings[0].asked()).await;
    assert_eq!(urgent + Duration::from_secs(1), all[0], "a place of its own, before what is not urgent");
    assert_eq!(source.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_fails_lets_another_one_try_first() {
    clock::simulate(wall_clock);
    let (mints, source) = (Mints::new(), Source::default());
    let [broken, sound] =
        ["broken", "sound"].map(|audience| Binding::impersonating("shop", audience, audience));
    let outage = Problem::transient(Reason::SourceUnavailable, "HTTP 503".to_owned());
    for _ in 0..8 {
        let Err(NotObtained::Failed { until: Some(until), .. }) =
            mints.get(broken.asked(), source.fails(&outage)).await
        else {
            panic!("it failed")
        };
        let Err(NotObtained::Failed { until: Some(others), .. }) =
            mints.get(sound.asked(), source.token()).await
        else {
            break; // its turn came
        };
        let first = until.min(others);
        advance(first.duration_since(clock::now()).unsigned_abs()).await;
        if others <= until {
            text(mints.get(sound.asked(), source.token()).await);
            return;
        }
    }
    panic!("the one that fails has had every try");
}

#[tokio::test(start_paused = true)]
async fn another_tenants_failures_are_not_ones_own() {
    clock::simulate(wall_clock);
    let (mints, source) = (Mints::new(), Source::default());
    let [old, new] = ["old", "new"].map(|namespace| Binding::impersonating(namespace, namespace, "a"));
    let denied =
        Problem { reason: Reason::SourceDenied, message: "HTTP 403".to_owned(), retry: Retry::Slowly };
    let mut pause = Duration::ZERO;
    for _ in 0..6 {
        advance(pause).await;
        let Err(NotObtained::Failed { until: Some(until), .. }) =
            mints.get(old.asked(), source.fails(&denied)).await
        else {
            panic!("it failed")
        };
        pause = until.duration_since(clock::now()).unsigned_abs();
    }
    assert!(pause > Duration::from_secs(300), "{pause:?}");
    advance(pause).await;
    let slow = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Err(denied.clone())
    };
    let (first, second) =
        futures::join!(mints.get(old.asked(), slow), mints.get(new.asked(), source.token()));
    let until = |result| match result {
        Err(NotObtained::Failed { until: Some(until), .. }) => until.duration_since(clock::now()),
        _ => panic!("it failed"),
    };
    assert!(until(first).as_secs() >= 300);
    assert!((15..20).contains(&until(second).as_secs()), "a first failure of its own");
}
