//! What a registration costs: schemas and help are the only things of any size that the router
//! keeps for a plugin.

use serde_json::Value;

use super::entry::Registration;
use crate::engine::ledger::Resource;
use crate::error::{Fault, Refusal};
use crate::id::{ChannelName, PluginId};
use crate::limit;
use crate::wire::body;

/// Bytes that a method takes, about.
fn method_size(method: &body::Method) -> u64 {
    let schemas = method.params.iter().chain(&method.result).map(value_size);
    ENTRY + text_size(&method.name) + optional_size(&method.help) + schemas.sum::<u64>()
}

/// Bytes that a channel takes, about.
fn channel_size(name: &ChannelName, help: &Option<String>) -> u64 {
    ENTRY + text_size(name.as_str()) + optional_size(help)
}

/// Bytes that the name of a service takes, about.
fn service_size(name: &PluginId) -> u64 {
    ENTRY + text_size(name.as_str())
}

/// Whether a plugin may register so much.
pub(super) fn check_size(size: u64, plugin: &PluginId) -> Result<(), Fault> {
    let limit = limit::REGISTRATION_BYTES_MAX;
    if size <= limit {
        return Ok(());
    }
    Err(Fault::refused(&Refusal {
        resource: Resource::RegistrationBytes.name(),
        holder: plugin.as_str(),
        used: size,
        limit,
        blame: plugin.as_str(),
        retry_after_ms: 0,
    }))
}

/// Cuts down what is kept of a plugin that has gone: calls to it are still told what it serves, but
/// there may be thousands of such plugins. First go help and schemas, then all.
pub(super) fn shrink(kept: &mut Registration) {
    if total(kept) > limit::REGISTRATION_KEPT_BYTES_MAX {
        for method in kept.methods.values_mut() {
            (method.help, method.params, method.result) = (None, None, None);
        }
        kept.channels.values_mut().for_each(|help| *help = None);
    }
    if total(kept) > limit::REGISTRATION_KEPT_BYTES_MAX {
        *kept = Registration::default();
    }
}

/// Bytes of a whole registration, about.
pub(super) fn total(of: &Registration) -> u64 {
    let methods = of.methods.values().map(method_size).sum::<u64>();
    let channels = of.channels.iter().map(|(name, help)| channel_size(name, help)).sum::<u64>();
    methods + channels + of.services.iter().map(service_size).sum::<u64>()
}

/// Bytes of what a registration has that is about to be replaced by a new one.
pub(super) fn replaced(old: &Registration, new: &Registration) -> u64 {
    let methods = new.methods.keys().filter_map(|name| old.methods.get(name));
    let channels = new.channels.keys().filter_map(|name| old.channels.get_key_value(name));
    methods.map(method_size).sum::<u64>()
        + channels.map(|(name, help)| channel_size(name, help)).sum::<u64>()
        + old.services.intersection(&new.services).map(service_size).sum::<u64>()
}

/// What a value takes in memory: many small ones cost more than their text.
fn value_size(value: &Value) -> u64 {
    let inside = match value {
        Value::String(text) => text.len() as u64,
        Value::Array(values) => values.iter().map(value_size).sum(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| text_size(key) + value_size(value)).sum()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    VALUE + inside
}

fn optional_size(text: &Option<String>) -> u64 {
    text.as_deref().map_or(0, text_size)
}

fn text_size(text: &str) -> u64 {
    VALUE + text.len() as u64
}

/// A value or a string without its content.
const VALUE: u64 = 32;

/// A place in a map.
const ENTRY: u64 = 64;
