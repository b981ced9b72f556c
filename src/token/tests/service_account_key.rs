use serde_json::{Value, json};

use super::*;

const ROBOT: &str = "robot@demo-project.iam.gserviceaccount.com";

fn source() -> Source {
    Source::ServiceAccountKey { file: secret_key("robot", "key.json") }
}

/// The robot's key in a Secret, as `change` leaves it.
fn secret(google: &Google, change: impl FnOnce(&mut Value)) -> Secrets {
    let mut file = serde_json::from_str(&google.create_service_account_key(ROBOT).unwrap()).unwrap();
    change(&mut file);
    Secrets::of(&[("robot", "key.json", &file.to_string())])
}

#[tokio::test]
async fn an_assertion_gives_a_token_of_the_account() {
    let bench = Bench::start(Options::default()).await;
    let credentials = secret(&bench.google, |_| {});
    let minted = bench.mint_with(&source(), &credentials).await.unwrap();
    assert_eq!((minted.email.as_deref(), minted.credential.as_deref()), (Some(ROBOT), Some("v1")));
    let claims = claims(&minted.token);
    assert_eq!((&claims["aud"], &claims["email"]), (&json!(AUDIENCE), &json!(ROBOT)));
    assert_eq!(claims["email_verified"], true);
    let requests = bench.google.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!((requests[0].method.as_str(), requests[0].path_and_query.as_str()), ("POST", "/token"));
    assert_eq!(requests[0].audience.as_deref(), Some(AUDIENCE));
}

#[tokio::test]
async fn no_url_and_no_universe_of_the_file_is_used() {
    let bench = Bench::start(Options::default()).await;
    let (trap, url) = silent();
    trap.set_nonblocking(true).unwrap();
    let credentials = secret(&bench.google, |file| {
        for field in ["token_uri", "auth_uri", "auth_provider_x509_cert_url", "client_x509_cert_url"] {
            file[field] = json!(url.to_string());
        }
        file["universe_domain"] = json!(url.authority().unwrap().as_str());
        file["service_account_impersonation_url"] = json!(format!("{url}x"));
    });
    assert!(bench.mint_with(&source(), &credentials).await.is_ok());
    assert_eq!(trap.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn in_another_universe_the_account_asks_for_itself() {
    let robot = format!("serviceAccount:{ROBOT}");
    let options = Options::default().service_account(ROBOT).allow(&robot, Role::OpenIdTokenCreator, ROBOT);
    let google = Google::start(options).await.unwrap();
    let http = Http::new().unwrap();
    let nowhere = "http://127.0.0.1:1/token".parse().unwrap();
    let universe = "universe.example.com".to_owned();
    let endpoints = Endpoints { universe, oauth_token: nowhere, ..endpoints(&google) };
    let operator = Operator::new(&http, &endpoints, Sources::default());
    let bench = Bench { minter: Minter::new(&http, &endpoints, operator), google };
    let credentials = secret(&bench.google, |_| {});
    let minted = bench.mint_with(&source(), &credentials).await.unwrap();
    assert_eq!(claims(&minted.token)["email"], ROBOT);
    assert_eq!(bench.google.requests().len(), 1);
    bench.google.revoke(&robot, Role::OpenIdTokenCreator, ROBOT);
    let error = bench.mint_with(&source(), &credentials).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "generateIdToken for robot@demo-project.iam.gserviceaccount.com: HTTP 403 PERMISSION_DENIED IAM_PERMISSION_DENIED; check \
         that the key in Secret robot, key key.json still exists, and that robot@demo-project.iam.gserviceaccount.com has \
         roles/iam.serviceAccountOpenIdTokenCreator on itself"
    );
    bench.google.delete_service_account_key(ROBOT);
    bench.google.clear_requests();
    let error = bench.mint_with(&source(), &credentials).await.unwrap_err();
    assert!(error.to_string().contains("HTTP 401 UNAUTHENTICATED"), "{error}");
    assert_eq!(bench.google.requests().len(), 1, "the same JWT would be refused again");
}

#[tokio::test]
async fn each_refusal_says_what_helps() {
    let bench = Bench::start(Options::default()).await;
    let credentials = secret(&bench.google, |_| {});
    let oauth = |status, code, description| Fault::OauthError { status, code, description, subtype: None };
    let table = [
        (
            oauth(400, "invalid_grant", "Invalid JWT Signature."),
            "HTTP 400 invalid_grant; Google does not know the key in Secret robot, key key.json (any more): create another one, gcloud \
             iam service-accounts keys create FILE --iam-account=robot@demo-project.iam.gserviceaccount.com, and put it there",
        ),
        (
            oauth(
                400,
                "invalid_grant",
                "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.",
            ),
            "HTTP 400 invalid_grant; the assertion counts as expired or not yet valid: set the clock of the operator's machine",
        ),
        (
            oauth(400, "invalid_grant", "Invalid grant: account not found"),
            "HTTP 400 invalid_grant; robot@demo-project.iam.gserviceaccount.com does not exist or is disabled: check the account of the \
             key in Secret robot, key key.json",
        ),
        (
            oauth(401, "deleted_client", "The OAuth client was deleted."),
            "HTTP 401 deleted_client; robot@demo-project.iam.gserviceaccount.com, or its key in Secret robot, key key.json, was deleted \
             or disabled: check the account",
        ),
        (
            oauth(401, "invalid_client", ""),
            "HTTP 401 invalid_client; robot@demo-project.iam.gserviceaccount.com, or its key in Secret robot, key key.json, was deleted \
             or disabled: check the account",
        ),
        (
            oauth(403, "access_denied", "Account restricted"),
            "HTTP 403 access_denied; check that robot@demo-project.iam.gserviceaccount.com and its key in Secret robot, key key.json \
             still exist",
        ),
    ];
    for (fault, message) in table {
        bench.google.set_fault(Endpoint::OauthToken, fault);
        let error = bench.mint_with(&source(), &credentials).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (Reason::SourceDenied, Retry::Slowly));
        assert_eq!(error.to_string(), format!("ID token for {ROBOT}: {message}"));
    }
}

#[tokio::test]
async fn a_secret_that_is_no_key_is_told_by_its_name_and_never_shown() {
    let bench = Bench::start(Options::default()).await;
    let with = |field: &str, value: Value| {
        let mut file = json!({
            "type": "service_account", "client_email": ROBOT, "private_key_id": "k",
            "private_key": "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
        });
        file[field] = value;
        file.to_string()
    };
    let pem =
        serde_json::from_str::<Value>(&bench.google.create_service_account_key(ROBOT).unwrap()).unwrap();
    let pem = pem["private_key"].as_str().unwrap();
    let whole = "put the whole file there that gcloud iam service-accounts keys create FILE writes";
    let other = "spec.source.serviceAccountKey takes files of type service_account only";
    let rsa = format!("has a private_key that is broken or is no RSA key of at least 2048 bits; {whole}");
    let cut_off = format!("has a private_key that is cut off or is no PKCS#8 PEM; {whole}");
    let json = format!("is no JSON object with the fields of a credential file; {whole}");
    let table = [
        (String::new(), format!("is empty; {whole}")),
        ("\n".to_owned(), format!("is empty; {whole}")),
        ("c2VjcmV0".to_owned(), json.clone()),
        ("\"c2VjcmV0\"".to_owned(), json.clone()),
        (with("private_key", json!("x"))[..90].to_owned(), json.clone()),
        (with("private_key", json!({"c2VjcmV0": 1})), json),
        (with("private_key", json!(pem[..400])), cut_off.clone()),
        (with("private_key", json!(format!("{}\n-----END PRIVATE KEY-----\n", &pem[..220]))), rsa.clone()),
        (with("private_key", json!(pem.replace("PRIVATE KEY", "RSA PRIVATE KEY"))), cut_off),
        (with("private_key", json!(ec_key())), rsa),
        (with("client_email", json!("someone@example.com")), format!("has no usable client_email; {whole}")),
        (
            with("client_email", json!("a/../b@x.gserviceaccount.com")),
            format!("has no usable client_email; {whole}"),
        ),
        (with("type", json!(null)), format!("is of no known type; {other}")),
        (with("type", json!("c2VjcmV0")), format!("is of no known type; {other}")),
        (with("type", json!("external_account")), format!("is of type external_account; {other}")),
        (with("type", json!("gdch_service_account")), format!("is of type gdch_service_account; {other}")),
        (
            with("type", json!("authorized_user")),
            "is of type authorized_user; spec.source.userCredentials takes files of that type".to_owned(),
        ),
    ];
    for (text, message) in table {
        let error =
            bench.mint_with(&source(), &Secrets::of(&[("robot", "key.json", &text)])).await.unwrap_err();
        assert_eq!((error.reason(), error.retry()), (Reason::CredentialsNotAllowed, Retry::OnChange));
        assert_eq!(error.to_string(), format!("Secret robot, key key.json {message}"));
        assert!(!format!("{error:?}").contains("c2VjcmV0"));
    }
    let bytes = Secrets { values: vec![("robot", "key.json", vec![0xff, 0xfe])], version: "v1" };
    let error = bench.mint_with(&source(), &bytes).await.unwrap_err();
    assert_eq!(error.to_string(), format!("Secret robot, key key.json is not UTF-8 text; {whole}"));
    assert_eq!(bench.google.requests().len(), 0);
}
