//! Envoy as a service that lets callers in as Cloud Endpoints' proxy does: by jwt_authn, at each path for the audiences of
//! one provider.

#![allow(unreachable_pub)]

use serde_json::{Value, json};

/// A bootstrap that listens on `address`, asks at each path for a token of that path's provider and greets whom it lets in.
/// Of paths that begin alike the longest comes first. `clusters` are where providers find their keys, if they don't hold
/// them themselves.
pub fn bootstrap(address: (&str, u16), providers: &[(String, Value)], clusters: &Value) -> Value {
    let jwt_authn = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": Value::Object(providers.iter().cloned().collect()),
        "rules": providers.iter().map(|(path, _)| json!({
            "match": {"prefix": path}, "requires": {"provider_name": path},
        })).collect::<Vec<_>>(),
    });
    // A path that nobody guards leads nowhere.
    let routes: Vec<_> = providers
        .iter()
        .map(|(path, _)| {
            json!({
                "match": {"prefix": path},
                "direct_response": {"status": 200, "body": {"inline_string": "hello from orders\n"}},
            })
        })
        .collect();
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "orders",
        "http_filters": [
            {"name": "envoy.filters.http.jwt_authn", "typed_config": jwt_authn},
            {"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            }},
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    });
    json!({"static_resources": {
        "listeners": [{
            "name": "http",
            "address": socket(address.0, address.1),
            // Two that listen on one port would share the callers, silently.
            "enable_reuse_port": false,
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
        }],
        "clusters": clusters,
    }})
}

/// An address in Envoy's form.
pub fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}
