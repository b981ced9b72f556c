//! The flags that send the program to the simulator instead of Google.

use xtask::google::Google;

/// Where the APIs are.
pub(crate) fn apis(google: &Google) -> Vec<String> {
    vec![
        format!("--metadata-url={}", google.metadata_url()),
        format!("--iam-credentials-url={}", google.iam_credentials_url()),
        format!("--sts-url={}", google.sts_url()),
        format!("--identity-toolkit-url={}", google.identity_toolkit_url()),
        format!("--secure-token-url={}", google.secure_token_url()),
        format!("--oauth-token-url={}", google.oauth_token_url()),
    ]
}

/// Where keys are published.
pub(crate) fn keys(google: &Google) -> Vec<String> {
    vec![
        format!("--jwks-url=https://accounts.google.com={}", google.jwks_url()),
        format!("--jwks-url=https://securetoken.google.com={}", google.secure_token_jwks_url()),
        format!("--jwks-url=gserviceaccount.com={}", google.service_account_jwks_url_template()),
    ]
}
