//! A Kubernetes ServiceAccount as source: its token is exchanged for a federated one, which gets the ID token of a Google
//! service account in one hop. Google's IAM itself decides who may be whom.

mod cluster_pool;

use std::{sync::Arc, time::Duration};

use self::cluster_pool::ClusterPools;
use super::{
    Error,
    credentials::Credentials,
    endpoints::Endpoints,
    http::Http,
    iam::{Caller, Iam, Target},
    mint::Minted,
    operator::AccessToken,
    shared::{Keyed, Shared},
    sts::{Exchange, Failure, Refusal, Sts},
};
use crate::{
    api::Reason,
    plan::{
        Problem,
        credential::Account,
        source::{Audience, ProviderName, ServiceAccountEmail},
    },
};

/// Workload identity federation.
#[derive(Debug)]
pub(super) struct Federation {
    sts: Sts,
    iam: Iam,
    pools: ClusterPools,
    tokens: Keyed<Subject, Shared<Arc<AccessToken>>>,
}

/// What a binding asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// The ServiceAccount.
    pub(super) name: &'a str,
    /// Whom it impersonates; `None`: whom its annotation names.
    pub(super) google_service_account: Option<&'a ServiceAccountEmail>,
    /// Who vouches for it; `None`: this GKE cluster's own pool.
    pub(super) provider: Option<&'a ProviderName>,
}

/// Whose a federated token is. An account made anew under an old name has another UID and is somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Subject {
    namespace: String,
    name: String,
    uid: String,
    provider: Option<ProviderName>,
}

/// Who vouches for the account, in the words of those who are asked.
struct Trust {
    /// `aud` of the account's token.
    subject_audience: String,
    /// The Security Token Service's name of the provider.
    exchange_audience: String,
    /// What the account is as an IAM member.
    member: String,
    /// `google.subject`, where the provider maps it as Google's documentation says.
    subject: String,
}

/// The account as a principal that calls Google.
struct Principal<'a, C> {
    sts: &'a Sts,
    token: Arc<Shared<Arc<AccessToken>>>,
    account: &'a Account,
    trust: &'a Trust,
    credentials: &'a C,
}

impl Federation {
    pub(super) fn new(http: &Http, endpoints: &Endpoints) -> Self {
        Self {
            sts: Sts::new(http.clone(), endpoints.sts.clone()),
            iam: Iam::new(http.clone(), endpoints.iam_credentials.clone()),
            pools: ClusterPools::new(http, endpoints),
            tokens: Keyed::new(),
        }
    }

    /// An ID token of the Google service account behind the wanted Kubernetes one.
    pub(super) async fn mint(
        &self,
        wanted: Wanted<'_>,
        audience: &Audience,
        credentials: &impl Credentials,
    ) -> Result<Minted, Error> {
        let account = &credentials.account(wanted.name).await?;
        let target = &account.google_service_account(wanted.google_service_account)?;
        let trust = &self.trust(account, wanted.provider).await?;
        let Account { namespace, name, uid, .. } = account.clone();
        let token = self.tokens.of(&Subject { namespace, name, uid, provider: wanted.provider.cloned() });
        let principal = Principal { sts: &self.sts, token, account, trust, credentials };
        let mend = format!(
            "check that {target} exists and let the ServiceAccount be it: gcloud iam service-accounts add-iam-policy-binding {target} \
             --role=roles/iam.workloadIdentityUser --member='{}'",
            trust.member
        );
        let asked = Target { account: target, delegates: &[], mend: &mend };
        let token = self.iam.id_token(&principal, asked, audience).await;
        if token.as_ref().is_err_and(is_forbidden) {
            principal.forget_older().await;
        }
        Ok(Minted { token: token?, email: Some(target.to_string()), credential: Some(account.version()) })
    }

    async fn trust(&self, account: &Account, provider: Option<&ProviderName>) -> Result<Trust, Error> {
        let Account { namespace, name, .. } = account;
        if let Some(provider) = provider {
            let subject = format!("system:serviceaccount:{namespace}:{name}");
            return Ok(Trust {
                subject_audience: provider.audience(),
                exchange_audience: provider.audience(),
                member: provider.principal(&subject),
                subject,
            });
        }
        let own = self.pools.own().await?;
        Ok(Trust {
            exchange_audience: format!("identitynamespace:{}:{}", own.pool, own.provider),
            member: format!("serviceAccount:{}[{namespace}/{name}]", own.pool),
            subject: format!("ns/{namespace}/sa/{name}"),
            subject_audience: own.pool,
        })
    }
}

impl<C> Principal<'_, C> {
    /// Drops a federated token that may be older than what somebody mended: the attributes and the conditions of a provider act
    /// when a token is exchanged. The next try, which comes slowly, is then judged by what is true now.
    async fn forget_older(&self) {
        self.token.forget(|held| held.age() > MENDED_SINCE).await;
    }
}

impl<C: Credentials> Principal<'_, C> {
    async fn exchange(&self) -> Result<AccessToken, Error> {
        let Self { account, trust, .. } = self;
        let subject_token = self.credentials.subject_token(account, &trust.subject_audience).await?;
        let exchange = Exchange {
            action: &format!("token exchange for ServiceAccount {}/{}", account.namespace, account.name),
            audience: &trust.exchange_audience,
            subject_token: subject_token.expose(),
            subject_token_type: "urn:ietf:params:oauth:token-type:jwt",
        };
        match self.sts.exchange(&exchange).await {
            Err(Failure::Refused { why: Refusal::SubjectTooLong, detail }) => {
                Err(too_long(exchange.action, &trust.subject, &detail).into())
            }
            result => result.map_err(|failure| failure.into_error(&exchange)),
        }
    }
}

impl<C: Credentials> Caller for Principal<'_, C> {
    async fn access_token(&self) -> Result<Arc<AccessToken>, Error> {
        let fetch = async { self.exchange().await.map(Arc::new) };
        self.token.get(|token, _| token.is_fresh(), fetch).await
    }

    async fn forget(&self, token: &Arc<AccessToken>) {
        self.token.forget(|held| Arc::ptr_eq(held, token)).await;
    }
}

fn is_forbidden(error: &Error) -> bool {
    matches!(error, Error::Denied { detail, .. } if detail.starts_with("HTTP 403"))
}

fn too_long(action: &str, subject: &str, detail: &str) -> Problem {
    Problem::slow(
        Reason::SubjectTooLong,
        format!(
            "{action}: {detail}; its subject {subject} has {} bytes, and workload identity federation takes 127: use a ServiceAccount or a \
             namespace with a shorter name, or map another attribute to google.subject",
            subject.len()
        ),
    )
}

/// So many bindings of one account that are refused at once cost one exchange.
const MENDED_SINCE: Duration = Duration::from_secs(60);
