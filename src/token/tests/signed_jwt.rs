use super::*;

fn signed_jwt() -> Source {
    Source::SignedJwt { service_account: ServiceAccountEmail::parse(CALLER).unwrap() }
}

fn options(role: Role) -> Options {
    let operator = format!("serviceAccount:{OPERATOR}");
    Options::default().service_account(CALLER).allow(&operator, role, CALLER)
}

#[tokio::test]
async fn the_account_signs_for_itself_and_the_audience() {
    let bench = Bench::start(options(Role::TokenCreator)).await;
    let before = crate::clock::now().as_second();
    let audience = Audience::parse("https://app.example.com/*").unwrap();
    let minted = bench.minter.mint(&signed_jwt(), &audience, &NoCredentials, None, allowed).await.unwrap();
    assert_eq!((minted.email.as_deref(), minted.credential), (Some(CALLER), None));
    let mut claims = claims(&minted.token);
    let issued = claims["iat"].as_i64().unwrap();
    assert!((before..=before + 5).contains(&issued));
    assert_eq!(claims["exp"].as_i64().unwrap(), issued + 3600);
    for time in ["iat", "exp"] {
        claims.as_object_mut().unwrap().remove(time);
    }
    assert_eq!(claims, serde_json::json!({"iss": CALLER, "sub": CALLER, "aud": "https://app.example.com/*"}));
    let requests = bench.google.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(
        requests[1].path_and_query,
        "/v1/projects/-/serviceAccounts/caller@demo-project.iam.gserviceaccount.com:signJwt"
    );
}

#[tokio::test]
async fn the_right_to_id_tokens_is_not_enough() {
    let bench = Bench::start(options(Role::OpenIdTokenCreator)).await;
    let error = bench.mint(&signed_jwt()).await.unwrap_err();
    assert_eq!((error.reason(), error.retry()), (Reason::SourceDenied, Retry::Slowly));
    assert_eq!(
        error.to_string(),
        "signJwt for caller@demo-project.iam.gserviceaccount.com: HTTP 403 PERMISSION_DENIED IAM_PERMISSION_DENIED; check that \
         caller@demo-project.iam.gserviceaccount.com exists and that the operator's identity has \
         roles/iam.serviceAccountTokenCreator on it"
    );
}

#[tokio::test]
async fn a_refused_access_token_is_replaced_once() {
    let bench = Bench::start(options(Role::TokenCreator)).await;
    bench.google.set_fault_times(Endpoint::MetadataToken, Fault::ExpiredToken, 1);
    assert!(bench.mint(&signed_jwt()).await.is_ok());
    assert_eq!(bench.google.count(Endpoint::SignJwt), 2);
    bench.google.set_fault(Endpoint::SignJwt, Fault::Garbage);
    let error = bench.mint(&signed_jwt()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("signJwt for {CALLER}: the answer holds no token"));
    bench.assert_silent(&error);
}
