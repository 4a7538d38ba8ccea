//! `plugbus up` and `plugbus run` with real plugin processes.

mod command;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use command::{HELLO, Outcome, Place, Serving};
use plugbus::error::Code;
use plugbus::wire::body::{self, Hello};
use plugbus::wire::{FrameBuilder, Kind, scan_frame};
use rustix::process::Signal;

const TWO: &str = r#"
[plugins.zebra]
command = ["python3", "../plugin.py"]
dir = "work"

[plugins.ant]
command = ["python3", "plugin.py"]
env = { STRIPES = "no" }
requires = { plugins = { zebra = "*" } }
"#;

/// Says where it runs and with what, and serves nothing.
const PLUGIN: &str = r#"
import os, sys
import plugbus
print(os.path.basename(os.getcwd()), os.environ.get("STRIPES", "yes"))
print("a remark", file=sys.stderr)
plugbus.Plugin().run()
"#;

#[test]
fn plugins_start_after_those_they_need_and_stop_before_them() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = Place::with(&[("plugbus.toml", TWO), ("plugin.py", PLUGIN), ("work/x", "")]);
        let mut serving = up(&place);
        let ready = ["zebra", "ant"].map(|_| serving.wait_for("ready")["plugin"].clone());
        assert_eq!(ready, ["zebra", "ant"]);
        serving.wait_for("serving");
        serving.signal(signal);
        let (code, stopped) = serving.end("exited");
        assert_eq!((code, stopped), (Some(0), vec!["ant".to_owned(), "zebra".to_owned()]));
        let left = fs::read_dir(place.path().join("run/plugbus")).unwrap().count();
        assert_eq!(left, 0, "the socket and its lock are gone");
    }
}

#[test]
fn what_plugins_print_comes_with_their_names_and_they_run_where_they_should() {
    let place = Place::with(&[("plugbus.toml", TWO), ("plugin.py", PLUGIN), ("work/x", "")]);
    let mut serving = up(&place);
    let mut lines = Vec::new();
    while lines.len() < 4 {
        let event = serving.wait_for("output");
        lines.push([&event["plugin"], &event["stream"], &event["line"]].map(|it| it.to_string()));
    }
    lines.sort();
    let base = place.path().file_name().unwrap().to_str().unwrap();
    let expected = [
        ["ant", "stderr", "a remark"],
        ["ant", "stdout", &format!("{base} no")],
        ["zebra", "stderr", "a remark"],
        ["zebra", "stdout", "work yes"],
    ];
    assert_eq!(lines, expected.map(|line| line.map(|text| format!("{text:?}"))));
}

#[test]
fn a_second_broker_on_the_socket_is_refused() {
    let place = Place::with(&[("hello.py", HELLO)]);
    let serving = place.serve(&["run", "hello.py"]);
    let socket = place.socket().display().to_string();
    let pid = format!("process {}", serving.pid());
    place.run(&["run", "hello.py"]).expect(6, &[&socket, &pid, "--socket"]);
    place.run(&["run", "hello.py", "--socket", "hello.py"]).expect(2, &["hello.py"]);
}

#[test]
fn a_killed_broker_leaves_no_plugin_and_its_socket_is_replaced() {
    let place = Place::with(&[("hello.py", HELLO), ("deaf.py", DEAF)]);
    let serving = place.serve(&["run", "hello.py", "deaf.py"]);
    let plugins = serving.plugin_ends();
    assert_eq!(plugins.len(), 2);
    serving.signal(Signal::KILL);
    plugins.iter().for_each(command::ProcessEnd::wait);
    assert!(place.socket().exists(), "nobody was left to remove it");
    place.serve(&["run", "hello.py"]);
}

/// The SDK that a killed broker unpacked is the next one's, and nothing else is left.
#[test]
fn the_sdk_for_python_is_unpacked_once_and_kept() {
    let place = Place::with(&[("hello.py", HELLO), ("tmp/x", "")]);
    for _ in 0..2 {
        let mut command = place.command(&["run", "hello.py", "--json"]);
        let mut serving = Serving::start(command.env("TMPDIR", place.path().join("tmp")));
        serving.wait_for("serving");
        let plugins = serving.plugin_ends();
        serving.signal(Signal::KILL);
        plugins.iter().for_each(command::ProcessEnd::wait);
    }
    assert_eq!(fs::read_dir(place.path().join("tmp")).unwrap().count(), 1);
    let mut kept = fs::read_dir(place.path().join("cache/plugbus")).unwrap();
    let name = kept.next().unwrap().unwrap().file_name().into_string().unwrap();
    assert!(name.starts_with("sdk-") && kept.next().is_none(), "{name}");
}

#[test]
fn without_a_cache_the_sdk_for_python_is_temporary() {
    let place = Place::with(&[("hello.py", HELLO), ("tmp/x", "")]);
    let mut command = place.command(&["run", "hello.py", "--json"]);
    command.env("TMPDIR", place.path().join("tmp")).env_remove("XDG_CACHE_HOME").env_remove("HOME");
    let mut serving = Serving::start(&mut command);
    serving.wait_for("serving");
    assert_eq!(fs::read_dir(place.path().join("tmp")).unwrap().count(), 2);
    serving.signal(Signal::TERM);
    assert_eq!(serving.end("exited").0, Some(0));
    assert_eq!(fs::read_dir(place.path().join("tmp")).unwrap().count(), 1);
}

/// Serves until it is told to end, and then does not end.
const DEAF: &str = r#"
import signal, time
import plugbus
plugbus.Plugin("deaf").run()
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
print("not yet")
time.sleep(1000)
"#;

#[test]
fn a_second_interrupt_ends_everything_at_once() {
    let place = Place::with(&[("deaf.py", DEAF)]);
    let mut serving = place.serve(&["run", "deaf.py"]);
    let plugins = serving.plugin_ends();
    serving.signal(Signal::INT);
    serving.wait_for("output");
    serving.signal(Signal::INT);
    assert_eq!(serving.end("exited").0, Some(130));
    plugins.iter().for_each(command::ProcessEnd::wait);
    assert!(!place.socket().exists());
}

#[test]
fn a_plugin_that_ends_is_reported_and_comes_back() {
    let brief = "import plugbus, os\np = plugbus.Plugin('brief')\n\
                 @p.on('end')\ndef on_end(event):\n    os._exit(7)\np.run()\n";
    let publisher = "import plugbus\nplugbus.connect().publish('end', None)\n";
    let place = Place::with(&[("hello.py", HELLO), ("brief.py", brief), ("publisher", publisher)]);
    let mut serving = place.serve(&["run", "brief.py", "hello.py"]);
    let mut client = Command::new("python3");
    let status = client
        .arg(place.path().join("publisher"))
        .env("PYTHONPATH", sdk())
        .env("PLUGBUS_SOCKET", place.socket())
        .status();
    assert!(status.unwrap().success());
    let exited = serving.wait_for("exited");
    assert_eq!(
        (&exited["plugin"], &exited["exit"]),
        (&"brief".into(), &"exited with code 7".into())
    );
    assert_eq!(exited["expected"], false);
    assert_eq!(serving.wait_for("ready")["plugin"], "brief");
    serving.signal(Signal::INT);
    let (code, mut ended) = serving.end("exited");
    ended.sort();
    assert_eq!((code, ended), (Some(0), ["brief", "brief", "hello"].map(str::to_owned).into()));
}

#[test]
fn a_plugin_that_cannot_start_says_why_and_undoes_the_rest() {
    let cases: &[(&str, &str, i32, &[&str])] = &[
        (
            "bad.py",
            "import nosuch\n",
            1,
            &["Traceback", "No module named 'nosuch'", "bad |", "code 1 before it was ready"],
        ),
        ("wrong.py", "import plugbus\nplugbus.Plugin('right').run()\n", 1, &["`right`", "`wrong`"]),
        ("bin/text", "hello\n", 1, &["bin/text is neither a program nor a script"]),
        ("plain", "hello\n", 1, &["plain is not executable", "chmod +x"]),
        ("Upper.py", "", 2, &["Upper.py cannot name a plugin"]),
    ];
    for (name, text, code, wanted) in cases {
        let place = Place::with(&[("hello.py", HELLO), (name, text)]);
        place.run(&["run", "hello.py", name]).expect(*code, wanted);
        assert!(!place.socket().exists());
    }
    let place = Place::with(&[("hello.py", HELLO), ("b/hello.py", HELLO)]);
    place.run(&["run", "hello.py", "b/hello.py"]).expect(2, &["both be plugin `hello`"]);
    place.run(&["run", "none.py"]).expect(2, &["there is no file", "none.py"]);
    let mut command = place.command(&["run", "hello.py"]);
    let outcome = Outcome::of(&command.env("PATH", place.path()).output().unwrap());
    outcome.expect(1, &["need python3", "not in PATH"]);
    assert_eq!(outcome.error.lines().count(), 1);
}

#[test]
fn a_configuration_that_is_wrong_is_named_with_its_line() {
    let place = Place::with(&[("plugbus.toml", "[plugins.a]\ncomand = []\n")]);
    place.run(&["up"]).expect(2, &["plugbus.toml:2: unknown key `comand`", "`command`?"]);
    place.run(&["up", "nowhere"]).expect(2, &["nowhere"]);
}

#[test]
fn limits_of_the_file_are_the_brokers() {
    let text = "[broker.limits]\nroutes = 3\ncall_timeout_ms = 1_500\n";
    let place = Place::with(&[("plugbus.toml", text)]);
    let _serving = place.serve(&["up"]);
    let hello = Hello { versions: vec![1], ..Hello::default() };
    let hello = FrameBuilder::new(Kind::HELLO).build(b"", &body::encode_hello(&hello));
    let mut peer = UnixStream::connect(place.socket()).unwrap();
    peer.write_all(&hello).unwrap();
    let mut input = Vec::new();
    let limits = loop {
        let mut byte = [0];
        peer.read_exact(&mut byte).unwrap();
        input.push(byte[0]);
        if let Some(frame) = scan_frame(&input, 1 << 20).unwrap() {
            break body::decode::<body::Welcome>(frame.body()).unwrap().limits;
        }
    };
    assert_eq!((limits.routes_max, limits.call_timeout_ms), (3, Some(1_500)));
    drop(peer);

    let place = Place::with(&[("plugbus.toml", "[broker.limits]\nrouts = 3\n")]);
    place.run(&["up"]).expect(2, &["plugbus.toml:2: unknown key `routs`", "`routes`?"]);
    place.run(&["up", "--help"]).expect(0, &["absent_timeout_ms", "60000"]);
}

/// Peers that come when descriptors have run out are told so; later ones get in.
#[test]
fn a_broker_without_descriptors_says_so_and_recovers() {
    let place = Place::with(&[("plugbus.toml", "")]);
    let plugbus = env!("CARGO_BIN_EXE_plugbus");
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n 48; exec {plugbus} up --json")])
        .current_dir(place.path())
        .env("XDG_RUNTIME_DIR", place.path().join("run"))
        .env("XDG_CACHE_HOME", place.path().join("cache"))
        .env_remove("PLUGBUS_SOCKET");
    let mut serving = Serving::start(&mut command);
    serving.wait_for("serving");

    let peers: Vec<_> = (0..64).map(|_| UnixStream::connect(place.socket()).unwrap()).collect();
    // The last one to come finds all descriptors taken.
    let mut last = peers.last().unwrap();
    let mut bytes = Vec::new();
    last.read_to_end(&mut bytes).unwrap();
    let frame = scan_frame(&bytes, 1 << 20).unwrap().expect("a whole frame");
    assert_eq!(frame.header.kind, Kind::ERROR);
    let fault = body::decode_fault(frame.body()).unwrap();
    assert_eq!(fault.code, Code::Refused);
    assert_eq!(fault.details["resource"], "open descriptors");
    drop(peers);

    // Their ends are noticed one after the other, so the first tries may still be refused.
    let hello = Hello { versions: vec![1], ..Hello::default() };
    let hello = FrameBuilder::new(Kind::HELLO).build(b"", &body::encode_hello(&hello));
    let welcomed = || -> std::io::Result<bool> {
        let mut peer = UnixStream::connect(place.socket())?;
        peer.write_all(&hello)?;
        let mut start = [0; 2];
        peer.read_exact(&mut start)?;
        Ok(start[1] == Kind::WELCOME.0)
    };
    while !welcomed().unwrap_or(false) {}
}

#[test]
fn a_folder_of_plugins_starts_in_the_order_of_what_they_require() {
    let manifest = |id: &str, requires: &str| {
        format!(
            "manifest = 1\nid = '{id}'\nversion = '1.2.0'\nrun.entry = 'main.py'\n\
             requires.plugins = {{ {requires} }}\n"
        )
    };
    let place = Place::with(&[
        ("plugins/ant/plugin.toml", &manifest("ant", "zebra = '^1.0'")),
        ("plugins/ant/main.py", PLUGIN),
        ("plugins/zebra/plugin.toml", &manifest("zebra", "")),
        ("plugins/zebra/main.py", PLUGIN),
    ]);
    let serving = place.serve(&["up", "plugins"]);
    serving.signal(Signal::TERM);
    let (code, stopped) = serving.end("exited");
    assert_eq!((code, stopped), (Some(0), vec!["ant".to_owned(), "zebra".to_owned()]));

    let path = place.path().join("plugins/ant/plugin.toml");
    fs::write(&path, manifest("ant", "zebra = '^2.0', giraffe = '*'")).unwrap();
    place.run(&["up", "plugins"]).expect(
        2,
        &["`ant` requires `zebra` ^2.0, but it is 1.2.0", "requires `giraffe`, which is not there"],
    );
    fs::write(&path, manifest("ant", "") + "requires.tools = ['no-such-tool']").unwrap();
    let _serving = place.serve(&["up", "plugins"]);
    place.run(&["why", "ant"]).expect(
        0,
        &["failed", "`no-such-tool` is required: there is no program", "plugbus start ant"],
    );
}

#[test]
fn a_python_file_finds_the_packages_that_its_header_names() {
    let place = Place::with(&[("wheel.py", WHEEL)]);
    let wheel = place.path().join("greeting-1.0-py3-none-any.whl");
    let mut make = Command::new("python3");
    make.arg("wheel.py").arg(&wheel).current_dir(place.path());
    assert!(make.status().unwrap().success());
    let plugin = format!(
        "# /// script\n# requires-python = '>=3.9'\n\
         # dependencies = ['greeting @ file://{}']\n# ///\n\
         import greeting\nimport plugbus\nprint(greeting.WORD)\nplugbus.Plugin().run()\n",
        wheel.display()
    );
    fs::write(place.path().join("polite.py"), plugin).unwrap();
    let mut command = place.command(&["run", "polite.py", "--json"]);
    let mut serving = Serving::start(command.env("PLUGBUS_OFFLINE", "1"));
    assert_eq!(serving.wait_for("output")["line"], "hello");
    serving.wait_for("serving");
    serving.signal(Signal::TERM);
    assert_eq!(serving.end("exited").0, Some(0));
}

/// Makes a package of one line, as `pip` wants it.
const WHEEL: &str = r#"
import sys, zipfile
info = "greeting-1.0.dist-info/"
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    wheel.writestr("greeting.py", "WORD = 'hello'")
    wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    wheel.writestr(
        info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    wheel.writestr(info + "RECORD", "")
"#;

fn up(place: &Place) -> Serving {
    let mut command = place.command(&["up", "--json"]);
    Serving::start(command.env("PYTHONPATH", sdk()))
}

fn sdk() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/python")
}
