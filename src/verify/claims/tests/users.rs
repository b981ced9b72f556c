//! Tokens of Identity Platform's users, and JWTs that service accounts sign for themselves.

use super::*;

const ISSUER: &str = "https://securetoken.google.com/demo-project";
const ROBOT: &str = "robot@demo-project.iam.gserviceaccount.com";

fn user<'a>(email: Option<&'a str>, tenant: Option<&'a str>) -> Expectation<'a> {
    Expectation {
        issuer: Issuer::IdentityPlatform("demo-project"),
        audience: "demo-project",
        identity: Identity::User { email, tenant },
    }
}

/// What Identity Platform says of a user, with `changes` put over it.
fn of_user(changes: &Value) -> Value {
    let mut all = json!({
        "iss": ISSUER, "aud": "demo-project", "azp": null, "auth_time": NOW - DAY, "user_id": "uid-1", "sub": "uid-1",
        "email": "batch@example.com", "email_verified": false,
        "firebase": {"identities": {"email": ["batch@example.com"]}, "sign_in_provider": "password"},
    });
    for (name, value) in changes.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

fn judge_user(changes: &Value, expected: &Expectation<'_>) -> Result<String, String> {
    judge_as(&of_user(changes), expected).map(|verified| verified.identity).map_err(|why| why.to_string())
}

fn firebase(tenant: &Value) -> Value {
    json!({"firebase": {"sign_in_provider": "password", "tenant": tenant}})
}

#[test]
fn an_unverified_address_in_any_case_is_the_users() {
    let expected = user(Some("Batch@Example.com"), None);
    assert_eq!(judge_user(&json!({}), &expected).unwrap(), "batch@example.com");
    assert_eq!(judge_user(&json!({"email_verified": true}), &expected).unwrap(), "batch@example.com");
    assert_eq!(judge_user(&json!({"email_verified": null}), &expected).unwrap(), "batch@example.com");
    assert_eq!(judge_user(&json!({"email": null}), &expected).unwrap(), "uid-1", "a user without an address");
    assert_eq!(judge_user(&json!({}), &user(None, None)).unwrap(), "batch@example.com");
    assert_eq!(
        judge_user(&json!({"email": "other@example.com"}), &expected).unwrap_err(),
        "the token's email is \"other@example.com\", expected \"Batch@Example.com\""
    );
}

#[test]
fn the_tenant_is_the_one_that_was_asked_for_or_none() {
    let (project, tenant) = (user(None, None), user(None, Some("tenant-a")));
    assert!(judge_user(&firebase(&json!("tenant-a")), &tenant).is_ok());
    assert!(judge_user(&firebase(&json!(null)), &project).is_ok());
    assert!(judge_user(&json!({"firebase": null}), &project).is_ok());
    let refused = |changes: &Value, expected| judge_user(changes, expected).unwrap_err();
    assert_eq!(
        refused(&firebase(&json!("tenant-b")), &tenant),
        "the token's tenant is \"tenant-b\", expected \"tenant-a\""
    );
    assert_eq!(
        refused(&firebase(&json!("Tenant-A")), &tenant),
        "the token's tenant is \"Tenant-A\", expected \"tenant-a\""
    );
    let absent = "the token's tenant is \"none\", expected \"tenant-a\"";
    assert_eq!(refused(&json!({}), &tenant), absent);
    assert_eq!(refused(&json!({"firebase": null}), &tenant), absent);
    assert_eq!(
        refused(&firebase(&json!("tenant-a")), &project),
        "the token's tenant is \"tenant-a\", expected \"none\""
    );
    let typed = "the answer is not a JWT: its payload is no JSON object with claims of the right types";
    assert_eq!(refused(&firebase(&json!(7)), &tenant), typed);
}

#[test]
fn another_project_is_told_by_its_audience_first() {
    let expected = user(None, None);
    let other = json!({"iss": "https://securetoken.google.com/other", "aud": "other"});
    assert_eq!(
        judge_user(&other, &expected).unwrap_err(),
        "the token's audience is \"other\", expected \"demo-project\""
    );
    for iss in [
        "https://securetoken.google.com/other",
        "https://securetoken.google.com/demo-project/",
        "https://securetoken.google.com/demo-projects",
        "https://securetoken.google.com/",
        "https://securetoken.google.comdemo-project",
        "https://session.firebase.google.com/demo-project",
        "https://accounts.google.com",
    ] {
        assert_eq!(
            judge_user(&json!({"iss": iss}), &expected).unwrap_err(),
            format!(
                "the token's issuer is {iss:?}, expected \"https://securetoken.google.com/demo-project\""
            )
        );
    }
}

#[test]
fn a_sign_in_in_the_future_is_refused() {
    let expected = user(None, None);
    assert!(judge_user(&json!({"auth_time": NOW + 60}), &expected).is_ok());
    assert_eq!(
        judge_user(&json!({"auth_time": NOW + 61}), &expected).unwrap_err(),
        "the token's auth_time is more than 60 s ahead of the operator's clock"
    );
    assert!(judge_user(&json!({"auth_time": null}), &expected).is_ok());
}

#[test]
fn a_users_id_has_up_to_128_characters() {
    let expected = user(Some("batch@example.com"), None);
    assert!(judge_user(&json!({"sub": "u".repeat(128)}), &expected).is_ok());
    assert_eq!(
        judge_user(&json!({"sub": "u".repeat(129)}), &expected).unwrap_err(),
        "the answer is not a JWT: its sub is longer than 128 characters"
    );
    assert_eq!(judge_user(&json!({"sub": ""}), &expected).unwrap_err(), "the token has no claim sub");
}

#[test]
fn a_signed_jwt_is_the_signers_own() {
    let expected = Expectation {
        issuer: Issuer::ServiceAccount(ROBOT),
        audience: "https://app.example.com/*",
        identity: Identity::Subject(ROBOT),
    };
    let changed = |name: &str, value: &str| {
        let mut claims = json!({
            "iss": ROBOT, "sub": ROBOT, "aud": "https://app.example.com/*", "azp": null, "email": null, "email_verified": null,
        });
        claims[name] = json!(value);
        judge_as(&claims, &expected).map(|verified| verified.identity).map_err(|why| why.to_string())
    };
    assert_eq!(changed("x", "y").unwrap(), ROBOT);
    assert_eq!(
        changed("sub", "other@demo-project.iam.gserviceaccount.com").unwrap_err(),
        "the token's sub is \"other@demo-project.iam.gserviceaccount.com\", expected \"robot@demo-project.iam.gserviceaccount.com\""
    );
    assert_eq!(
        changed("iss", "https://accounts.google.com").unwrap_err(),
        "the token's issuer is \"https://accounts.google.com\", expected \"robot@demo-project.iam.gserviceaccount.com\""
    );
    assert_eq!(
        changed("aud", "https://app.example.com/").unwrap_err(),
        "the token's audience is \"https://app.example.com/\", expected \"https://app.example.com/*\""
    );
}

#[test]
fn only_what_says_that_nobody_signed_it_is_unsigned() {
    let with = |header: &Value, signature: &str| {
        format!(
            "{}.{}.{signature}",
            base64url(&header.to_string()),
            base64url(&of_user(&json!({})).to_string())
        )
    };
    let none = json!({"alg": "none", "typ": "JWT"});
    assert!(parse_unsigned(&with(&none, "")).unwrap().is_ok());
    for other in [
        with(&none, "c2lnbg"),
        with(&json!({"alg": "None"}), ""),
        with(&json!({"alg": ""}), ""),
        with(&json!({"alg": "RS256", "kid": "k"}), ""),
        with(&json!({"alg": "none", "crit": ["x"]}), ""),
        with(&json!({}), ""),
        "..".to_owned(),
        String::new(),
    ] {
        assert!(parse_unsigned(&other).is_none(), "{other}");
    }
    let rubbish = format!("{}.e30x.", base64url(&none.to_string()));
    assert!(parse_unsigned(&rubbish).unwrap().is_err());
}
