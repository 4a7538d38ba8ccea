//! How the commands reach a broker, and what they say when something is wrong.

use std::path::Path;

use serde::Deserialize;

use super::Context;
use super::failure::{Failure, Result, Status};
use super::list::{MethodRow, PluginDetails, not_understood};
use crate::net::{listen, socket_path};
use crate::plugin::{self, Client, Error};

/// Connects to the broker that the command line, the environment or the default names.
pub(crate) async fn connect(context: &Context) -> Result<Client> {
    let socket = match &context.socket {
        Some(socket) => socket.clone(),
        None => socket_path::default().map_err(Failure::usage)?,
    };
    match plugin::connect_to(&socket).await {
        Ok(client) => Ok(client),
        Err(Error::Connect(_)) => Err(no_broker(&socket)),
        Err(error) => Err(failure(error)),
    }
}

/// Nobody listens there. Others that do are named, since one of them may have been meant.
fn no_broker(socket: &Path) -> Failure {
    let failure =
        Failure::new(Status::NoBroker, format_args!("no broker runs at {}", socket.display()))
            .hint("start one with `plugbus up` or `plugbus run FILE.py`");
    let directory = socket.parent().map(std::fs::read_dir).and_then(std::result::Result::ok);
    let mut others: Vec<_> = directory
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .filter(|path| listen::answers(path).unwrap_or(false))
        .collect();
    others.sort();
    others.into_iter().fold(failure, |failure, path| {
        failure.hint(format!("another one runs there: --socket {}", path.display()))
    })
}

/// The method as its plugin describes it, if there is such a plugin and it has one.
pub(crate) async fn find_method(
    client: &Client,
    plugin: &str,
    method: &str,
) -> Result<Option<MethodRow>> {
    match client.query("plugin", Some(plugin)).await {
        Ok(answer) => {
            let details = PluginDetails::deserialize(&answer).map_err(not_understood)?;
            Ok(details.methods.into_iter().find(|it| it.name == method))
        }
        // The answer to the call itself says better what there is not.
        Err(Error::NotFound { .. } | Error::Protocol(_)) => Ok(None),
        Err(error) => Err(failure(error)),
    }
}

/// What the broker or a plugin answered, as a failed command.
pub(crate) fn failure(error: Error) -> Failure {
    let status = match &error {
        Error::NotFound { .. } => Status::NotFound,
        Error::Timeout(_) => Status::Timeout,
        Error::Refused { .. } | Error::Denied(_) | Error::Identity(_) => Status::Refused,
        Error::Offline(_) | Error::PeerDied { .. } => Status::Died,
        Error::InvalidArgument { .. } => Status::Usage,
        Error::Protocol(fault) if fault.code == crate::error::Code::BadName => Status::Usage,
        Error::Cancelled(_) => Status::Interrupted,
        Error::BrokerGone(_) | Error::Connect(_) => Status::NoBroker,
        _ => Status::Failed,
    };
    let text = match &error {
        // Many SDKs begin the message with the word that is the code.
        Error::Handler { code, message } if message.starts_with(code) => message.clone(),
        error => error.to_string(),
    };
    let failure = Failure::new(status, text).code(error.code());
    match error {
        Error::PeerDied { verdict, .. } => failure.hint(format!("the call was {verdict}")),
        _ => failure,
    }
}
