//! The broker with plugins that it supervises, embedded as an application would embed it, and the
//! smallest plugins.

use std::collections::BTreeMap;
use std::iter;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use plugbus::Broker;
use plugbus::host::logs::{LogSettings, LogStore};
use plugbus::host::manifest::Lifecycle;
use plugbus::host::{PluginEvent, PluginSpec, Plugins};
use plugbus::plugin::{self, Plugin};
use plugbus::supervise::Governor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::clock::monotonic_nanos;
use crate::part::{Line, say};

/// Supervises so many plugins written in Rust, tells of each start, stops them at SIGTERM, and
/// then stays until the process is killed.
pub(crate) fn supervise(socket: &Path, count: usize) -> Result<()> {
    let program = std::env::current_exe()?;
    let specs = (0..count).map(|index| {
        let command = [program.as_os_str(), "plugin".as_ref()];
        PluginSpec::command(plugin_id(index), command)
    });
    run(socket, specs.collect())
}

/// The same with the plugin of `examples/hello.py`.
pub(crate) fn supervise_python(socket: &Path) -> Result<()> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let hello = project.join("examples/hello.py");
    let spec = PluginSpec::command(plugin_id(0), ["python3".as_ref(), hello.as_os_str()])
        .env("PYTHONPATH", project.join("sdk/python"));
    run(socket, vec![spec])
}

/// The id of a plugin. The example in Python is called like the first.
pub(crate) fn plugin_id(index: usize) -> String {
    match index {
        0 => "hello".to_owned(),
        index => format!("hello-{index}"),
    }
}

fn run(socket: &Path, specs: Vec<PluginSpec>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate())?;
        let broker = Broker::builder().name("loadtest").socket(socket).start().await?;
        let logs = LogStore::open(&socket.with_extension("logs"), LogSettings::default())?;
        // Faster than by default, which keeps a machine free for other things.
        let builder = Plugins::builder(&broker).governor(Governor::new(1_000, 100, 16)).logs(logs);
        let builder = builder.observe(teller());
        let builder = iter::zip(specs, iter::repeat(restarted_at_once()))
            .fold(builder, |builder, (spec, lifecycle)| builder.plugin_with(spec, lifecycle));
        say(&Line::Supervises { at: monotonic_nanos() })?;
        let plugins = builder.start().await?;
        stop.recv().await;
        plugins.stop().await;
        say(&Line::Stopped { at: monotonic_nanos() })?;
        std::future::pending::<()>().await;
        Ok(())
    })
}

/// No delay and no limit, however often a plugin is killed.
fn restarted_at_once() -> Lifecycle {
    let mut lifecycle = Lifecycle::default();
    lifecycle.backoff.first = std::time::Duration::ZERO;
    lifecycle.backoff.disable_after = u32::MAX;
    lifecycle.intensity.restarts = 10_000;
    lifecycle
}

/// Tells the parent of each process that got ready.
fn teller() -> impl Fn(PluginEvent) + Send + Sync + 'static {
    let pids = Mutex::new(BTreeMap::new());
    move |event| {
        let at = monotonic_nanos();
        let mut pids = pids.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            PluginEvent::Started { id, pid } => {
                pids.insert(id, pid);
            }
            PluginEvent::Ready { id, .. } => {
                let pid = *pids.get(&id).expect("a plugin is started before it is ready");
                // A parent that does not hear it anymore has ended, and this process with it.
                let _told = say(&Line::Serves { pid, at });
            }
            _ => (),
        }
    }
}

/// The plugin of `examples/hello_plugin.rs`, under the name that the broker gave it.
pub(crate) fn play_plugin() -> Result<()> {
    let id = std::env::var("PLUGBUS_ID")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let hello = Plugin::new(id).method("greet", async |name: Name, _: &plugin::Context| {
        Ok(format!("Hello {}", name.name))
    });
    runtime.block_on(hello.run()).map_err(told)
}

/// What a plugin is asked for.
#[derive(Deserialize, JsonSchema, Serialize)]
struct Name {
    name: String,
}

/// Asks these plugins; each has to answer as the example does.
pub(crate) fn greet(socket: &Path, indices: std::ops::Range<usize>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let client = plugin::connect_to(socket).await.map_err(told)?;
        for index in indices {
            let method = format!("{}.greet", plugin_id(index));
            let question = Name { name: format!("number {index}") };
            let answer: String = client.call(&method, &question).await.map_err(told)?;
            anyhow::ensure!(answer == format!("Hello number {index}"), "{method}: {answer:?}");
        }
        Ok(())
    })
}

fn told(error: plugin::Error) -> anyhow::Error {
    anyhow::Error::from_boxed(error.into())
}
