//! The fuzz targets under seeded random input, on a stable toolchain.
//!
//! Every target starts from its corpus, mutates what it has, and keeps inputs that led to an
//! outcome that none before had. The same seed is used each time, so that a run repeats;
//! `PLUGBUS_FUZZ_SEED` names another. `PLUGBUS_FUZZ_TIMES` multiplies the number of inputs.
//! `PLUGBUS_FUZZ_SECONDS` gives each target a time instead, and a seed of its own that is printed.
//! `PLUGBUS_FUZZ_TARGET` names one target, `PLUGBUS_FUZZ_INPUT` (hex) runs a single input.

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use targets::{RAW, Seen, TARGETS, Target};

#[test]
fn decoder_holds_for_random_input() {
    run("decoder", 30_000);
}

#[test]
fn handshake_holds_for_random_input() {
    run("handshake", 60_000);
}

#[test]
fn session_holds_for_random_input() {
    run("session", 1_500);
}

/// A target without a test here would only run where cargo-fuzz is installed.
#[test]
fn every_target_is_driven() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort_unstable();
    let source = include_str!("fuzz_smoke.rs");
    for (name, _) in TARGETS {
        assert!(source.contains(&format!("run(\"{name}\", ")), "{name} has a test");
    }
    assert_eq!(files, TARGETS.map(|(name, _)| name.to_owned()));
}

fn run(name: &'static str, inputs: u64) {
    if let Some(chosen) = setting("PLUGBUS_FUZZ_TARGET") {
        let is_known = TARGETS.iter().any(|(known, _)| *known == chosen);
        assert!(is_known, "there is no target {chosen:?}; nothing would be tested");
        if chosen != name {
            return;
        }
    }
    let (_, target) = TARGETS.into_iter().find(|(known, _)| *known == name).expect("it is listed");
    if let Some(hex) = setting("PLUGBUS_FUZZ_INPUT") {
        target(&unhex(&hex), &mut Seen::default());
        return;
    }
    let time = setting("PLUGBUS_FUZZ_SECONDS").map(|seconds| {
        Duration::from_secs(seconds.parse().expect("PLUGBUS_FUZZ_SECONDS is a number"))
    });
    let times: u64 = setting("PLUGBUS_FUZZ_TIMES")
        .map_or(1, |times| times.parse().expect("PLUGBUS_FUZZ_TIMES is a number"));
    let inputs = inputs * times;
    let seed = match setting("PLUGBUS_FUZZ_SEED") {
        Some(seed) => seed.parse().expect("PLUGBUS_FUZZ_SEED is a number"),
        None if time.is_none() => SEED,
        None => SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970").as_nanos() as u64,
    };
    let mut fuzzer =
        Fuzzer { target, random: Random(seed), kept: corpus(name), seen: Seen::default() };
    let seeds = fuzzer.kept.len();
    for input in fuzzer.kept.clone() {
        fuzzer.try_input(name, seed, &input);
    }
    let started = clock();
    let mut count = 0_u64;
    while time.map_or(count < inputs, |time| started.elapsed() < time) {
        let input = fuzzer.next_input();
        if fuzzer.try_input(name, seed, &input) && fuzzer.kept.len() < KEPT_MAX {
            fuzzer.kept.push(input);
        }
        count += 1;
    }
    eprintln!(
        "result: {name}: seed {seed}, {count} inputs, {} outcomes, {} inputs kept besides {seeds} seeds",
        fuzzer.seen.count(),
        fuzzer.kept.len() - seeds
    );
    assert!(fuzzer.seen.count() > 8, "hardly anything happens; the corpus or the target is broken");
}

/// The seed of a run that says nothing else.
const SEED: u64 = 1;

struct Fuzzer {
    target: Target,
    random: Random,
    kept: Vec<Vec<u8>>,
    seen: Seen,
}

impl Fuzzer {
    /// Says whether the input led to something new.
    fn try_input(&mut self, name: &str, seed: u64, input: &[u8]) -> bool {
        let before = self.seen.count();
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.target)(input, &mut self.seen)));
        if let Err(panic) = outcome {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!(
                "{name} fails with seed {seed} on this input:\n\
                 PLUGBUS_FUZZ_TARGET={name} PLUGBUS_FUZZ_INPUT={hex} cargo test --test fuzz_smoke"
            );
            std::panic::resume_unwind(panic);
        }
        self.seen.count() > before
    }

    fn next_input(&mut self) -> Vec<u8> {
        if self.kept.is_empty() || self.random.below(8) == 0 {
            let size = self.random.below(600);
            let mut input: Vec<u8> = (0..size).map(|_| self.random.byte()).collect();
            if let Some(first) = input.first_mut()
                && self.random.below(4) > 0
            {
                *first &= RAW;
            }
            return input;
        }
        let from = self.random.below(self.kept.len());
        let mut input = self.kept[from].clone();
        for _ in 0..=self.random.below(6) {
            self.mutate(&mut input);
        }
        input.truncate(SIZE_MAX);
        input
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.random.below(input.len() + 1);
        let size = self.random.below(16) + 1;
        match self.random.below(8) {
            0 if at < input.len() => input[at] ^= 1 << self.random.below(8),
            1 if at < input.len() => input[at] = self.random.byte(),
            2 if at < input.len() => {
                const EDGES: [u8; 8] = [0, 1, 0x7F, 0x80, 0xFF, 16, 64, b'.'];
                input[at] = EDGES[self.random.below(EDGES.len())];
            }
            3 => {
                let new: Vec<u8> = (0..size).map(|_| self.random.byte()).collect();
                input.splice(at..at, new);
            }
            4 => {
                let end = input.len().min(at + size);
                input.drain(at..end);
            }
            5 => {
                let end = input.len().min(at + size * 8);
                let copy = input[at..end].to_vec();
                let to = self.random.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            6 => {
                let other = self.random.below(self.kept.len());
                let other = &self.kept[other];
                let from = self.random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.extend((0..size * 8).map(|_| self.random.byte())),
        }
    }
}

/// The files of `fuzz/corpus/NAME`.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()))
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    paths.sort_unstable();
    paths.iter().map(|path| std::fs::read(path).expect("it can be read")).collect()
}

/// Splitmix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

#[expect(clippy::disallowed_methods, reason = "the length of a run is given in seconds")]
fn clock() -> Instant {
    Instant::now()
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).expect("hex digits"))
        .collect()
}

const KEPT_MAX: usize = 4096;
const SIZE_MAX: usize = 4096;
