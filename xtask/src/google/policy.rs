//! Identities, and a small IAM policy on service accounts: which member holds which role on which account.

/// Who is behind an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// A service account, by e-mail.
    ServiceAccount(String),
    /// A human, by e-mail.
    User(String),
    /// A workload identity pool's subject.
    Federated {
        /// The number of the pool's project.
        project_number: u64,
        /// The pool's ID.
        pool: String,
        /// `google.subject`.
        subject: String,
    },
}

impl Identity {
    /// Every IAM member string that this identity answers to.
    fn members(&self) -> Vec<String> {
        match self {
            Self::ServiceAccount(email) => vec![format!("serviceAccount:{email}")],
            Self::User(email) => vec![format!("user:{email}")],
            Self::Federated { project_number, pool, subject } => {
                let base = format!(
                    "//iam.googleapis.com/projects/{project_number}/locations/global/workloadIdentityPools/{pool}"
                );
                let mut members =
                    vec![format!("principal:{base}/subject/{subject}"), format!("principalSet:{base}/*")];
                if let Some((namespace, name)) = gke_subject(subject) {
                    members.push(format!("principalSet:{base}/namespace/{namespace}"));
                    members.push(format!("serviceAccount:{pool}[{namespace}/{name}]"));
                }
                members
            }
        }
    }
}

/// A role on service accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `roles/iam.serviceAccountOpenIdTokenCreator`.
    OpenIdTokenCreator,
    /// `roles/iam.serviceAccountTokenCreator`.
    TokenCreator,
    /// `roles/iam.workloadIdentityUser`.
    WorkloadIdentityUser,
}

impl Role {
    fn permits(self, permission: Permission) -> bool {
        match self {
            Self::OpenIdTokenCreator => permission == Permission::GetOpenIdToken,
            Self::TokenCreator => true,
            Self::WorkloadIdentityUser => {
                matches!(permission, Permission::GetOpenIdToken | Permission::GetAccessToken)
            }
        }
    }
}

/// One entry of the policy: a member holds a role on a service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The IAM member: `serviceAccount:…`, `user:…`, `principal://…` or `principalSet://…`.
    pub member: String,
    /// What it holds.
    pub role: Role,
    /// On which service account, by e-mail.
    pub service_account: String,
}

impl Grant {
    /// An entry of the policy.
    #[must_use]
    pub fn new(member: &str, role: Role, service_account: &str) -> Self {
        Self { member: member.into(), role, service_account: service_account.into() }
    }
}

/// A permission on a service account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    GetOpenIdToken,
    GetAccessToken,
    SignJwt,
    ImplicitDelegation,
}

impl Permission {
    /// IAM's name of it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::GetOpenIdToken => "iam.serviceAccounts.getOpenIdToken",
            Self::GetAccessToken => "iam.serviceAccounts.getAccessToken",
            Self::SignJwt => "iam.serviceAccounts.signJwt",
            Self::ImplicitDelegation => "iam.serviceAccounts.implicitDelegation",
        }
    }
}

/// Whether the grants let `identity` use `permission` on `service_account`.
pub(super) fn permits(
    grants: &[Grant],
    identity: &Identity,
    permission: Permission,
    service_account: &str,
) -> bool {
    let members = identity.members();
    grants.iter().any(|grant| {
        grant.service_account == service_account
            && grant.role.permits(permission)
            && members.contains(&grant.member)
    })
}

/// Namespace and name of a GKE subject `ns/NAMESPACE/sa/NAME`.
fn gke_subject(subject: &str) -> Option<(&str, &str)> {
    subject.strip_prefix("ns/")?.split_once("/sa/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_give_what_iam_gives() {
        use Permission::{GetAccessToken, GetOpenIdToken, ImplicitDelegation, SignJwt};
        let all = [GetOpenIdToken, GetAccessToken, SignJwt, ImplicitDelegation];
        let of = |role: Role| all.map(|permission| role.permits(permission));
        assert_eq!(of(Role::OpenIdTokenCreator), [true, false, false, false]);
        assert_eq!(of(Role::TokenCreator), [true, true, true, true]);
        assert_eq!(of(Role::WorkloadIdentityUser), [true, true, false, false]);
    }

    #[test]
    fn a_gke_subject_answers_to_all_its_member_forms() {
        let pod = Identity::Federated {
            project_number: 7,
            pool: "p.svc.id.goog".into(),
            subject: "ns/shop/sa/app".into(),
        };
        assert_eq!(
            pod.members(),
            [
                "principal://iam.googleapis.com/projects/7/locations/global/workloadIdentityPools/p.svc.id.goog/subject/ns/shop/sa/app",
                "principalSet://iam.googleapis.com/projects/7/locations/global/workloadIdentityPools/p.svc.id.goog/*",
                "principalSet://iam.googleapis.com/projects/7/locations/global/workloadIdentityPools/p.svc.id.goog/namespace/shop",
                "serviceAccount:p.svc.id.goog[shop/app]",
            ]
        );
    }

    #[test]
    fn a_grant_is_for_one_member_and_one_account() {
        let grants = [Grant::new("user:a@example.com", Role::TokenCreator, "x@p.iam.gserviceaccount.com")];
        let allowed =
            |email: &str, on: &str| permits(&grants, &Identity::User(email.into()), Permission::SignJwt, on);
        assert!(allowed("a@example.com", "x@p.iam.gserviceaccount.com"));
        assert!(!allowed("b@example.com", "x@p.iam.gserviceaccount.com"));
        assert!(!allowed("a@example.com", "y@p.iam.gserviceaccount.com"));
    }
}
