//! The user's own certificate, in a directory that is written as the kubelet writes a mounted Secret.

use std::{fs, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use xtask::{cluster::ClusterOptions, process::wait_for};

use crate::common::{
    World,
    admissions::{Flood, handshake},
    google_options,
    mounted::{Mounted, Served},
};

/// A renewal by the same CA, and then one by a new CA that the registration trusts already.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "tier api: needs a kube-apiserver"]
async fn given_files_are_renewed_under_admissions_and_none_fails() {
    let mut world = World::start(google_options(), ClusterOptions::default()).await;
    world.namespace("shop").await;
    let (old, new) = (authority("old"), authority("new"));
    let both = format!("{}{}", old.pem(), new.pem());
    let mounted = Mounted::new(world.directory.path().join("tls"));
    mounted.write(&signed_by(&old));
    world.webhook_flags = mounted.flags();
    world.run_webhook(world.webhook_port).await;
    register(&world, &both);

    let flood = Flood::start(&world.client, 16);
    let first = handshake(world.webhook_port, &both).await.unwrap();
    let mut presented = vec![first];
    for (turn, authority) in [&old, &new].into_iter().enumerate() {
        let goal = 1_000 * (turn as u64 + 1);
        wait_for("admissions", Duration::from_secs(300), || async {
            anyhow::ensure!(flood.admitted() >= goal || flood.is_over(), "{}", flood.admitted());
            Ok(())
        })
        .await
        .unwrap();
        mounted.write(&signed_by(authority));
        let renewed = wait_for("the renewed certificate", Duration::from_secs(30), || async {
            let now = handshake(world.webhook_port, &both).await?;
            anyhow::ensure!(!presented.contains(&now), "it is an old one");
            Ok(now)
        });
        presented.push(renewed.await.unwrap());
    }
    let more = flood.admitted() + 500;
    while flood.admitted() < more && !flood.is_over() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (sent, admitted, failures) = flood.end().await;
    println!("{sent} admissions, {admitted} admitted, across {} certificates", presented.len());
    assert_eq!(failures, [] as [&str; 0]);
    assert_eq!(admitted, sent);
    world.end().await;
}

/// Applies the registration as the chart renders it for `webhook.tls.mode=secret`.
fn register(world: &World, bundle: &str) {
    let file = world.directory.path().join("ca.crt");
    fs::write(&file, bundle).unwrap();
    let rendered = xtask::chart::template(
        world.tools.path(xtask::tools::Tool::Helm),
        [
            "--set=webhook.tls.mode=secret,webhook.tls.secretName=mine".to_owned(),
            format!("--set=webhook.url=https://127.0.0.1:{}/mutate", world.webhook_port),
            format!("--set-file=webhook.tls.caBundle={}", file.display()),
        ],
    );
    let objects = xtask::chart::objects(&rendered.unwrap()).unwrap();
    let registration: Vec<_> =
        objects.into_iter().filter(|object| object["kind"] == "MutatingWebhookConfiguration").collect();
    assert_eq!(registration.len(), 1);
    world.apply(&registration);
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn signed_by(authority: &CertifiedIssuer<'static, KeyPair>) -> Served {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = params.signed_by(&key, authority).unwrap();
    Served { chain: leaf.pem(), key: key.serialize_pem() }
}
