use serde_json::json;
use xtask::google::{Endpoint, Fault};

use crate::{
    bench::{AUDIENCE, Bench, CALLER, SOON, after, judge, options, wanted},
    rows,
};
use idtoken_operator::plan::Retry::{OnChange, Slowly};

#[tokio::test]
async fn first_mint_refresh_and_each_failure() {
    let bench = Bench::start(options()).await;
    let source = json!({"signedJwt": {"serviceAccount": CALLER}});
    for audience in ["https://app.example.com/api", "https://app.example.com/*"] {
        let claims = bench.good(&wanted(audience, &source)).await;
        assert_eq!(claims["aud"], audience);
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!(CALLER), &json!(CALLER)));
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3600);
    }
    assert_eq!(
        bench.asked(),
        [Endpoint::MetadataEmail, Endpoint::MetadataToken, Endpoint::SignJwt, Endpoint::SignJwt],
        "a refresh uses the access token that is there"
    );
    let wanted = wanted(AUDIENCE, &source);
    let rows = rows! {
        SignJwt: Fault::TooManyRequests { retry_after: Some(30) } => "QuotaExceeded", after(30), false, "HTTP 429 RESOURCE_EXHAUSTED", [SignJwt];
        SignJwt: Fault::Forbidden => "SourceDenied", Slowly, false, "roles/iam.serviceAccountTokenCreator", [SignJwt];
        SignJwt: Fault::NotFound => "SourceDenied", Slowly, false, "HTTP 404 NOT_FOUND", [SignJwt];
        SignJwt: Fault::InternalError => "SourceUnavailable", SOON, false, "HTTP 500 INTERNAL", [SignJwt];
        SignJwt: Fault::Unavailable => "SourceUnavailable", SOON, false, "HTTP 503 UNAVAILABLE", [SignJwt];
        SignJwt: Fault::DropConnection => "SourceUnavailable", SOON, false, "the connection broke", [SignJwt];
        SignJwt: Fault::TooLarge => "SourceUnavailable", SOON, false, "the answer is larger than 256 KB", [SignJwt];
        SignJwt: Fault::Garbage => "TokenRejected", SOON, false, "the answer holds no token", [SignJwt];
        SignJwt: Fault::WrongAudience => "TokenRejected", SOON, false, "the token's audience is", [SignJwt];
        SignJwt: Fault::WrongIssuer => "TokenRejected", SOON, false, "the token's issuer is", [SignJwt];
        SignJwt: Fault::WrongSubject => "TokenRejected", SOON, false, "the token's sub is", [SignJwt];
        SignJwt: Fault::ExpiredToken => "TokenRejected", SOON, false, "the token expired", [SignJwt];
        SignJwt: Fault::FutureIat => "TokenRejected", SOON, false, "ahead of the operator's clock", [SignJwt];
        SignJwt: Fault::BadSignature => "TokenRejected", SOON, false, "signature is wrong", [SignJwt];
        SignJwt: Fault::UnknownKey => "TokenRejected", SOON, false, "signed by a key that its issuer does not publish", [SignJwt];
        SignJwt: Fault::AlgNone => "TokenRejected", SOON, false, "algorithm is not RS256", [SignJwt];
    };
    bench.table(&wanted, rows, |_| {}).await;
    bench.good(&wanted).await;
}

#[tokio::test]
async fn no_jwt_for_an_api_of_googles_is_even_asked_for() {
    let bench = Bench::start(options()).await;
    let source = json!({"signedJwt": {"serviceAccount": CALLER}});
    for audience in [
        "https://iamcredentials.googleapis.com/",
        "HTTPS://STORAGE.GOOGLEAPIS.COM:443/",
        "accounts.google.com",
    ] {
        let problem = bench.obtain(&wanted(audience, &source)).await.map(|_| ()).unwrap_err();
        judge(audience, &problem, "InvalidSpec", OnChange, true, "is a credential for that API");
        assert_eq!(bench.asked(), []);
    }
}
