//! `plugbus demo`: a tour that proves itself.
//!
//! Each line stands for checks of counts, order and outcomes, and fails the command when one of
//! them is untrue. Times are printed and not judged: they belong to the machine. Everything happens
//! in a directory of its own, with processes of its own, and nothing of it is left, however the
//! tour ends.

mod death;
mod orphans;
pub(crate) mod peer;
pub(crate) mod relay;
mod reload;
mod report;
pub(crate) mod speed;
mod stage;
mod statistics;
mod steps;

use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

use self::report::{Finding, Report};
use self::stage::Stage;
use super::Context;
use super::failure::{Failure, Result, Status};
use super::notes;
use super::python;
use crate::net::clock;

/// Shows what plugbus does, with real plugins in two languages, and checks every word of it. Takes
/// some seconds, needs python3, no network and no root, and leaves nothing behind.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Write the notes example into a new directory instead, to be run with `plugbus up DIR`
    #[arg(long, value_name = "DIR")]
    unpack: Option<PathBuf>,
}

pub(super) async fn run(context: &Context, args: DemoArgs) -> Result<()> {
    if let Some(directory) = args.unpack {
        notes::unpack(&directory).map_err(|error| {
            Failure::failed(format_args!("cannot unpack to {}: {error}", directory.display()))
        })?;
        return context.terminal.line(format_args!("plugbus up {}", directory.display()));
    }
    python::require()?;
    let mut report = Report::new(context.terminal);
    let began = clock::instant();
    // Whatever ends this, dropping the stage kills the plugins and removes the directory.
    tokio::select! {
        toured = tour(&mut report) => toured?,
        () = ended(SignalKind::interrupt())? => return Err(interrupted()),
        () = ended(SignalKind::terminate())? => return Err(interrupted()),
        () = ended(SignalKind::hangup())? => return Err(interrupted()),
    }
    if report.end(began.elapsed().as_secs_f64())? {
        report.remark(NEXT)
    } else {
        Err(Failure::failed("the demo did not hold what it shows"))
    }
}

async fn tour(report: &mut Report) -> Result<()> {
    report.remark("a broker, and plugins in processes of their own; every line is checked\n")?;
    let mut stage = Stage::set().await?;
    macro_rules! steps {
        ($($name:literal: $step:path,)*) => {
            $(
                let found = timeout(STEP_TIMEOUT, $step(&mut stage)).await;
                report.line($name, &finding(found))?;
            )*
        };
    }
    steps! {
        "plugins": steps::plugins,
        "files": steps::files,
        "search": steps::search,
        "calls": steps::calls,
        "events": steps::events,
        "broadcast": steps::broadcast,
        "mistakes": steps::mistakes,
        "a death": death::death,
        "a reload": reload::reload,
        "orphans": orphans::orphans,
        "a stall": steps::stall,
        "speed": speed::speed,
    }
    let output = stage.output();
    let left = timeout(STEP_TIMEOUT, stage.strike()).await;
    report.line("the end", &finding(left))?;
    if report.has_failed() {
        output.iter().for_each(|line| report.note(line));
    }
    Ok(())
}

/// A step that could not be done is one that did not hold.
fn finding(
    found: std::result::Result<steps::Result<Finding>, tokio::time::error::Elapsed>,
) -> Finding {
    match found {
        Ok(Ok(finding)) => finding,
        Ok(Err(error)) => Finding::failed(error),
        Err(_) => Finding::failed(format_args!("did not end within {} s", STEP_TIMEOUT.as_secs())),
    }
}

fn ended(kind: SignalKind) -> Result<impl Future<Output = ()>> {
    let mut signal = signal(kind)
        .map_err(|error| Failure::failed(format_args!("cannot listen for signals: {error}")))?;
    Ok(async move {
        signal.recv().await;
    })
}

fn interrupted() -> Failure {
    Failure::new(Status::Interrupted, "interrupted; nothing is left of it")
}

/// Far more than any step takes; a tour that hangs proves nothing.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);

const NEXT: &str = "\
\nwhat to try next:
  plugbus demo --unpack my-notes && plugbus up my-notes     the same notes, to play with
  plugbus call search.query text=credit                     in another terminal, while that runs
  plugbus tail                                              … and edit a note
  plugbus list search                                       what can be called";
