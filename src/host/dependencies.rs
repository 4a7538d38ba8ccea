//! In which order plugins start: what a plugin requires comes before it.
//!
//! Only the manifests are looked at. Plugins that do not depend on each other keep the order in
//! which they are given, so that the same configuration always starts the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use semver::{Version, VersionReq};
use thiserror::Error;

use super::manifest::Manifest;
use crate::id::PluginId;

/// In which order plugins start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct StartOrder {
    /// All of them, each after those that it requires.
    pub sequence: Vec<PluginId>,
    /// The same in groups: those of a level require only plugins of the levels before, so they can
    /// start together.
    pub levels: Vec<Vec<PluginId>>,
    /// For each plugin the ones that have to be ready before it starts: those that it requires, and
    /// of the optional ones those that are there and fit.
    pub after: BTreeMap<PluginId, Vec<PluginId>>,
}

/// Everything that is wrong with what plugins require of each other.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub struct DependencyErrors(pub Vec<DependencyError>);

/// Why there is no order.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum DependencyError {
    /// Two have the same id.
    #[error("plugin `{0}` is there twice")]
    Twice(PluginId),
    /// One that is required is not there.
    #[error("plugin `{plugin}` requires `{wanted}`{}, which is not there{hint}", range(version))]
    Missing {
        /// Who requires it.
        plugin: PluginId,
        /// Whom it requires.
        wanted: PluginId,
        /// Which versions.
        version: VersionReq,
        /// What may have been meant.
        hint: String,
    },
    /// One that is required is there in another version.
    #[error("plugin `{plugin}` requires `{wanted}` {version}, but it is {}", shown(found.as_ref()))]
    Version {
        /// Who requires it.
        plugin: PluginId,
        /// Whom it requires.
        wanted: PluginId,
        /// Which versions.
        version: VersionReq,
        /// The version that is there.
        found: Option<Version>,
    },
    /// They wait for each other.
    #[error("plugins require each other in a circle: {}", circle(.0))]
    Cycle(Vec<PluginId>),
}

/// Orders plugins by what they require of each other.
///
/// # Errors
///
/// Everything that is wrong: each missing plugin, each version that does not fit, and each circle.
pub fn order<'a>(
    manifests: impl IntoIterator<Item = &'a Manifest>,
) -> Result<StartOrder, DependencyErrors> {
    let manifests: Vec<&Manifest> = manifests.into_iter().collect();
    let mut errors = Vec::new();
    let mut by_id: BTreeMap<&PluginId, &Manifest> = BTreeMap::new();
    for manifest in &manifests {
        if by_id.insert(&manifest.id, manifest).is_some() {
            errors.push(DependencyError::Twice(manifest.id.clone()));
        }
    }
    let mut after = BTreeMap::new();
    for manifest in &manifests {
        after.insert(manifest.id.clone(), required(manifest, &by_id, &mut errors));
    }
    if errors.is_empty() {
        errors.extend(circles(&manifests, &after));
    }
    if !errors.is_empty() {
        return Err(DependencyErrors(errors));
    }
    let (sequence, levels) = sort(&manifests, &after);
    Ok(StartOrder { sequence, levels, after })
}

/// Whom `manifest` has to wait for; what is wrong goes to `errors`.
fn required(
    manifest: &Manifest,
    by_id: &BTreeMap<&PluginId, &Manifest>,
    errors: &mut Vec<DependencyError>,
) -> Vec<PluginId> {
    let mut after = Vec::new();
    for (wanted, requirement) in &manifest.requires.plugins {
        let (plugin, version) = (manifest.id.clone(), requirement.version.clone());
        match by_id.get(wanted) {
            Some(found) if requirement.accepts(found.version.as_ref()) => {
                after.push(wanted.clone());
            }
            _ if requirement.optional => (),
            Some(found) => errors.push(DependencyError::Version {
                plugin,
                wanted: wanted.clone(),
                version,
                found: found.version.clone(),
            }),
            None => {
                let others = by_id.keys().filter(|id| **id != &plugin).map(|id| id.as_str());
                let hint = super::suggest::did_you_mean(wanted.as_str(), others);
                let wanted = wanted.clone();
                errors.push(DependencyError::Missing { plugin, wanted, version, hint });
            }
        }
    }
    after
}

/// One circle for each group of plugins that wait for each other. The walk keeps its own stack, so
/// that a long chain does not overflow the thread's.
fn circles(
    manifests: &[&Manifest],
    after: &BTreeMap<PluginId, Vec<PluginId>>,
) -> Vec<DependencyError> {
    let mut errors = Vec::new();
    let mut done: BTreeSet<&PluginId> = BTreeSet::new();
    for manifest in manifests {
        // The path from here, and for each of its plugins how many of its edges have been followed.
        let mut path: Vec<(&PluginId, usize)> = vec![(&manifest.id, 0)];
        if done.contains(&manifest.id) {
            continue;
        }
        while let Some((id, followed)) = path.last_mut() {
            let Some(next) = after[*id].get(*followed) else {
                done.insert(id);
                path.pop();
                continue;
            };
            *followed += 1;
            if done.contains(next) {
                continue;
            }
            match path.iter().position(|(id, _)| *id == next) {
                Some(start) => {
                    let circle = path[start..].iter().map(|(id, _)| (*id).clone()).collect();
                    errors.push(DependencyError::Cycle(circle));
                    // One report for all that hang on it is enough.
                    done.extend(path.drain(..).map(|(id, _)| id));
                }
                None => path.push((next, 0)),
            }
        }
    }
    errors
}

/// Each as early as its position allows, after what it waits for. There is no circle.
fn sort(
    manifests: &[&Manifest],
    after: &BTreeMap<PluginId, Vec<PluginId>>,
) -> (Vec<PluginId>, Vec<Vec<PluginId>>) {
    let mut dependents: BTreeMap<&PluginId, Vec<usize>> = BTreeMap::new();
    let mut waiting: Vec<usize> = Vec::new();
    for (position, manifest) in manifests.iter().enumerate() {
        let needed = &after[&manifest.id];
        waiting.push(needed.len());
        for id in needed {
            dependents.entry(id).or_default().push(position);
        }
    }
    let mut level = vec![0; manifests.len()];
    let mut free: BTreeSet<usize> =
        (0..manifests.len()).filter(|&position| waiting[position] == 0).collect();
    let (mut sequence, mut levels) = (Vec::new(), Vec::<Vec<PluginId>>::new());
    while let Some(position) = free.pop_first() {
        let id = &manifests[position].id;
        sequence.push(id.clone());
        if levels.len() <= level[position] {
            levels.resize_with(level[position] + 1, Vec::new);
        }
        levels[level[position]].push(id.clone());
        for &dependent in dependents.get(id).into_iter().flatten() {
            level[dependent] = level[dependent].max(level[position] + 1);
            waiting[dependent] -= 1;
            if waiting[dependent] == 0 {
                free.insert(dependent);
            }
        }
    }
    assert_eq!(sequence.len(), manifests.len(), "without a circle every plugin has its turn");
    (sequence, levels)
}

fn range(version: &VersionReq) -> String {
    if *version == VersionReq::STAR { String::new() } else { format!(" {version}") }
}

fn shown(version: Option<&Version>) -> String {
    version.map_or_else(|| "there without a version".to_owned(), ToString::to_string)
}

/// `a → b → a`
fn circle(ids: &[PluginId]) -> String {
    let ids: Vec<_> = ids.iter().chain(ids.first()).map(PluginId::as_str).collect();
    ids.join(" → ")
}

impl fmt::Display for DependencyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&errors.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::manifest::Requirement;

    #[test]
    fn what_is_required_comes_first_and_the_rest_keeps_its_order() {
        check(&["c", "a", "b"], "c a b", "c a b");
        check(
            &["app: geo db", "geo: db", "db", "web: app", "log"],
            "db geo app web log",
            "db log | geo | app | web",
        );
        check(&["b: x?", "a: b?"], "b a", "b | a");
        check(&[], "", "");
    }

    #[test]
    fn versions_are_compared() {
        let cases = [
            ("geo@1.2.0", "app: geo=^1.0", None),
            (
                "geo@2.0.0",
                "app: geo=^1.0",
                Some("plugin `app` requires `geo` ^1.0, but it is 2.0.0"),
            ),
            ("geo", "app: geo=^1.0", Some("but it is there without a version")),
            ("geo", "app: geo", None),
            ("geo@2.0.0", "app: geo?=^1.0", None),
            ("goe", "app: geo", Some("requires `geo`, which is not there; did you mean `goe`?")),
            ("x", "app: geo=^1.0", Some("requires `geo` ^1.0, which is not there")),
            ("app", "app", Some("plugin `app` is there twice")),
        ];
        for (one, other, expected) in cases {
            let result = order(&[manifest(one), manifest(other)]);
            let error = result.as_ref().err().map(ToString::to_string);
            match (expected, &error) {
                (None, None) => (),
                (Some(expected), Some(error)) if error.contains(expected) => (),
                _ => panic!("{one}, {other}: {result:?}"),
            }
        }
        // An optional plugin of another version is not waited for.
        let order = order(&[manifest("app: geo?=^1.0"), manifest("geo@2.0.0")]).unwrap();
        assert_eq!(shown_ids(&order.sequence), "app geo");
    }

    #[test]
    fn circles_are_named_as_a_path() {
        let cases: [(&[&str], &[&str]); 4] = [
            (&["a: a"], &["a → a"]),
            (&["a: b", "b: a"], &["a → b → a"]),
            (&["x: a", "a: b", "b: c", "c: a"], &["a → b → c → a"]),
            (&["a: b", "b: a", "d: e", "e: d"], &["a → b → a", "d → e → d"]),
        ];
        for (manifests, expected) in cases {
            let error =
                order(&manifests.iter().map(|it| manifest(it)).collect::<Vec<_>>()).unwrap_err();
            let shown: Vec<_> = error.0.iter().map(ToString::to_string).collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|path| format!("plugins require each other in a circle: {path}"))
                .collect();
            assert_eq!(shown, expected);
        }
    }

    /// Every graph of four plugins: an order is right if each plugin comes after what it requires,
    /// and there is one exactly if nobody can reach itself.
    #[test]
    fn every_small_graph_is_ordered_or_has_a_circle() {
        let names = ["a", "b", "c", "d"];
        for edges in 0_u32..1 << 16 {
            let requires = |from: usize, to: usize| edges >> (from * 4 + to) & 1 == 1;
            let manifests: Vec<_> = (0..4)
                .map(|from| {
                    let wanted = (0..4).filter(|&to| requires(from, to)).map(|to| names[to]);
                    manifest(&format!("{}: {}", names[from], wanted.collect::<Vec<_>>().join(" ")))
                })
                .collect();
            let mut reach = [[false; 4]; 4];
            for _ in 0..4 {
                for (from, to) in (0..16).map(|pair| (pair / 4, pair % 4)) {
                    let through = (0..4).any(|by| requires(from, by) && reach[by][to]);
                    reach[from][to] |= requires(from, to) || through;
                }
            }
            let has_circle = (0..4).any(|id| reach[id][id]);
            match order(&manifests) {
                Ok(order) => {
                    assert!(!has_circle, "{edges:#x}");
                    let place = |id: usize| {
                        order.sequence.iter().position(|it| it.as_str() == names[id]).unwrap()
                    };
                    let level = |id: usize| {
                        let has =
                            |level: &Vec<PluginId>| level.iter().any(|it| it.as_str() == names[id]);
                        order.levels.iter().position(has).unwrap()
                    };
                    assert_eq!(order.sequence.len(), 4);
                    for (from, to) in (0..16).map(|pair| (pair / 4, pair % 4)) {
                        if requires(from, to) {
                            assert!(place(to) < place(from), "{edges:#x}");
                            assert!(level(to) < level(from), "{edges:#x}");
                        }
                    }
                }
                Err(error) => {
                    assert!(has_circle, "{edges:#x}: {error}");
                    for error in &error.0 {
                        let DependencyError::Cycle(ids) = error else { panic!("{error}") };
                        let index = |id: &PluginId| {
                            names.iter().position(|name| *name == id.as_str()).unwrap()
                        };
                        for (at, id) in ids.iter().enumerate() {
                            let next = &ids[(at + 1) % ids.len()];
                            assert!(requires(index(id), index(next)), "{edges:#x}: {error}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let count = 5_000;
        let chain: Vec<_> = (0..count)
            .map(|index| match index + 1 {
                next if next < count => manifest(&format!("p{index}: p{next}")),
                _ => manifest(&format!("p{index}")),
            })
            .collect();
        let order = order(&chain).unwrap();
        assert_eq!(order.levels.len(), count);
        assert_eq!(order.sequence[0].as_str(), format!("p{}", count - 1));
    }

    #[track_caller]
    fn check(manifests: &[&str], sequence: &str, levels: &str) {
        let manifests: Vec<_> = manifests.iter().map(|text| manifest(text)).collect();
        let order = order(&manifests).unwrap();
        assert_eq!(shown_ids(&order.sequence), sequence);
        let shown: Vec<_> = order.levels.iter().map(|level| shown_ids(level)).collect();
        let expected: Vec<_> = levels.split(" | ").filter(|level| !level.is_empty()).collect();
        if levels.contains('|') || levels.is_empty() {
            assert_eq!(shown, expected);
        } else {
            assert_eq!(shown, [levels]);
        }
    }

    fn shown_ids(ids: &[PluginId]) -> String {
        ids.iter().map(PluginId::as_str).collect::<Vec<_>>().join(" ")
    }

    /// `app@1.0.0: geo=^1.0 db?`
    fn manifest(text: &str) -> Manifest {
        let (name, wanted) = text.split_once(':').unwrap_or((text, ""));
        let (id, version) = name.split_once('@').unzip();
        let mut manifest = Manifest::new(parse(id.unwrap_or(name)), "/app/plugin.toml");
        manifest.version = version.map(|version| version.parse().unwrap());
        for wanted in wanted.split_whitespace() {
            let (id, range) = wanted.split_once('=').unwrap_or((wanted, "*"));
            let requirement =
                Requirement { version: range.parse().unwrap(), optional: id.ends_with('?') };
            manifest.requires.plugins.insert(parse(id.trim_end_matches('?')), requirement);
        }
        manifest
    }

    fn parse(id: &str) -> PluginId {
        PluginId::parse(id).unwrap()
    }
}
