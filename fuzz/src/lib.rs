//! The fuzz targets, for cargo-fuzz. The test `fuzz_smoke` of the main package drives the same
//! ones with seeded random input on a stable toolchain.

mod targets;

/// Runs one target on one input. Panics where something does not hold.
pub fn run(target: &str, data: &[u8]) {
    let (_, target) = targets::TARGETS
        .iter()
        .find(|(name, _)| *name == target)
        .expect("the binary names a target");
    target(data, &mut targets::Seen::default());
}
