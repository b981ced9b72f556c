//! Every right that the chart gives to the operator's accounts.

use super::work::Work;

/// A verb of a role of the chart, what breaks without it, and what is tried to see that.
pub(crate) struct Row {
    pub(crate) role: &'static str,
    pub(crate) verb: &'static str,
    /// As docs/security.md writes it: `resource.group/subresource`.
    pub(crate) resource: &'static str,
    /// The one object that it is for; `""`: all.
    pub(crate) only: &'static str,
    pub(crate) breaks: &'static str,
    pub(crate) work: Work,
}

const fn row(
    role: &'static str,
    verb: &'static str,
    resource: &'static str,
    work: Work,
    breaks: &'static str,
) -> Row {
    Row { role, verb, resource, only: "", breaks, work }
}

impl Row {
    const fn only(mut self, name: &'static str) -> Self {
        self.only = name;
        self
    }

    /// Whose role it is.
    pub(crate) fn account(&self) -> &'static str {
        match self.role {
            CONTROLLER | LEASE => CONTROLLER_ACCOUNT,
            WEBHOOK | AUTHORITY => "idtoken-operator-webhook",
            _ => "idtoken-operator-test",
        }
    }

    /// The resource, its group and its subresource; `""` is none.
    pub(crate) fn parts(&self) -> (&'static str, &'static str, &'static str) {
        let (of, sub) = self.resource.split_once('/').unwrap_or((self.resource, ""));
        let (resource, group) = of.split_once('.').unwrap_or((of, ""));
        (resource, group, sub)
    }

    /// `verb resource.group/subresource`.
    pub(crate) fn right(&self) -> String {
        format!("{} {}", self.verb, self.resource)
    }
}

pub(crate) const CONTROLLER: &str = "ClusterRole/idtoken-operator-controller";
pub(crate) const CONTROLLER_ACCOUNT: &str = "idtoken-operator-controller";
pub(crate) const LEASE: &str = "Role/idtoken-system/idtoken-operator-controller-lease";
pub(crate) const WEBHOOK: &str = "ClusterRole/idtoken-operator-webhook";
pub(crate) const AUTHORITY: &str = "Role/idtoken-system/idtoken-operator-webhook";
pub(crate) const CHECK: &str = "Role/default/idtoken-operator-test";

/// Who has which role: the bindings of the chart, but for those of the users' roles, which it doesn't bind.
pub(crate) const BINDINGS: [(&str, &str, &str); 5] = [
    (
        "ClusterRoleBinding/idtoken-operator-controller",
        CONTROLLER,
        "ServiceAccount idtoken-system/idtoken-operator-controller",
    ),
    (
        "ClusterRoleBinding/idtoken-operator-webhook",
        WEBHOOK,
        "ServiceAccount idtoken-system/idtoken-operator-webhook",
    ),
    (
        "RoleBinding/default/idtoken-operator-test",
        CHECK,
        "ServiceAccount idtoken-system/idtoken-operator-test",
    ),
    (
        "RoleBinding/idtoken-system/idtoken-operator-controller-lease",
        LEASE,
        "ServiceAccount idtoken-system/idtoken-operator-controller",
    ),
    (
        "RoleBinding/idtoken-system/idtoken-operator-webhook",
        AUTHORITY,
        "ServiceAccount idtoken-system/idtoken-operator-webhook",
    ),
];

/// Every right that the chart gives to the operator.
pub(crate) const ROWS: &[Row] = &[
    row(CONTROLLER, "list", "idtokenbindings.idtoken.dev", Work::FirstToken, "no binding is known"),
    row(CONTROLLER, "watch", "idtokenbindings.idtoken.dev", Work::FirstToken, "no new binding is seen"),
    row(
        CONTROLLER,
        "update",
        "idtokenbindings.idtoken.dev/status",
        Work::FirstToken,
        "nothing is said of a binding",
    ),
    row(CONTROLLER, "list", "idtokengrants.idtoken.dev", Work::FirstToken, "no grant is known"),
    row(CONTROLLER, "watch", "idtokengrants.idtoken.dev", Work::NewGrant, "no new grant is seen"),
    row(CONTROLLER, "list", "secrets", Work::FirstToken, "it is not known which tokens there are"),
    row(CONTROLLER, "watch", "secrets", Work::RestoredSecret, "it is not seen that a Secret is gone"),
    row(CONTROLLER, "get", "secrets", Work::RestoredSecret, "it is not known whose a name is"),
    row(CONTROLLER, "create", "secrets", Work::FirstToken, "no token is published"),
    row(CONTROLLER, "update", "secrets", Work::Refresh, "no token is replaced"),
    row(CONTROLLER, "delete", "secrets", Work::Revocation, "a token that is no longer granted stays"),
    row(
        CONTROLLER,
        "patch",
        "idtokengrants.idtoken.dev/status",
        Work::GrantUsage,
        "it is not told who uses a grant",
    ),
    row(CONTROLLER, "list", "namespaces", Work::FirstToken, "it is not known what grants select"),
    row(CONTROLLER, "watch", "namespaces", Work::NewLabel, "no new label is seen"),
    row(CONTROLLER, "create", "events.events.k8s.io", Work::Event, "there are no events"),
    row(CONTROLLER, "patch", "events.events.k8s.io", Work::EventAgain, "what happens again is not counted"),
    row(CONTROLLER, "list", "pods", Work::UninjectedPod, "no pod is known"),
    row(CONTROLLER, "watch", "pods", Work::UninjectedPod, "no new pod is seen"),
    row(CONTROLLER, "get", "pods", Work::UninjectedPod, "it is not known what a pod lacks"),
    row(CONTROLLER, "list", "serviceaccounts", Work::AccountToken, "no annotation is known"),
    row(CONTROLLER, "watch", "serviceaccounts", Work::AccountAnnotated, "no new annotation is seen"),
    row(CONTROLLER, "get", "serviceaccounts", Work::AccountMissing, "it is not known that there is none"),
    row(CONTROLLER, "create", "serviceaccounts/token", Work::AccountToken, "no account becomes a token"),
    row(
        LEASE,
        "create",
        "leases.coordination.k8s.io",
        Work::FirstLease,
        "none of the first controllers leads",
    ),
    row(LEASE, "get", "leases.coordination.k8s.io", Work::TakenLease, "it is not known who leads")
        .only("idtoken-operator-controller"),
    row(LEASE, "update", "leases.coordination.k8s.io", Work::TakenLease, "nobody follows another")
        .only("idtoken-operator-controller"),
    row(WEBHOOK, "list", "idtokenbindings.idtoken.dev", Work::WebhookReady, "no binding is known"),
    row(WEBHOOK, "watch", "idtokenbindings.idtoken.dev", Work::ReplacedBinding, "an old Secret is mounted"),
    row(
        WEBHOOK,
        "get",
        "idtokenbindings.idtoken.dev",
        Work::UnknownBinding,
        "nothing beyond the cache is known",
    ),
    row(
        WEBHOOK,
        "list",
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        Work::WebhookReady,
        "the registration is not known",
    )
    .only("idtoken-operator"),
    row(
        WEBHOOK,
        "watch",
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        Work::RestoredBundle,
        "a wiped caBundle stays away",
    )
    .only("idtoken-operator"),
    row(
        WEBHOOK,
        "patch",
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        Work::WebhookReady,
        "there is no caBundle",
    )
    .only("idtoken-operator"),
    row(AUTHORITY, "get", "secrets", Work::WebhookReady, "the authority is not known")
        .only("idtoken-operator-webhook-tls"),
    row(AUTHORITY, "update", "secrets", Work::WebhookReady, "the authority is not kept")
        .only("idtoken-operator-webhook-tls"),
    row(AUTHORITY, "create", "secrets", Work::WebhookReadyAlone, "a lost authority does not come back"),
    row(CHECK, "create", "pods", Work::Check, "no pod can be tried"),
    row(CHECK, "create", "idtokenbindings.idtoken.dev", Work::Check, "no binding can be tried"),
];
