//! Imports point down only, and what is special about a layer stays in it: unsafe code in `sys` and
//! `shm`, feature gates where modules are listed.

use super::Finding;
use super::imports::{imports, module_of};
use crate::rust_source::{Source, Token, group_end, matches};
use crate::tree::{File, Tree};

/// A module at the root of the crate, and what it may import.
struct Layer {
    name: &'static str,
    imports: &'static [&'static str],
}

/// Bottom to top. `docs/architecture.md` says what each of them is for.
const LAYERS: [Layer; 15] = [
    Layer { name: "limit", imports: &[] },
    Layer { name: "error", imports: &["limit"] },
    Layer { name: "id", imports: &["limit", "error"] },
    Layer { name: "wire", imports: &["id", "limit", "error"] },
    // The two ends of a connection agree through `wire` alone, as ends in two languages have to.
    Layer { name: "engine", imports: &["id", "limit", "error", "wire"] },
    Layer { name: "peer", imports: &["id", "limit", "error", "wire"] },
    Layer { name: "sys", imports: &["id", "limit", "error"] },
    Layer { name: "shm", imports: &["id", "limit", "error", "sys"] },
    Layer {
        name: "net",
        imports: &["id", "limit", "error", "wire", "engine", "peer", "sys", "shm"],
    },
    Layer {
        name: "plugin",
        imports: &["id", "limit", "error", "wire", "engine", "peer", "sys", "shm", "net"],
    },
    // Knows groups and children, and nothing of messages: any application can use it.
    Layer { name: "supervise", imports: &["limit", "engine", "net"] },
    Layer {
        name: "broker",
        imports: &[
            "id",
            "limit",
            "error",
            "wire",
            "engine",
            "peer",
            "sys",
            "shm",
            "net",
            "supervise",
        ],
    },
    Layer {
        name: "host",
        imports: &[
            "id",
            "limit",
            "error",
            "wire",
            "engine",
            "peer",
            "sys",
            "shm",
            "net",
            "supervise",
            "broker",
        ],
    },
    Layer {
        name: "cli",
        imports: &[
            "id",
            "limit",
            "error",
            "wire",
            "engine",
            "peer",
            "sys",
            "shm",
            "net",
            "plugin",
            "supervise",
            "broker",
            "host",
        ],
    },
    Layer { name: "main", imports: &["cli"] },
];

/// Parts of a layer that may import more than the rest of it.
const EXCEPTIONS: [(&[&str], &str); 1] = [
    // The simulator plays a whole broker and its plugins in one thread.
    (&["engine", "sim"], "peer"),
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.below("src/", ".rs") {
        let source = Source::parse(&file.text);
        check_imports(file, &source, &mut findings);
        check_unsafe(file, &source, &mut findings);
        check_features(file, &source, &mut findings);
    }
    findings
}

fn check_imports(file: &File, source: &Source, findings: &mut Vec<Finding>) {
    let module = module_of(&file.path);
    // The root lists what is public; it stands above all layers.
    let Some(own) = module.first() else { return };
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == own) else {
        let message = format!("`{own}` is in no layer; give it a place in {}", file!());
        findings.push(Finding::new(&file.path, 1, message));
        return;
    };
    for import in imports(source, &module) {
        let target = import.path[0].as_str();
        if target == own || layer.imports.contains(&target) || is_excepted(&module, target) {
            continue;
        }
        let message = if LAYERS.iter().any(|layer| layer.name == target) {
            format!("`{own}` must not import `{target}`: imports point down only")
        } else {
            format!("`crate::{target}` goes through the root; name the module that defines it")
        };
        findings.push(Finding::new(&file.path, import.line, message));
    }
}

fn is_excepted(module: &[String], target: &str) -> bool {
    EXCEPTIONS.iter().any(|(part, extra)| {
        *extra == target
            && part.iter().zip(module).filter(|(a, b)| **a == b.as_str()).count() == part.len()
    })
}

fn check_unsafe(file: &File, source: &Source, findings: &mut Vec<Finding>) {
    if matches!(module_of(&file.path).first().map(String::as_str), Some("sys" | "shm")) {
        return;
    }
    for line in source.find(&["unsafe"]) {
        let message = "unsafe code belongs in src/sys or src/shm, behind a safe function";
        findings.push(Finding::new(&file.path, line, message));
    }
}

/// A gate is an attribute on a `mod` or a `pub use` of `lib.rs`, or of a layer's `mod.rs` where
/// several features share the layer. So a feature adds modules and changes nothing else.
fn check_features(file: &File, source: &Source, findings: &mut Vec<Finding>) {
    let tokens = &source.tokens;
    for (index, token) in tokens.iter().enumerate() {
        if !matches!(token.text.as_str(), "cfg" | "cfg_attr") {
            continue;
        }
        let open = index + if matches(&tokens[index + 1..], &["!"]) { 2 } else { 1 };
        if !matches(&tokens[open.min(tokens.len())..], &["("]) {
            continue;
        }
        let end = group_end(tokens, open);
        if !tokens[open..end].iter().any(|token| token.text == "feature") {
            continue;
        }
        let is_attribute = token.text == "cfg" && index >= 2 && tokens[index - 1].text == "[";
        let lists_modules = module_of(&file.path).len() <= 1;
        if lists_modules && is_attribute && is_gated_item(&tokens[end + 1..]) {
            continue;
        }
        let message = "feature gates stand on `mod` and `pub use` lines only, in src/lib.rs or in \
                       the file of a layer";
        findings.push(Finding::new(&file.path, token.line, message));
    }
}

/// Whether `mod`, `pub mod` or `pub use` follows, after any further attributes.
fn is_gated_item(tokens: &[Token]) -> bool {
    let mut index = 0;
    while matches(&tokens[index..], &["#", "["]) {
        index = group_end(tokens, index + 1);
    }
    if matches(&tokens[index..], &["pub"]) {
        index += 1;
        if matches(&tokens[index..], &["("]) {
            index = group_end(tokens, index);
        }
        return matches(&tokens[index..], &["mod"]) || matches(&tokens[index..], &["use"]);
    }
    matches(&tokens[index..], &["mod"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tree_of;

    #[test]
    fn an_import_that_points_up_or_sideways_is_found() {
        let cases = [
            ("src/wire/frame.rs", "use crate::engine::X;", true),
            ("src/wire/frame.rs", "use crate::error::X;", false),
            ("src/error.rs", "use crate::id::X;", true),
            ("src/wire/frame.rs", "use super::super::engine::X;", true),
            ("src/engine/route.rs", "use crate::peer::X;", true),
            ("src/engine/sim/plugin.rs", "use crate::peer::X;", false),
            ("src/engine/sim.rs", "use crate::peer::X;", false),
            ("src/engine/route.rs", "#[cfg(test)] mod tests { use crate::peer::X; }", false),
            ("src/sys/fd.rs", "use crate::wire::X;", true),
            ("src/plugin/run.rs", "use crate::broker::X;", true),
            ("src/broker.rs", "fn f() { crate::plugin::run() }", true),
            ("src/host/tree.rs", "use crate::{broker::B, cli::C};", true),
            ("src/host/tree.rs", "use crate::{broker::B, sys::C};", false),
            ("src/cli/call.rs", "use crate::plugin::X;", false),
            ("src/cli/call.rs", "use crate::Broker;", true),
            ("src/misc.rs", "", true),
            ("src/lib.rs", "pub use crate::broker::Broker;", false),
        ];
        for (path, text, is_wrong) in cases {
            let findings = check(&tree_of(&[(path, text)]));
            assert_eq!(!findings.is_empty(), is_wrong, "{path}: {text}: {findings:?}");
        }
    }

    #[test]
    fn unsafe_code_is_found_outside_its_layers() {
        let text = "// unsafe\nfn f() { unsafe { g() } }";
        assert_eq!(check(&tree_of(&[("src/sys/fd.rs", text)])), []);
        let found = check(&tree_of(&[("src/net/unix.rs", text)]));
        assert_eq!((found.len(), found[0].line), (1, 2));
    }

    #[test]
    fn feature_gates_stand_on_module_lines_only() {
        let gate = "#[cfg(feature = \"broker\")]";
        let cases = [
            ("src/lib.rs", "pub mod broker;", false),
            ("src/lib.rs", "#[doc(hidden)] pub(crate) mod broker;", false),
            ("src/lib.rs", "mod broker;", false),
            ("src/lib.rs", "pub use broker::Broker;", false),
            ("src/lib.rs", "fn f() {}", true),
            ("src/net/mod.rs", "pub(crate) mod listen;", false),
            ("src/net/mod.rs", "fn f() {}", true),
            ("src/broker/router/mod.rs", "mod names;", true),
        ];
        for (path, item, is_wrong) in cases {
            let text = format!("{gate}\n{item}");
            let findings = check(&tree_of(&[(path, &text)]));
            assert_eq!(!findings.is_empty(), is_wrong, "{path}: {text}: {findings:?}");
        }
        let other = "#[cfg(not(target_os = \"linux\"))]\ncompile_error!(\"Linux only\");";
        assert_eq!(check(&tree_of(&[("src/lib.rs", other)])), []);
        let expression = "fn f() { if cfg!(feature = \"plugin\") {} }";
        assert_eq!(check(&tree_of(&[("src/net/unix.rs", expression)])).len(), 1);
    }
}
