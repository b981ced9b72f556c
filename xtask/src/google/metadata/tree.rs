//! What the metadata server knows, as paths with values, and its two views of a directory.

use std::collections::BTreeSet;

use aws_lc_rs::digest;
use serde_json::{Value, json};

use super::super::keys::hex;
use super::super::state::Simulator;
use super::Attached;

/// A value of the tree.
pub(super) enum Leaf {
    Text(String),
    Lines(Vec<String>),
    Number(u64),
    /// Made on request; listed, but no part of recursive answers.
    Token(Attached),
    /// As [`Leaf::Token`].
    Identity(Attached),
}

/// Every value with its path.
pub(super) fn leaves(sim: &Simulator) -> Vec<(String, Leaf)> {
    let options = &sim.options;
    let number = options.project_number;
    let mut leaves = vec![
        ("instance/hostname", Leaf::Text(format!("{INSTANCE_NAME}.c.{}.internal", options.project_id))),
        ("instance/id", Leaf::Number(INSTANCE_ID)),
        ("instance/name", Leaf::Text(INSTANCE_NAME.into())),
        ("instance/zone", Leaf::Text(format!("projects/{number}/zones/{ZONE}"))),
        ("project/numeric-project-id", Leaf::Number(number)),
        ("project/project-id", Leaf::Text(options.project_id.clone())),
    ];
    if let Some(cluster) = &options.cluster {
        let uid = hex(digest::digest(&digest::SHA256, cluster.name.as_bytes()).as_ref());
        leaves.push(("instance/attributes/cluster-location", Leaf::Text(cluster.location.clone())));
        leaves.push(("instance/attributes/cluster-name", Leaf::Text(cluster.name.clone())));
        leaves.push(("instance/attributes/cluster-uid", Leaf::Text(uid)));
    }
    if let Some(domain) = &options.universe_domain {
        leaves.push(("universe/universe-domain", Leaf::Text(domain.clone())));
    }
    let mut leaves: Vec<_> = leaves.into_iter().map(|(path, leaf)| (format!("{ROOT}{path}"), leaf)).collect();
    if let Some(account) = Attached::of(sim) {
        for name in ["default", &account.email] {
            leaves.extend(account_leaves(name, &account, &options.scopes));
        }
    }
    leaves
}

fn account_leaves(name: &str, account: &Attached, scopes: &[String]) -> [(String, Leaf); 5] {
    [
        ("aliases", Leaf::Lines(vec!["default".into()])),
        ("email", Leaf::Text(account.email.clone())),
        ("identity", Leaf::Identity(account.clone())),
        ("scopes", Leaf::Lines(scopes.to_vec())),
        ("token", Leaf::Token(account.clone())),
    ]
    .map(|(leaf, value)| (format!("{ACCOUNTS_PATH}{name}/{leaf}"), value))
}

/// The leaves under a directory, with their paths from there.
pub(super) fn below<'a>(leaves: &'a [(String, Leaf)], directory: &str) -> Vec<(&'a str, &'a Leaf)> {
    let inside = |path: &'a str| path.strip_prefix(directory)?.strip_prefix('/');
    leaves.iter().filter_map(|(path, leaf)| Some((inside(path)?, leaf))).collect()
}

/// One name a line; directories end in a slash.
pub(super) fn listing(below: &[(&str, &Leaf)]) -> String {
    let names: BTreeSet<String> = below
        .iter()
        .map(|(path, _)| match path.split_once('/') {
            Some((directory, _)) => format!("{directory}/\n"),
            None => format!("{path}\n"),
        })
        .collect();
    names.into_iter().collect()
}

/// A directory as the JSON of `?recursive=true`.
pub(super) fn json_tree(below: &[(&str, &Leaf)]) -> Value {
    let mut root = json!({});
    for (path, leaf) in below {
        if let Some(value) = json_value(leaf) {
            let place = path.split('/').fold(&mut root, |here, segment| &mut here[json_name(segment)]);
            *place = value;
        }
    }
    root
}

/// A value in JSON, if it has one.
pub(super) fn json_value(leaf: &Leaf) -> Option<Value> {
    match leaf {
        Leaf::Text(value) => Some(json!(value)),
        Leaf::Lines(lines) => Some(json!(lines)),
        Leaf::Number(number) => Some(json!(number)),
        Leaf::Token(_) | Leaf::Identity(_) => None,
    }
}

/// The server's own names are in camel case in JSON; names of attributes and accounts stay.
fn json_name(segment: &str) -> &str {
    match segment {
        "service-accounts" => "serviceAccounts",
        "project-id" => "projectId",
        "numeric-project-id" => "numericProjectId",
        "universe-domain" => "universeDomain",
        other => other,
    }
}

pub(super) const INSTANCE_NAME: &str = "demo-instance";

pub(super) const INSTANCE_ID: u64 = 4_520_031_799_277_581_759;

pub(super) const ZONE: &str = "europe-west1-b";

const ROOT: &str = "/computeMetadata/v1/";

pub(super) const ACCOUNTS_PATH: &str = "/computeMetadata/v1/instance/service-accounts/";
