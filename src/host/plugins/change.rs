//! A changed configuration, applied to plugins that run.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use super::{CommandError, Plugins, children, seat_of};
use crate::engine::supervise::{Refusal, State};
use crate::host::announce::presence;
use crate::host::control::ReloadReport;
use crate::host::manifest::Manifest;
use crate::host::recipe::{Recipe, RecipeCell};
use crate::host::runtime::Runtimes;
use crate::id::PluginId;

impl Plugins {
    /// Makes the plugins what a changed configuration says, without touching those that did not
    /// change: new ones are started, those that are gone stopped, changed ones replaced.
    ///
    /// # Errors
    ///
    /// What does not fit together. What has been changed by then stays so.
    pub fn apply(
        &self,
        manifests: Vec<(Manifest, Vec<PluginId>)>,
        runtimes: Runtimes,
    ) -> Result<ReloadReport, CommandError> {
        let inner = &self.inner;
        let (runtimes, environments) = (Arc::new(runtimes), Arc::clone(&inner.environments));
        let mut report = ReloadReport::default();
        let wanted: BTreeSet<PluginId> = manifests.iter().map(|(it, _)| it.id.clone()).collect();
        let known: Vec<PluginId> = inner.recipes.lock().keys().cloned().collect();
        for id in known.iter().filter(|id| !wanted.contains(*id)) {
            self.remove(id)?;
            report.removed.push(id.to_string());
        }
        for (manifest, needs) in manifests {
            let id = manifest.id.clone();
            let (runtimes, environments) = (Arc::clone(&runtimes), Arc::clone(&environments));
            let recipe = Recipe::of_manifest(manifest, runtimes, environments, needs)
                .dressed(inner.dress.clone());
            let cell = inner.recipes.lock().get(&id).cloned();
            let rows = match cell {
                None => {
                    self.add(&id, recipe)?;
                    &mut report.added
                }
                Some(cell) if cell.get().is_same(&recipe) => &mut report.unchanged,
                Some(cell) => {
                    self.change(&id, &cell, recipe)?;
                    &mut report.replaced
                }
            };
            rows.push(id.to_string());
        }
        Ok(report)
    }

    fn add(&self, id: &PluginId, recipe: Recipe) -> Result<(), CommandError> {
        let inner = &self.inner;
        let presence = presence::before_start(recipe.lifecycle().lazy);
        let (broker, plugin) = (inner.broker.clone(), id.clone());
        tokio::spawn(async move {
            if let Err(error) = broker.set_presence(&plugin, presence).await {
                log::debug!("nobody is left to hear of {plugin}: {error}");
            }
        });
        let cell = Arc::new(RecipeCell::new(recipe));
        let parts = (&inner.broker, &inner.board, &inner.roster, &inner.observe);
        for (spec, child) in children(parts, id, &cell) {
            inner.group.add(spec, child).map_err(|refusal| refused(id, &refusal))?;
        }
        inner.recipes.lock().insert(id.clone(), cell);
        Ok(())
    }

    fn remove(&self, id: &PluginId) -> Result<(), CommandError> {
        let inner = &self.inner;
        for child in self.children_of(id.as_str()) {
            inner.group.remove(&child.spec.id).map_err(|refusal| refused(id, &refusal))?;
        }
        inner.recipes.lock().remove(id);
        Ok(())
    }

    /// The next start is made by the new recipe; whoever runs is replaced now.
    fn change(
        &self,
        id: &PluginId,
        cell: &Arc<RecipeCell>,
        recipe: Recipe,
    ) -> Result<(), CommandError> {
        let inner = &self.inner;
        let wanted = recipe.instances();
        cell.set(recipe);
        let parts = (&inner.broker, &inner.board, &inner.roster, &inner.observe);
        let refuse = |refusal: Refusal| refused(id, &refusal);
        for (spec, child) in children(parts, id, cell) {
            let name = spec.id.clone();
            match inner.group.child(&name) {
                None => drop(inner.group.add(spec, child).map_err(refuse)?),
                Some(status) => {
                    inner.group.update(spec).map_err(refuse)?;
                    if status.is_serving {
                        inner.group.replace(&name).map_err(refuse)?;
                    } else if status.state == State::BackingOff {
                        inner.group.start_child(&name).map_err(refuse)?;
                    }
                }
            }
        }
        let surplus = self.children_of(id.as_str()).into_iter();
        for child in surplus.filter(|child| seat_of(&child.spec.id).1 >= wanted) {
            inner.group.remove(&child.spec.id).map_err(refuse)?;
        }
        Ok(())
    }
}

fn refused(id: &PluginId, error: &dyn fmt::Display) -> CommandError {
    CommandError::Refused { plugin: id.to_string(), reason: error.to_string() }
}
