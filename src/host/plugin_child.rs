//! One process of a plugin as a child of a supervision tree.
//!
//! Carries out what the plugins' group decides and reports what becomes of it: prepares, starts,
//! attaches to the broker, says when it is ready, stops in steps. It decides nothing about
//! restarts.
//!
//! An incarnation owes the group one `exited`, after everything of it is gone.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::board::{Board, Seat};
use super::exit::Exit as ProcessExit;
use super::output::Stream;
use super::plugins::{Observer, PluginEvent};
use super::process::Process;
use super::recipe::{Recipe, RecipeCell};
use super::roster::{Alive, Entry, Roster};
use super::spec::PluginSpec;
use super::switch::Switch;
use crate::broker::{Broker, BrokerError};
use crate::engine::supervise::Exit;
use crate::engine::{Attachment, PluginExit, RegistrationDifference};
use crate::id::PluginId;
use crate::limit;
use crate::net::clock;
use crate::supervise::{Child, Reports};

/// What its incarnations share.
pub(crate) struct Plugin {
    pub(crate) id: PluginId,
    pub(crate) seat: Seat,
    pub(crate) recipe: Arc<RecipeCell>,
    pub(crate) broker: Broker,
    pub(crate) board: Board,
    pub(crate) roster: Roster,
    pub(crate) observe: Observer,
}

/// The child.
pub(crate) struct PluginChild {
    plugin: Arc<Plugin>,
    /// Those that were started and not forgotten, by generation.
    incarnations: BTreeMap<u64, Incarnation>,
}

struct Incarnation {
    /// The number under which the broker knows it.
    number: u32,
    orders: mpsc::Sender<Order>,
}

/// What an incarnation is told. Each at most once or twice in its life.
#[derive(Debug)]
enum Order {
    /// Another one serves in its place.
    Switch(Switch),
    Stop,
    Kill,
}

impl PluginChild {
    pub(crate) fn new(plugin: Plugin) -> Self {
        Self { plugin: Arc::new(plugin), incarnations: BTreeMap::new() }
    }

    fn tell(&self, generation: u64, order: Order) {
        if let Some(incarnation) = self.incarnations.get(&generation)
            && let Err(late) = incarnation.orders.try_send(order)
        {
            // It has ended; what ended needs no orders.
            log::debug!("{late} for {}", self.plugin.id);
        }
    }
}

impl Child for PluginChild {
    fn start(&mut self, reports: Reports) {
        self.incarnations.retain(|_, incarnation| !incarnation.orders.is_closed());
        let replaced = reports.replaces().and_then(|old| self.incarnations.get(&old));
        let replaces = replaced.map(|incarnation| incarnation.number);
        // Never used twice, so that a successor's successor can live beside one that still
        // finishes its calls.
        let number = u32::try_from(reports.generation()).unwrap_or(u32::MAX);
        let (orders, ordered) = mpsc::channel(Self::ORDERS_MAX);
        self.incarnations.insert(reports.generation(), Incarnation { number, orders });
        let life = Life { plugin: Arc::clone(&self.plugin), number, replaces, reports };
        tokio::spawn(life.live(ordered));
    }

    fn stop(&mut self, generation: u64, _within: Option<Duration>) {
        self.tell(generation, Order::Stop);
    }

    fn kill(&mut self, generation: u64) {
        self.tell(generation, Order::Kill);
    }

    fn switch(&mut self, from: u64, to: u64) {
        if let Some(successor) = self.incarnations.get(&to) {
            let Plugin { id, broker, .. } = &*self.plugin;
            self.tell(from, Order::Switch(Switch::begin(broker, id, successor.number)));
        }
    }
}

impl PluginChild {
    /// Switch, stop, kill, and one to spare.
    const ORDERS_MAX: usize = 4;
}

/// One incarnation, from its start to its end.
struct Life {
    plugin: Arc<Plugin>,
    number: u32,
    replaces: Option<u32>,
    reports: Reports,
}

impl Life {
    async fn live(self, mut orders: mpsc::Receiver<Order>) {
        let exit = self.run(&mut orders).await.unwrap_or_else(|exit| exit);
        self.reports.exited(exit);
    }

    /// Gives how it ended; the error is an end before there was a process.
    async fn run(&self, orders: &mut mpsc::Receiver<Order>) -> Result<Exit, Exit> {
        let Plugin { id, seat, recipe, broker, board, roster, observe } = &*self.plugin;
        let spec = self.prepare(&recipe.get(), orders).await?;
        let began = clock::instant();
        let complaint = Arc::default();
        let (process, socket) =
            Process::start(&spec, self.sink(&complaint)).await.map_err(|error| {
                let permanent = error.is_permanent();
                Exit::StartFailed { permanent, why: error.to_string().into() }
            })?;
        let pid = process.pid();
        let shown = board.enter(seat, self.reports.generation(), pid);
        let reports = self.reports.clone();
        let alive = Alive { pid, number: self.number, was_ready: false, reports };
        let entry = roster.enter(seat, alive);
        observe.tell(PluginEvent::Started { id: id.clone(), pid });
        let attachment =
            Attachment { plugin: id.clone(), instance: self.number, replaces: self.replaces };
        if let Err(error) = self.ask(broker.attach_instance(socket, attachment)).await {
            process.kill().await;
            return Err(Exit::StartFailed { permanent: false, why: error.to_string().into() });
        }
        let (exit, was_ready, expected) = self.serve(&process, &entry, began, orders).await;
        drop(entry);
        shown.ended(exit);
        let text = exit.to_string();
        // Before the group hears of it, so that callers are told how it ended.
        let exited = PluginExit { text: text.clone(), back_at: None };
        if let Err(error) = self.ask(broker.plugin_exited(id, self.number, exited)).await {
            log::debug!("nobody is left to hear how {id} ended: {error}");
        }
        observe.tell(PluginEvent::Exited { id: id.clone(), exit, expected });
        if exit == ProcessExit::Unkillable {
            process.gone().await;
        }
        Ok(match exit {
            ProcessExit::Code(0) if expected => Exit::Stopped,
            exit if was_ready || expected => ending(exit),
            exit => early(exit, &complaint.lock()),
        })
    }

    /// What is to be started. Its time to get ready has not begun while this lasts, which has a
    /// bound of its own.
    async fn prepare(
        &self,
        recipe: &Recipe,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Result<PluginSpec, Exit> {
        let lifecycle = recipe.lifecycle();
        let within = lifecycle.prepare_timeout;
        let beat =
            (lifecycle.start_timeout / 3).clamp(limit::PREPARE_BEAT_MIN, limit::PREPARE_BEAT);
        let mut is_late = pin!(tokio::time::sleep(within));
        let mut preparing = pin!(recipe.prepare(self.plugin.seat.1));
        let began = clock::instant();
        loop {
            let prepared = tokio::select! {
                prepared = &mut preparing => prepared,
                _ = orders.recv() => return Err(Exit::Stopped),
                () = &mut is_late => Err(String::new()),
                () = tokio::time::sleep(beat) => {
                    self.reports.active();
                    continue;
                }
            };
            self.reports.active();
            return match prepared {
                Ok(spec) => Ok(spec),
                // Who installs for it is stopped by the same bound, and may be the first to say so.
                Err(why) if began.elapsed() >= within => {
                    let mut text =
                        format!("it was not prepared within {within:?} (prepare_timeout)");
                    if !why.is_empty() {
                        text += &format!(": {why}");
                    }
                    Err(Exit::StartFailed { permanent: false, why: text.into() })
                }
                Err(why) => Err(Exit::StartFailed { permanent: true, why: why.into() }),
            };
        }
    }

    /// From its start to its end; says whether it ever was ready, and whether it was asked to end.
    async fn serve(
        &self,
        process: &Process,
        entry: &Entry,
        began: Instant,
        orders: &mut mpsc::Receiver<Order>,
    ) -> (ProcessExit, bool, bool) {
        let Plugin { id, broker, observe, .. } = &*self.plugin;
        let mut was_ready = false;
        let mut retires = false;
        loop {
            tokio::select! {
                // What the process says of itself explains more than what the broker sees.
                biased;
                exit = process.exited() => return (exit, was_ready, false),
                Some(order) = orders.recv() => match order {
                    Order::Switch(switch) => {
                        retires = self.hand_over(switch).await;
                    }
                    Order::Stop => {
                        let exit = tokio::select! {
                            exit = self.stop(process, retires) => exit,
                            // A second order can only be to kill.
                            _ = orders.recv() => process.kill().await,
                        };
                        return (exit, was_ready, true);
                    }
                    Order::Kill => return (process.kill().await, was_ready, false),
                },
                ready = broker.wait_instance_ready(id, self.number), if !was_ready => {
                    match ready {
                        Ok(()) => (),
                        // The broker recovers, and is asked again.
                        Err(BrokerError::Failed) => continue,
                        Err(_gone) => return (process.kill().await, false, false),
                    }
                    was_ready = true;
                    entry.ready();
                    let after = began.elapsed();
                    observe.tell(PluginEvent::Ready { id: id.clone(), after });
                    self.reports.ready();
                }
            }
        }
    }

    /// Lets the successor serve. True when this one has nothing more to do than to finish.
    async fn hand_over(&self, switch: Switch) -> bool {
        let id = &self.plugin.id;
        let unanswered = Err(BrokerError::Failed);
        let compared = async { switch.compared.await.unwrap_or(unanswered) };
        if let Ok(Some(difference)) = self.ask(compared).await {
            self.show(difference).await;
        }
        let unanswered = Err(BrokerError::Failed);
        let switched = async { switch.switched.await.unwrap_or(unanswered) };
        match self.ask(switched).await {
            Ok(Ok(())) => true,
            Ok(Err(fault)) => {
                log::warn!("plugin {id} could not be replaced: {fault}");
                false
            }
            Err(error) => {
                log::debug!("plugin {id} is not replaced: {error}");
                false
            }
        }
    }

    /// Tells people what callers will find different.
    async fn show(&self, difference: RegistrationDifference) {
        let Plugin { id, seat, broker, observe, .. } = &*self.plugin;
        let event = serde_json::json!({
            "id": id.as_str(),
            "instance": seat.1,
            "state": "replacing",
            "from": "replacing",
            "cause": "its successor is ready",
            "difference": &difference,
        });
        let topic = format!("lifecycle.{id}.replacing");
        if let Err(error) = self.ask(broker.publish_own(&topic, &event)).await {
            log::debug!("nobody is left to hear of {id}: {error}");
        }
        observe.tell(PluginEvent::Compared { id: id.clone(), difference });
    }

    /// The steps of a stop: the notice, then signals.
    async fn stop(&self, process: &Process, retires: bool) -> ProcessExit {
        let Plugin { id, broker, recipe, .. } = &*self.plugin;
        if retires {
            // The broker tells it to leave when it has answered what it has.
            let notice = recipe.get().stop_grace().max(limit::RETIRE_TIMEOUT);
            return process.stop(notice, limit::STOP_SIGNAL_TIMEOUT).await;
        }
        let grace = recipe.get().stop_grace();
        // Who cannot be told has nothing to finish for us.
        let heard = self.ask(broker.stop_instance(id, self.number, grace)).await;
        let heard = matches!(heard, Ok(true));
        let notice = if heard { grace } else { Duration::ZERO };
        process.stop(notice, limit::STOP_SIGNAL_TIMEOUT).await
    }

    /// Waits for what the broker says. One that starts over has nothing to say before this process
    /// has ended, but still hears what was sent.
    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        tokio::select! {
            biased;
            answer = question => answer,
            () = self.plugin.broker.starts_over() => Err(BrokerError::Failed),
        }
    }

    /// Where its lines go. The last one of standard error that says something is its complaint.
    fn sink(
        &self,
        complaint: &Arc<Mutex<String>>,
    ) -> impl Fn(Stream, &str) + Clone + Send + Sync + 'static {
        let (plugin, complaint) = (Arc::clone(&self.plugin), Arc::clone(complaint));
        move |stream, line| {
            if stream == Stream::Stderr {
                plugin.board.complained(&plugin.seat, line);
                if !line.trim().is_empty() {
                    line.trim().clone_into(&mut complaint.lock());
                }
            }
            let (id, line) = (plugin.id.clone(), line.to_owned());
            plugin.observe.tell(PluginEvent::Printed { id, stream, line });
        }
    }
}

/// The end of a process that had been ready.
fn ending(exit: ProcessExit) -> Exit {
    match exit {
        ProcessExit::Code(0) => Exit::Normal,
        ProcessExit::Code(code) => Exit::Code(code),
        ProcessExit::Signal { number, core } => Exit::Signal { number, core },
        ProcessExit::OutOfMemory => Exit::Oom,
        ProcessExit::Killed | ProcessExit::Unkillable | ProcessExit::Unknown => {
            Exit::Signal { number: SIGKILL, core: false }
        }
    }
}

/// The end of a process that never was ready. Some ends say that the next start ends the same way.
fn early(exit: ProcessExit, complaint: &str) -> Exit {
    let permanent = match exit {
        // As a shell says that there is no such program, or that it cannot be executed.
        ProcessExit::Code(126 | 127) => true,
        ProcessExit::Code(_) => is_import_error(complaint),
        _ => false,
    };
    let separator = if complaint.is_empty() { "" } else { ": " };
    let why = format!("it {exit} before it was ready{separator}{complaint}");
    Exit::StartFailed { permanent, why: why.into() }
}

/// Whether the last line of a traceback says that the program itself has to be changed, or that
/// something has to be installed.
fn is_import_error(line: &str) -> bool {
    let kind = line.trim_start().split(':').next().unwrap_or_default();
    PERMANENT_ERRORS.contains(&kind)
}

/// Of Python and Node.
const PERMANENT_ERRORS: &[&str] =
    &["ModuleNotFoundError", "ImportError", "SyntaxError", "IndentationError", "TabError"];

const SIGKILL: i32 = 9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_cannot_mend_itself_is_told_from_bad_luck() {
        let missing = "ModuleNotFoundError: No module named 'requests'";
        let cases = [
            (ProcessExit::Code(1), missing, true),
            (ProcessExit::Code(1), "SyntaxError: invalid syntax", true),
            (ProcessExit::Code(1), "ConnectionRefusedError: [Errno 111]", false),
            (ProcessExit::Code(127), "sh: 1: nothing: not found", true),
            (ProcessExit::Code(0), "", false),
            (ProcessExit::Signal { number: 11, core: false }, missing, false),
        ];
        for (exit, complaint, expected) in cases {
            let early = early(exit, complaint);
            assert_eq!(early.is_permanent(), expected, "{exit} {complaint}");
        }
        let text = early(ProcessExit::Code(1), missing).to_string();
        assert!(text.contains("No module named 'requests'"), "{text}");
    }
}
