//! The LogoMesh plugin manifest, version 2.0, as it is.
//!
//! Every field of it is read: either it has a counterpart in [`Manifest`], or it is refused by its
//! name with what to do instead. The table in `docs/manifest.md` says which.

use std::path::Path;

use semver::Version;
use serde_json::json;

use super::requires::{Requirement, Tool};
use super::units::{ByteSize, CpuShare};
use super::{Manifest, Run};
use crate::host::document::{self, Entry, Problem};
use crate::host::suggest::did_you_mean;
use crate::id::PluginId;

pub(super) fn read(text: &str, path: &Path) -> Result<Manifest, Problem> {
    let entries = document::parse_json(text)?;
    let required = |key: &str| {
        entries.iter().find(|entry| entry.key == key).ok_or_else(|| {
            Problem::new(0, format!("`{key}` is missing, which a LogoMesh manifest must have"))
        })
    };
    let id = required("id")?;
    let id = PluginId::parse(id.string()?).map_err(|fault| id.wrong(fault.message))?;
    let mut manifest = Manifest::new(id, path);
    let entrypoint = required("entrypoint")?;
    if entrypoint.string()?.is_empty() {
        return Err(entrypoint.mismatch("the plugin's file"));
    }
    manifest.run = Run {
        runtime: Some(runtime(required("runtime")?, entrypoint.string()?)?),
        entry: Some(manifest.dir().join(entrypoint.string()?)),
        ..Run::default()
    };
    required("version")?;
    for entry in &entries {
        match entry.key.as_str() {
            "id" | "runtime" | "entrypoint" => (),
            "$schema" => read_schema(entry)?,
            "version" => {
                let version = Version::parse(entry.string()?)
                    .map_err(|error| entry.wrong(format!("`version`: {error}")))?;
                manifest.version = Some(version);
            }
            "capabilities" => read_capabilities(&mut manifest, entry)?,
            "resources" => read_resources(&mut manifest, entry)?,
            "dependencies" => read_dependencies(&mut manifest, entry)?,
            "coordination" => read_coordination(&mut manifest, entry)?,
            _ => return Err(entry.unknown("a LogoMesh manifest", &KEYS)),
        }
    }
    Ok(manifest)
}

fn read_schema(entry: &Entry) -> Result<(), Problem> {
    let schema = entry.string()?;
    if schema.ends_with("plugin-manifest-v2.json") {
        return Ok(());
    }
    Err(entry.wrong(format!(
        "`$schema` is {schema:?}; the version that is read here is 2.0, \
         \"http://logomesh.local/schemas/plugin-manifest-v2.json\""
    )))
}

/// Their names for what runs a plugin. One that nobody knows may be a runtime of `plugbus.toml`.
fn runtime(entry: &Entry, entrypoint: &str) -> Result<String, Problem> {
    let is_source = entrypoint.ends_with(".go");
    Ok(match entry.string()? {
        "nodejs" | "javascript" | "js" => "node".to_owned(),
        "go" | "golang" if !is_source => "binary".to_owned(),
        "golang" => "go".to_owned(),
        "rust" => "binary".to_owned(),
        "" => return Err(entry.mismatch("python, nodejs, go, rust or the like")),
        name => name.to_owned(),
    })
}

/// They are kept in their own words, checked for their form.
fn read_capabilities(manifest: &mut Manifest, entry: &Entry) -> Result<(), Problem> {
    let expected = "a list of objects: [{\"id\": …, \"scope\": …, \"permissions\": […]}]";
    let items = entry.list().ok_or_else(|| entry.mismatch(expected))?;
    for item in items {
        let fields = item
            .as_table()
            .ok_or_else(|| item.wrong(format!("`capabilities` must be {expected}")))?;
        for key in ["id", "scope", "permissions"] {
            if !fields.iter().any(|field| field.key == key) {
                return Err(item.wrong(format!("this capability has no `{key}`")));
            }
        }
        for field in fields {
            match field.key.as_str() {
                "id" => drop(field.string()?),
                "scope" => {
                    let scope = field.string()?;
                    if !SCOPES.contains(&scope) {
                        let mut hint = did_you_mean(scope, SCOPES);
                        if hint.is_empty() {
                            hint = format!("; use {}", SCOPES.join(", "));
                        }
                        return Err(field.wrong(format!("`scope` cannot be {scope:?}{hint}")));
                    }
                }
                "permissions" => drop(field.strings("[\"read\"]")?),
                "paths" | "hosts" => drop(field.strings("[\"./data/**\"]")?),
                "restrictions" => {
                    if field.list().is_none() {
                        return Err(field.mismatch("a list"));
                    }
                }
                _ => {
                    let keys = ["id", "scope", "permissions", "paths", "hosts", "restrictions"];
                    return Err(field.unknown("a capability", &keys));
                }
            }
        }
    }
    if !items.is_empty() {
        manifest.permissions.insert("capabilities".to_owned(), entry.to_json());
    }
    Ok(())
}

fn read_resources(manifest: &mut Manifest, entry: &Entry) -> Result<(), Problem> {
    for entry in entry.table()? {
        match entry.key.as_str() {
            "maxMemoryMB" => {
                let bytes = entry.positive()?.checked_mul(1 << 20);
                let bytes = bytes.ok_or_else(|| entry.mismatch("a smaller number"))?;
                manifest.limits.memory = Some(ByteSize(bytes));
            }
            "maxCpuPercent" => {
                let share = CpuShare::from_percent(entry.positive()?);
                manifest.limits.cpu =
                    Some(share.ok_or_else(|| entry.mismatch("a number of percent"))?);
            }
            "maxFileHandles" => manifest.limits.fds = Some(entry.positive()?),
            "maxNetworkConnections" => {
                return Err(refused(
                    entry,
                    "connections are not counted apart from other \
                    descriptors: use `maxFileHandles`",
                ));
            }
            "allowedFilePaths" | "allowedNetworkHosts" => {
                return Err(refused(entry, "say it as a capability with `paths` or `hosts`"));
            }
            _ => {
                let keys = ["maxMemoryMB", "maxCpuPercent", "maxFileHandles"];
                return Err(entry.unknown("`resources`", &keys));
            }
        }
    }
    Ok(())
}

fn read_dependencies(manifest: &mut Manifest, entry: &Entry) -> Result<(), Problem> {
    for entry in entry.table()? {
        match entry.key.as_str() {
            "system" => {
                for text in entry.strings("[\"python3\"]")? {
                    let tool = Tool::parse(text).map_err(|reason| entry.wrong(reason))?;
                    manifest.requires.tools.push(tool);
                }
            }
            "plugins" => {
                for text in entry.strings("[\"other-plugin\"]")? {
                    let id = PluginId::parse(text).map_err(|fault| entry.wrong(fault.message))?;
                    manifest.requires.plugins.insert(id, Requirement::default());
                }
            }
            "packages" => {
                for language in entry.table()? {
                    let packages = language.strings("[\"numpy\"]")?;
                    match language.key.as_str() {
                        "python" => {
                            manifest.requires.packages.python =
                                packages.into_iter().map(ToOwned::to_owned).collect();
                        }
                        _ if packages.is_empty() => (),
                        _ => {
                            return Err(refused(
                                language,
                                "nothing is installed for it: install \
                                them beside the plugin, then leave this list empty",
                            ));
                        }
                    }
                }
            }
            _ => {
                return Err(entry.unknown("`dependencies`", &["system", "plugins", "packages"]));
            }
        }
    }
    Ok(())
}

fn read_coordination(manifest: &mut Manifest, entry: &Entry) -> Result<(), Problem> {
    for entry in entry.table()? {
        match entry.key.as_str() {
            "exposesMethods" => {
                let methods = entry.strings("[\"process_data\"]")?;
                manifest.expose.insert("methods".to_owned(), json!(methods));
            }
            "consumesMethods" => {
                let methods = entry.strings("[\"get_thoughts\"]")?;
                manifest.permissions.insert("call".to_owned(), json!(methods));
            }
            "sharedMemory" => {
                let wanted = entry.boolean()?;
                manifest.permissions.insert("shared_memory".to_owned(), json!(wanted));
            }
            "messaging" => {
                let wanted = entry.boolean()?;
                manifest.permissions.insert("messaging".to_owned(), json!(wanted));
            }
            _ => {
                let keys = ["exposesMethods", "consumesMethods", "sharedMemory", "messaging"];
                return Err(entry.unknown("`coordination`", &keys));
            }
        }
    }
    Ok(())
}

fn refused(entry: &Entry, instead: &str) -> Problem {
    entry.wrong_key(format!("`{}` is not supported: {instead}", entry.key))
}

const KEYS: [&str; 9] = [
    "$schema",
    "id",
    "version",
    "runtime",
    "entrypoint",
    "capabilities",
    "resources",
    "dependencies",
    "coordination",
];

const SCOPES: [&str; 5] = ["filesystem", "network", "memory", "system", "ui"];
