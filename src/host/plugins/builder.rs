//! Plugins before they are started.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::{Inner, Observer, PluginEvent, Plugins, StartError, children, note, seat};
use crate::broker::Broker;
use crate::engine::supervise::{ChildId, ChildSpec, Governor, GroupFlags, Refusal};
use crate::host::announce::{Announcer, presence};
use crate::host::board::Board;
use crate::host::courier::Courier;
use crate::host::environment::Environments;
use crate::host::error::SpawnError;
use crate::host::health::HealthWatch;
use crate::host::logs::LogStore;
use crate::host::manifest::{Lifecycle, Manifest};
use crate::host::recipe::{Dress, Recipe, RecipeCell};
use crate::host::roster::Roster;
use crate::host::runtime::Runtimes;
use crate::host::spec::PluginSpec;
use crate::host::tasks::Tasks;
use crate::id::PluginId;
use crate::supervise::{Group, StartLimiter};

impl fmt::Debug for PluginsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.recipes.iter().map(|(id, _)| id.as_str()).collect();
        f.debug_struct("PluginsBuilder").field("plugins", &ids).finish_non_exhaustive()
    }
}

/// Describes plugins before they are started.
#[must_use = "plugins do nothing before `start`"]
pub struct PluginsBuilder {
    broker: Broker,
    recipes: Vec<(PluginId, Recipe)>,
    problem: Option<StartError>,
    observe: Observer,
    logs: Option<LogStore>,
    governor: Governor,
    dress: Option<Dress>,
    runtimes: Arc<Runtimes>,
    environments: Arc<Environments>,
}

impl PluginsBuilder {
    /// Adds a plugin with the usual lifecycle.
    pub fn plugin(self, spec: PluginSpec) -> Self {
        self.plugin_with(spec, Lifecycle::default())
    }

    /// Adds a plugin.
    pub fn plugin_with(mut self, spec: PluginSpec, lifecycle: Lifecycle) -> Self {
        match PluginId::parse(spec.id()) {
            Ok(id) => self.recipes.push((id, Recipe::of_spec(spec, lifecycle))),
            Err(fault) => self.problem = Some(SpawnError::Id(fault).into()),
        }
        self
    }

    /// Adds a plugin as its manifest describes it, which starts when those in `needs` are ready.
    pub fn manifest(mut self, manifest: Manifest, needs: Vec<PluginId>) -> Self {
        let id = manifest.id.clone();
        let (runtimes, environments) = (self.runtimes.clone(), self.environments.clone());
        let recipe = Recipe::of_manifest(manifest, runtimes, environments, needs);
        self.recipes.push((id, recipe));
        self
    }

    /// The commands that start plugins' files; call it before [`manifest`](Self::manifest).
    pub fn runtimes(mut self, runtimes: Runtimes) -> Self {
        self.runtimes = Arc::new(runtimes);
        self
    }

    /// Calls `observe` with everything that happens to a plugin. It must not block.
    pub fn observe(mut self, observe: impl Fn(PluginEvent) + Send + Sync + 'static) -> Self {
        self.observe = Observer(Arc::new(observe));
        self
    }

    /// Keeps what plugins print, and what becomes of them.
    pub fn logs(mut self, logs: LogStore) -> Self {
        self.logs = Some(logs);
        self
    }

    /// Bounds how fast processes are started. Defaults to 20 at once, then 10 in a second.
    pub fn governor(mut self, governor: Governor) -> Self {
        self.governor = governor;
        self
    }

    /// Changes each command just before it is started.
    pub fn dress(
        mut self,
        dress: impl Fn(PluginSpec) -> PluginSpec + Send + Sync + 'static,
    ) -> Self {
        self.dress = Some(Arc::new(dress));
        self
    }

    /// Puts them into the broker's tree, which starts them. Must be called on a tokio runtime that
    /// goes on running; an actix System has one.
    ///
    /// # Errors
    ///
    /// When they do not fit together, or the broker is not running. A plugin that cannot be started
    /// is no error here: it is in its state.
    pub async fn start(self) -> Result<Plugins, StartError> {
        if let Some(problem) = self.problem {
            return Err(problem);
        }
        let (broker, dress) = (self.broker, self.dress);
        let (board, roster) = (Board::default(), Roster::default());
        let observe = self.observe.keeping(self.logs);
        let limiter = StartLimiter::new(self.governor);
        let mut builder = Group::builder("plugins", GroupFlags::plugins()).limiter(&limiter);
        let mut recipes = BTreeMap::new();
        for (id, recipe) in self.recipes {
            let recipe = Arc::new(RecipeCell::new(recipe.dressed(dress.clone())));
            seat(&board, &id, &recipe.get());
            let parts = (&broker, &board, &roster, &observe);
            let seats = children(parts, &id, &recipe, &recipe.get());
            if recipes.insert(id.clone(), recipe).is_some() {
                return Err(StartError::Twice(id));
            }
            for (spec, child) in seats {
                builder = builder.child(spec, child);
            }
        }
        // Before the first start, so that whoever calls a plugin meanwhile is held.
        for (id, recipe) in &recipes {
            let recipe = recipe.get();
            let Lifecycle { lazy, hold, .. } = recipe.lifecycle();
            broker.set_hold(id, *hold).await?;
            broker.set_presence(id, presence::before_start(*lazy)).await?;
        }
        let noted = (board.clone(), observe.clone());
        let group = builder
            .observe(move |transition| note(transition, &noted.0, &noted.1))
            .build()
            .map_err(Refusal::from)?;
        let handle = group.handle();
        let inner = Inner {
            broker: broker.clone(),
            group: handle,
            name: OnceLock::new(),
            board,
            roster,
            observe,
            dress,
            environments: self.environments,
            recipes: Mutex::new(recipes),
            changing: tokio::sync::Mutex::default(),
            tasks: Tasks::new(),
            courier: Courier::start(),
        };
        let plugins = Plugins { inner: Arc::new(inner) };
        Announcer::start(&plugins, plugins.inner.tasks.ticket()).await?;
        let tree = broker.tree();
        // An application may have several; each has a name of its own.
        let mut name = ChildId::new("plugins");
        let mut number = 1;
        while tree.child(&name).is_some() {
            number += 1;
            name = ChildId::new(&format!("plugins-{number}"));
        }
        plugins.inner.name.set(name.clone()).expect("it is set here and nowhere else");
        if let Err(refusal) = tree.add(ChildSpec::group(name.as_str()), group) {
            plugins.inner.tasks.end().await;
            return Err(refusal.into());
        }
        HealthWatch::start(plugins.clone(), plugins.inner.tasks.ticket());
        Ok(plugins)
    }
}

impl Plugins {
    /// Describes plugins of a broker.
    pub fn builder(broker: &Broker) -> PluginsBuilder {
        PluginsBuilder {
            broker: broker.clone(),
            recipes: Vec::new(),
            problem: None,
            observe: Observer(Arc::new(|_| ())),
            logs: None,
            governor: Governor::default(),
            dress: None,
            runtimes: Arc::default(),
            environments: Arc::new(Environments::of_user()),
        }
    }
}
