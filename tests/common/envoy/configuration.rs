//! Envoy as a service that lets callers in as Cloud Endpoints' proxy does: by jwt_authn, for the audiences of one provider.

#![allow(unreachable_pub)]

use serde_json::{Value, json};

/// A bootstrap that listens on `address`, asks for a token of `provider` and greets whom it lets in. `clusters` are where
/// the provider finds its keys, if it doesn't hold them itself.
pub fn bootstrap(address: (&str, u16), provider: &Value, clusters: &Value) -> Value {
    let jwt_authn = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"provider": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "provider"}}],
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "orders",
        "http_filters": [
            {"name": "envoy.filters.http.jwt_authn", "typed_config": jwt_authn},
            {"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            }},
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": "hello from orders\n"}},
        }]}]},
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
