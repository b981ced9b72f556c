use serde_json::{Value, json};
use xtask::google::{Endpoint, Fault};

use crate::{
    bench::{AUDIENCE, Bench, SOON, after, judge, options, wanted},
    rows,
};
use idtoken_operator::plan::Retry::{OnChange, Slowly};

const ROBOT: &str = "robot@demo-project.iam.gserviceaccount.com";

fn source() -> Value {
    json!({"serviceAccountKey": {"secretRef": {"name": "key", "key": "key.json"}}})
}

#[tokio::test]
async fn first_mint_refresh_and_each_failure() {
    let bench = Bench::start(options()).await;
    bench.credentials.put("key", "key.json", bench.new_key(ROBOT));
    let wanted = wanted(AUDIENCE, &source());
    for _ in ["first mint", "refresh"] {
        let claims = bench.good(&wanted).await;
        assert_eq!((&claims["aud"], &claims["email"]), (&json!(AUDIENCE), &json!(ROBOT)));
        assert_eq!(bench.asked(), [Endpoint::OauthToken]);
    }
    let oauth = |status, code, description| Fault::OauthError { status, code, description, subtype: None };
    let clock = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.";
    let rows = rows! {
        OauthToken: oauth(400, "invalid_grant", "Invalid JWT Signature.") => "SourceDenied", Slowly, false, "HTTP 400 invalid_grant", [OauthToken];
        OauthToken: oauth(400, "invalid_grant", clock) => "SourceDenied", Slowly, false, "clock", [OauthToken];
        OauthToken: oauth(400, "invalid_grant", "Invalid grant: account not found") => "SourceDenied", Slowly, false, "HTTP 400 invalid_grant", [OauthToken];
        OauthToken: oauth(401, "invalid_client", "The OAuth client was not found.") => "SourceDenied", Slowly, false, "HTTP 401 invalid_client", [OauthToken];
        OauthToken: oauth(401, "deleted_client", "The OAuth client was deleted.") => "SourceDenied", Slowly, false, "HTTP 401 deleted_client", [OauthToken];
        OauthToken: Fault::TooManyRequests { retry_after: Some(9) } => "QuotaExceeded", after(9), false, "HTTP 429", [OauthToken];
        OauthToken: Fault::InternalError => "SourceUnavailable", SOON, false, "HTTP 500", [OauthToken];
        OauthToken: Fault::Unavailable => "SourceUnavailable", SOON, false, "HTTP 503", [OauthToken];
        OauthToken: Fault::DropConnection => "SourceUnavailable", SOON, false, "the connection broke", [OauthToken];
        OauthToken: Fault::TooLarge => "SourceUnavailable", SOON, false, "the answer is larger than 256 KB", [OauthToken];
        OauthToken: Fault::Garbage => "TokenRejected", SOON, false, "the answer holds no token", [OauthToken];
        OauthToken: Fault::WrongAudience => "TokenRejected", SOON, false, "the token's audience is", [OauthToken];
        OauthToken: Fault::WrongEmail => "TokenRejected", SOON, false, "the token's email is", [OauthToken];
        OauthToken: Fault::BadSignature => "TokenRejected", SOON, false, "signature is wrong", [OauthToken];
    };
    bench.table(&wanted, rows, |_| {}).await;
    bench.google.delete_service_account_key(ROBOT);
    let problem = bench.obtain(&wanted).await.map(|_| ()).unwrap_err();
    judge(
        "deleted key",
        &problem,
        "SourceDenied",
        Slowly,
        false,
        "Google does not know the key in Secret key, key key.json (any more)",
    );
    bench.assert_silent("deleted key", &problem);
}

#[tokio::test]
async fn bad_files_name_secret_and_key_and_nothing_more() {
    let bench = Bench::start(options()).await;
    let good = bench.new_key(ROBOT);
    let with = |field: &str, value: Value| {
        let mut file: Value = serde_json::from_str(&good).unwrap();
        file[field] = value;
        file.to_string()
    };
    let pem: Value = serde_json::from_str::<Value>(&good).unwrap()["private_key"].clone();
    let pem = pem.as_str().unwrap();
    let elliptic = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgevZzL1gdAFr88hb2\nOF/2NxApJCzGCEDdfSp6VQO30hyhRANCAAQRWz+jn65BtOMvdyHKcvjBeBSDZH2r\n1RTwjmYSi9R/zpBnuQ4EiMnCqfMPWiZqB4QdbAd0E7oH50VpuZ1P087G\n-----END PRIVATE KEY-----\n";
    elliptic.lines().filter(|line| line.len() > 40).for_each(|line| bench.credentials.plant(line));
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("truncated file", good.as_bytes()[..good.len() / 2].to_vec()),
        ("no JSON", b"-----BEGIN PRIVATE KEY-----".to_vec()),
        ("no object", b"[]".to_vec()),
        ("no UTF-8", vec![0xff, 0xfe, 0x00]),
        ("another type", with("type", json!("authorized_user")).into_bytes()),
        (
            "a federation file",
            br#"{"type": "external_account", "audience": "//iam.googleapis.com/x"}"#.to_vec(),
        ),
        ("an air-gapped cloud's file", with("type", json!("gdch_service_account")).into_bytes()),
        ("no type", with("type", Value::Null).into_bytes()),
        ("no address", with("client_email", Value::Null).into_bytes()),
        ("no key", with("private_key", Value::Null).into_bytes()),
        ("an empty key", with("private_key", json!("")).into_bytes()),
        ("a key without id", with("private_key_id", Value::Null).into_bytes()),
        ("a truncated key", with("private_key", json!(&pem[..pem.len() / 2])).into_bytes()),
        ("a key of another kind", with("private_key", json!(elliptic)).into_bytes()),
        ("a key of the wrong type", with("private_key", json!(42)).into_bytes()),
        ("a file of 1 MB", vec![b' '; 1 << 20]),
    ];
    let wanted = wanted(AUDIENCE, &source());
    for (case, file) in table {
        bench.credentials.put("key", "key.json", &file);
        let problem = bench.obtain(&wanted).await.map(|_| ()).expect_err(case);
        judge(case, &problem, "CredentialsNotAllowed", OnChange, false, "Secret key, key key.json");
        bench.assert_silent(case, &problem);
        assert_eq!(bench.asked(), [], "{case}");
    }
    bench.credentials.remove("key", "key.json");
    let problem = bench.obtain(&wanted).await.map(|_| ()).unwrap_err();
    judge("no such key", &problem, "CredentialsNotFound", OnChange, false, "Secret key has no key key.json");
}

/// A tenant's file is read for its key material; it can't send the operator anywhere.
#[tokio::test]
async fn no_url_of_the_file_is_ever_called() {
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let url = format!("http://{}", trap.local_addr().unwrap());
    let bench = Bench::start(options()).await;
    let mut file: Value = serde_json::from_str(&bench.new_key(ROBOT)).unwrap();
    for field in
        ["auth_uri", "token_uri", "auth_provider_x509_cert_url", "client_x509_cert_url", "universe_domain"]
    {
        file[field] = json!(format!("{url}/{field}"));
    }
    bench.credentials.put("key", "key.json", file.to_string());
    assert_eq!(bench.good(&wanted(AUDIENCE, &source())).await["email"], ROBOT);
    assert_eq!(bench.asked(), [Endpoint::OauthToken]);
    let called = trap.accept();
    assert!(called.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "the trap was called");
}

/// There is no OAuth endpoint in other universes: the key signs a JWT that IAM Credentials takes.
#[tokio::test]
async fn in_another_universe_iam_mints_for_the_key_itself() {
    let member = format!("serviceAccount:{ROBOT}");
    let options = options().allow(&member, xtask::google::Role::OpenIdTokenCreator, ROBOT);
    let bench = Bench::start_with(options, |endpoints| endpoints.universe = "s3nsapis.fr".to_owned()).await;
    bench.credentials.put("key", "key.json", bench.new_key(ROBOT));
    let claims = bench.good(&wanted(AUDIENCE, &source())).await;
    assert_eq!((&claims["aud"], &claims["email"]), (&json!(AUDIENCE), &json!(ROBOT)));
    assert_eq!(bench.asked(), [Endpoint::GenerateIdToken]);
}
