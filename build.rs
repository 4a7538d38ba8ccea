//! Compiles the guardian, the small program that runs each plugin, for the library to embed.
//!
//! A library cannot rely on a program of its own being installed beside the application that uses
//! it, and the application's own executable is not ours to run again.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

fn main() {
    for file in ["build.rs", PROGRAM, "src/sys/guardian/record.rs"] {
        println!("cargo::rerun-if-changed={file}");
    }
    // Only the broker starts plugins.
    if env::var_os("CARGO_FEATURE_BROKER").is_none() {
        return;
    }
    let output = PathBuf::from(required("OUT_DIR")).join("plugbus-guardian");
    let status = compile(&output).status();
    match status {
        Ok(status) if status.success() => (),
        Ok(status) => fail(&format!("compiling {PROGRAM} failed: {status}")),
        Err(error) => fail(&format!("cannot run the compiler for {PROGRAM}: {error}")),
    }
}

fn compile(output: &Path) -> Command {
    let mut rustc = Command::new(required("RUSTC"));
    rustc
        .args(["--edition=2024", "--crate-name=plugbus_guardian", "--crate-type=bin"])
        .args(["-Copt-level=s", "-Cpanic=abort", "-Cstrip=symbols", "-Cdebuginfo=0"])
        .arg("--target")
        .arg(required("TARGET"))
        .arg("-o")
        .arg(output)
        .args(link_flags());
    // What `target.TRIPLE.linker` of the configuration says.
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut flag = OsString::from("-Clinker=");
        flag.push(linker);
        rustc.arg(flag);
    }
    rustc.arg(PROGRAM);
    rustc
}

/// Those of the user's compiler flags that say how to link for this target. The others are for the
/// library: sanitizers, coverage and `cfg`s of tests would only grow the guardian or break it.
fn link_flags() -> Vec<String> {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let mut flags = flags.split('\x1f').filter(|flag| !flag.is_empty());
    let mut chosen = Vec::new();
    while let Some(flag) = flags.next() {
        let value = match flag {
            "-C" | "--codegen" | "--sysroot" => flags.next().unwrap_or_default(),
            _ => flag
                .strip_prefix("-C")
                .or_else(|| flag.strip_prefix("--codegen="))
                .or_else(|| flag.strip_prefix("--sysroot="))
                .unwrap_or_default(),
        };
        if flag.starts_with("--sysroot") {
            chosen.push(format!("--sysroot={value}"));
        } else if LINK_OPTIONS.contains(&value.split('=').next().unwrap_or_default()) {
            chosen.push(format!("-C{value}"));
        }
    }
    chosen
}

fn required(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| fail(&format!("cargo does not set {name}")))
}

fn fail(reason: &str) -> ! {
    println!("cargo::error={reason}");
    exit(1)
}

const PROGRAM: &str = "src/sys/guardian/program.rs";

const LINK_OPTIONS: [&str; 7] = [
    "linker",
    "linker-flavor",
    "link-arg",
    "link-args",
    "link-self-contained",
    "relocation-model",
    "target-feature",
];
