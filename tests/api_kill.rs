//! `kill -9` at any moment loses at most the mint that was under way.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{AUDIENCE, World, claims, google_options, impersonation, token};
use futures::StreamExt as _;
use idtoken_operator::plan::secret::sha256_hex;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use std::sync::{Arc, Mutex};
use xtask::google::Endpoint;

const BINDINGS: u64 = 8;
const KILLS: u64 = 30;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn killed_thirty_times_every_binding_is_ready_and_no_secret_is_half_written() {
    let mut world = World::with_controller(google_options()).await;
    // Refreshes every 6 s a binding: more than one a second in all, so that kills fall among them.
    world.google.set_id_token_lifetime(Duration::from_secs(10));
    let published = watch_published(&world);
    let names: Vec<_> = (0..BINDINGS).map(|i| format!("b{i}")).collect();
    for name in &names {
        world.bind(name, &impersonation()).await;
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
    tokio::time::sleep(Duration::from_secs(1)).await;
    let minted = world.google.minted(Endpoint::GenerateIdToken);
    let written: u64 = published.lock().unwrap().values().map(|tokens| tokens.len() as u64).sum();
    println!("{minted} minted, {written} published, {KILLS} kills");
    assert!(minted >= written, "nothing was published that was not minted");
    // Each kill loses the few mints under way. Minting anew what is still good would cost {BINDINGS} a kill.
    assert!(minted <= written + 2 * KILLS, "{minted} minted for {written} published");
    assert!(written >= BINDINGS * 4, "refreshes went on: {written}");
    world.end().await;
}

/// Token, hash, times and authorisation all belong together.
fn assert_whole(secret: &Secret) {
    let raw = token(secret);
    let claims = claims(&raw);
    let annotations = secret.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["idtoken.dev/token-sha256"], sha256_hex(raw.as_bytes()));
    assert_eq!(claims["aud"], AUDIENCE);
    let exp: jiff::Timestamp = annotations["idtoken.dev/expiration-time"].parse().unwrap();
    assert_eq!(claims["exp"], exp.as_second());
}

/// The different tokens that each Secret has held, by their hashes.
fn watch_published(world: &World) -> Arc<Mutex<BTreeMap<String, BTreeSet<String>>>> {
    let seen = Arc::new(Mutex::new(BTreeMap::<String, BTreeSet<String>>::new()));
    let (api, noted) = (Api::<Secret>::namespaced(world.client.clone(), "shop"), seen.clone());
    tokio::spawn(async move {
        let mut events =
            std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
        while let Some(Ok(secret)) = events.next().await {
            assert_whole(&secret);
            let name = secret.metadata.name.clone().unwrap();
            noted.lock().unwrap().entry(name).or_default().insert(sha256_hex(token(&secret).as_bytes()));
        }
    });
    seen
}
