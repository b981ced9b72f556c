//! Annotation and label keys: on pods (read by the webhook), on bindings and on our Secrets.

/// Prefix that all our keys share; users may not put keys with it on a binding's Secret.
pub const PREFIX: &str = "idtoken.dev/";

/// On a binding: any new value forces one refresh. By convention an RFC 3339 time.
pub const REFRESH_REQUESTED_AT: &str = "idtoken.dev/refresh-requested-at";

/// On our Secret: `exp` of the token in it, RFC 3339.
pub const EXPIRATION_TIME: &str = "idtoken.dev/expiration-time";

/// On our Secret: `iat` of the token in it, RFC 3339.
pub const ISSUE_TIME: &str = "idtoken.dev/issue-time";

/// On our Secret: `iss` of the token in it.
pub const ISSUER: &str = "idtoken.dev/issuer";

/// On our Secret: the e-mail address that the token in it was issued for.
pub const IDENTITY: &str = "idtoken.dev/identity";

/// On our Secret: lower-case hex SHA-256 over everything that decides which token and which keys belong in it.
pub const SPEC_HASH: &str = "idtoken.dev/spec-hash";

/// On our Secret: which use of the operator's identity a grant had to allow for the token in it, as JSON; absent: none.
pub const GRANTED: &str = "idtoken.dev/granted";

/// On our Secret: lower-case hex SHA-256 of the raw token in it.
pub const TOKEN_SHA256: &str = "idtoken.dev/token-sha256";

/// On our Secret: the value of [`REFRESH_REQUESTED_AT`] that the token in it answers.
pub const REFRESH_HANDLED: &str = "idtoken.dev/refresh-handled";

/// On our Secret: which labels and annotations came from the binding, so that they go when it drops them.
pub const FROM_BINDING: &str = "idtoken.dev/from-binding";

/// On our Secret: whether the signature was checked before publishing: `true` or `false`.
pub const SIGNATURE_CHECKED: &str = "idtoken.dev/signature-checked";

/// On our Secret: keeps stakater/reloader from restarting workloads at every refresh.
pub const RELOADER_IGNORE: &str = "reloader.stakater.com/ignore";

/// Label on our Secret: keeps short-lived tokens out of Velero backups.
pub const VELERO_EXCLUDE: &str = "velero.io/exclude-from-backup";

/// Recommended label naming the tool that manages an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// Annotation of Kubernetes and GKE on a ServiceAccount: the Google service account it stands for.
pub const GKE_SERVICE_ACCOUNT: &str = "iam.gke.io/gcp-service-account";

/// Annotation of GKE on a ServiceAccount: `true` makes the metadata server name its federated principal in place of an e-mail.
pub const GKE_PRINCIPAL: &str = "iam.gke.io/return-principal-id-as-email";

/// Label on a Secret: `true` lets bindings of its namespace use it as a credential.
pub const CREDENTIAL: &str = "idtoken.dev/credential";

/// On our Secret: lower-case hex SHA-256 that changes with the credential that the token in it was got by.
pub const CREDENTIAL_HASH: &str = "idtoken.dev/credential-hash";
