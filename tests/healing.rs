//! Plugins that fail without ending, and what people see of it.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

mod command;

use command::Place;
use serde_json::{Value, json};

/// Lives on when its connection is gone.
const UNDEAD: &str = r#"
import os, socket, threading
import plugbus

connection = socket.socket(fileno=os.dup(int(os.environ["PLUGBUS_FD"])))
plugin = plugbus.Plugin("undead")

@plugin.method
def pid() -> int:
    "The process that answers."
    return os.getpid()

@plugin.method
def cut() -> None:
    "Ends the connection, and nothing else."
    connection.shutdown(socket.SHUT_RDWR)

try:
    plugin.run()
finally:
    print("lives on", flush=True)
    threading.Event().wait()
"#;

#[test]
fn a_process_that_goes_on_without_its_session_is_restarted() {
    let config = "[plugins.undead]\ncommand = [\"python3\", \"undead.py\"]\n\
                  lifecycle.health = { interval = \"100ms\" }\n";
    let place = Place::with(&[("plugbus.toml", config), ("undead.py", UNDEAD)]);
    let mut serving = place.serve(&["up"]);
    let old = place.run(&["call", "undead.pid"]).out;
    place.run(&["call", "undead.cut"]).expect(7, &[]);
    serving.wait_for_line("lives on");
    serving.wait_for("exited");
    serving.wait_for("ready");
    let new = place.run(&["call", "undead.pid"]);
    new.expect(0, &[]);
    assert_ne!(new.out, old);
    let why = place.run(&["why", "undead", "--json"]).out;
    let why: Value = serde_json::from_str(&why).unwrap();
    let plugin = &why["instances"][0]["plugin"];
    assert_eq!(plugin["restarts"], 1);
    let exit = plugin["last_exit"].as_str().unwrap();
    assert!(exit.contains("its session ended"), "{exit}");
}

#[test]
fn an_application_is_not_ready_while_a_critical_plugin_does_not_serve() {
    let config = |critical| {
        format!("[plugins.broken]\ncommand = [\"false\"]\nlifecycle.critical = {critical}\n")
    };
    for (critical, code) in [(false, 0), (true, 7)] {
        let place = Place::with(&[("plugbus.toml", &config(critical))]);
        let _serving = place.serve(&["up"]);
        let status = place.run(&["status"]);
        status.expect(code, &["broken"]);
        assert_eq!(status.error.contains("not ready"), critical, "{status:?}");
        let status = place.run(&["status", "--json"]);
        status.expect(code, &[]);
        let status: Value = serde_json::from_str(&status.out).unwrap();
        let unready = if critical { json!(["broken"]) } else { json!([]) };
        assert_eq!(status["unready"], unready);
    }
}
