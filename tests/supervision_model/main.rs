//! The supervision machine against simple specifications of it, under thousands of seeds.
//!
//! `otp` is OTP's supervisor in the shape in which OTP has it: synchronous, recursive, naive.
//! `biography` is the life of single plugins: delays, quarantine, trials, dependencies, sleep.
//! Both are compared with the engine, order by order and state by state. `chaos` has no
//! specification to compare with: it lets everything happen at any time, late and twice, and
//! checks what must always hold.
//!
//! `PLUGBUS_MODEL_CASES` says how many cases each of them plays (10000), `PLUGBUS_MODEL_FIRST` from
//! which seed on (1). `PLUGBUS_MODEL_SEED` plays one.

#![expect(clippy::print_stdout, reason = "a failure says how to repeat it, a success what it was")]

mod biography;
mod chaos;
mod otp;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

#[test]
fn the_engine_restarts_as_otp_does() {
    play("the_engine_restarts_as_otp_does", otp::play);
}

#[test]
fn plugins_live_as_they_should() {
    play("plugins_live_as_they_should", biography::play);
}

#[test]
fn chaos_keeps_the_rules() {
    play("chaos_keeps_the_rules", chaos::play);
}

/// Plays all cases. A case says how often each thing happened that it was meant to try.
fn play(test: &str, case: fn(u64) -> world::Tally) {
    let (first, count) = match number("PLUGBUS_MODEL_SEED") {
        Some(seed) => (seed, 1),
        None => (
            number("PLUGBUS_MODEL_FIRST").unwrap_or(1),
            number("PLUGBUS_MODEL_CASES").unwrap_or(10_000),
        ),
    };
    let mut sum = world::Tally::default();
    for seed in first..first + count {
        match catch_unwind(AssertUnwindSafe(|| case(seed))) {
            Ok(tally) => sum.add(&tally),
            Err(panic) => {
                let message = panic
                    .downcast::<String>()
                    .map(|text| *text)
                    .or_else(|panic| panic.downcast::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default();
                println!(
                    "  again: PLUGBUS_MODEL_SEED={seed} cargo test --test supervision_model {test}"
                );
                panic!("{test} seed={seed}: {message}");
            }
        }
    }
    println!("result: {test}: {count} cases: {sum}");
    if count >= 10_000 {
        assert_eq!(sum.missing(), Vec::<&str>::new(), "{test} never saw these happen");
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is not a number")))
}
