//! The steps of `cargo xtask test`, cheap ones first.

use super::{Action, Job, Step, Verdict, demo, python, readme};
use crate::tree::Tree;
use crate::{docs, process, tidy, vectors};
use anyhow::Result;

pub(super) const STEPS: [Step; 16] = [
    Step {
        name: "format",
        summary: "the sources are formatted",
        needs: &[],
        action: Action::Cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        name: "tidy",
        summary: "the house rules hold",
        needs: &[],
        action: Action::Function(check_tidy),
    },
    Step {
        name: "lint",
        summary: "clippy has nothing to say",
        needs: &[],
        action: Action::Cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-Dwarnings",
        ]),
    },
    Step {
        name: "features-none",
        summary: "the crate builds without any feature",
        needs: &["src/wire"],
        action: Action::Cargo(&["clippy", "--quiet", "--no-default-features", "--", "-Dwarnings"]),
    },
    Step {
        name: "features-plugin",
        summary: "the crate builds for a plugin author",
        needs: &["src/plugin"],
        action: Action::Cargo(&[
            "clippy",
            "--quiet",
            "--no-default-features",
            "--features=plugin",
            "--",
            "-Dwarnings",
        ]),
    },
    Step {
        name: "features-broker",
        summary: "the crate builds for an embedding application",
        needs: &["src/broker"],
        action: Action::Cargo(&[
            "clippy",
            "--quiet",
            "--no-default-features",
            "--features=broker",
            "--",
            "-Dwarnings",
            // A connection has words for plugins that participants of the host do not use.
            "-Adead_code",
        ]),
    },
    Step {
        name: "unit",
        summary: "the tests of the workspace, examples and documentation included",
        needs: TESTS,
        // Only shown output carries the lines about what the machine does not offer.
        action: Action::Cargo(&["test", "--workspace", "--no-fail-fast", "--", "--show-output"]),
    },
    Step {
        name: "vectors",
        summary: "docs/protocol/vectors is what the code makes",
        needs: &["tests/vectors"],
        action: Action::Function(check_vectors),
    },
    Step {
        name: "simulation",
        summary: "10000 seeds of the simulator, or PLUGBUS_SIM_SEEDS",
        needs: &["tests/simulation"],
        action: Action::Function(simulate),
    },
    Step {
        name: "fuzz",
        summary: "a short run of the fuzz targets on the stable toolchain",
        needs: &["tests/fuzz_smoke"],
        action: Action::Function(fuzz_shortly),
    },
    Step {
        name: "build",
        summary: "the release build that the next steps use",
        needs: &["src/cli"],
        action: Action::Cargo(&["build", "--release", "--bin=plugbus"]),
    },
    Step {
        name: "python",
        summary: "the Python SDK on the oldest and the newest Python here",
        needs: &["sdk/python", "src/cli"],
        action: Action::Function(python::test),
    },
    Step {
        name: "python-types",
        summary: "the Python SDK under strict typing, in the syntax of Python 3.9",
        needs: &["sdk/python"],
        action: Action::Function(python::check_types),
    },
    Step {
        name: "demo",
        summary: "plugbus demo holds and leaves nothing behind",
        needs: &["src/cli/demo"],
        action: Action::Function(demo::run),
    },
    Step {
        name: "docs",
        summary: "the API documentation builds without a warning",
        needs: &[],
        action: Action::Function(check_docs),
    },
    Step {
        name: "readme",
        summary: "the commands of the README do what it says",
        needs: &["README.md", "src/cli"],
        action: Action::Function(readme::run),
    },
];

/// Every test that is a program of its own: one that vanishes would take its tests along in
/// silence.
const TESTS: &[&str] = &[
    "tests/bad_input",
    "tests/bad_plugins",
    "tests/blast_radius",
    "tests/broker",
    "tests/cli_client",
    "tests/cli_dev",
    "tests/cli_logs",
    "tests/cli_new",
    "tests/cli_up",
    "tests/demo",
    "tests/examples",
    "tests/fault_matrix",
    "tests/fuzz_smoke",
    "tests/healing",
    "tests/lifecycles",
    "tests/limits",
    "tests/notes",
    "tests/orphans",
    "tests/processes",
    "tests/reload",
    "tests/request_ids",
    "tests/sdk_live",
    "tests/sdk_process",
    "tests/simulation",
    "tests/storm",
    "tests/supervised",
    "tests/supervision_model",
    "tests/under_load",
    "tests/vectors",
];

fn check_tidy(job: &mut Job) -> Result<Verdict> {
    let findings = tidy::check(&Tree::read(&job.root)?)?;
    for finding in &findings {
        job.note(&finding.to_string());
    }
    Ok(match findings.len() {
        0 => Verdict::Passed,
        count => Verdict::Failed(format!("{count} findings")),
    })
}

fn check_vectors(job: &mut Job) -> Result<Verdict> {
    job.run(&mut vectors::command(true))?;
    Ok(Verdict::Passed)
}

/// No more of the crate than the test needs: with optimisation the rest takes minutes.
fn simulate(job: &mut Job) -> Result<Verdict> {
    let seeds = std::env::var("PLUGBUS_SIM_SEEDS").unwrap_or_else(|_| SEED_COUNT.to_owned());
    job.run(
        process::cargo()
            .args(["test", "--profile=sim", "--no-default-features", "--test=simulation"])
            .args(["--", "--show-output"])
            .env("PLUGBUS_SIM_SEEDS", seeds),
    )?;
    Ok(Verdict::Passed)
}

fn fuzz_shortly(job: &mut Job) -> Result<Verdict> {
    job.run(
        process::cargo()
            .args(["test", "--profile=sim", "--no-default-features", "--test=fuzz_smoke"])
            .args(["--", "--show-output"])
            .env("PLUGBUS_FUZZ_TIMES", FUZZ_TIMES),
    )?;
    Ok(Verdict::Passed)
}

fn check_docs(job: &mut Job) -> Result<Verdict> {
    job.run(&mut docs::api_command(&job.root))?;
    Ok(Verdict::Passed)
}

const SEED_COUNT: &str = "10000";
const FUZZ_TIMES: &str = "5";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_is_listed() {
        let folder = crate::tree::root().join("tests");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let is_test = path.extension().is_some_and(|ending| ending == "rs")
                || path.join("main.rs").exists();
            if is_test {
                found.push(format!("tests/{}", path.file_stem().unwrap().to_str().unwrap()));
            }
        }
        found.sort_unstable();
        assert_eq!(found, TESTS, "the list is sorted, and holds what is in {folder:?}");
    }

    #[test]
    fn every_step_has_what_it_needs() {
        let root = crate::tree::root();
        for (step, path) in
            STEPS.iter().flat_map(|step| step.needs.iter().map(move |of| (step, of)))
        {
            let exists = root.join(path).exists() || root.join(format!("{path}.rs")).exists();
            assert!(exists, "{} needs {path}", step.name);
        }
    }

    #[test]
    fn names_are_words_and_differ() {
        for (index, step) in STEPS.iter().enumerate() {
            assert!(step.name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-'));
            assert!(STEPS[..index].iter().all(|other| other.name != step.name), "{}", step.name);
        }
    }
}
