//! The cluster as the keeper of a binding's own credentials: labelled Secrets and ServiceAccounts of its namespace.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        authentication::v1::SelfSubjectReview,
        core::v1::{Secret, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::OnceCell;
use zeroize::{Zeroize as _, Zeroizing};

use super::{context::Context, secrets, token_request, triggers::Namespaced};
use crate::{
    api::Reason,
    plan::{
        Problem,
        credential::{Account, account_missing, check_label, key_missing, secret_missing, secrets_version},
        secret::Owner,
        source::{SecretKey, Source},
    },
    token::credentials::{Credentials, SecretValues, SubjectToken},
};

/// The credentials in the binding's namespace, and in no other.
pub(super) struct InCluster<'a> {
    client: &'a Client,
    caches: &'a Namespaced,
    own_account: &'a OnceCell<Option<(String, String)>>,
    namespace: &'a str,
}

impl<'a> InCluster<'a> {
    /// Of the binding `owner`.
    pub(super) fn new(ctx: &'a Context, owner: &'a Owner) -> Self {
        Self {
            client: &ctx.client,
            caches: &ctx.caches.namespaced,
            own_account: &ctx.own_account,
            namespace: &owner.namespace,
        }
    }

    /// Which state the credentials of `source` are in, or why they can't be used; `None`: it has none of its own. From the
    /// caches, unless these lack one, or lag behind what is `known` of it.
    pub(super) async fn version(
        &self,
        source: &Source,
        known: Option<&str>,
    ) -> Result<Result<Option<String>, Problem>, secrets::Error> {
        if let Source::KubernetesServiceAccount { name, google_service_account, .. } = source {
            let account = match self.find_account(name).await? {
                Ok(account) => account,
                Err(problem) => return Ok(Err(problem)),
            };
            let version = account.version();
            return Ok(account
                .google_service_account(google_service_account.as_ref())
                .map(|_| Some(version)));
        }
        let names: Vec<&str> = distinct(source.secrets().into_iter());
        if names.is_empty() {
            return Ok(Ok(None));
        }
        let cached: Option<Vec<_>> =
            names.iter().map(|name| self.caches.credentials.get(self.namespace, name)).collect();
        let cached = cached.map(|secrets| secrets_version(secrets.iter().map(|secret| &secret.metadata)));
        if cached.is_some() && (known.is_none() || cached.as_deref() == known) {
            return Ok(Ok(cached));
        }
        let mut live = Vec::new();
        for name in names {
            let Some(secret) = secrets::metadata(self.client, self.namespace, name).await? else {
                return Ok(Err(secret_missing(name)));
            };
            if let Err(problem) = check_label(name, &secret.metadata) {
                return Ok(Err(problem));
            }
            live.push(secret.metadata);
        }
        Ok(Ok(Some(secrets_version(&live))))
    }

    /// The account, from the cache where that has it, else live. One that is gone by now gets no token.
    async fn find_account(&self, name: &str) -> Result<Result<Account, Problem>, secrets::Error> {
        let Some(cache) = &self.caches.accounts else { return Ok(Err(not_served())) };
        if self.is_own(name).await? {
            return Ok(Err(own_account(self.namespace, name)));
        }
        if let Some(object) = cache.get(self.namespace, name) {
            return Ok(Ok(Account::of(&object.metadata)));
        }
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), self.namespace);
        let call = api.get_metadata_opt(name);
        let live = secrets::bounded("get ServiceAccount", self.namespace, name, call).await?;
        Ok(live
            .map(|object| Account::of(&object.metadata))
            .ok_or_else(|| account_missing(self.namespace, name)))
    }
}

impl InCluster<'_> {
    /// Whether the ServiceAccount is the one that this process acts as, which may stand for the operator's own Google identity.
    async fn is_own(&self, name: &str) -> Result<bool, secrets::Error> {
        let own = self.own_account.get_or_try_init(|| async {
            let api = Api::<SelfSubjectReview>::all(self.client.clone());
            let review = SelfSubjectReview::default();
            let params = PostParams::default();
            let answer =
                secrets::bounded("review ServiceAccount", self.namespace, name, api.create(&params, &review));
            let user =
                answer.await?.status.and_then(|status| status.user_info).and_then(|user| user.username);
            let account = user.as_deref().and_then(|user| user.strip_prefix("system:serviceaccount:"));
            Ok(account.and_then(|a| a.split_once(':')).map(|(of, name)| (of.to_owned(), name.to_owned())))
        });
        let own = own.await?.as_ref();
        Ok(own.is_some_and(|(namespace, own)| namespace == self.namespace && own == name))
    }
}

impl Credentials for InCluster<'_> {
    async fn secrets(&self, keys: &[&SecretKey]) -> Result<SecretValues, Problem> {
        let mut read = Read::default();
        let names = distinct(keys.iter().copied());
        for name in &names {
            let secret =
                secrets::read(self.client, self.namespace, name).await.map_err(|e| unavailable(&e))?;
            let secret = read.insert(name, secret.ok_or_else(|| secret_missing(name))?);
            check_label(name, &secret.metadata)?;
        }
        let metadata: Vec<&ObjectMeta> =
            names.iter().filter_map(|name| read.0.get(*name)).map(|s| &s.metadata).collect();
        let version = secrets_version(metadata);
        let value = |at: &&SecretKey| {
            let data = read.0.get(&at.name).and_then(|secret| secret.data.as_ref());
            let value = data.and_then(|data| data.get(&at.key)).ok_or_else(|| key_missing(at))?;
            Ok(Zeroizing::new(value.0.clone()))
        };
        Ok(SecretValues { values: keys.iter().map(value).collect::<Result<_, Problem>>()?, version })
    }

    async fn account(&self, name: &str) -> Result<Account, Problem> {
        self.find_account(name).await.map_err(|e| unavailable(&e))?
    }

    async fn subject_token(&self, account: &Account, audience: &str) -> Result<SubjectToken, Problem> {
        token_request::subject_token(self.client, account, audience).await
    }
}

/// Names of the Secrets, each once, in their order.
fn distinct<'k>(keys: impl Iterator<Item = &'k SecretKey>) -> Vec<&'k str> {
    keys.fold(Vec::new(), |mut names, key| {
        if !names.contains(&key.name.as_str()) {
            names.push(&key.name);
        }
        names
    })
}

/// Secrets by name, whose values are wiped however the reading of them ends.
#[derive(Default)]
struct Read(BTreeMap<String, Secret>);

impl Read {
    fn insert(&mut self, name: &str, secret: Secret) -> &Secret {
        self.0.entry(name.to_owned()).or_insert(secret)
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        let values = self.0.values_mut().filter_map(|secret| secret.data.as_mut());
        values.flat_map(BTreeMap::values_mut).for_each(|value| value.0.zeroize());
    }
}

fn unavailable(error: &secrets::Error) -> Problem {
    Problem::transient(Reason::SecretUnavailable, error.to_string())
}

fn own_account(namespace: &str, name: &str) -> Problem {
    Problem::on_change(
        Reason::SelfImpersonation,
        format!(
            "ServiceAccount {namespace}/{name} is the operator's own, and its Google identity is given to no binding without a grant; use \
             source metadataServer with a grant for identity operator, or another ServiceAccount"
        ),
    )
}

fn not_served() -> Problem {
    Problem::on_change(
        Reason::Unsupported,
        "spec.source.kubernetesServiceAccount is switched off in this installation: the operator has no right to make tokens for \
         ServiceAccounts; install the chart with sources.kubernetesServiceAccount=true (--kubernetes-service-accounts)",
    )
}
