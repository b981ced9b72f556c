//! The cluster's garbage collector, as far as it matters here, without its controller manager: it would learn of bindings half a
//! minute too late.

use std::{collections::BTreeSet, time::Duration};

use idtoken_operator::api::IdTokenBinding;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Preconditions},
};
use tokio::time::sleep;

/// Deletes the Secrets of bindings that are no more, until it is aborted.
pub async fn collect(client: Client) {
    loop {
        // While the API server is away nothing is collected.
        let _ = sweep(&client).await;
        sleep(Duration::from_millis(500)).await;
    }
}

async fn sweep(client: &Client) -> kube::Result<()> {
    let ours = ListParams::default().fields("type=idtoken.dev/id-token");
    let secrets = Api::<Secret>::all(client.clone()).list(&ours).await?;
    // Afterwards: whoever owned one of them then is here now, or gone for good.
    let bindings = Api::<IdTokenBinding>::all(client.clone()).list(&ListParams::default()).await?;
    let living: BTreeSet<_> = bindings.into_iter().map(|binding| binding.metadata.uid.unwrap()).collect();
    for metadata in secrets.into_iter().map(|secret| secret.metadata) {
        if metadata.owner_references.unwrap().iter().any(|owner| living.contains(&owner.uid)) {
            continue;
        }
        let seen = Preconditions { uid: metadata.uid, resource_version: metadata.resource_version };
        let params = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
        let api = Api::<Secret>::namespaced(client.clone(), &metadata.namespace.unwrap());
        api.delete(&metadata.name.unwrap(), &params).await?;
    }
    Ok(())
}
