//! The containers: one mount each, and variables that say where the files are.
use std::collections::{BTreeSet, HashSet};

use super::{
    NAME, VOLUME,
    document::{Element, PatchOp, append},
    lenient::{List, Object},
    pod::{Container, Spec},
    request::{CONTAINERS, INJECT, Refusal, Request, file_variable},
    shorten,
    volume::token_path,
};

/// A container of the pod and where it is.
pub(super) struct Target<'a> {
    pointer: String,
    container: &'a Container<'a>,
}

/// The containers and init containers that the request means.
pub(super) fn chosen<'a>(spec: &'a Spec<'a>, request: &Request) -> Result<Vec<Target<'a>>, Refusal> {
    let init = targets("initContainers", &spec.init_containers);
    let mut targets: Vec<_> = init.chain(targets("containers", &spec.containers)).collect();
    if let Some(wanted) = &request.containers {
        // Sets: whoever may create pods may also write tens of thousands of names.
        let known: BTreeSet<_> = targets.iter().map(|target| target.container.name.as_str()).collect();
        if let Some(name) = wanted.iter().find(|name| !known.contains(name.as_str())) {
            let problem = format!("contains {:?}, which is no container of this pod", shorten(name, NAME));
            let names: Vec<_> = targets.iter().map(|target| target.container.name.as_str()).collect();
            let mend = format!("choose from: {}", shorten(&names.join(", "), CHOICE));
            return Err(Refusal::new(CONTAINERS, &wanted.join(","), problem, mend));
        }
        let wanted: BTreeSet<_> = wanted.iter().map(String::as_str).collect();
        targets.retain(|target| wanted.contains(target.container.name.as_str()));
    }
    Ok(targets)
}

/// How much may still be added to a pod, in bytes of its JSON, roughly. A pod of some megabytes with tens of thousands of
/// containers would otherwise make a patch of gigabytes.
pub(super) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(MOST_ADDED)
    }
}

impl Room {
    /// Takes what one container may need; a refusal where that is too much.
    fn take(&mut self, request: &Request, directory: &str) -> Result<(), Refusal> {
        let names: usize = request.bindings.iter().map(String::len).sum();
        let variables = request.bindings.len() + 2;
        let needed = variables * (directory.len() + VARIABLE) + 2 * names;
        self.0 = self.0.checked_sub(needed).ok_or_else(|| {
            Refusal::new(
                INJECT,
                &request.bindings.join(","),
                "would make the pod larger than the API server takes",
                "name fewer bindings, or choose fewer containers by idtoken.dev/containers",
            )
        })?;
        Ok(())
    }
}

/// Adds to one container what it lacks.
pub(super) fn add(
    target: &Target<'_>,
    request: &Request,
    room: &mut Room,
    patch: &mut Vec<PatchOp>,
    warnings: &mut Vec<String>,
) -> Result<(), Refusal> {
    let Target { pointer, container } = target;
    let directory = match mount(container, &request.mount_path) {
        Mount::Present(directory) => directory,
        Mount::Missing => {
            let mount_path = request.mount_path.clone();
            let mount = Element::Mount { name: VOLUME, mount_path, read_only: true };
            append(patch, format!("{pointer}/volumeMounts"), &container.volume_mounts, vec![mount]);
            &request.mount_path
        }
        Mount::Taken => {
            let name = shorten(container.name.as_str(), NAME);
            warnings.push(format!(
                "container {name:?} has a mount of its own at the tokens' path: no tokens there"
            ));
            return Ok(());
        }
    };
    room.take(request, directory)?;
    let present: HashSet<_> = container.env.elements().iter().map(|variable| variable.0.as_str()).collect();
    let missing = variables(&request.bindings, directory)
        .into_iter()
        .filter(|(name, _)| !present.contains(name.as_str()))
        .map(|(name, value)| Element::Variable { name, value })
        .collect();
    append(patch, format!("{pointer}/env"), &container.env, missing);
    Ok(())
}

enum Mount<'a> {
    /// Our volume is mounted here, by an earlier application or by the pod's author.
    Present(&'a str),
    Missing,
    /// Another volume of the author's is mounted where ours would be.
    Taken,
}

fn mount<'a>(container: &'a Container<'_>, path: &str) -> Mount<'a> {
    let mounts = || container.volume_mounts.objects().map(|(_, mount)| mount);
    // A file mounted by subPath is never updated: it does not count.
    let mut whole =
        mounts().filter(|m| m.sub_path.as_str().is_empty() && m.sub_path_expr.as_str().is_empty());
    if let Some(ours) = whole.find(|mount| mount.name.as_str() == VOLUME) {
        return Mount::Present(ours.mount_path.as_str().trim_end_matches('/'));
    }
    if mounts().any(|mount| mount.mount_path.as_str().trim_end_matches('/') == path) {
        return Mount::Taken;
    }
    Mount::Missing
}

fn variables(bindings: &[String], directory: &str) -> Vec<(String, String)> {
    let directory = directory.replace('$', "$$"); // kubelet expands $(NAME) in values
    let file = |binding: &String| format!("{directory}/{}", token_path(binding));
    let mut variables = vec![("IDTOKEN_DIR".to_owned(), directory.clone())];
    variables.extend(bindings.iter().map(|binding| (file_variable(binding), file(binding))));
    if let [only] = bindings {
        variables.push(("IDTOKEN_FILE".to_owned(), file(only)));
    }
    variables
}

fn targets<'a>(
    name: &'static str,
    list: &'a List<Object<Container<'a>>>,
) -> impl Iterator<Item = Target<'a>> {
    list.objects()
        .map(move |(index, container)| Target { pointer: format!("/spec/{name}/{index}"), container })
}

/// What the API server itself stores at most is half as much again.
const MOST_ADDED: usize = 1024 * 1024;
/// What a variable takes besides the names in it.
const VARIABLE: usize = 64;
/// How much is shown of the names of containers.
const CHOICE: usize = 300;
