use serde_json::{Value, json};
use xtask::google::{Endpoint, Fault, Options, User};

use crate::{
    bench::{Bench, SOON, after, judge, options, wanted},
    rows,
};
use idtoken_operator::plan::Retry::{OnChange, OnNewCredential, Slowly};

const CLIENT: &str = "764086051850-test.apps.googleusercontent.com";
const SECRET: &str = "d-FL95Q19q7MQmFpd7hHD0Ty";
const TOKEN: &str = "1//0g-refresh-token-of-the-developer";

fn source() -> Value {
    json!({"userCredentials": {"secretRef": {"name": "adc", "key": "adc.json"}}})
}

fn file() -> Value {
    json!({"type": "authorized_user", "client_id": CLIENT, "client_secret": SECRET, "refresh_token": TOKEN})
}

/// Keeps the developer's file.
fn keep_file(bench: &Bench) {
    bench.credentials.put("adc", "adc.json", file().to_string());
    bench.credentials.plant(SECRET);
    bench.credentials.plant(TOKEN);
}

fn with_user(scopes: &[&str]) -> Options {
    options().user(User {
        client_id: CLIENT.to_owned(),
        client_secret: SECRET.to_owned(),
        refresh_token: TOKEN.to_owned(),
        email: "developer@example.com".to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
    })
}

#[tokio::test]
async fn first_mint_refresh_and_each_failure() {
    let bench = Bench::start(with_user(&["openid"])).await;
    keep_file(&bench);
    let source = source();
    let wanted_client = wanted(CLIENT, &source);
    for _ in ["first mint", "refresh"] {
        let claims = bench.good(&wanted_client).await;
        assert_eq!((&claims["aud"], &claims["email"]), (&json!(CLIENT), &json!("developer@example.com")));
        assert_eq!(bench.asked(), [Endpoint::OauthToken]);
    }
    let oauth = |status, code, description| Fault::OauthError { status, code, description, subtype: None };
    let revoked = "Token has been expired or revoked.";
    let rows = rows! {
        OauthToken: oauth(400, "invalid_grant", revoked) => "CredentialsRefused", OnNewCredential, true, "gcloud auth application-default login", [OauthToken];
        OauthToken: oauth(401, "invalid_client", "Unauthorized") => "CredentialsRefused", OnNewCredential, true, "HTTP 401 invalid_client", [OauthToken];
        OauthToken: Fault::TooManyRequests { retry_after: Some(9) } => "QuotaExceeded", after(9), false, "HTTP 429", [OauthToken];
        OauthToken: Fault::Unavailable => "SourceUnavailable", SOON, false, "HTTP 503", [OauthToken];
        OauthToken: Fault::DropConnection => "SourceUnavailable", SOON, false, "the connection broke", [OauthToken];
        OauthToken: Fault::TooLarge => "SourceUnavailable", SOON, false, "the answer is larger than 256 KB", [OauthToken];
        OauthToken: Fault::Garbage => "TokenRejected", SOON, false, "the answer holds no token", [OauthToken];
        OauthToken: Fault::WrongIssuer => "TokenRejected", SOON, false, "the token's issuer is", [OauthToken];
    };
    bench.table(&wanted_client, rows, |_| {}).await;
    // The audience is the client's, whatever is asked for: the message names it.
    let other = wanted("https://orders-abc-uc.a.run.app", &source);
    let problem = bench.obtain(&other).await.map(|_| ()).unwrap_err();
    judge(
        "another audience",
        &problem,
        "TokenRejected",
        Slowly,
        false,
        &format!("the token's audience is {CLIENT:?}"),
    );
    assert!(problem.message.contains("set spec.audience to the one received"), "{}", problem.message);
    bench.google.revoke_user(TOKEN);
    let problem = bench.obtain(&wanted_client).await.map(|_| ()).unwrap_err();
    judge("revoked", &problem, "CredentialsRefused", OnNewCredential, true, "Secret adc, key adc.json");
    bench.assert_silent("revoked", &problem);
}

#[tokio::test]
async fn a_grant_without_openid_gives_no_id_token() {
    let bench = Bench::start(with_user(&["https://www.googleapis.com/auth/cloud-platform"])).await;
    keep_file(&bench);
    let problem = bench.obtain(&wanted(CLIENT, &source())).await.map(|_| ()).unwrap_err();
    judge("no openid", &problem, "CredentialsNotAllowed", OnNewCredential, false, "lacks the scope openid");
    bench.assert_silent("no openid", &problem);
    assert_eq!(bench.asked(), [Endpoint::OauthToken]);
}

#[tokio::test]
async fn bad_files_name_secret_and_key_and_nothing_more() {
    let bench = Bench::start(with_user(&["openid"])).await;
    keep_file(&bench);
    let key = bench.new_key("robot@demo-project.iam.gserviceaccount.com");
    let with = |field: &str, value: Value| {
        let mut file = file();
        file[field] = value;
        file.to_string()
    };
    let table = [
        ("empty", String::new()),
        ("truncated", file().to_string()[..60].to_owned()),
        ("a key file", key),
        ("a workforce's file", with("type", json!("external_account_authorized_user"))),
        ("no client", with("client_id", Value::Null)),
        ("no secret", with("client_secret", json!(""))),
        ("no token", with("refresh_token", Value::Null)),
        ("a token of the wrong type", with("refresh_token", json!(["x"]))),
    ];
    let wanted = wanted(CLIENT, &source());
    for (case, file) in table {
        bench.credentials.put("adc", "adc.json", &file);
        let problem = bench.obtain(&wanted).await.map(|_| ()).expect_err(case);
        judge(case, &problem, "CredentialsNotAllowed", OnChange, false, "Secret adc, key adc.json");
        bench.assert_silent(case, &problem);
        assert_eq!(bench.asked(), [], "{case}");
    }
}
