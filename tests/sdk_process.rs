//! A plugin in a process of its own, connected as a supervisor does it. Without the test harness,
//! because that has threads, and the environment can be changed only while there is one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use common::TestBroker;
use plugbus::id::PluginId;
use plugbus::plugin::{self, Context, Plugin, Result};
use serde_json::{Value, json};

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("plugin") => run_plugin(),
        Some("threads") => run_plugin_among_threads(),
        _ => ["plugin", "threads"]
            .into_iter()
            .for_each(the_inherited_connection_is_taken_from_the_environment),
    }
}

/// What the plugin sees of the inherited connection once it exists.
fn the_inherited_connection_is_taken_from_the_environment(mode: &str) {
    let broker = TestBroker::start();
    let id = PluginId::parse("child").unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    broker.runtime.block_on(broker.broker.attach(ours, id.clone())).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "exec \"$0\" $1 3<&0 </dev/null"])
        .arg(std::env::current_exe().unwrap())
        .arg(mode)
        .env("PLUGBUS_FD", "3")
        .env("PLUGBUS_ID", "child")
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    let seen: Value = broker.runtime.block_on(async {
        broker.broker.wait_ready(&id).await.unwrap();
        let client = plugin::connect_to(broker.socket()).await.unwrap();
        client.call("child.look", &json!({})).await.unwrap()
    });
    assert_eq!(seen, json!({ "variable": null, "close_on_exec": true, "taken_again": false }));

    // SIGTERM is a request to finish in order.
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
    broker.wait_gone("child");
}

fn run_plugin() {
    let plugin = Plugin::new("child").method("look", look);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(plugin.run()).unwrap();
}

/// A runtime with threads of its own, begun before the plugin is made.
fn run_plugin_among_threads() {
    plugin::take_inherited().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(Plugin::new("child").method("look", look).run()).unwrap();
}

async fn look((): (), _: &Context) -> Result<Value> {
    let flags = std::fs::read_to_string("/proc/self/fdinfo/3")?;
    let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
    let close_on_exec = i32::from_str_radix(flags, 8)? & libc::O_CLOEXEC != 0;
    let variable = std::env::var("PLUGBUS_FD").ok();
    // A second plugin of this process has to find its own way to a broker.
    let taken_again = format!("{:?}", Plugin::new("other").run().await).contains("inherited");
    Ok(json!({ "variable": variable, "close_on_exec": close_on_exec, "taken_again": taken_again }))
}
