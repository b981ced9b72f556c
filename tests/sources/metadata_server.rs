use serde_json::json;
use xtask::google::{Endpoint, Fault, Options};

use crate::{
    bench::{AUDIENCE, Bench, OPERATOR, SOON, after, judge, options, wanted},
    rows,
};
use idtoken_operator::plan::Retry::Slowly;

#[tokio::test]
async fn first_mint_refresh_and_each_failure() {
    let bench = Bench::start(options()).await;
    let wanted = wanted(AUDIENCE, &json!({"metadataServer": {}}));
    for _ in ["first mint", "refresh"] {
        let claims = bench.good(&wanted).await;
        assert_eq!((&claims["aud"], &claims["email"]), (&json!(AUDIENCE), &json!(OPERATOR)));
        assert_eq!(bench.asked(), [Endpoint::MetadataIdentity, Endpoint::MetadataEmail]);
    }
    let rows = rows! {
        MetadataIdentity: Fault::TooManyRequests { retry_after: Some(7) } => "QuotaExceeded", after(7), false, "HTTP 429 quota_exceeded", [MetadataIdentity];
        MetadataIdentity: Fault::TooManyRequests { retry_after: None } => "QuotaExceeded", SOON, false, "HTTP 429", [MetadataIdentity];
        MetadataIdentity: Fault::Forbidden => "SourceDenied", Slowly, false, "HTTP 403", [MetadataIdentity];
        MetadataIdentity: Fault::NotFound => "SourceDenied", Slowly, false, "HTTP 404", [MetadataIdentity];
        MetadataIdentity: Fault::InternalError => "SourceUnavailable", SOON, false, "HTTP 500", [MetadataIdentity];
        MetadataIdentity: Fault::Unavailable => "SourceUnavailable", SOON, false, "HTTP 503", [MetadataIdentity];
        MetadataIdentity: Fault::DropConnection => "SourceUnavailable", SOON, false, "the connection broke", [MetadataIdentity];
        MetadataIdentity: Fault::TooLarge => "SourceUnavailable", SOON, false, "the answer is larger than 256 KB", [MetadataIdentity];
        MetadataIdentity: Fault::Garbage => "TokenRejected", SOON, false, "not a JWT", [MetadataIdentity, MetadataEmail];
        MetadataIdentity: Fault::WrongAudience => "TokenRejected", SOON, false, "the token's audience is", [MetadataIdentity, MetadataEmail];
        MetadataIdentity: Fault::ExpiredToken => "TokenRejected", SOON, false, "the token expired", [MetadataIdentity, MetadataEmail];
        MetadataIdentity: Fault::WrongIssuer => "TokenRejected", SOON, false, "the token's issuer is", [MetadataIdentity, MetadataEmail];
        MetadataIdentity: Fault::BadSignature => "TokenRejected", SOON, false, "signature is wrong", [MetadataIdentity, MetadataEmail];
        MetadataIdentity: Fault::AlgNone => "TokenRejected", SOON, false, "algorithm is not RS256", [MetadataIdentity, MetadataEmail];
        MetadataIdentity: Fault::WrongEmail => "TokenRejected", SOON, false, "the token's email is", [MetadataIdentity, MetadataEmail];
        MetadataIdentity: Fault::UnverifiedEmail => "TokenRejected", SOON, false, "email is not verified", [MetadataIdentity, MetadataEmail];
        MetadataIdentity: Fault::FutureIat => "TokenRejected", SOON, false, "ahead of the operator's clock", [MetadataIdentity, MetadataEmail];
        MetadataEmail: Fault::Unavailable => "SourceUnavailable", SOON, false, "HTTP 503", [MetadataIdentity, MetadataEmail];
        MetadataEmail: Fault::Garbage => "TokenRejected", SOON, false, "metadata server, email", [MetadataIdentity, MetadataEmail];
    };
    bench.table(&wanted, rows, |_| {}).await;
    bench.good(&wanted).await;
}

#[tokio::test]
async fn a_federated_principal_has_no_id_token() {
    let bench = Bench::start(Options::default().gke_not_annotated("idtoken-system", "controller")).await;
    let wanted = wanted(AUDIENCE, &json!({"metadataServer": {}}));
    let problem = bench.obtain(&wanted).await.map(|_| ()).unwrap_err();
    let says = "a direct federated principal has no Google-signed ID token";
    judge("not annotated", &problem, "NoServiceAccountForIdToken", Slowly, false, says);
    assert_eq!(bench.asked(), [Endpoint::MetadataIdentity]);
}
