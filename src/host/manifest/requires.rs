//! `[requires]`: what has to be there before a plugin starts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use semver::{Version, VersionReq};

use crate::host::document::{Entry, Problem};
use crate::id::PluginId;

/// What has to be there before a plugin starts.
#[derive(Clone, Debug, Default, Eq, JsonSchema, PartialEq)]
#[schemars(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Requires {
    /// Other plugins, which start earlier.
    #[schemars(with = "BTreeMap<String, Requirement>")]
    pub plugins: BTreeMap<PluginId, Requirement>,
    /// Programs, as `"python3"` or `"python3 >= 3.9"`.
    pub tools: Vec<Tool>,
    /// Packages that its runtime has to have.
    pub packages: Packages,
}

/// Which versions of a plugin will do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Requirement {
    /// The versions; a plugin without a version fits `*` only.
    pub version: VersionReq,
    /// Whether the plugin that requires it also runs without it. If it is there, it starts earlier
    /// all the same.
    pub optional: bool,
}

/// A program that has to be in `PATH`.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The versions that will do.
    pub version: VersionReq,
}

/// Packages of a language.
#[derive(Clone, Debug, Default, Eq, JsonSchema, PartialEq)]
#[schemars(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Packages {
    /// For Python: lines as in a `requirements.txt`. They are installed into an environment of the
    /// plugin's own.
    pub python: Vec<String>,
}

impl Requirement {
    /// Whether a plugin of this version, or of none, will do.
    #[must_use]
    pub fn accepts(&self, version: Option<&Version>) -> bool {
        match version {
            Some(version) => self.version.matches(version),
            None => self.version == VersionReq::STAR,
        }
    }
}

impl Tool {
    /// Reads `"python3"` or `"python3 >= 3.9"`; the error says what would be right.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let end =
            text.find(|c: char| c.is_whitespace() || "<>=~^*,".contains(c)).unwrap_or(text.len());
        let (name, range) = text.split_at(end);
        if name.is_empty() || name.contains('/') {
            return Err(format!("{text:?} does not begin with the name of a program in PATH"));
        }
        let version = parse_range(range.trim())
            .map_err(|reason| format!("{text:?}: {reason}; write it like \"python3 >= 3.9\""))?;
        Ok(Self { name: name.to_owned(), version })
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.version != VersionReq::STAR {
            write!(f, " {}", self.version)?;
        }
        Ok(())
    }
}

/// A range of versions; none at all is every version.
pub(crate) fn parse_range(text: &str) -> Result<VersionReq, String> {
    if text.is_empty() {
        return Ok(VersionReq::STAR);
    }
    // Others write `==` for what is `=` here, and parts of a range without a comma.
    let text = text.replace("==", "=");
    VersionReq::parse(&text).map_err(|error| format!("{text:?} is no range of versions: {error}"))
}

impl Requires {
    pub(super) fn read(&mut self, entries: &[Entry], place: &str) -> Result<(), Problem> {
        for entry in entries {
            match entry.key.as_str() {
                "plugins" => {
                    for plugin in entry.table()? {
                        let id = PluginId::parse(&plugin.key)
                            .map_err(|fault| plugin.wrong_key(fault.message))?;
                        let requirement = Requirement::read(plugin, place)?;
                        self.plugins.insert(id, requirement);
                    }
                }
                "tools" => self.tools = read_tools(entry)?,
                "packages" => {
                    for language in entry.table()? {
                        if language.key != "python" {
                            let place = format!("[{place}.packages]");
                            return Err(language.unknown(&place, &["python"]));
                        }
                        let packages = language.strings("[\"numpy >= 2\"]")?;
                        self.packages.python =
                            packages.into_iter().map(ToOwned::to_owned).collect();
                    }
                }
                _ => return Err(entry.unknown(&format!("[{place}]"), &Self::KEYS)),
            }
        }
        Ok(())
    }

    pub(super) const KEYS: [&str; 3] = ["plugins", "tools", "packages"];
}

impl Requirement {
    fn read(plugin: &Entry, place: &str) -> Result<Self, Problem> {
        let Some(entries) = plugin.as_table() else {
            let range = plugin.as_string().ok_or_else(|| {
                plugin.mismatch("a range like \"^1.0\", or { version = \"^1.0\", optional = true }")
            })?;
            let version = parse_range(range).map_err(|reason| plugin.wrong(reason))?;
            return Ok(Self { version, optional: false });
        };
        let mut requirement = Self::default();
        for entry in entries {
            match entry.key.as_str() {
                "version" => {
                    requirement.version =
                        parse_range(entry.string()?).map_err(|reason| entry.wrong(reason))?;
                }
                "optional" => requirement.optional = entry.boolean()?,
                _ => {
                    let place = format!("[{place}.plugins.{}]", plugin.key);
                    return Err(entry.unknown(&place, &["version", "optional"]));
                }
            }
        }
        Ok(requirement)
    }
}

pub(super) fn read_tools(entry: &Entry) -> Result<Vec<Tool>, Problem> {
    let tools = entry.strings("[\"python3 >= 3.9\"]")?;
    tools.into_iter().map(|text| Tool::parse(text).map_err(|reason| entry.wrong(reason))).collect()
}

impl JsonSchema for Requirement {
    fn schema_name() -> Cow<'static, str> {
        "Requirement".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Which versions of a plugin will do: \"^1.0\", \">= 1.2, < 3\", \"*\".",
            "anyOf": [{"type": "string"}, {
                "type": "object",
                "properties": {
                    "version": {"type": "string", "default": "*"},
                    "optional": {
                        "description": "Whether it also runs without that plugin.",
                        "type": "boolean",
                        "default": false,
                    },
                },
                "additionalProperties": false,
            }],
        })
    }
}

impl JsonSchema for Tool {
    fn schema_name() -> Cow<'static, str> {
        "Tool".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A program in PATH, and the versions of it that will do.",
            "type": "string",
            "examples": ["python3", "python3 >= 3.9"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_have_a_name_and_a_range() {
        let cases = [
            ("python3", Some("python3")),
            ("python3 >= 3.9", Some("python3 >=3.9")),
            ("python3>=3.9", Some("python3 >=3.9")),
            ("go >=1.22, <2", Some("go >=1.22, <2")),
            ("node ^20", Some("node ^20")),
            ("git == 2.39", Some("git =2.39")),
            ("g++", Some("g++")),
            ("", None),
            (">= 3", None),
            ("./tool", None),
            ("python3 3 9", None),
        ];
        for (text, expected) in cases {
            let tool = Tool::parse(text).ok().map(|tool| tool.to_string());
            assert_eq!(tool.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_plugin_without_a_version_fits_any_version_only() {
        let any = Requirement::default();
        let one = Requirement { version: parse_range("^1.0").unwrap(), optional: false };
        let version = Version::new(1, 4, 2);
        assert!(any.accepts(None) && any.accepts(Some(&version)));
        assert!(!one.accepts(None) && one.accepts(Some(&version)));
        assert!(!one.accepts(Some(&Version::new(2, 0, 0))));
    }
}
