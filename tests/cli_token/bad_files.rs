//! Files that are not as they should be: each has its message, and none is quoted.

use super::{Bench, mint::binding};

const KEY_SOURCE: &str = "{serviceAccountKey: {secretRef: {name: caller-key, key: key.json}}}";

/// A Secret `caller-key`, with further fields.
fn secret(rest: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: caller-key, labels: {{idtoken.dev/credential: \"true\"}}}}\n{rest}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_file_is_told_by_document_and_field() {
    let bench = Bench::start().await;
    let one = binding("{metadataServer: {}}");
    let keyed = |rest: &str| format!("{}{rest}", binding(KEY_SOURCE));
    let table = [
        ("hunter2: [".to_owned(), "standard input: document 1: is not readable as YAML at line "),
        ("hunter2".to_owned(), "standard input: document 1, kind: is missing: "),
        (String::new(), "standard input: there is no IdTokenBinding in it\n"),
        (secret(""), "standard input: there is no IdTokenBinding in it\n"),
        (
            format!("{one}---\n{one}"),
            "standard input: document 2 (IdTokenBinding orders): is a second binding, after that of document 1: leave one\n",
        ),
        (
            binding("{metadataServer: {}, impersonation: {serviceAccount: hunter2}}"),
            "standard input: document 1: InvalidSpec: spec.source \"{…}\" is not valid: set exactly one source\n",
        ),
        (
            binding("{metadataserver: {}}"),
            "standard input: document 1 (IdTokenBinding orders), spec.source.metadataserver: there is no such field; there are: ",
        ),
        (
            keyed(&secret("data: {key.json: 'hunter2!'}")),
            "standard input: document 2 (Secret caller-key), data.key.json: is not base64; stringData takes a value as it is\n",
        ),
    ];
    for (text, expected) in table {
        let ended = bench.mint(&text, &["--raw"]).await;
        assert_eq!((ended.code, ended.out.as_str()), (1, ""), "{text}");
        assert!(ended.err.starts_with(&format!("error: {expected}")), "{}", ended.err);
        assert!(!ended.err.contains("hunter2"), "{}", ended.err);
    }
}
