//! Whoever takes a request and says nothing is given up, is asked again soon, and holds up nobody else.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use xtask::google::{Endpoint, Fault};

use crate::{
    bench::{SOON, judge},
    identity_platform, kubernetes_service_account,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_every_source_is_given_up() {
    let metadata = json!({"metadataServer": {}});
    let impersonation = json!({"impersonation": {"serviceAccount": crate::bench::CALLER}});
    let signed = json!({"signedJwt": {"serviceAccount": crate::bench::CALLER}});
    let key = json!({"serviceAccountKey": {"secretRef": {"name": "key", "key": "key.json"}}});
    let account = kubernetes_service_account::source();
    let user = identity_platform::source(None);
    let url = crate::bench::AUDIENCE;
    let table = [
        (&metadata, url, Endpoint::MetadataIdentity, "metadata server, identity: no answer within 30 s"),
        (&impersonation, url, Endpoint::MetadataEmail, "metadata server, email: no answer within 30 s"),
        (&impersonation, url, Endpoint::MetadataToken, "metadata server, token: no answer within 30 s"),
        (
            &impersonation,
            url,
            Endpoint::GenerateIdToken,
            "generateIdToken for caller@demo-project.iam.gserviceaccount.com: no answer within 15 s",
        ),
        (
            &signed,
            url,
            Endpoint::SignJwt,
            "signJwt for caller@demo-project.iam.gserviceaccount.com: no answer within 15 s",
        ),
        (&key, url, Endpoint::OauthToken, "no answer within 15 s"),
        (&account, url, Endpoint::Metadata, "no answer within 30 s"),
        (&account, url, Endpoint::Sts, "no answer within 15 s"),
        (&account, url, Endpoint::GenerateIdToken, "no answer within 15 s"),
        (&user, "demo-project", Endpoint::SignInWithPassword, "no answer within 15 s"),
        (&user, "demo-project", Endpoint::SecureToken, "no answer within 15 s"),
    ];
    let begin = Instant::now();
    join_all(table.map(async |(source, audience, endpoint, says)| {
        let bench = kubernetes_service_account::bench().await;
        identity_platform::sign_up(&bench);
        let robot = "robot@demo-project.iam.gserviceaccount.com";
        bench.credentials.put("key", "key.json", bench.new_key(robot));
        let wanted = crate::bench::wanted(audience, source);
        if endpoint == Endpoint::SecureToken {
            bench.good(&wanted).await;
        }
        bench.google.set_fault(endpoint, Fault::Latency(Duration::from_secs(120)));
        let problem = bench.obtain(&wanted).await.map(|_| ()).expect_err(says);
        judge(says, &problem, "SourceUnavailable", SOON, false, says);
        assert_eq!(bench.asked().last(), Some(&endpoint), "nothing more is asked");
        bench.google.clear_faults();
        bench.good(&wanted).await;
    }))
    .await;
    assert!(begin.elapsed() < Duration::from_secs(110), "side by side: {:?}", begin.elapsed());
}
