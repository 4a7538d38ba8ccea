//! An actix application that supervises its own actors and processes in one tree.
//!
//! Run with `cargo run --example supervise_tree`. The tree is
//!
//! ```text
//! app (rest-for-one)
//! ├── ledger        an actor
//! └── workers       a group (one-for-one)
//!     ├── adder     an actor
//!     └── echo      a process
//! ```
//!
//! Everything in it fails once; what the groups do about it is printed.

#![expect(clippy::print_stdout, reason = "a program prints its results")]

use std::collections::BTreeMap;
use std::error::Error;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix::prelude::*;
use plugbus::supervise::{
    Child, ChildSpec, Exit, Group, GroupFlags, Reports, Shell, State, Strategy, Transitions,
};
use tokio::process::Command;
use tokio::sync::watch;

#[actix::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (ledger, adder) = (Shell::new(|_| Ledger), Shell::new(|_| Adder { sum: 0 }));
    let (ledger_address, adder_address) = (ledger.address(), adder.address());
    let echo = Program::new("cat");
    let pid = Arc::clone(&echo.pid);
    let workers = Group::builder("workers", GroupFlags::core(Strategy::OneForOne))
        .child(ChildSpec::new("adder"), adder)
        .child(ChildSpec::new("echo"), echo)
        .build()?;
    let app = Group::builder("app", GroupFlags::core(Strategy::RestForOne))
        .child(ChildSpec::new("ledger"), ledger)
        .child(ChildSpec::group("workers"), workers)
        .build()?;
    let mut transitions = app.handle().subscribe();
    let app = app.start();
    println!("everybody starts in order");
    tell(&mut transitions, "workers", State::Ready).await;

    println!("an actor that panics is made again, with its address and its mail");
    let answers = [Some(1), None, Some(3)].map(|number| {
        let adder = adder_address.clone();
        actix::spawn(async move { adder.send(Add(number)).await })
    });
    for answer in answers {
        match answer.await? {
            Ok(sum) => println!("  the sum is {sum}"),
            Err(error) => println!("  {error}"),
        }
    }
    tell(&mut transitions, "adder", State::Ready).await;

    println!("a process that is killed comes back");
    let process = pid.load(Ordering::Relaxed).to_string();
    Command::new("kill").args(["-KILL", &process]).status().await?;
    tell(&mut transitions, "echo", State::Ready).await;

    println!("what comes after a child that fails starts over with it");
    if let Err(error) = ledger_address.send(Lose).await {
        println!("  {error}");
    }
    tell(&mut transitions, "workers", State::Ready).await;

    println!("a group that fails too often is started over by the one above");
    for _ in 0..4 {
        // The group allows three restarts in 30 s.
        if let Err(error) = adder_address.send(Add(None)).await {
            println!("  {error}");
        }
    }
    tell(&mut transitions, "workers", State::Ready).await;

    println!("everybody stops in reverse");
    let exit = app.shutdown().await;
    tell(&mut transitions, "ledger", State::Stopped).await;
    println!("app {exit}");
    Ok(())
}

/// Prints what happens in each group until `child` is in `state`.
async fn tell(transitions: &mut Transitions, child: &str, state: State) {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while let Some(Ok(transition)) = transitions.next().await {
        let changed = transition.changed;
        let lines = groups.entry(transition.group).or_default();
        lines.push(format!("{} {}", changed.id, changed.to));
        if changed.id.as_str() == child && changed.to == state {
            break;
        }
    }
    for (group, lines) in groups {
        println!("  {group}: {}", lines.join(", "));
    }
}

/// An actor that panics.
struct Ledger;

impl Actor for Ledger {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct Lose;

impl Handler<Lose> for Ledger {
    type Result = ();

    fn handle(&mut self, _: Lose, _ctx: &mut Self::Context) {
        panic!("the ledger is lost");
    }
}

/// An actor that panics where there is no number.
struct Adder {
    sum: u32,
}

impl Actor for Adder {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "u32")]
struct Add(Option<u32>);

impl Handler<Add> for Adder {
    type Result = u32;

    fn handle(&mut self, Add(number): Add, _ctx: &mut Self::Context) -> u32 {
        self.sum += number.expect("a number");
        self.sum
    }
}

/// A process that ends when its input does. Anything can be a child that can be started, asked to
/// end and ended.
struct Program {
    name: &'static str,
    pid: Arc<AtomicU32>,
    order: watch::Sender<Order>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Order {
    Run,
    Stop,
    Kill,
}

impl Program {
    fn new(name: &'static str) -> Self {
        Self { name, pid: Arc::default(), order: watch::channel(Order::Run).0 }
    }
}

impl Child for Program {
    fn start(&mut self, reports: Reports) {
        let mut command = Command::new(self.name);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
        let process = match command.spawn() {
            Ok(process) => process,
            Err(error) => {
                let why = error.to_string().into();
                return reports.exited(Exit::StartFailed { permanent: true, why });
            }
        };
        self.pid.store(process.id().unwrap_or(0), Ordering::Relaxed);
        reports.ready();
        self.order.send_replace(Order::Run);
        actix::spawn(watch(process, self.order.subscribe(), reports));
    }

    fn stop(&mut self, _generation: u64, _within: Option<Duration>) {
        self.order.send_replace(Order::Stop);
    }

    fn kill(&mut self, _generation: u64) {
        self.order.send_replace(Order::Kill);
    }
}

/// Does what is ordered until the process has ended.
async fn watch(
    mut process: tokio::process::Child,
    mut order: watch::Receiver<Order>,
    reports: Reports,
) {
    let mut input = process.stdin.take();
    loop {
        // Whoever drops the child wants the process to end: it is killed with this future.
        tokio::select! {
            status = process.wait() => {
                let was_asked = *order.borrow() != Order::Run;
                return reports.exited(decode(status, was_asked));
            }
            changed = order.changed() => match *order.borrow_and_update() {
                _ if changed.is_err() => return,
                Order::Run => (),
                Order::Stop => drop(input.take()),
                Order::Kill => drop(process.start_kill()),
            }
        }
    }
}

fn decode(status: std::io::Result<ExitStatus>, was_asked: bool) -> Exit {
    match status {
        Ok(_) if was_asked => Exit::Stopped,
        Ok(status) if status.success() => Exit::Normal,
        Ok(status) => match (status.signal(), status.code()) {
            (Some(number), _) => Exit::Signal { number, core: status.core_dumped() },
            (None, code) => Exit::Code(code.unwrap_or(-1)),
        },
        Err(error) => Exit::Panic(error.to_string().into()),
    }
}
