use std::fs;
use std::time::Duration;

use semver::VersionReq;
use serde_json::{Value, json};

use super::*;

#[test]
fn every_key_of_a_complete_manifest_is_read() {
    let manifest = Manifest::parse(COMPLETE, Path::new("/app/weather/plugin.toml")).unwrap();
    assert_eq!(manifest.id.as_str(), "weather");
    assert_eq!(manifest.version, Some(Version::new(1, 4, 2)));
    assert_eq!(manifest.description.as_deref(), Some("Forecasts"));
    let run = &manifest.run;
    assert_eq!(run.runtime.as_deref(), Some("python"));
    assert_eq!(run.entry.as_deref(), Some(Path::new("/app/weather/weather.py")));
    assert_eq!((&run.args[..], run.instances), (&["--fast".to_owned()][..], 2));
    assert_eq!(run.env["LANG"], "C");
    assert_eq!(run.dir.as_deref(), Some(Path::new("/app/weather/data")));
    let requires = &manifest.requires;
    let geo = &requires.plugins[&PluginId::parse("geo").unwrap()];
    assert_eq!((geo.version.to_string().as_str(), geo.optional), ("^1.0", false));
    let db = &requires.plugins[&PluginId::parse("db").unwrap()];
    assert_eq!((&db.version, db.optional), (&VersionReq::STAR, true));
    assert_eq!(requires.tools[0].to_string(), "python3 >=3.9");
    assert_eq!(requires.packages.python, ["numpy >= 2"]);
    assert_eq!(manifest.permissions["fs"], json!({"read": ["./data/**"]}));
    let limits = &manifest.limits;
    assert_eq!(limits.memory, Some(ByteSize(100 << 20)));
    assert_eq!(limits.cpu, Some(CpuShare(25)));
    assert_eq!((limits.fds, limits.procs), (Some(50), Some(8)));
    assert_eq!(limits.message, Some(ByteSize(1 << 20)));
    assert_eq!((limits.file_size, limits.core), (Some(ByteSize(1 << 30)), Some(ByteSize(1))));
    let lifecycle = Lifecycle {
        restart: Restart::Transient,
        lazy: true,
        idle_sleep: Some(Duration::from_secs(300)),
        stop_grace: Duration::from_secs(3),
        start_timeout: Duration::from_millis(2_500),
        prepare_timeout: Duration::from_secs(120),
        critical: true,
        hold: Duration::ZERO,
        backoff: Backoff {
            first: Duration::from_millis(100),
            max: Duration::from_secs(8),
            stable: Duration::from_secs(30),
            quarantine: Duration::from_secs(20),
            quarantine_max: Duration::from_secs(60),
            disable_after: 4,
        },
        intensity: Intensity { restarts: 3, within: Duration::from_secs(10) },
        health: Health {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(2),
            misses: 2,
            oldest: Threshold { alert: Some(Duration::from_secs(10)), restart: None },
            memory: Threshold {
                alert: Some(ByteSize(80 << 20)),
                restart: Some(ByteSize(90 << 20)),
            },
            cpu: Threshold { alert: Some(CpuShare(80)), restart: None },
            fds: Threshold { alert: None, restart: Some(40) },
            method: true,
            command: vec!["./check".to_owned(), "--quick".to_owned()],
        },
        alerts: Alerts {
            command: vec!["notify-send".to_owned()],
            webhook: Some("http://127.0.0.1:8080/alerts".to_owned()),
        },
    };
    assert_eq!(manifest.lifecycle, lifecycle);
    assert_eq!(manifest.expose["mcp"], json!(["forecast"]));
}

#[test]
fn a_small_manifest_has_the_defaults() {
    let text = "manifest = 1\nid = 'a'\nrun.command = ['bin/a', 'x']";
    let manifest = Manifest::parse(text, Path::new("/app/plugin.toml")).unwrap();
    let mut expected = Manifest::new(PluginId::parse("a").unwrap(), "/app/plugin.toml");
    expected.run.command = vec!["/app/bin/a".to_owned(), "x".to_owned()];
    assert_eq!(manifest, expected);
    assert_eq!(expected.lifecycle.restart, Restart::Permanent);
    for (name, restart) in [
        ("always", Restart::Permanent),
        ("on-failure", Restart::Transient),
        ("never", Restart::Temporary),
        ("temporary", Restart::Temporary),
    ] {
        let text = format!("{text}\nlifecycle.restart = '{name}'");
        let manifest = Manifest::parse(&text, Path::new("/app/plugin.toml")).unwrap();
        assert_eq!(manifest.lifecycle.restart, restart);
    }
}

/// Each case: what follows the first three lines, the line that is wrong, what the message says.
#[test]
fn errors_name_the_line_and_what_would_be_right() {
    let cases: &[(&str, usize, &str)] = &[
        ("versoin = '1.0.0'", 4, "unknown key `versoin` in a manifest; did you mean `version`?"),
        ("version = '1.4'", 4, "write three numbers, like \"1.4.2\""),
        ("[limits]\nmemory = '100X'", 5, "`memory` must be a size like \"100M\""),
        ("[limits]\nmemory = true", 5, "`memory` must be a size"),
        ("[limits]\ncpu = 25", 5, "a share of one core like \"25%\""),
        ("[limits]\nfds = 2", 5, "at least 8"),
        ("[limits]\nfd = 64", 5, "unknown key `fd` in [limits]; did you mean `fds`?"),
        ("[lifecycle]\nrestart = 'allways'", 5, "did you mean `always`?"),
        ("[lifecycle]\nrestart = 'sometimes'", 5, "use permanent, always, transient"),
        ("[lifecycle]\nidle_sleep = 5", 5, "a time like \"5s\""),
        ("[lifecycle]\nidle_sleep = '5 days'", 5, "no unit of time: use ms, s, m or h"),
        ("[lifecycle]\nidle_sleep = '0s'", 5, "above 0"),
        ("[lifecycle.backoff]\nfirst = '1m'", 4, "`first` (60s) must not be longer"),
        ("[lifecycle.backoff]\nquarantine_max = '1s'", 4, "`quarantine` (30s) must not be"),
        ("[lifecycle.health]\nmemory = { alrt = '1M' }", 5, "[lifecycle.health.memory]; did you"),
        ("[lifecycle.health]\nfds = { alert = 9, restart = 8 }", 5, "alerted beyond"),
        ("[lifecycle.health]\nmisses = 0", 5, "a whole number above 0"),
        ("[lifecycle.health]\nmisses = 4294967296", 5, "a smaller number"),
        ("[lifecycle.alerts]\nwebhook = 'https://x'", 5, "TLS is not spoken here"),
        ("[lifecycle.alerts]\ncommand = []", 5, "must be a list"),
        ("[requires]\ntools = ['python3 >= x']", 5, "write it like \"python3 >= 3.9\""),
        ("[requires]\ntools = 'python3'", 5, "a list of strings"),
        ("[requires.plugins]\nGeo = '1'", 5, "not a valid plugin id"),
        ("[requires.plugins]\ngeo = 'one'", 5, "no range of versions"),
        ("[requires.plugins]\ngeo = 1", 5, "a range like \"^1.0\""),
        ("[requires.plugins]\ngeo = { ver = '1' }", 5, "[requires.plugins.geo]; did you mean"),
        ("[requires.packages]\nnpm = []", 5, "unknown key `npm` in [requires.packages]"),
        ("[run]", 4, "duplicate key"),
        ("[expose", 4, "]"),
        ("manifest = 1", 4, "duplicate key"),
        ("permissions = 3", 4, "`permissions` must be a table"),
    ];
    for (rest, line, wanted) in cases {
        let text = format!("manifest = 1\nid = 'a'\nrun = {{ command = ['a'] }}\n{rest}");
        check_wrong(&text, *line, wanted);
    }
    let whole: &[(&str, usize, &str)] = &[
        ("", 1, "add `manifest = 1`"),
        ("manifest = 2\nid = 'a'", 1, "must be 1"),
        ("manifest = 1", 1, "add `id = "),
        ("manifest = 1\nid = 'A'", 2, "\"A\" is not a valid plugin id"),
        ("manifest = 1\nid = 'a'", 1, "plugin `a` has nothing to start"),
        ("manifest = 1\nid = 'a'\n[run]\nruntime = 'python'", 3, "has nothing to start"),
        ("manifest = 1\nid = 'a'\n[run]\nentry = 'a.py'\ncommand = ['b']", 4, "remove one of them"),
        ("manifest = 1\nid = 'a'\n[run]\nentry = ''", 4, "must be the plugin's file"),
        ("manifest = 1\nid = 'a'\n[run]\ncommand = 'a b'", 4, "must be a list of strings"),
        ("manifest = 1\nid = 'a'\n[run]\ncommand = ['a', 3]", 4, "is a list of strings"),
        ("manifest = 1\nid = 'a'\n[run]\nargs = [\"\\u0000\"]", 4, "a zero byte"),
        ("manifest = 1\nid = 'a'\n[run]\nenv = { 'a=b' = '' }", 4, "cannot be a variable's name"),
        ("manifest = 1\nid = 'a'\n[run]\ninstances = 33", 4, "at most 32"),
        ("manifest = 1\nid = 'a'\n[run]\nenty = 'a.py'", 4, "in [run]; did you mean `entry`?"),
    ];
    for (text, line, wanted) in whole {
        check_wrong(text, *line, wanted);
    }
}

#[test]
fn a_python_file_carries_its_manifest() {
    let text = "#!/usr/bin/env python3\n# Weather.\n\n# /// script\n\
        # requires-python = \">=3.9,<4\"\n# dependencies = [\n#   \"numpy\",\n# ]\n#\n\
        # [tool.ruff]\n# line-length = 100\n# [tool.plugbus]\n# version = \"1.0.0\"\n\
        # lifecycle = { restart = \"never\" }\n# ///\nimport plugbus\n";
    let manifest = Manifest::parse_script(text, Path::new("/app/my_weather.py")).unwrap();
    assert_eq!(manifest.id.as_str(), "my-weather");
    assert_eq!(manifest.version, Some(Version::new(1, 0, 0)));
    assert_eq!(manifest.lifecycle.restart, Restart::Temporary);
    assert_eq!(manifest.requires.packages.python, ["numpy"]);
    assert_eq!(manifest.requires.tools[0].to_string(), "python3 >=3.9, <4");
    assert_eq!(manifest.run.runtime.as_deref(), Some("python"));
    assert_eq!(manifest.run.entry.as_deref(), Some(Path::new("/app/my_weather.py")));

    let plain = Manifest::parse_script("import plugbus\n", Path::new("/app/hello.py")).unwrap();
    assert_eq!(plain.id.as_str(), "hello");
    assert!(plain.requires.tools.is_empty());

    let cases = [
        ("# /// script\n# x = \nimport x", 1, "has no end"),
        ("\n# /// script\n# x = 1", 2, "has no end"),
        ("# /// script\n# ///\n# /// script\n# ///", 3, "a second"),
        ("\n\n# /// script\n# x =\n# ///", 4, ""),
        ("# /// script\n# [tool.plugbus]\n# verion = '1'\n# ///", 3, "did you mean `version`?"),
        ("# /// script\n# [tool.plugbus.run]\n# entry = 'x'\n# ///", 3, "this file is the plugin"),
        ("# /// script\n# requires-python = '!=3.9'\n# ///", 2, "`!=` is not understood"),
        ("# /// script\n# dependencies = 'numpy'\n# ///", 2, "a list of strings"),
        ("# /// script\n# tool.plugbus = 1\n# ///", 2, "must be a table"),
    ];
    for (text, line, wanted) in cases {
        check_error(Manifest::parse_script(text, Path::new("/app/a.py")), text, line, wanted);
    }
    let error = Manifest::parse_script("", Path::new("/app/Hello.py")).unwrap_err().to_string();
    assert!(error.contains("/app/Hello.py cannot name a plugin"), "{error}");
}

#[test]
fn python_ranges_keep_their_meaning() {
    let cases = [
        (">=3.9", "3.9.0 3.12.1", "3.8.9 2.7.0"),
        ("~=3.9", "3.9.0 3.12.1", "3.8.9 4.0.0"),
        ("~=3.9.2", "3.9.2 3.9.9", "3.9.1 3.10.0"),
        ("==3.11.*", "3.11.0 3.11.7", "3.12.0"),
        (">=3.9, <3.12", "3.9.0 3.11.9", "3.12.0"),
    ];
    for (range, fitting, others) in cases {
        let text = format!("# /// script\n# requires-python = \"{range}\"\n# ///\n");
        let manifest = Manifest::parse_script(&text, Path::new("/app/a.py")).unwrap();
        let wanted = &manifest.requires.tools[0].version;
        let matches = |text: &&str| wanted.matches(&Version::parse(text).unwrap());
        assert!(fitting.split(' ').all(|text| matches(&text)), "{range}");
        assert!(!others.split(' ').any(|text| matches(&text)), "{range}");
    }
}

#[test]
fn the_logomesh_example_is_read_as_it_is() {
    let manifest =
        Manifest::parse_logomesh(LOGOMESH, Path::new("/app/example/manifest.json")).unwrap();
    assert_eq!(manifest.id.as_str(), "example-plugin");
    assert_eq!(manifest.version, Some(Version::new(1, 0, 0)));
    assert_eq!(manifest.run.runtime.as_deref(), Some("python"));
    assert_eq!(manifest.run.entry.as_deref(), Some(Path::new("/app/example/main.py")));
    let expected: Value = serde_json::from_str(LOGOMESH).unwrap();
    assert_eq!(manifest.permissions["capabilities"], expected["capabilities"]);
    assert_eq!(manifest.permissions["call"], json!(["get_thoughts", "update_metadata"]));
    assert_eq!(manifest.permissions["shared_memory"], json!(true));
    assert_eq!(manifest.permissions["messaging"], json!(true));
    assert_eq!(manifest.expose["methods"], json!(["process_data", "analyze_results"]));
    assert_eq!(manifest.limits.memory, Some(ByteSize(100 << 20)));
    assert_eq!(manifest.limits.cpu, Some(CpuShare(25)));
    assert_eq!(manifest.limits.fds, Some(50));
    let tools: Vec<_> = manifest.requires.tools.iter().map(ToString::to_string).collect();
    assert_eq!(tools, ["python3", "pip"]);
    assert_eq!(manifest.requires.packages.python, ["numpy", "pandas"]);
    let plugins: Vec<_> = manifest.requires.plugins.keys().map(PluginId::as_str).collect();
    assert_eq!(plugins, ["data-processor"]);
}

/// Every field of the example: with another name, or a value of a wrong type, it is refused. So
/// none is ignored.
#[test]
fn no_field_of_logomesh_is_ignored() {
    let example: Value = serde_json::from_str(LOGOMESH).unwrap();
    let mut paths = Vec::new();
    collect_paths(&example, String::new(), &mut paths);
    assert!(paths.len() > 20, "{paths:?}");
    for path in &paths {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let mut renamed = example.clone();
        let object = renamed.pointer_mut(parent).and_then(Value::as_object_mut).unwrap();
        let value = object.remove(name).unwrap();
        object.insert(format!("{name}X"), value.clone());
        // Languages are names of the author's choice, and an empty list asks for nothing.
        if value != json!([]) {
            refuse(&renamed, name);
        }
        let mut mistyped = example.clone();
        *mistyped.pointer_mut(path).unwrap() = json!(-1.5);
        refuse(&mistyped, name);
    }
}

#[test]
fn what_logomesh_has_and_we_have_not_is_refused_by_name() {
    let cases = [
        ("\"resources\": {\"maxNetworkConnections\": 5}", "use `maxFileHandles`"),
        ("\"resources\": {\"allowedFilePaths\": []}", "say it as a capability"),
        ("\"dependencies\": {\"packages\": {\"npm\": [\"x\"]}}", "`npm` is not supported"),
        ("\"capabilities\": [{\"id\": \"x\"}]", "has no `scope`"),
        (
            "\"capabilities\": [{\"id\": \"x\", \"scope\": \"files\", \"permissions\": []}]",
            "`scope` cannot be \"files\"",
        ),
        ("\"$schema\": \"http://logomesh.local/schemas/plugin-manifest-v3.json\"", "is 2.0"),
    ];
    for (field, wanted) in cases {
        let text = format!(
            "{{\"id\": \"a\", \"version\": \"1.0.0\", \"runtime\": \"go\",\n\
             \"entrypoint\": \"a\",\n{field}}}"
        );
        check_error(
            Manifest::parse_logomesh(&text, Path::new("/app/manifest.json")),
            &text,
            3,
            wanted,
        );
    }
    for (runtime, entrypoint, expected) in [
        ("nodejs", "main.js", "node"),
        ("go", "main.go", "go"),
        ("go", "bin/main", "binary"),
        ("rust", "bin/main", "binary"),
        ("deno", "main.ts", "deno"),
    ] {
        let text =
            json!({"id": "a", "version": "1.0.0", "runtime": runtime, "entrypoint": entrypoint});
        let manifest = Manifest::parse_logomesh(&text.to_string(), Path::new("/a/manifest.json"));
        assert_eq!(manifest.unwrap().run.runtime.as_deref(), Some(expected));
    }
}

#[test]
fn files_are_told_apart_by_their_names() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    for folder in ["both", "mesh", "none"] {
        fs::create_dir(at(folder)).unwrap();
    }
    fs::write(at("both/plugin.toml"), "manifest = 1\nid = 'toml'\nrun.entry = 'x'").unwrap();
    fs::write(at("both/manifest.json"), LOGOMESH).unwrap();
    fs::write(at("mesh/manifest.json"), LOGOMESH).unwrap();
    fs::write(at("hello.py"), "import plugbus").unwrap();
    for (path, id) in [
        ("both", "toml"),
        ("both/manifest.json", "example-plugin"),
        ("mesh", "example-plugin"),
        ("hello.py", "hello"),
    ] {
        assert_eq!(Manifest::load(&at(path)).unwrap().id.as_str(), id, "{path}");
    }
    let error = Manifest::load(&at("none")).unwrap_err().to_string();
    assert!(error.contains("no plugin.toml and no manifest.json in"), "{error}");
    let error = Manifest::load(&at("nothing.toml")).unwrap_err().to_string();
    assert!(error.contains("nothing.toml: No such file"), "{error}");
    let size = usize::try_from(limit::MANIFEST_MAX).unwrap() + 1;
    fs::write(at("large.toml"), "#".repeat(size)).unwrap();
    let error = Manifest::load(&at("large.toml")).unwrap_err().to_string();
    assert!(error.contains("more than 1048576 bytes"), "{error}");
}

/// What an editor suggests is what is read: each table of the schema has the keys of its reader.
#[test]
fn the_schema_has_the_keys_that_are_read() {
    let schema = Manifest::schema();
    let tables: [(&str, &[&str]); 9] = [
        ("Run", &Run::KEYS),
        ("Requires", &Requires::KEYS),
        ("Packages", &["python"]),
        ("Limits", &Limits::KEYS),
        ("Lifecycle", &Lifecycle::KEYS),
        ("Backoff", &Backoff::KEYS),
        ("Intensity", &Intensity::KEYS),
        ("Health", &Health::KEYS),
        ("Alerts", &Alerts::KEYS),
    ];
    for (name, keys) in tables {
        assert_eq!(properties(&schema["$defs"][name]), sorted(keys), "{name}");
        assert_eq!(schema["$defs"][name]["additionalProperties"], json!(false), "{name}");
        assert_eq!(schema["$defs"][name].get("required"), None, "{name}");
    }
    let keys: Vec<_> = ["manifest", "id"].into_iter().chain(Manifest::KEYS).collect();
    assert_eq!(properties(&schema), sorted(&keys));
    assert_eq!(schema["required"], json!(["manifest", "id", "run"]));
}

/// The published schema is written by this test when PLUGBUS_BLESS is set, and otherwise compared.
#[test]
fn the_published_schema_is_that_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/manifest.schema.json");
    let made = serde_json::to_string_pretty(&Manifest::schema()).unwrap() + "\n";
    if std::env::var_os("PLUGBUS_BLESS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let published = fs::read_to_string(&path).unwrap_or_default();
    assert!(published == made, "{} is stale: run `cargo xtask docs --schema`", path.display());
}

#[test]
fn the_examples_of_the_page_are_right() {
    let manifest = Manifest::parse(block("toml", "\n[run]\n"), Path::new("/app/plugin.toml"));
    let manifest = manifest.unwrap();
    assert_eq!(manifest.id.as_str(), "weather");
    let script = block("python", "# /// script\n");
    let script = Manifest::parse_script(script, Path::new("/app/weather.py")).unwrap();
    assert_eq!(script.requires.packages.python, ["requests >= 2"]);
    assert_eq!(script.lifecycle.idle_sleep, Some(Duration::from_secs(300)));
}

/// Every key is in the example, and so in the page.
#[test]
fn the_example_of_the_page_has_every_key() {
    let example = document::parse_toml(block("toml", "\n[run]\n")).unwrap();
    let example = Value::from(entries_to_json(&example));
    let schema = Manifest::schema();
    let tables = [
        ("", schema["properties"].clone()),
        ("/run", schema["$defs"]["Run"]["properties"].clone()),
        ("/requires", schema["$defs"]["Requires"]["properties"].clone()),
        ("/limits", schema["$defs"]["Limits"]["properties"].clone()),
        ("/lifecycle", schema["$defs"]["Lifecycle"]["properties"].clone()),
        ("/lifecycle/backoff", schema["$defs"]["Backoff"]["properties"].clone()),
        ("/lifecycle/intensity", schema["$defs"]["Intensity"]["properties"].clone()),
        ("/lifecycle/health", schema["$defs"]["Health"]["properties"].clone()),
        ("/lifecycle/alerts", schema["$defs"]["Alerts"]["properties"].clone()),
    ];
    for (place, properties) in tables {
        for key in properties.as_object().unwrap().keys() {
            let is_other_way = place == "/run" && key == "command";
            let is_shown = example.pointer(place).unwrap().get(key).is_some();
            assert!(is_shown || is_other_way, "{place}/{key} is not in docs/manifest.md");
        }
    }
}

/// The page says of every field of LogoMesh's what becomes of it.
#[test]
fn the_page_has_every_field_of_logomesh() {
    let table = PAGE.split("## LogoMesh manifest 2.0").nth(1).unwrap();
    let mut paths = Vec::new();
    collect_paths(&serde_json::from_str(LOGOMESH).unwrap(), String::new(), &mut paths);
    for path in paths {
        let name = path.rsplit('/').next().unwrap();
        let forms =
            [format!("`{name}`"), format!("`{name}."), format!(".{name}`"), format!(".{name}.")];
        let is_there = forms.iter().any(|form| table.contains(form));
        assert!(is_there, "{path} is not in docs/manifest.md");
    }
}

const PAGE: &str = include_str!("../../../docs/manifest.md");

/// The block of the page in a language that has something in it.
fn block(language: &str, content: &str) -> &'static str {
    let fence = format!("```{language}\n");
    let blocks = PAGE.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut found = blocks.filter(|block| block.contains(content));
    found.next().expect("the page has such a block")
}

fn properties(schema: &Value) -> Vec<String> {
    sorted(
        &schema["properties"].as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>(),
    )
}

fn sorted(keys: &[&str]) -> Vec<String> {
    let mut keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
    keys.sort();
    keys
}

fn collect_paths(value: &Value, path: String, paths: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                paths.push(format!("{path}/{key}"));
                collect_paths(value, format!("{path}/{key}"), paths);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                collect_paths(value, format!("{path}/{index}"), paths);
            }
        }
        _ => (),
    }
}

#[track_caller]
fn refuse(manifest: &Value, name: &str) {
    let text = serde_json::to_string_pretty(manifest).unwrap();
    let result = Manifest::parse_logomesh(&text, Path::new("/app/manifest.json"));
    let error = result.expect_err(&format!("`{name}` is ignored in {text}")).to_string();
    assert!(error.contains(name), "{name}: {error}");
}

#[track_caller]
fn check_wrong(text: &str, line: usize, wanted: &str) {
    check_error(Manifest::parse(text, Path::new("/app/plugin.toml")), text, line, wanted);
}

#[track_caller]
fn check_error(result: Result<Manifest, ManifestError>, text: &str, line: usize, wanted: &str) {
    match result {
        Err(ManifestError::Wrong { line: found, message, .. }) => {
            assert!(message.contains(wanted), "{text}\n{message}");
            assert_eq!(found, line, "{text}\n{message}");
        }
        other => panic!("{text}\n{other:?}"),
    }
}

const COMPLETE: &str = r#"
    manifest = 1
    id = "weather"
    version = "1.4.2"
    description = "Forecasts"
    [run]
    runtime = "python"
    entry = "weather.py"
    args = ["--fast"]
    env = { LANG = "C" }
    dir = "data"
    instances = 2
    [requires]
    plugins = { geo = "^1.0", db = { optional = true } }
    tools = ["python3 >= 3.9"]
    packages = { python = ["numpy >= 2"] }
    [permissions]
    net = [{ to = "api.example.org:443", why = "fetch forecasts" }]
    fs.read = ["./data/**"]
    [limits]
    memory = "100M"
    cpu = "25%"
    fds = 50
    procs = 8
    message = "1M"
    file_size = "1G"
    core = 1
    [lifecycle]
    restart = "on-failure"
    lazy = true
    idle_sleep = "5m"
    stop_grace = "3s"
    start_timeout = "2.5s"
    prepare_timeout = "2m"
    critical = true
    hold = "0s"
    intensity = { restarts = 3, within = "10s" }
    [lifecycle.backoff]
    first = "100ms"
    max = "8s"
    stable = "30s"
    quarantine = "20s"
    quarantine_max = "1m"
    disable_after = 4
    [lifecycle.health]
    interval = "1s"
    timeout = "2s"
    misses = 2
    oldest = "10s"
    memory = { alert = "80M", restart = "90M" }
    cpu = { alert = "80%" }
    fds = { restart = 40 }
    method = true
    command = ["./check", "--quick"]
    [lifecycle.alerts]
    command = ["notify-send"]
    webhook = "http://127.0.0.1:8080/alerts"
    [expose]
    mcp = ["forecast"]
"#;

/// Every field that the format has, with values of their own.
const LOGOMESH: &str = r#"{
  "$schema": "http://logomesh.local/schemas/plugin-manifest-v2.json",
  "id": "example-plugin",
  "version": "1.0.0",
  "runtime": "python",
  "entrypoint": "main.py",
  "capabilities": [
    {
      "id": "filesystem-read",
      "scope": "filesystem",
      "permissions": ["read"],
      "paths": ["./data/**"]
    }
  ],
  "resources": {
    "maxMemoryMB": 100,
    "maxCpuPercent": 25,
    "maxFileHandles": 50
  },
  "dependencies": {
    "system": ["python3", "pip"],
    "plugins": ["data-processor"],
    "packages": {
      "python": ["numpy", "pandas"],
      "npm": []
    }
  },
  "coordination": {
    "exposesMethods": ["process_data", "analyze_results"],
    "consumesMethods": ["get_thoughts", "update_metadata"],
    "sharedMemory": true,
    "messaging": true
  }
}"#;
