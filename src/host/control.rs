//! The participant `plugbus`: how the command asks a running broker about its plugins and gives
//! them orders.
//!
//! Every method answers at once, but for the one that reads the configuration again: what it asks
//! for has been decided then, and is carried out; what comes of it is in the events on
//! `plugbus.lifecycle.>` and in the next answer.

use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;

use actix::{Context, Handler, ResponseFuture};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::plugins::{CommandError, Ordered, Plugins, StartError};
use super::report::unready;
use super::resident::Resident;
use crate::broker::{Broker, Call, Reply};
use crate::engine::supervise::{ChildId, ChildSpec, GroupFlags, Strategy};
use crate::error::{Code, Fault};
use crate::supervise::{Group, GroupHandle, Shell};

/// The id of the participant.
pub const CONTROL_ID: &str = "plugbus";

/// Serves the control methods until it is dropped, also after the broker has lost its records.
#[derive(Debug)]
pub struct Control {
    resident: Resident,
    tree: GroupHandle,
}

impl Control {
    /// Joins the broker as `plugbus`. Must be called on a tokio runtime that goes on running.
    ///
    /// # Errors
    ///
    /// When the broker is not running, or somebody has the id: a broker has one `Control`.
    pub async fn join(
        broker: &Broker,
        plugins: Plugins,
        reload: Option<Reload>,
    ) -> Result<Self, StartError> {
        let shell = Shell::new(move |_| Actor { plugins: plugins.clone(), reload: reload.clone() });
        let actor = shell.address();
        let group = Group::builder(CONTROL_ID, GroupFlags::core(Strategy::OneForOne))
            .child(ChildSpec::new(CONTROL_ID), shell)
            .build()
            .expect("one child fits any group");
        let tree = broker.tree();
        if tree.child(&Self::name()).is_some() {
            return Err(StartError::Controlled);
        }
        tree.add(ChildSpec::group(Self::name().as_str()), group)?;
        let joined = async {
            let mut builder = broker.participant(CONTROL_ID);
            for method in METHODS {
                builder = builder.method(method, actor.recipient())?;
            }
            Resident::join(builder).await
        };
        match joined.await {
            Ok(resident) => Ok(Self { resident, tree }),
            Err(error) => {
                Self::remove(&tree).await;
                Err(error.into())
            }
        }
    }

    /// Leaves the broker. Somebody else can join in its place afterwards.
    pub async fn leave(self) {
        self.resident.leave().await;
        Self::remove(&self.tree).await;
    }

    async fn remove(tree: &GroupHandle) {
        match tree.remove(&Self::name()) {
            // An error says that it is gone, which is what is wanted.
            Ok(_) => drop(tree.until(&Self::name(), |_| false).await),
            Err(refusal) => log::debug!("the control of plugins is being stopped: {refusal}"),
        }
    }

    /// What the broker's tree calls it.
    fn name() -> ChildId {
        ChildId::new("control")
    }
}

/// Reads the configuration again and applies what changed; says what that was, or what is wrong.
pub type Reload = Arc<dyn Fn(Plugins) -> Reloading + Send + Sync>;

/// A reload that is under way. It must not block the thread that waits for it.
pub type Reloading = Pin<Box<dyn Future<Output = Result<ReloadReport, String>> + Send>>;

/// What a reload of the configuration changed.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ReloadReport {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub replaced: Vec<String>,
    pub unchanged: Vec<String>,
}

struct Actor {
    plugins: Plugins,
    reload: Option<Reload>,
}

impl actix::Actor for Actor {
    type Context = Context<Self>;
}

/// What a method may be given.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Arguments {
    plugin: Option<String>,
    /// Without asking first.
    force: bool,
}

impl Handler<Call> for Actor {
    type Result = ResponseFuture<Result<Reply, Fault>>;

    fn handle(&mut self, call: Call, _ctx: &mut Self::Context) -> Self::Result {
        let arguments: Arguments = match call.decode() {
            Ok(arguments) => arguments,
            Err(fault) => return Box::pin(ready(Err(fault))),
        };
        match call.method() {
            // Files are read for it, which takes its time.
            "reload" if arguments.plugin.is_none() => self.reload(),
            method => Box::pin(ready(self.answer(method, &arguments))),
        }
    }
}

impl Actor {
    fn answer(&self, method: &str, arguments: &Arguments) -> Result<Reply, Fault> {
        let plugin = || {
            arguments.plugin.as_deref().ok_or_else(|| {
                Fault::new(Code::InvalidArgument, "`plugin` is missing").with("argument", "plugin")
            })
        };
        let answer = match method {
            "plugins" => {
                let reports = self.plugins.reports();
                json!({ "plugins": reports, "unready": unready(&reports) })
            }
            "why" => {
                let plugin = plugin()?;
                let explanations = self.plugins.explain(plugin);
                if explanations.is_empty() {
                    return Err(fault(&self.plugins.unknown(plugin)));
                }
                json!({ "instances": explanations })
            }
            "start" => self.command(plugin()?, Plugins::start_plugin)?,
            "stop" if arguments.force => self.command(plugin()?, Plugins::kill_plugin)?,
            "stop" => self.command(plugin()?, Plugins::stop_plugin)?,
            "restart" => self.command(plugin()?, Plugins::restart_plugin)?,
            "reload" => self.command(plugin()?, Plugins::replace_plugin)?,
            method => {
                let message = format!("`{CONTROL_ID}.{method}` does not exist");
                return Err(Fault::new(Code::NotFound, message));
            }
        };
        Reply::of(&answer)
    }

    fn command(
        &self,
        plugin: &str,
        command: fn(&Plugins, &str) -> Result<Ordered, CommandError>,
    ) -> Result<serde_json::Value, Fault> {
        let ordered = command(&self.plugins, plugin).map_err(|error| fault(&error))?;
        let Ordered { answer, awaited } = ordered;
        Ok(json!({ "plugin": plugin, "answer": answer, "awaited": awaited }))
    }

    fn reload(&self) -> ResponseFuture<Result<Reply, Fault>> {
        let Some(reload) = &self.reload else {
            let message = "this broker has no configuration file to read again";
            return Box::pin(ready(Err(Fault::new(Code::InvalidArgument, message))));
        };
        let reloading = reload(self.plugins.clone());
        Box::pin(async move {
            let report = reloading.await.map_err(|why| Fault::new(Code::InvalidArgument, why))?;
            Reply::of(&report)
        })
    }
}

fn fault(error: &CommandError) -> Fault {
    let code = match error {
        CommandError::Unknown { .. } => Code::NotFound,
        CommandError::Refused { .. } | CommandError::Configuration { .. } => Code::Refused,
    };
    Fault::new(code, error.to_string())
}

const METHODS: [&str; 6] = ["plugins", "why", "start", "stop", "restart", "reload"];
