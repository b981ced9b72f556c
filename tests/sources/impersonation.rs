use serde_json::{Value, json};
use xtask::google::{Endpoint, Fault, Role};

use crate::{
    bench::{
        AUDIENCE, Bench, CALLER, OPERATOR, SOON, after, disabled, invalid_argument, judge, options, wanted,
    },
    rows,
};
use idtoken_operator::{
    api::Reason,
    plan::{
        Problem,
        Retry::{OnChange, Slowly},
    },
};

const MIDDLE: &str = "middle@demo-project.iam.gserviceaccount.com";

fn source(delegates: &[&str]) -> Value {
    json!({"impersonation": {"serviceAccount": CALLER, "delegates": delegates}})
}

#[tokio::test]
async fn first_mint_refresh_and_each_failure() {
    let bench = Bench::start(options()).await;
    let wanted = wanted(AUDIENCE, &source(&[]));
    let claims = bench.good(&wanted).await;
    assert_eq!((&claims["aud"], &claims["email"]), (&json!(AUDIENCE), &json!(CALLER)));
    assert_eq!(bench.asked(), [Endpoint::MetadataEmail, Endpoint::MetadataToken, Endpoint::GenerateIdToken]);
    bench.good(&wanted).await;
    assert_eq!(bench.asked(), [Endpoint::GenerateIdToken], "a refresh uses the access token that is there");
    let rows = rows! {
        GenerateIdToken: Fault::TooManyRequests { retry_after: Some(30) } => "QuotaExceeded", after(30), false, "HTTP 429 RESOURCE_EXHAUSTED", [GenerateIdToken];
        GenerateIdToken: Fault::Forbidden => "SourceDenied", Slowly, false, "HTTP 403 PERMISSION_DENIED IAM_PERMISSION_DENIED", [GenerateIdToken];
        GenerateIdToken: disabled() => "SourceDenied", Slowly, false, "gcloud services enable iamcredentials.googleapis.com", [GenerateIdToken];
        GenerateIdToken: invalid_argument() => "SourceDenied", Slowly, false, "HTTP 400 INVALID_ARGUMENT", [GenerateIdToken];
        GenerateIdToken: Fault::NotFound => "SourceDenied", Slowly, false, "HTTP 404 NOT_FOUND", [GenerateIdToken];
        GenerateIdToken: Fault::InternalError => "SourceUnavailable", SOON, false, "HTTP 500 INTERNAL", [GenerateIdToken];
        GenerateIdToken: Fault::Unavailable => "SourceUnavailable", SOON, false, "HTTP 503 UNAVAILABLE", [GenerateIdToken];
        GenerateIdToken: Fault::DropConnection => "SourceUnavailable", SOON, false, "the connection broke", [GenerateIdToken];
        GenerateIdToken: Fault::TooLarge => "SourceUnavailable", SOON, false, "the answer is larger than 256 KB", [GenerateIdToken];
        GenerateIdToken: Fault::Garbage => "TokenRejected", SOON, false, "the answer holds no token", [GenerateIdToken];
        GenerateIdToken: Fault::WrongAudience => "TokenRejected", SOON, false, "the token's audience is", [GenerateIdToken];
        GenerateIdToken: Fault::WrongEmail => "TokenRejected", SOON, false, "the token's email is", [GenerateIdToken];
        GenerateIdToken: Fault::BadSignature => "TokenRejected", SOON, false, "signature is wrong", [GenerateIdToken];
    };
    bench.table(&wanted, rows, |_| {}).await;
    bench.good(&wanted).await;
}

#[tokio::test]
async fn without_an_access_token_nobody_is_impersonated() {
    let bench = Bench::start(options()).await;
    // The e-mail address is kept from here on, and a token is out that no message may hold.
    bench.minter.operator().email().await.unwrap();
    bench.good(&wanted(AUDIENCE, &json!({"metadataServer": {}}))).await;
    let wanted = wanted(AUDIENCE, &source(&[]));
    let rows = rows! {
        MetadataToken: Fault::Forbidden => "SourceDenied", Slowly, false, "metadata server, token: HTTP 403", [MetadataToken];
        MetadataToken: Fault::NotFound => "SourceDenied", Slowly, false, "HTTP 404", [MetadataToken];
        MetadataToken: Fault::Unavailable => "SourceUnavailable", SOON, false, "HTTP 503", [MetadataToken];
        MetadataToken: Fault::TooManyRequests { retry_after: None } => "QuotaExceeded", SOON, false, "HTTP 429", [MetadataToken];
        MetadataToken: Fault::Garbage => "TokenRejected", SOON, false, "the answer holds no token", [MetadataToken];
    };
    bench.table(&wanted, rows, |_| {}).await;
    // One that Google takes no longer is replaced, once.
    bench.google.set_fault_times(Endpoint::MetadataToken, Fault::ExpiredToken, 1);
    bench.good(&wanted).await;
    assert_eq!(
        bench.asked(),
        [
            Endpoint::MetadataToken,
            Endpoint::GenerateIdToken,
            Endpoint::MetadataToken,
            Endpoint::GenerateIdToken
        ]
    );
}

#[tokio::test]
async fn two_principals_in_a_chain_and_never_itself() {
    let member = |email: &str| format!("serviceAccount:{email}");
    let chain = options().service_account(MIDDLE).allow(&member(OPERATOR), Role::TokenCreator, MIDDLE).allow(
        &member(MIDDLE),
        Role::TokenCreator,
        CALLER,
    );
    let bench = Bench::start(chain).await;
    assert_eq!(bench.good(&wanted(AUDIENCE, &source(&[MIDDLE]))).await["email"], CALLER);
    bench.asked();
    let itself = json!({"impersonation": {"serviceAccount": OPERATOR}});
    for source in [itself, source(&[OPERATOR]), json!({"signedJwt": {"serviceAccount": OPERATOR}})] {
        let problem = bench.obtain(&wanted(AUDIENCE, &source)).await.map(|_| ()).unwrap_err();
        let says = "is the operator's own identity and is not impersonated";
        judge("itself", &problem, "SelfImpersonation", OnChange, true, says);
        assert_eq!(bench.asked(), [], "{source}");
    }
}

#[tokio::test]
async fn who_has_no_grant_does_not_learn_who_the_operator_is() {
    let bench = Bench::start(options()).await;
    for source in [
        json!({"impersonation": {"serviceAccount": OPERATOR}}),
        source(&[OPERATOR]),
        json!({"signedJwt": {"serviceAccount": OPERATOR}}),
    ] {
        let refuse = || Err(Problem::on_change(Reason::NotGranted, "no grant"));
        let obtained = bench.obtain_if(&wanted(AUDIENCE, &source), refuse).await;
        let problem = obtained.map(|_| ()).unwrap_err();
        assert_eq!((problem.reason, problem.message.as_str()), (Reason::NotGranted, "no grant"), "{source}");
        assert_eq!(bench.asked(), [], "{source}");
    }
}
