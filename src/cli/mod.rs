//! The `plugbus` command.
//!
//! One file for each command. What clap parses is low-level: words and flags. Each command makes of
//! it what it means, with the schema of a method or the content of a file, before it acts.

mod arguments;
mod broadcast;
mod builtin;
mod call;
mod client;
mod completions;
mod config;
mod control;
mod demo;
mod dev;
mod failure;
mod lines;
mod list;
mod logs;
mod new;
mod notes;
mod payload;
mod printer;
mod publish;
mod python;
mod run;
mod sdk;
mod send;
mod serve;
mod show;
mod signal;
mod status;
mod table;
mod tail;
mod terminal;
mod top;
mod up;
mod value;
mod watching;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, Parser, Subcommand};

use self::failure::{Failure, Result, STATUS_HELP};
use self::terminal::Terminal;

/// Runs the command that the process was started as.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    start_log(global.verbose);
    // An empty variable is as good as none.
    let socket = global.socket.filter(|path| !path.as_os_str().is_empty());
    let context = Context { terminal: Terminal { json: global.json }, socket };
    match command.run(&context) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(&context.terminal),
    }
}

/// A message broker for plugins: separate processes in any language that call each other, stream to
/// each other and publish events.
#[derive(Debug, Parser)]
#[command(name = "plugbus", version, after_help = STATUS_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
struct GlobalArgs {
    /// Print JSON, one value a line
    #[arg(long, global = true)]
    json: bool,
    /// Say more of what happens inside; repeat for still more (PLUGBUS_LOG selects finer)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// The broker's socket [default: $XDG_RUNTIME_DIR/plugbus/default.sock]
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "PLUGBUS_SOCKET",
        hide_env_values = true
    )]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a broker and the plugins of a plugbus.toml
    Up(up::UpArgs),
    /// Start a broker and single-file plugins, with nothing installed
    Run(run::RunArgs),
    /// As `up` or `run`, and replace plugins when their files change
    Dev(dev::DevArgs),
    /// Show what plugbus does, and prove it
    Demo(demo::DemoArgs),
    /// Call a method and print its result
    Call(call::CallArgs),
    /// Publish an event
    Publish(publish::PublishArgs),
    /// Print events as they are published
    Tail(tail::TailArgs),
    /// Send the lines of a file down a channel, in order
    Send(send::SendArgs),
    /// Send an event to every ready plugin
    Broadcast(broadcast::BroadcastArgs),
    /// Send a signal to a plugin: shutdown, reload, health-check, wake
    Signal(signal::SignalArgs),
    /// List plugins, or the methods of one
    List(list::ListArgs),
    /// Show what the broker has done and what it holds
    Status(status::StatusArgs),
    /// Start a supervised plugin
    Start(control::StartArgs),
    /// Stop a supervised plugin
    Stop(control::StopArgs),
    /// Stop a supervised plugin and start it again
    Restart(control::RestartArgs),
    /// Replace a plugin without losing a call, or apply a changed plugbus.toml
    Reload(control::ReloadArgs),
    /// Say why a supervised plugin is as it is
    Why(why::WhyArgs),
    /// Show the supervised plugins and what they use
    Top(top::TopArgs),
    /// Write a plugin that runs, with its test
    New(new::NewArgs),
    /// Print what plugins printed, from the files on disk
    Logs(logs::LogsArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Run a plugin that comes with this program
    #[command(hide = true)]
    Builtin(builtin::BuiltinArgs),
}

impl Command {
    fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Up(args) => in_runtime(up::run(context, args)),
            Self::Run(args) => in_runtime(run::run(context, args)),
            Self::Dev(args) => in_runtime(dev::run(context, args)),
            Self::Demo(args) => in_runtime(demo::run(context, args)),
            Self::Call(args) => in_runtime(call::run(context, args)),
            Self::Publish(args) => in_runtime(publish::run(context, args)),
            Self::Tail(args) => in_runtime(tail::run(context, args)),
            Self::Send(args) => in_runtime(send::run(context, args)),
            Self::Broadcast(args) => in_runtime(broadcast::run(context, args)),
            Self::Signal(args) => in_runtime(signal::run(context, args)),
            Self::List(args) => in_runtime(list::run(context, args)),
            Self::Status(args) => in_runtime(status::run(context, args)),
            Self::Start(args) => in_runtime(control::start(context, args)),
            Self::Stop(args) => in_runtime(control::stop(context, args)),
            Self::Restart(args) => in_runtime(control::restart(context, args)),
            Self::Reload(args) => in_runtime(control::reload(context, args)),
            Self::Why(args) => in_runtime(why::run(context, args)),
            Self::Top(args) => in_runtime(top::run(context, args)),
            Self::New(args) => new::run(context.terminal, &args),
            Self::Logs(args) => in_runtime(logs::run(context, args)),
            Self::Completions(args) => completions::run(context.terminal, &args),
            Self::Builtin(args) => in_runtime(builtin::run(context.terminal, args)),
        }
    }
}

/// What every command knows.
#[derive(Debug)]
struct Context {
    terminal: Terminal,
    /// As the command line or the environment names it.
    socket: Option<PathBuf>,
}

fn in_runtime(command: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format_args!("cannot start: {error}")))?
        .block_on(command)
}

fn start_log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let environment = env_logger::Env::new().filter_or("PLUGBUS_LOG", level);
    let style = match anstream::AutoStream::choice(&std::io::stderr()) {
        anstream::ColorChoice::Never => env_logger::WriteStyle::Never,
        _ => env_logger::WriteStyle::Always,
    };
    env_logger::Builder::from_env(environment)
        .format_target(verbose > 1)
        .target(env_logger::Target::Pipe(Box::new(printer::LogOutput)))
        .write_style(style)
        .init();
}
