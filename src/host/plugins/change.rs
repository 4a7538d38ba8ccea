//! A changed configuration, applied to plugins that run.
//!
//! All of it or nothing: the group checks the whole before anything is started or stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{CommandError, Plugins, StartError, children, seat, seat_of};
use crate::broker::BrokerError;
use crate::engine::Presence;
use crate::engine::supervise::ChildId;
use crate::host::announce::presence;
use crate::host::control::ReloadReport;
use crate::host::manifest::Manifest;
use crate::host::recipe::{Recipe, RecipeCell};
use crate::host::runtime::Runtimes;
use crate::id::PluginId;
use crate::supervise::GroupChange;

/// What a changed configuration means.
#[derive(Default)]
struct Difference {
    added: BTreeMap<PluginId, Arc<RecipeCell>>,
    changed: Vec<(PluginId, Arc<RecipeCell>, Recipe)>,
    removed: Vec<PluginId>,
    report: ReloadReport,
}

impl Plugins {
    /// Makes the plugins what a changed configuration says, without touching those that did not
    /// change: new ones are started, those that are gone stopped, changed ones replaced. Returns
    /// when that is decided; it is carried out meanwhile.
    ///
    /// # Errors
    ///
    /// What does not fit together. Nothing has changed then.
    pub async fn apply(
        &self,
        manifests: Vec<(Manifest, Vec<PluginId>)>,
        runtimes: Runtimes,
    ) -> Result<ReloadReport, CommandError> {
        let inner = &self.inner;
        let _one_at_a_time = inner.changing.lock().await;
        let difference = self.compare(manifests, runtimes)?;
        // Before the first start, so that whoever calls a plugin meanwhile is held.
        for (id, cell) in &difference.added {
            let lazy = cell.get().lifecycle().lazy;
            self.announce(id, &cell.get(), presence::before_start(lazy)).await?;
        }
        let change = self.group_change(&difference);
        let Difference { added, changed, removed, report } = difference;
        let new: Vec<PluginId> = added.keys().cloned().collect();
        let holds: Vec<_> =
            changed.iter().map(|(id, _, recipe)| (id.clone(), recipe.lifecycle().hold)).collect();
        let touched: Vec<&PluginId> = new.iter().chain(holds.iter().map(|(id, _)| id)).collect();
        let decided = inner.group.change(change, || {
            let mut recipes = inner.recipes.lock();
            recipes.retain(|id, _| !removed.contains(id));
            for (_, cell, recipe) in changed {
                cell.set(recipe);
            }
            recipes.extend(added);
            for id in &touched {
                seat(&inner.board, id, &recipes[id].get());
            }
        });
        if let Err(refusal) = decided {
            for id in &new {
                self.forget(id).await?;
            }
            return Err(CommandError::Configuration { reason: refusal.to_string() });
        }
        for (id, hold) in &holds {
            inner.broker.set_hold(id, *hold).await.map_err(|error| gone(&error))?;
        }
        for id in &removed {
            // Of those that are still there, the announcer says when they are not.
            if self.children_of(id.as_str()).is_empty() {
                self.forget(id).await?;
            }
        }
        Ok(report)
    }

    fn compare(
        &self,
        manifests: Vec<(Manifest, Vec<PluginId>)>,
        runtimes: Runtimes,
    ) -> Result<Difference, CommandError> {
        let inner = &self.inner;
        let (runtimes, environments) = (Arc::new(runtimes), Arc::clone(&inner.environments));
        let known = inner.recipes.lock().clone();
        let mut wanted = BTreeSet::new();
        if let Some((twice, _)) = manifests.iter().find(|(it, _)| !wanted.insert(&it.id)) {
            let reason = StartError::Twice(twice.id.clone()).to_string();
            return Err(CommandError::Configuration { reason });
        }
        let removed: Vec<PluginId> =
            known.keys().filter(|id| !wanted.contains(id)).cloned().collect();
        let mut difference = Difference { removed, ..Difference::default() };
        difference.report.removed = difference.removed.iter().map(ToString::to_string).collect();
        for (manifest, needs) in manifests {
            let id = manifest.id.clone();
            let (runtimes, environments) = (Arc::clone(&runtimes), Arc::clone(&environments));
            let recipe = Recipe::of_manifest(manifest, runtimes, environments, needs)
                .dressed(inner.dress.clone());
            let rows = match known.get(&id) {
                None => {
                    difference.added.insert(id.clone(), Arc::new(RecipeCell::new(recipe)));
                    &mut difference.report.added
                }
                Some(cell) if cell.get().is_same(&recipe) => &mut difference.report.unchanged,
                Some(cell) => {
                    difference.changed.push((id.clone(), Arc::clone(cell), recipe));
                    &mut difference.report.replaced
                }
            };
            rows.push(id.to_string());
        }
        Ok(difference)
    }

    /// The same for the group, which knows processes.
    fn group_change(&self, difference: &Difference) -> GroupChange {
        let inner = &self.inner;
        let parts = (&inner.broker, &inner.board, &inner.roster, &inner.observe);
        let mut change = GroupChange::default();
        for (id, cell) in &difference.added {
            for (spec, child) in children(parts, id, cell, &cell.get()) {
                change.add(spec, child);
            }
        }
        for (id, cell, recipe) in &difference.changed {
            for (spec, child) in children(parts, id, cell, recipe) {
                if inner.group.child(&spec.id).is_some_and(|status| !status.is_leaving) {
                    change.renew(spec);
                } else {
                    change.add(spec, child);
                }
            }
            let surplus = |child: &ChildId| seat_of(child).1 >= recipe.instances();
            self.remove_if(&mut change, id, surplus);
        }
        for id in &difference.removed {
            self.remove_if(&mut change, id, |_| true);
        }
        change
    }

    fn remove_if(
        &self,
        change: &mut GroupChange,
        id: &PluginId,
        wanted: impl Fn(&ChildId) -> bool,
    ) {
        for child in self.children_of(id.as_str()) {
            if wanted(&child.spec.id) && !child.is_leaving {
                change.remove(child.spec.id);
            }
        }
    }

    /// Whoever comes under the name from now on comes by itself.
    async fn forget(&self, id: &PluginId) -> Result<(), CommandError> {
        let broker = &self.inner.broker;
        broker.set_presence(id, Presence::Unmanaged).await.map_err(|error| gone(&error))
    }

    /// Tells the broker of a plugin before it is started.
    async fn announce(
        &self,
        id: &PluginId,
        recipe: &Recipe,
        presence: Presence,
    ) -> Result<(), CommandError> {
        let broker = &self.inner.broker;
        let told = async {
            broker.set_hold(id, recipe.lifecycle().hold).await?;
            broker.set_presence(id, presence).await
        };
        told.await.map_err(|error| gone(&error))
    }
}

fn gone(error: &BrokerError) -> CommandError {
    CommandError::Configuration { reason: error.to_string() }
}
