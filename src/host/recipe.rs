//! What it takes to start a plugin, whoever says it: an application or a manifest.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::alert::Recipients;
use super::environment::Environments;
use super::manifest::{Lifecycle, Manifest, Restart};
use super::runtime::Runtimes;
use super::spec::PluginSpec;
use crate::engine::supervise::{self, ChildSpec, Intensity, Shutdown};
use crate::id::PluginId;
use crate::limit;

/// A plugin as the plugins' group takes it.
#[derive(Clone)]
pub(crate) struct Recipe {
    source: Source,
    lifecycle: Lifecycle,
    needs: Vec<PluginId>,
    dress: Option<Dress>,
}

#[derive(Clone)]
enum Source {
    Spec(Box<PluginSpec>),
    Manifest(Arc<Manifest>, Arc<Runtimes>, Arc<Environments>),
}

/// The recipe of a plugin, which a changed configuration replaces while children have it.
pub(crate) struct RecipeCell(Mutex<Arc<Recipe>>);

impl RecipeCell {
    pub(crate) fn new(recipe: Recipe) -> Self {
        Self(Mutex::new(Arc::new(recipe)))
    }

    pub(crate) fn get(&self) -> Arc<Recipe> {
        Arc::clone(&self.0.lock())
    }

    pub(crate) fn set(&self, recipe: Recipe) {
        *self.0.lock() = Arc::new(recipe);
    }
}

/// Changes a command just before it is started, as the `plugbus` command does to lend its SDK.
pub(crate) type Dress = Arc<dyn Fn(PluginSpec) -> PluginSpec + Send + Sync>;

impl Recipe {
    pub(crate) fn of_spec(spec: PluginSpec, lifecycle: Lifecycle) -> Self {
        let source = Source::Spec(Box::new(spec));
        Self { source, lifecycle, needs: Vec::new(), dress: None }
    }

    pub(crate) fn of_manifest(
        manifest: Manifest,
        runtimes: Arc<Runtimes>,
        environments: Arc<Environments>,
        needs: Vec<PluginId>,
    ) -> Self {
        let lifecycle = manifest.lifecycle.clone();
        let source = Source::Manifest(Arc::new(manifest), runtimes, environments);
        Self { source, lifecycle, needs, dress: None }
    }

    /// Whether a process that was started by one is as good as one that is started by the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let command = |manifest: &Manifest, runtimes: &Runtimes| {
            manifest.to_spec(runtimes).map(|spec| format!("{spec:?}")).ok()
        };
        match (&self.source, &other.source) {
            (Source::Manifest(one, old, _), Source::Manifest(two, new, _)) => {
                one == two && self.needs == other.needs && command(one, old) == command(two, new)
            }
            _ => false,
        }
    }

    pub(crate) fn dressed(mut self, dress: Option<Dress>) -> Self {
        self.dress = dress;
        self
    }

    /// What is to be started, after everything that it requires has been found to be there.
    ///
    /// # Errors
    ///
    /// What a person has to change before it can start.
    pub(crate) async fn prepare(&self, instance: u32) -> Result<PluginSpec, String> {
        let spec = match &self.source {
            Source::Spec(spec) => (**spec).clone(),
            Source::Manifest(manifest, runtimes, environments) => {
                let (manifest, runtimes) = (Arc::clone(manifest), Arc::clone(runtimes));
                let environments = Arc::clone(environments);
                // Tools are asked for their versions, and an environment may have to be made.
                let prepared = tokio::task::spawn_blocking(move || {
                    environments.prepare(&manifest, &runtimes).map_err(|error| error.to_string())
                });
                prepared.await.map_err(|panic| panic.to_string())??
            }
        };
        let spec = spec.instance(instance);
        Ok(match &self.dress {
            Some(dress) => dress(spec),
            None => spec,
        })
    }

    /// What the plugins' group has to know.
    pub(crate) fn child_spec(&self, child: &str) -> ChildSpec {
        let after = self.needs.iter().map(|id| supervise::ChildId::new(id.as_str())).collect();
        let Lifecycle { backoff, start_timeout, idle_sleep, lazy, .. } = &self.lifecycle;
        let delays = std::iter::successors(Some(backoff.first), |delay| {
            (*delay < backoff.max && !delay.is_zero()).then(|| (*delay * 2).min(backoff.max))
        });
        ChildSpec {
            restart: match self.lifecycle.restart {
                Restart::Transient => supervise::Restart::Transient,
                Restart::Temporary => supervise::Restart::Temporary,
                _ => supervise::Restart::Permanent,
            },
            shutdown: Shutdown::Within(self.stop_grace() + limit::STOP_SIGNAL_TIMEOUT),
            // Whoever asks for more time to stop gets it here as well.
            retire: Shutdown::Within(
                self.stop_grace().max(limit::RETIRE_TIMEOUT) + limit::STOP_SIGNAL_TIMEOUT,
            ),
            start_timeout: Some(*start_timeout),
            backoff: supervise::Backoff {
                delays: supervise::Delays::List(delays.collect()),
                stable_after: backoff.stable,
                open: backoff.quarantine,
                open_max: backoff.quarantine_max,
                disable_after: Some(backoff.disable_after),
                ..supervise::Backoff::plugin()
            },
            intensity: Some(self.intensity()),
            after,
            lazy: *lazy,
            idle_sleep: *idle_sleep,
            ..ChildSpec::plugin(child)
        }
    }

    fn intensity(&self) -> Intensity {
        let intensity = &self.lifecycle.intensity;
        Intensity { restarts_max: intensity.restarts, window: intensity.within }
    }

    pub(crate) fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Processes that share the plugin's requests.
    pub(crate) fn instances(&self) -> u32 {
        match &self.source {
            Source::Spec(_) => 1,
            Source::Manifest(manifest, ..) => manifest.run.instances,
        }
    }

    /// Plugins that have to be ready before it starts.
    pub(crate) fn needs_text(&self) -> Vec<String> {
        self.needs.iter().map(ToString::to_string).collect()
    }

    /// Where it runs, if not where the host does.
    pub(crate) fn working_dir(&self) -> Option<PathBuf> {
        match &self.source {
            Source::Spec(spec) => spec.directory().map(Into::into),
            Source::Manifest(manifest, ..) => Some(manifest.working_dir()),
        }
    }

    pub(crate) fn version(&self) -> Option<String> {
        match &self.source {
            Source::Spec(_) => None,
            Source::Manifest(manifest, ..) => manifest.version.as_ref().map(ToString::to_string),
        }
    }

    /// From the notice that it shall end to SIGTERM.
    pub(crate) fn stop_grace(&self) -> Duration {
        self.lifecycle.stop_grace
    }

    pub(crate) fn recipients(&self) -> Recipients {
        let alerts = &self.lifecycle.alerts;
        Recipients { command: alerts.command.clone(), webhook: alerts.webhook.clone() }
    }
}

impl fmt::Debug for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipe").field("lifecycle", &self.lifecycle).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::supervise::{Delays, GroupFlags};

    /// What holds for a plugin that says nothing of it is in three places: the manifest, the engine
    /// and the page.
    #[test]
    fn the_defaults_are_the_same_everywhere() {
        let manifest = Manifest::new(PluginId::parse("test").unwrap(), "/nowhere/plugin.toml");
        let parts = (Arc::default(), Arc::new(Environments::of_user()));
        let recipe = Recipe::of_manifest(manifest, parts.0, parts.1, Vec::new());
        let (said, known) = (recipe.child_spec("test"), ChildSpec::plugin("test"));
        let ChildSpec { shutdown, retire, start_timeout, backoff, .. } = &said;
        assert_eq!(
            (*shutdown, *retire, *start_timeout, backoff),
            (known.shutdown, known.retire, known.start_timeout, &known.backoff),
        );
        let intensity = said.intensity.unwrap();
        assert_eq!(intensity, GroupFlags::plugins().intensity);

        let page = include_str!("../../docs/supervision.md");
        let seconds = |time: Duration| time.as_secs();
        let Delays::List(delays) = &backoff.delays else { panic!("a list") };
        let delays: Vec<_> = delays.iter().map(|delay| delay.as_secs().to_string()).collect();
        let lifecycle = recipe.lifecycle();
        let rows = [
            format!(
                "| intensity | {} restarts of one child in {} s |",
                intensity.restarts_max,
                seconds(intensity.window),
            ),
            format!("| delays | none, {}, ", delays.join(", ")),
            format!(", ± {} % |", backoff.jitter_percent),
            format!("| stable after | {} s |", seconds(backoff.stable_after)),
            format!("| disabled by | the {}th restart", lifecycle.backoff.disable_after + 1),
            format!(
                "| quarantine | {} s, doubling to {} min |",
                seconds(backoff.open),
                seconds(backoff.open_max) / 60,
            ),
            format!(
                "| start timeout | {} s, after what has to be prepared, which may take {} min |",
                seconds(start_timeout.unwrap()),
                seconds(lifecycle.prepare_timeout) / 60,
            ),
            format!(
                "| stop | {} s, then killed: {} s after the notice, {} s after the signal |",
                seconds(lifecycle.stop_grace + limit::STOP_SIGNAL_TIMEOUT),
                seconds(lifecycle.stop_grace),
                seconds(limit::STOP_SIGNAL_TIMEOUT),
            ),
            format!("wait for up to its `hold` ({} s)", seconds(lifecycle.hold)),
        ];
        for row in rows {
            assert!(page.contains(&row), "docs/supervision.md does not say {row:?}");
        }
    }
}
