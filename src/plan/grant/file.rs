//! Grants from a file, for installations that may not watch the cluster. What the CRD's schema and its CEL rules see to elsewhere is
//! seen to here.

use std::{collections::BTreeSet, fmt};

use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::pattern::{AudiencePattern, IdentityPattern};
use crate::{
    api::{
        IdTokenGrant,
        grant::{IdTokenGrantSpec, Namespaces, TokenKind},
    },
    plan::source::ServiceAccountEmail,
};

/// Why a file holds no grants that can be used: where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// Which document of the file, from 1.
    pub document: usize,
    /// Its `metadata.name`, where it has one.
    pub name: Option<String>,
    /// The field, such as `spec.audiences[0]`; empty: the document itself.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}", self.document)?;
        if let Some(name) = &self.name {
            write!(f, " ({name})")?;
        }
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for FileError {}

/// Reads IdTokenGrants: YAML documents, each a grant or a list of grants. An empty file has none, and so grants nothing.
pub fn parse(text: &str) -> Result<Vec<IdTokenGrant>, FileError> {
    let mut grants = Vec::new();
    let mut names = BTreeSet::new();
    for (number, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let at = |name: &Value, Wrong { field, problem }| FileError {
            document: number + 1,
            name: name.as_str().map(str::to_owned),
            field,
            problem,
        };
        let value = Value::deserialize(document)
            .map_err(|error| at(&Value::Null, wrong("", format!("not readable: {error}"))))?;
        let values = match value {
            Value::Null => Vec::new(),
            Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            let name = &value["metadata"]["name"];
            let grant = grant(&value).map_err(|wrong| at(name, wrong))?;
            if !names.insert(name.to_string()) {
                return Err(at(name, wrong("metadata.name", "an earlier grant has the same name")));
            }
            grants.push(grant);
        }
    }
    Ok(grants)
}

struct Wrong {
    field: String,
    problem: String,
}

fn wrong(field: impl Into<String>, problem: impl Into<String>) -> Wrong {
    Wrong { field: field.into(), problem: problem.into() }
}

fn grant(value: &Value) -> Result<IdTokenGrant, Wrong> {
    let object = fields(value, "", &["apiVersion", "kind", "metadata", "spec"])?;
    for (field, expected) in [("apiVersion", "idtoken.dev/v1alpha1"), ("kind", "IdTokenGrant")] {
        if object.get(field).and_then(Value::as_str) != Some(expected) {
            return Err(wrong(field, format!("must be {expected}")));
        }
    }
    let name = object.get("metadata").and_then(|metadata| metadata["name"].as_str()).unwrap_or_default();
    if name.is_empty() {
        return Err(wrong("metadata.name", "is missing"));
    }
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let spec = fields(spec, "spec", &["namespaces", "identities", "audiences", "delegates", "kinds"])?;
    let namespaces = namespaces(spec.get("namespaces"))?;
    let all = namespaces.all.is_some();
    let identities = identities(spec.get("identities"), all)?;
    let audiences = audiences(spec.get("audiences"), all, &identities)?;
    let (delegates, kinds) = (delegates(spec.get("delegates"))?, kinds(spec.get("kinds"))?);
    Ok(IdTokenGrant::new(name, IdTokenGrantSpec { namespaces, identities, audiences, delegates, kinds }))
}

fn namespaces(value: Option<&Value>) -> Result<Namespaces, Wrong> {
    const PATH: &str = "spec.namespaces";
    let members = fields(value.unwrap_or(&Value::Null), PATH, &["names", "selector", "all"])?;
    let there = |name: &str| members.get(name).filter(|value| !value.is_null());
    if there("selector").is_some() {
        return Err(wrong(
            "spec.namespaces.selector",
            "labels of namespaces are not read where grants come from a file: write names, or all: true",
        ));
    }
    match (there("names"), there("all")) {
        (Some(names), None) => {
            let names = texts(Some(names), "spec.namespaces.names", 256, 63)?;
            Ok(Namespaces { names: Some(names), ..Namespaces::default() })
        }
        (None, Some(Value::Bool(true))) => Ok(Namespaces { all: Some(true), ..Namespaces::default() }),
        (None, Some(_)) => Err(wrong("spec.namespaces.all", "may only be true: leave it out instead")),
        _ => Err(wrong(PATH, "exactly one of names and all must be set")),
    }
}

fn identities(value: Option<&Value>, all: bool) -> Result<Vec<String>, Wrong> {
    const PATH: &str = "spec.identities";
    let identities = texts(value, PATH, 64, 254)?;
    for (index, identity) in identities.iter().enumerate() {
        let problem = match IdentityPattern::parse(identity) {
            Some(IdentityPattern::Any) if !all => "'*' is allowed only together with namespaces.all: true",
            Some(IdentityPattern::Any | IdentityPattern::Domain(_) | IdentityPattern::Exact("operator")) => {
                continue;
            }
            Some(IdentityPattern::Exact(email)) if ServiceAccountEmail::parse(email).is_ok() => continue,
            _ => {
                "must be the e-mail address of a Google service account, *@PROJECT.iam.gserviceaccount.com, 'operator' or '*'"
            }
        };
        return Err(wrong(format!("{PATH}[{index}]"), format!("{identity:?} {problem}")));
    }
    Ok(identities)
}

fn audiences(value: Option<&Value>, all: bool, identities: &[String]) -> Result<Vec<String>, Wrong> {
    const PATH: &str = "spec.audiences";
    let audiences = texts(value, PATH, 64, 2048)?;
    let one_exact = identities.len() == 1 && !identities[0].contains('*');
    for (index, audience) in audiences.iter().enumerate() {
        let problem = match AudiencePattern::parse(audience) {
            Some(AudiencePattern::Any) if !all && !one_exact => {
                "is allowed only together with namespaces.all: true or a single exact identity"
            }
            Some(_) => continue,
            None => "must be exact, scheme://*.suffix, scheme://*.suffix/*, scheme://host/prefix* or '*'",
        };
        return Err(wrong(format!("{PATH}[{index}]"), format!("{audience:?} {problem}")));
    }
    Ok(audiences)
}

fn delegates(value: Option<&Value>) -> Result<bool, Wrong> {
    match value {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(allowed)) => Ok(*allowed),
        Some(_) => Err(wrong("spec.delegates", "must be true or false")),
    }
}

fn kinds(value: Option<&Value>) -> Result<Vec<TokenKind>, Wrong> {
    const PATH: &str = "spec.kinds";
    if matches!(value, None | Some(Value::Null)) {
        return Ok(vec![TokenKind::IdToken]);
    }
    let mut kinds = Vec::new();
    for (index, text) in texts(value, PATH, 2, 16)?.into_iter().enumerate() {
        let kind = match text.as_str() {
            "IdToken" => TokenKind::IdToken,
            "SignedJwt" => TokenKind::SignedJwt,
            _ => return Err(wrong(format!("{PATH}[{index}]"), "must be IdToken or SignedJwt")),
        };
        if kinds.contains(&kind) {
            return Err(wrong(format!("{PATH}[{index}]"), format!("{text} is there twice")));
        }
        kinds.push(kind);
    }
    Ok(kinds)
}

/// The members of a map that has no others than `known`: a misspelt field must not be taken for one that is left out.
fn fields<'v>(value: &'v Value, path: &str, known: &[&str]) -> Result<&'v Map<String, Value>, Wrong> {
    let Value::Object(map) = value else { return Err(wrong(path, "is missing, or is no map")) };
    match map.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(map),
        Some(key) => {
            let field = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            Err(wrong(field, format!("is not known here; there are: {}", known.join(", "))))
        }
    }
}

/// A list of 1 to `most` texts of 1 to `longest` characters.
fn texts(value: Option<&Value>, path: &str, most: usize, longest: usize) -> Result<Vec<String>, Wrong> {
    let Some(Value::Array(items)) = value else { return Err(wrong(path, "is missing, or is no list")) };
    if items.is_empty() || items.len() > most {
        return Err(wrong(path, format!("must have 1 to {most} items")));
    }
    let text = |(index, item): (usize, &Value)| match item.as_str() {
        Some(text) if (1..=longest).contains(&text.chars().count()) => Ok(text.to_owned()),
        _ => Err(wrong(format!("{path}[{index}]"), format!("must be a text of 1 to {longest} characters"))),
    };
    items.iter().enumerate().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: &str = "
apiVersion: idtoken.dev/v1alpha1
kind: IdTokenGrant
metadata: {name: shop, labels: {team: shop}}
spec:
  namespaces: {names: [shop]}
  identities: [caller@project.iam.gserviceaccount.com]
  audiences: ['https://*.a.run.app']
";

    #[test]
    fn documents_and_lists_are_read_and_nothing_is_nothing() {
        let all = "- {apiVersion: idtoken.dev/v1alpha1, kind: IdTokenGrant, metadata: {name: all}, \
                   spec: {namespaces: {all: true}, identities: ['*'], audiences: ['*'], delegates: true, kinds: [IdToken, SignedJwt]}}";
        let grants = parse(&format!("# ours\n---{SHOP}---\n---\n{all}\n")).unwrap();
        assert_eq!(grants.len(), 2);
        assert_eq!(grants[0].metadata.name.as_deref(), Some("shop"));
        assert_eq!(
            grants[0].spec,
            IdTokenGrantSpec {
                namespaces: Namespaces { names: Some(vec!["shop".into()]), ..Namespaces::default() },
                identities: vec!["caller@project.iam.gserviceaccount.com".into()],
                audiences: vec!["https://*.a.run.app".into()],
                delegates: false,
                kinds: vec![TokenKind::IdToken],
            }
        );
        assert_eq!(grants[1].spec.namespaces, Namespaces { all: Some(true), ..Namespaces::default() });
        assert_eq!(grants[1].spec.kinds, [TokenKind::IdToken, TokenKind::SignedJwt]);
        for nothing in ["", "---\n", "# no grants\n", "[]"] {
            assert_eq!(parse(nothing), Ok(vec![]), "{nothing:?}");
        }
    }

    #[test]
    fn document_name_and_field_are_told() {
        let second = |from: &str, to: &str| {
            let other = SHOP.replace("name: shop", "name: other");
            assert!(other.contains(from), "{from}");
            let other = other.replace(from, to);
            parse(&format!("{SHOP}---{other}")).unwrap_err().to_string()
        };
        for (from, to, expected) in [
            (
                "audiences:",
                "audience:",
                "document 2 (other), spec.audience: is not known here; there are: namespaces, identities, audiences, delegates, kinds",
            ),
            (
                "names: [shop]",
                "selector: {matchLabels: {a: b}}",
                "document 2 (other), spec.namespaces.selector: labels of namespaces are not read where grants come from a file: write names, or all: true",
            ),
            (
                "https://*.a",
                "https://x*.a",
                "document 2 (other), spec.audiences[0]: \"https://x*.a.run.app\" must be exact, scheme://*.suffix, scheme://*.suffix/*, scheme://host/prefix* or '*'",
            ),
            (
                "name: other",
                "name: shop",
                "document 2 (shop), metadata.name: an earlier grant has the same name",
            ),
            ("name: other, ", "", "document 2, metadata.name: is missing"),
            ("v1alpha1", "v1", "document 2 (other), apiVersion: must be idtoken.dev/v1alpha1"),
            ("kind: IdTokenGrant", "kind: IdTokenBinding", "document 2 (other), kind: must be IdTokenGrant"),
        ] {
            assert_eq!(second(from, to), expected);
        }
        let torn = parse("spec: {").unwrap_err().to_string();
        assert!(torn.starts_with("document 1: not readable: "), "{torn}");
        assert_eq!(parse("text").unwrap_err().to_string(), "document 1: is missing, or is no map");
    }
}
