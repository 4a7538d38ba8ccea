//! `plugbus logs`: what plugins printed, from the files on disk; needs no running broker.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::signal::ctrl_c;
use tokio::sync::mpsc;

use super::Context;
use super::failure::{Failure, Result, Status};
use super::show::plain;
use super::terminal::{BOLD_RED, DIM, Terminal, YELLOW};
use crate::host::logs::{Follower, LogLine, LogStream, directory, logged_plugins};
use crate::host::suggest::did_you_mean;
use crate::net::socket_path;

/// Prints what plugins printed and how their state changed, also of a broker that has ended.
#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// Only these plugins
    #[arg(value_name = "PLUGIN")]
    plugins: Vec<String>,
    /// Go on with what is printed from now on, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Begin with so many lines of each plugin
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    lines: usize,
}

pub(super) async fn run(context: &Context, args: LogsArgs) -> Result<()> {
    let directory = log_directory(context)?;
    let logged = logged_plugins(&directory).map_err(Failure::failed)?;
    // Who follows may wait for a plugin that has not printed anything yet.
    if !args.follow {
        if let Some(unknown) = args.plugins.iter().find(|plugin| !logged.contains(plugin)) {
            return Err(no_logs(&directory, unknown, &logged));
        }
        if logged.is_empty() {
            let message = format!("there are no logs in {}", directory.display());
            return Err(Failure::new(Status::NotFound, message)
                .hint("`plugbus up` and `plugbus run` write them; --socket names another broker"));
        }
    }
    // Watched before they are read, so that nothing falls in between.
    let watched = args.follow.then(|| Watched::start(&directory)).transpose()?;
    let mut files = Files { directory, named: args.plugins, followers: Vec::new() };
    let show = Show { terminal: context.terminal, width: files.width()? };
    let mut lines = files.poll(args.lines)?;
    // Times have the same form everywhere, so that their order as text is their order. The sort
    // keeps lines of one moment in the order in which they were printed.
    lines.sort_by(|one, other| one.time.cmp(&other.time));
    for line in &lines {
        show.line(line)?;
    }
    let Some(mut watched) = watched else { return Ok(()) };
    loop {
        tokio::select! {
            () = watched.changed() => (),
            _ = ctrl_c() => return Ok(()),
        }
        for line in files.poll(usize::MAX)? {
            show.line(&line)?;
        }
    }
}

fn log_directory(context: &Context) -> Result<PathBuf> {
    let socket = match &context.socket {
        Some(socket) => socket.clone(),
        None => socket_path::default().map_err(Failure::usage)?,
    };
    directory(&socket).ok_or_else(|| {
        Failure::usage("there is no place for logs: XDG_STATE_HOME and HOME are not set")
    })
}

fn no_logs(directory: &Path, plugin: &str, logged: &[String]) -> Failure {
    let hint = did_you_mean(plugin, logged.iter().map(String::as_str));
    let place = directory.display();
    Failure::new(Status::NotFound, format!("plugin `{plugin}` has no logs in {place}{hint}"))
}

/// The files that are read.
struct Files {
    directory: PathBuf,
    /// Those that were named; else all that turn up.
    named: Vec<String>,
    followers: Vec<(String, Follower)>,
}

impl Files {
    /// What is new since the last time, the last `count` lines of each plugin.
    fn poll(&mut self, count: usize) -> Result<Vec<LogLine>> {
        for plugin in self.wanted()? {
            if !self.followers.iter().any(|(known, _)| *known == plugin) {
                let follower = Follower::new(&self.directory, &plugin);
                self.followers.push((plugin, follower));
            }
        }
        let mut lines = Vec::new();
        for (_, follower) in &mut self.followers {
            let new = follower.poll().map_err(Failure::failed)?;
            let skipped = new.len().saturating_sub(count);
            lines.extend(new.into_iter().skip(skipped));
        }
        Ok(lines)
    }

    fn wanted(&self) -> Result<Vec<String>> {
        match self.named.is_empty() {
            true => logged_plugins(&self.directory).map_err(Failure::failed),
            false => Ok(self.named.clone()),
        }
    }

    fn width(&self) -> Result<usize> {
        Ok(self.wanted()?.iter().map(String::len).max().unwrap_or(0))
    }
}

/// A directory that says when something in it changes.
struct Watched {
    changes: mpsc::Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl Watched {
    fn start(directory: &Path) -> Result<Self> {
        let cannot = |error| Failure::failed(format_args!("cannot watch the logs: {error}"));
        // The directory is made here if the broker has not run yet, so that it can be watched.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(directory)
            .map_err(|error| Failure::failed(format_args!("{}: {error}", directory.display())))?;
        let (changed, changes) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |_| {
            // One that is waiting already says as much.
            let _waiting = changed.try_send(());
        })
        .map_err(cannot)?;
        watcher.watch(directory, RecursiveMode::NonRecursive).map_err(cannot)?;
        Ok(Self { changes, _watcher: watcher })
    }

    /// Waits for a change. Where files cannot be watched (some network file systems), looking from
    /// time to time has to do.
    async fn changed(&mut self) {
        let _elapsed = tokio::time::timeout(LOOK_INTERVAL, self.changes.recv()).await;
    }
}

/// How lines look.
struct Show {
    terminal: Terminal,
    width: usize,
}

impl Show {
    fn line(&self, line: &LogLine) -> Result<()> {
        if self.terminal.json {
            return self.terminal.json(line);
        }
        let width = self.width;
        let LogLine { time, plugin, stream, line, .. } = line;
        let colour = match stream {
            LogStream::Stderr => YELLOW,
            LogStream::Log => BOLD_RED,
            _ => DIM,
        };
        let sign = if *stream == LogStream::Lifecycle { '*' } else { '|' };
        self.terminal.line(format_args!(
            "{DIM}{time}{DIM:#} {colour}{plugin:width$} {sign}{colour:#} {}",
            plain(line)
        ))
    }
}

/// How often files are looked at when nothing says that they changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
