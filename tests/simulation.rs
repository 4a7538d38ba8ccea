//! The broker under thousands of seeds.
//!
//! `PLUGBUS_SIM_SEEDS` says how many (100), `PLUGBUS_SIM_FIRST` from which on (1),
//! `PLUGBUS_SIM_STEPS` how long each run is (2000). `PLUGBUS_SIM_SEED` runs one.

#![expect(clippy::print_stdout, reason = "a failure says how to repeat it, a success what it was")]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use plugbus::engine::sim::{self, FaultCounts, FaultKind, Report, Stats};

#[test]
fn every_seed_keeps_the_promises() {
    let steps = number("PLUGBUS_SIM_STEPS").unwrap_or(2_000);
    let (first, count) = match number("PLUGBUS_SIM_SEED") {
        Some(seed) => (seed, 1),
        None => {
            (number("PLUGBUS_SIM_FIRST").unwrap_or(1), number("PLUGBUS_SIM_SEEDS").unwrap_or(100))
        }
    };
    let next = AtomicU64::new(first);
    let sum = Mutex::new((FaultCounts::default(), Stats::default()));
    let failure = Mutex::new(None);
    let started = now();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while failure.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    match run(seed, steps) {
                        Ok(report) => {
                            let mut sum = sum.lock().unwrap();
                            sum.0.add(&report.faults);
                            sum.1.add(&report.stats);
                        }
                        Err(message) => {
                            failure.lock().unwrap().get_or_insert(message);
                        }
                    }
                }
            });
        }
    });
    let (faults, stats) = sum.into_inner().unwrap();
    if let Some(message) = failure.into_inner().unwrap() {
        panic!("{message}");
    }
    println!(
        "result: {count} seeds of {steps} steps in {:.1} s: {stats:?}",
        started.elapsed().as_secs_f64()
    );
    for &kind in FaultKind::ALL {
        println!("{:>10}  {}", faults.of(kind), kind.name());
    }
    // A few seeds cannot hold every kind; the usual run must.
    if count >= 1_000 && steps >= 2_000 {
        let missing: Vec<_> = faults.missing().into_iter().map(FaultKind::name).collect();
        assert!(missing.is_empty(), "these faults never happened: {missing:?}");
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let seed = number("PLUGBUS_SIM_SEED").unwrap_or(7);
    let traces = [(); 2].map(|()| run(seed, 2_000).unwrap().trace);
    assert_eq!(traces[0], traces[1], "seed {seed} gives two different runs");
}

fn run(seed: u64, steps: u64) -> Result<Report, String> {
    let at = Cell::new(0);
    let epoch = now();
    catch_unwind(AssertUnwindSafe(|| sim::run(seed, steps, epoch, &at))).map_err(|panic| {
        let message = match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => {
                panic.downcast::<&str>().map_or_else(|_| String::new(), |text| text.to_string())
            }
        };
        let line = format!("seed={seed} step={}: {message}", at.get());
        println!("{line}");
        let variables = format!("PLUGBUS_SIM_SEED={seed} PLUGBUS_SIM_STEPS={steps}");
        println!("  again: {variables} cargo test --profile sim --test simulation");
        line
    })
}

#[expect(clippy::disallowed_methods, reason = "a run counts from it, and only the report shows it")]
fn now() -> Instant {
    Instant::now()
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a number")))
}

const THREADS: usize = 2;
