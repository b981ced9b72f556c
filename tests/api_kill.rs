//! `kill -9` at any moment loses at most the mint that was under way.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{World, claims, google_options, impersonation_for, token, whole::assert_whole};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use xtask::google::{Endpoint, Fault};

const BINDINGS: u64 = 8;
const KILLS: u64 = 30;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn killed_thirty_times_every_binding_is_ready_and_no_secret_is_half_written() {
    let mut world = World::with_controller(google_options()).await;
    // Refreshes every 6 s a binding: more than one a second in all, so that kills fall among them.
    world.google.set_id_token_lifetime(Duration::from_secs(10));
    // Slow mints, so that kills meet some.
    world.google.set_fault(Endpoint::GenerateIdToken, Fault::Latency(Duration::from_millis(400)));
    let (published, watch) = watch_published(&world);
    let names: Vec<_> = (0..BINDINGS).map(|i| format!("b{i}")).collect();
    for name in &names {
        world.bind(name, &impersonation_for(name)).await;
    }
    for name in &names {
        world.wait_condition(name, "Ready=True/TokenFresh").await;
    }
    let mut seed = std::process::id();
    for _ in 0..KILLS {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        tokio::time::sleep(Duration::from_millis(100 + u64::from(seed >> 16) % 1200)).await;
        world.kill_controller();
        world.start_controller().await;
    }
    // Let each binding be refreshed once more in peace.
    let begin: BTreeMap<_, _> = published.lock().unwrap().iter().map(|(k, v)| (k.clone(), v.len())).collect();
    let all_again = || async {
        let now = published.lock().unwrap().clone();
        anyhow::ensure!(
            now.iter().all(|(name, tokens)| tokens.len() > begin[name]),
            "not all were refreshed again"
        );
        Ok(())
    };
    xtask::process::wait_for("a refresh of each", Duration::from_secs(20), all_again).await.unwrap();
    for name in &names {
        world.wait_condition(name, "Ready=True/TokenFresh").await;
        assert_whole(&world.secret_of(name).await);
    }
    world.kill_controller();
    watch.abort();
    assert!(watch.await.is_err_and(|end| end.is_cancelled()), "every Secret was whole whenever it was seen");
    let unanswered = world.google.requests().iter().filter(|r| r.status.is_none()).count();
    assert!(unanswered >= 3, "kills met requests under way: {unanswered} of {KILLS}");
    let published = published.lock().unwrap().clone();
    for (name, issued) in &published {
        // 55 to 60 percent of 10 s after the last; whole seconds tell it to within one.
        let early = issued.iter().zip(issued.iter().skip(1)).find(|(before, after)| **after - **before < 5);
        assert_eq!(early, None, "{name}: a token was replaced that was still good: {issued:?}");
    }
    let minted = world.google.minted(Endpoint::GenerateIdToken);
    let written: u64 = published.values().map(|tokens| tokens.len() as u64).sum();
    println!("{minted} minted, {written} published, {KILLS} kills, {unanswered} requests cut off");
    assert!(minted >= written, "nothing was published that was not minted");
    // A kill loses what is under way. Eight bindings a kill would be 240.
    assert!(minted <= written + 2 * KILLS, "{minted} minted for {written} published");
    assert!(written >= BINDINGS * 4, "refreshes went on: {written}");
    world.end().await;
}

/// When the tokens that each Secret has held were issued.
type Published = Arc<Mutex<BTreeMap<String, BTreeSet<i64>>>>;

/// Watches until it is aborted; ends by itself only when it sees a Secret that is not whole.
fn watch_published(world: &World) -> (Published, JoinHandle<()>) {
    let seen = Published::default();
    let (api, noted) = (Api::<Secret>::namespaced(world.client.clone(), "shop"), seen.clone());
    let watch = tokio::spawn(async move {
        let events = watcher(api, watcher::Config::default()).default_backoff().applied_objects();
        let mut events = std::pin::pin!(events.filter_map(|event| std::future::ready(event.ok())));
        while let Some(secret) = events.next().await {
            assert_whole(&secret);
            let issued = claims(&token(&secret))["iat"].as_i64().unwrap();
            noted.lock().unwrap().entry(secret.metadata.name.unwrap()).or_default().insert(issued);
        }
    });
    (seen, watch)
}
