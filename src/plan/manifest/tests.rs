use super::*;

const BINDING: &str = "
apiVersion: idtoken.dev/v1alpha1
kind: IdTokenBinding
metadata: {name: orders, namespace: shop}
spec:
  audience: https://orders.example.com
  source: {serviceAccountKey: {secretRef: {name: caller-key, key: key.json}}}
";

const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: caller-key, labels: {idtoken.dev/credential: \"true\"}}
data: {a: c2VjcmV0LWE=, b: c2VjcmV0LWI=}
stringData: {b: plain}
";

fn parse(documents: &[&str]) -> Result<Manifest, ManifestError> {
    Manifest::parse(&documents.join("\n---\n"))
}

fn refused(documents: &[&str]) -> String {
    parse(documents).err().expect("it should be refused").to_string()
}

/// The binding with another spec.
fn with_spec(spec: &str) -> String {
    format!(
        "apiVersion: idtoken.dev/v1alpha1\nkind: IdTokenBinding\nmetadata: {{name: orders}}\nspec: {spec}\n"
    )
}

#[test]
fn a_binding_its_secrets_and_accounts_are_found() {
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app, namespace: shop, uid: u1}\n";
    let grant = "apiVersion: idtoken.dev/v1alpha1\nkind: IdTokenGrant\nmetadata: {name: any}\n";
    let manifest = parse(&["# nothing", grant, SECRET, BINDING, account]).unwrap();
    assert_eq!((manifest.namespace(), manifest.document), ("shop", 3));
    assert_eq!(manifest.binding.spec.audience, "https://orders.example.com");
    assert_eq!(manifest.binding.spec.refresh.at_lifetime_percent, 60, "defaults are the CRD's");
    let secret = &manifest.secrets["caller-key"];
    assert_eq!((secret.document, &secret.data["a"][..]), (2, &b"secret-a"[..]));
    assert_eq!(secret.data["b"], b"plain", "stringData wins, as in the cluster");
    assert_eq!(secret.metadata.labels.as_ref().unwrap()["idtoken.dev/credential"], "true");
    assert_eq!(manifest.accounts["app"].uid.as_deref(), Some("u1"));
    assert_eq!(manifest.accounts["app"].namespace.as_deref(), Some("shop"));
}

#[test]
fn what_kubectl_prints_is_taken_as_it_is() {
    let list = r#"{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "idtoken.dev/v1alpha1", "kind": "IdTokenBinding",
         "metadata": {"name": "orders", "namespace": "shop", "managedFields": [{"manager": "x"}]},
         "spec": {"audience": "a", "source": {"metadataServer": {}, "impersonation": null},
                  "secret": {"name": "", "key": "id_token", "authorizationKey": ""}, "refresh": {"atLifetimePercent": 60}},
         "status": {"observedGeneration": 1}},
        {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": {"a": "c2Vj\ncmV0"},
         "metadata": {"name": "s", "namespace": "shop", "resourceVersion": "7"}}
    ]}"#;
    let manifest = parse(&[list]).unwrap();
    assert_eq!(manifest.binding.spec.source.metadata_server, Some(crate::api::binding::MetadataServer {}));
    assert_eq!(manifest.secrets["s"].data["a"], b"secret");
    assert_eq!(manifest.secrets["s"].metadata.resource_version.as_deref(), Some("7"));
}

#[test]
fn without_a_namespace_everything_is_in_default() {
    let manifest = parse(&[&with_spec("{audience: a, source: {metadataServer: {}}}"), SECRET]).unwrap();
    assert_eq!(manifest.namespace(), "default");
}

#[test]
fn every_refusal_names_document_object_and_field() {
    let secret = |rest: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{rest}\n");
    let other = SECRET.replace("{name: caller-key,", "{name: caller-key, namespace: bank,");
    let table: [(&[&str], &str); 18] = [
        (&[""], "there is no IdTokenBinding in it"),
        (&[SECRET], "there is no IdTokenBinding in it"),
        (
            &[BINDING, BINDING],
            "document 2 (IdTokenBinding orders): is a second binding, after that of document 1: leave one",
        ),
        (
            &[BINDING, "a: [b"],
            "document 2: is not readable as YAML at line 11 column 1: look for brackets, quotes, indentation and tags",
        ),
        (
            &["eyJhbGciOiJub25lIn0.e30."],
            "document 1, kind: is missing: write an IdTokenBinding (idtoken.dev/v1alpha1), a Secret or a ServiceAccount (v1)",
        ),
        (
            &[BINDING, "kind: Secret"],
            "document 2 (Secret), apiVersion: is missing: write an IdTokenBinding (idtoken.dev/v1alpha1), a Secret or a ServiceAccount (v1)",
        ),
        (
            &[BINDING, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}"],
            "document 2 (Deployment d), kind: Deployment of apps/v1 has no use here: write an IdTokenBinding (idtoken.dev/v1alpha1), a Secret or a ServiceAccount (v1)",
        ),
        (
            &["apiVersion: idtoken.dev/v1alpha1\nkind: IdTokenBinding"],
            "document 1 (IdTokenBinding), metadata.name: is missing",
        ),
        (
            &[&format!("{BINDING}\nspecs: {{}}")],
            "document 1 (IdTokenBinding orders), specs: there is no such field",
        ),
        (
            &[BINDING, SECRET, SECRET],
            "document 3 (Secret caller-key), metadata.name: an earlier Secret has the same name",
        ),
        (
            &[BINDING, &other],
            "document 2 (Secret caller-key), metadata.namespace: is not shop, where the binding is: a binding uses what is in its own namespace",
        ),
        (
            &[BINDING, &secret("data: {key.json: 'no base64'}")],
            "document 2 (Secret s), data.key.json: is not base64; stringData takes a value as it is",
        ),
        (
            &[BINDING, &secret("stringData: {password: 12345}")],
            "document 2 (Secret s), stringData.password: must be a text: put it in quotes",
        ),
        (&[BINDING, &secret("data: text")], "document 2 (Secret s), data: must be a map of texts"),
        (
            &[
                BINDING,
                "apiVersion: v1\nkind: Secret\nmetadata: {name: s, labels: {idtoken.dev/credential: true}}",
            ],
            "document 2 (Secret s), metadata.labels.idtoken.dev/credential: must be a text: put it in quotes",
        ),
        (
            &[BINDING, "apiVersion: v1\nkind: Secret\nmetadata: {name: 7}"],
            "document 2 (Secret), metadata.name: must be a text that is not empty",
        ),
        (
            &["apiVersion: idtoken.dev/v1alpha1\nkind: IdTokenBinding\nmetadata: {name: orders}"],
            "document 1 (IdTokenBinding orders), spec: is missing",
        ),
        (&[&with_spec("[]")], "document 1 (IdTokenBinding orders), spec: must be an object"),
    ];
    for (documents, expected) in table {
        assert_eq!(refused(documents), expected);
    }
}

#[test]
fn what_the_api_server_would_refuse_is_refused() {
    let secret = |rest: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\n{rest}");
    let named = |name: &str, secret: &str| {
        BINDING
            .replace("name: orders", &format!("name: {name}"))
            .replace("  source:", &format!("  secret: {secret}\n  source:"))
    };
    let long = "a".repeat(246);
    let subdomain = "must have lower-case letters, digits, '-' and '.' only, at most 253";
    let key = "must have letters, digits, '-', '_' and '.' only, and not begin with '..'";
    for (document, expected) in [
        (named("A b", "{}"), format!("(IdTokenBinding A b), metadata.name: {subdomain}")),
        (
            BINDING.replace("namespace: shop", "namespace: a.b"),
            "(IdTokenBinding orders), metadata.namespace: must have lower-case letters, digits and '-' only, at most 63".to_owned(),
        ),
        (named("orders", "{name: A B}"), format!("(IdTokenBinding orders), spec.secret.name: {subdomain}")),
        (
            named(&long, "{}"),
            format!("(IdTokenBinding {long}), metadata.name: is longer than 245 characters: set spec.secret.name"),
        ),
        (named("orders", "{key: ..data}"), format!("(IdTokenBinding orders), spec.secret.key: {key}")),
        (
            named("orders", "{authorizationKey: a/b}"),
            format!("(IdTokenBinding orders), spec.secret.authorizationKey: {key}"),
        ),
        (
            named("orders", "{key: a, authorizationKey: a}"),
            "(IdTokenBinding orders), spec.secret.authorizationKey: must differ from spec.secret.key".to_owned(),
        ),
        (secret("stringData: {a b: c}"), format!("(Secret s), data.a b: {key}")),
        (secret("stringData: {a: b, a: c}"), "(Secret s), stringData.a: is there twice: leave one".to_owned()),
        (
            secret("kind: Secret"),
            "(Secret s), kind: is there twice: leave one".to_owned(),
        ),
        (
            "items: [{spec: {a: 1, a: 1}}]\nkind: List".to_owned(),
            "(List), items[0].spec.a: is there twice: leave one".to_owned(),
        ),
    ] {
        assert_eq!(refused(&[&document]), format!("document 1 {expected}"));
    }
    assert!(parse(&[&named(&long, "{name: short}")]).is_ok());
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_text() {
    assert_eq!(parse(&[&format!("\u{feff}{}", BINDING.trim_start())]).unwrap().namespace(), "shop");
}

#[test]
fn a_spec_is_held_against_the_crds_schema() {
    let long = format!("{{audience: {}, source: {{metadataServer: {{}}}}}}", "a".repeat(2049));
    let source = |rest: &str| format!("{{audience: a, source: {{metadataServer: {{}}}}, {rest}}}");
    let table: [(&str, &str); 11] = [
        ("{}", "spec.audience: is missing"),
        ("{audience: null, source: {}}", "spec.audience: is missing"),
        ("{audience: a}", "spec.source: is missing"),
        ("{audience: 7, source: {}}", "spec.audience: must be a text: put it in quotes"),
        (&long, "spec.audience: has 2049 characters: 1 to 2048 are allowed"),
        (
            "{audience: a, source: {impersonation: {serviceAcount: x}}}",
            "spec.source.impersonation.serviceAccount: is missing",
        ),
        (
            "{audience: a, source: {impersonation: {serviceAccount: x, delegate: [y]}}}",
            "spec.source.impersonation.delegate: there is no such field; there are: delegates, serviceAccount",
        ),
        (
            "{audience: a, source: {impersonation: {serviceAccount: x, delegates: y}}}",
            "spec.source.impersonation.delegates: must be a list",
        ),
        (&source("suspend: 'no'"), "spec.suspend: must be true or false"),
        (&source("refresh: {atLifetimePercent: 95}"), "spec.refresh.atLifetimePercent: must be 20 to 90"),
        (
            &source("refresh: {atLifetimePercent: 6.5}"),
            "spec.refresh.atLifetimePercent: must be a whole number",
        ),
    ];
    for (spec, expected) in table {
        let expected = format!("document 1 (IdTokenBinding orders), {expected}");
        assert_eq!(refused(&[&with_spec(spec)]), expected);
    }
    for good in [source("secret: {labels: {team: orders}}"), source("refresh: {atLifetimePercent: 20}")] {
        assert!(parse(&[&with_spec(&good)]).is_ok(), "{good}");
    }
    let labels = refused(&[&with_spec(&source("secret: {labels: {team: 7}}"))]);
    assert!(labels.ends_with("spec.secret.labels.team: must be a text: put it in quotes"), "{labels}");
}

#[test]
fn no_refusal_quotes_what_may_be_a_credential() {
    let tagged = ["bool", "int", "float", "null"].map(|tag| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{a: !!{tag} hunter2hunter2}}"
        )
    });
    for secret in tagged.iter().map(String::as_str).chain([
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: hunter2hunter2, a: b}",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: hunter2hunter2!}",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: hunter2hunter2",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: [hunter2hunter2]}",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: !hunter2hunter2 b}",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: 'hunter2hunter2",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData:\n  a: hunter2hunter2: x\n",
        "stringData: {a: hunter2hunter2}",
    ]) {
        let error = parse(&[BINDING, secret]).err().unwrap();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}
