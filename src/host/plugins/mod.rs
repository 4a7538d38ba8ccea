//! The plugins of a broker: processes that start, heal and stop by themselves.
//!
//! A dynamic group of the broker's tree decides; its children carry that out. What is here is the
//! handle for the host, and the way back: whatever the group decides is shown to people, told to
//! the broker, published, and turned into alerts where somebody has to act.

mod builder;
mod change;
mod command;
mod error;
mod event;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

pub use self::builder::PluginsBuilder;
pub use self::command::Ordered;
pub use self::error::{CommandError, StartError};
pub(crate) use self::event::Observer;
pub use self::event::PluginEvent;
use super::board::{Board, Seat, cause_text};
use super::courier::Courier;
use super::environment::Environments;
use super::error::SpawnError;
use super::exit::Exit;
use super::plugin_child::{Plugin, PluginChild};
use super::recipe::{Dress, Recipe, RecipeCell};
use super::report::{self, Explanation, PluginReport};
use super::roster::Roster;
use super::spec::PluginSpec;
use super::suggest::did_you_mean;
use super::tasks::Tasks;
use crate::broker::Broker;
use crate::engine::Presence;
use crate::engine::supervise::{ChildId, ChildSpec, Phase, State};
use crate::id::PluginId;
use crate::supervise::{ChildStatus, GroupHandle, Transition, Transitions, Waiting};

/// Plugin processes of one broker, supervised. Handles are cheap to clone.
///
/// They stop with the broker's [`shutdown`](Broker::shutdown), or with [`stop`](Self::stop).
#[derive(Clone)]
pub struct Plugins {
    inner: Arc<Inner>,
}

struct Inner {
    broker: Broker,
    group: GroupHandle,
    /// What the broker's tree calls the group.
    name: OnceLock<ChildId>,
    board: Board,
    roster: Roster,
    observe: Observer,
    dress: Option<Dress>,
    environments: Arc<Environments>,
    recipes: Mutex<BTreeMap<PluginId, Arc<RecipeCell>>>,
    /// Changes of the configuration are applied one after the other.
    changing: tokio::sync::Mutex<()>,
    tasks: Tasks,
    courier: Courier,
}

impl Plugins {
    /// Starts plugins and waits until all are ready.
    ///
    /// # Errors
    ///
    /// As [`PluginsBuilder::start`], and when one did not get ready at its first start: the others
    /// have been stopped again then.
    pub async fn start(
        broker: &Broker,
        specs: Vec<PluginSpec>,
        observe: impl Fn(PluginEvent) + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let builder = Self::builder(broker).observe(observe);
        let plugins = specs.into_iter().fold(builder, PluginsBuilder::plugin).start().await?;
        plugins.all_ready().await?;
        Ok(plugins)
    }

    /// Waits until what has become of the first starts is known, and says what that is. A plugin
    /// that waits for another one which did not get ready goes on waiting.
    pub async fn settled(&self) -> Vec<ChildStatus> {
        self.wait_for(|children| {
            children.iter().all(|child| match child.state {
                State::Starting | State::Stopping => false,
                State::Stopped => matches!(child.waits, None | Some(Waiting::Child(_))),
                _ => true,
            })
        })
        .await
    }

    /// Waits until each has got ready once, or sleeps until somebody wants it.
    ///
    /// # Errors
    ///
    /// The first one that ended or cannot be started. All have been stopped then.
    pub async fn all_ready(&self) -> Result<(), StartError> {
        let is_up = |child: &ChildStatus| {
            matches!(child.state, State::Ready | State::Busy | State::Sleeping)
        };
        let has_failed = |child: &ChildStatus| {
            // One that is tried again at once has ended nevertheless.
            child.last_exit.is_some() || child.state == State::Stopped && child.waits.is_none()
        };
        let children = self
            .wait_for(|children| {
                children.iter().all(is_up) || children.iter().any(|it| !is_up(it) && has_failed(it))
            })
            .await;
        let Some(child) = children.iter().find(|child| !is_up(child) && has_failed(child)) else {
            return Ok(());
        };
        let (id, _) = seat_of(&child.spec.id);
        let id = PluginId::parse(&id).map_err(SpawnError::Id)?;
        let reason = match &child.last_exit {
            Some(exit) => exit.to_string(),
            None => format!("is {}", child.state),
        };
        self.clone().stop().await;
        Err(StartError::NotReady { id, reason })
    }

    async fn wait_for(&self, wanted: impl Fn(&[ChildStatus]) -> bool) -> Vec<ChildStatus> {
        let mut transitions = self.inner.group.subscribe();
        loop {
            // The tree starts the group a moment after it has got it. What is seen of its children
            // counts only if that was before.
            let has_begun = self.inner.group.phase() != Phase::New;
            let children = self.inner.group.children();
            if (has_begun || children.is_empty()) && wanted(&children)
                || transitions.next().await.is_none()
            {
                return children;
            }
        }
    }

    /// Stops them, each before those that it needs, and waits until they are gone. Says how those
    /// ended that still ran.
    pub async fn stop(self) -> Vec<(PluginId, Exit)> {
        let running: Vec<Seat> = self.inner.board.running();
        // A tree that is ending stops the group itself.
        if let Some(name) = self.inner.name.get()
            && let Err(refusal) = self.inner.broker.tree().remove(name)
        {
            log::debug!("the plugins are being stopped already: {refusal}");
        }
        self.inner.group.ended().await;
        // What they still had to tell must not come after what is told here.
        self.inner.tasks.end().await;
        // Whoever comes under one of these names now comes by itself.
        for id in self.ids() {
            if self.inner.broker.set_presence(&id, Presence::Unmanaged).await.is_err() {
                break;
            }
        }
        let exits = running.into_iter().filter_map(|seat| {
            let exit = self.inner.board.process_exit(&seat)?;
            Some((PluginId::parse(&seat.0).ok()?, exit))
        });
        exits.collect()
    }

    /// What their processes are like.
    #[must_use]
    pub fn reports(&self) -> Vec<PluginReport> {
        self.clear_board();
        self.inner.board.reports()
    }

    /// The critical plugins none of whose processes serves. While there are any, the application
    /// should say that it is not ready; its broker goes on.
    #[must_use]
    pub fn unready(&self) -> Vec<String> {
        report::unready(&self.reports())
    }

    /// Why a plugin is as it is, for each of its processes; empty when there is none of that name.
    #[must_use]
    pub fn explain(&self, plugin: &str) -> Vec<Explanation> {
        self.clear_board();
        self.inner.board.explain(plugin)
    }

    /// Ids and processes of those that run.
    #[must_use]
    pub fn running(&self) -> Vec<(String, u32)> {
        let reports = self.reports();
        reports.into_iter().filter_map(|report| Some((report.id, report.pid?))).collect()
    }

    pub(crate) fn unknown(&self, plugin: &str) -> CommandError {
        let recipes = self.inner.recipes.lock();
        let hint = did_you_mean(plugin, recipes.keys().map(PluginId::as_str));
        CommandError::Unknown { plugin: plugin.to_owned(), hint }
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.inner.broker
    }

    /// As whom `health` methods are called. Several of this type have different names in the tree.
    pub(crate) fn caller_id(&self) -> String {
        let name = self.inner.name.get().map_or("", ChildId::as_str);
        format!("plugbus-health{}", name.strip_prefix("plugins").unwrap_or_default())
    }

    pub(crate) fn ids(&self) -> Vec<PluginId> {
        self.inner.recipes.lock().keys().cloned().collect()
    }

    pub(crate) fn transitions(&self) -> Transitions {
        self.inner.group.subscribe()
    }

    pub(crate) fn board(&self) -> &Board {
        &self.inner.board
    }

    pub(crate) fn courier(&self) -> &Courier {
        &self.inner.courier
    }

    pub(crate) fn roster(&self) -> &Roster {
        &self.inner.roster
    }

    pub(crate) fn recipe(&self, plugin: &PluginId) -> Option<Arc<Recipe>> {
        self.inner.recipes.lock().get(plugin).map(|cell| cell.get())
    }

    /// The children of a plugin, one for each instance.
    pub(crate) fn children_of(&self, plugin: &str) -> Vec<ChildStatus> {
        let children = self.inner.group.children();
        children.into_iter().filter(|child| seat_of(&child.spec.id).0 == plugin).collect()
    }

    /// Somebody wants a plugin that sleeps.
    pub(crate) fn wake(&self, plugin: &PluginId) {
        for child in self.children_of(plugin.as_str()) {
            if let Err(refusal) = self.inner.group.wake(&child.spec.id) {
                log::debug!("plugin {plugin} does not wake up: {refusal}");
            }
        }
    }

    /// What is gone is shown no longer.
    fn clear_board(&self) {
        let recipes = self.inner.recipes.lock();
        self.inner.board.retain(|(plugin, instance)| {
            let recipe = recipes.iter().find(|(id, _)| id.as_str() == plugin);
            recipe.is_some_and(|(_, cell)| *instance < cell.get().instances())
        });
    }
}

impl fmt::Debug for Plugins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.inner.recipes.lock().keys().map(ToString::to_string).collect();
        f.debug_struct("Plugins").field("plugins", &ids).finish_non_exhaustive()
    }
}

/// One child for each instance of a plugin.
fn children(
    (broker, board, roster, observe): (&Broker, &Board, &Roster, &Observer),
    id: &PluginId,
    cell: &Arc<RecipeCell>,
    recipe: &Recipe,
) -> Vec<(ChildSpec, PluginChild)> {
    (0..recipe.instances())
        .map(|instance| {
            let seat: Seat = (id.as_str().to_owned(), instance);
            let child = PluginChild::new(Plugin {
                id: id.clone(),
                seat: seat.clone(),
                recipe: Arc::clone(cell),
                broker: broker.clone(),
                board: board.clone(),
                roster: roster.clone(),
                observe: observe.clone(),
            });
            let mut spec = recipe.child_spec(&child_name(&seat));
            // One that is ready is enough for those that need the plugin.
            spec.stands_for = Some(ChildId::new(id.as_str()));
            (spec, child)
        })
        .collect()
}

/// Makes places for the instances of a plugin, where what happens to them is noted.
fn seat(board: &Board, id: &PluginId, recipe: &Recipe) {
    for instance in 0..recipe.instances() {
        let seat = (id.as_str().to_owned(), instance);
        let critical = recipe.lifecycle().critical;
        board.seat(seat, recipe.needs_text(), recipe.version(), critical);
    }
}

/// What the group calls an instance of a plugin: `weather`, `weather#1`, …
fn child_name((plugin, instance): &Seat) -> String {
    match instance {
        0 => plugin.clone(),
        _ => format!("{plugin}#{instance}"),
    }
}

/// The reverse of [`child_name`].
pub(crate) fn seat_of(child: &ChildId) -> Seat {
    match child.as_str().split_once('#') {
        Some((plugin, instance)) => (plugin.to_owned(), instance.parse().unwrap_or(0)),
        None => (child.as_str().to_owned(), 0),
    }
}

/// What is done at once with everything that the group decides; the rest is done by the announcer,
/// which may wait.
fn note(transition: &Transition, board: &Board, observe: &Observer) {
    let changed = &transition.changed;
    let seat = seat_of(&changed.id);
    board.change(&seat, changed);
    if let Ok(id) = PluginId::parse(&seat.0) {
        observe.tell(PluginEvent::Changed {
            id,
            instance: seat.1,
            from: changed.from,
            to: changed.to,
            cause: cause_text(&changed.cause),
            next_try: changed.next_at.map(|at| at.saturating_sub(changed.at)),
        });
    }
}
