//! The architecture and the house rules as tests: what a reader relies on must not rot unseen.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::bed::files_below;

/// What every module may use.
const COMMON: &[&str] = &["error", "clock", "durable", "domain", "logging", "block"];

/// What a module may use beside itself and `COMMON`. Adding a word is a decision about the architecture.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    // Of `recovery` only the types that the use cases take and give.
    ("api", &["service", "recovery"]),
    ("service", &["queue", "store", "recovery"]),
    ("queue", &["store"]),
    ("agent", &["store", "queue", "recovery", "repository", "datastore", "storage", "binlog", "process"]),
    ("repository", &["storage"]),
    ("storage", &[]),
    ("datastore", &["process"]),
    ("store", &[]),
    ("recovery", &["binlog"]),
    ("binlog", &[]),
    // Sees an appliance through HTTP only; the demo starts one as a process, like an operator.
    ("client", &["cli", "process"]),
    ("process", &[]),
    ("lock", &["process"]),
    ("config", &["process"]),
    ("logging", &[]),
    ("clock", &[]),
    ("durable", &[]),
    ("error", &[]),
    ("block", &[]),
    ("domain", &[]),
];

/// The ends of the program: they put everything together and may use everything.
const COMPOSE: &[&str] = &["main", "appliance", "check", "rebuild", "cli"];

/// Decisions only: no clock, disk, network or process of their own.
const PURE: &[&str] = &["binlog", "recovery", "domain"];

/// Where a crate may be used, so that each outside world has one door.
const ONE_DOOR: &[(&str, &[&str])] =
    &[("rusqlite", &["store"]), ("tiny_http", &["api"]), ("httparse", &["api"]), ("ureq", &["client", "storage"])];

const LINES_MAX: usize = 600;
const SCRIPT_LINES_MAX: usize = 90;

/// Files that are longer, each with the reason. A table is one; "it grew" is none.
const LONGER: &[(&str, &str)] = &[];

/// Words that hide unfinished work, or say nothing. The first letter is set apart so that this file passes.
const BANNED: &[(&str, &str, &str)] = &[
    ("t", "odo!(", "finish it or leave it out"),
    ("u", "nimplemented!(", "finish it or leave it out"),
    ("F", "IXME", "finish it or leave it out"),
    ("X", "XX", "finish it or leave it out"),
    ("#", "[ignore", "a test that does not run proves nothing"),
    ("\"sh\", ", "\"-c\"", "argv is data, there is no shell"),
    ("/wo", "rk/", "a path of somebody's machine"),
    ("/ho", "me/", "a path of somebody's machine"),
];

const TOP_LEVEL: &[&str] = &["Cargo.toml", "Cargo.lock", "src", "static", "scripts", "tests", "README.md", "LICENSE"];
/// What builds and runs leave behind; not in version control.
const LEFT_BEHIND: &[&str] = &["target", "coffer-data", "coffer-demo"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(of: &[&str]) -> Vec<PathBuf> {
    let files = of.iter().flat_map(|dir| files_below(&root().join(dir)));
    files.filter(|path| path.extension().is_some_and(|end| end == "rs")).collect()
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[track_caller]
fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n  {}", problems.join("\n  "));
}

#[test]
fn files_are_of_a_readable_size() {
    let mut problems = Vec::new();
    for path in sources(&["src", "tests"]) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        let excused = LONGER.iter().any(|(name, reason)| *name == shown(&path) && !reason.is_empty());
        if lines > 1000 || (lines > LINES_MAX && !excused) {
            problems.push(format!("{}: {lines} lines; split it by step or noun", shown(&path)));
        }
    }
    for path in files_below(&root().join("scripts")) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        if lines > SCRIPT_LINES_MAX {
            problems.push(format!("{}: {lines} lines; a script this long wants to be a subcommand", shown(&path)));
        }
    }
    assert_none(&problems);
}

#[test]
fn nothing_unfinished_and_no_machine_of_ours_stands_in_the_text() {
    let mut files = files_below(&root().join("scripts"));
    files.extend(files_below(&root().join("static")));
    files.extend(sources(&["src", "tests"]));
    files.push(root().join("README.md"));
    let mut problems = Vec::new();
    for path in files {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            for (first, rest, reason) in BANNED {
                if line.contains(&format!("{first}{rest}")) {
                    problems.push(format!("{}:{}: `{first}{rest}`: {reason}", shown(&path), number + 1));
                }
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn types_are_named_by_what_they_are() {
    let empty = ["Manager", "Handler", "Helper", "Util", "Utils", "Processor", "Dto", "Info"];
    let mut problems = Vec::new();
    for path in sources(&["src"]) {
        for line in fs::read_to_string(&path).unwrap().lines() {
            let mut words = line.trim_start().trim_start_matches("pub(crate) ").split(|c: char| !c.is_alphanumeric());
            let declares = words.next().is_some_and(|word| ["struct", "enum", "trait", "type"].contains(&word));
            let name = words.next().unwrap_or_default();
            if declares && empty.iter().any(|end| name.ends_with(end)) {
                problems.push(format!("{}: `{name}` says what it does, not what it is", shown(&path)));
            }
        }
    }
    assert_none(&problems);
}

#[test]
fn the_top_level_holds_what_was_agreed() {
    let mut problems = Vec::new();
    for entry in fs::read_dir(root()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str()) && !LEFT_BEHIND.contains(&name.as_str()) {
            problems.push(format!("`{name}` at the top level"));
        }
    }
    for name in TOP_LEVEL {
        if !root().join(name).exists() {
            problems.push(format!("`{name}` is missing"));
        }
    }
    assert_none(&problems);
}

#[test]
fn scripts_can_be_run() {
    let mut files = files_below(&root().join("scripts"));
    files.push(root().join(".ci/run"));
    let mut problems = Vec::new();
    // What a script reads is none.
    files.retain(|path| !path.ends_with("lib.sh") && !path.parent().unwrap().ends_with("templates"));
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        if fs::metadata(&path).unwrap().permissions().mode() & 0o111 == 0 {
            problems.push(format!("{} is not executable", shown(&path)));
        }
        let strict = text.contains("set -euo pipefail") || text.contains("\n. \"$(dirname \"$0\")/lib.sh\"\n");
        if !text.starts_with("#!") || !strict {
            problems.push(format!("{}: no interpreter line, or errors pass unseen", shown(&path)));
        }
    }
    assert_none(&problems);
}

#[test]
fn imports_point_one_way() {
    let mut problems = Vec::new();
    for path in program_sources() {
        let module = module_of(&path);
        if COMPOSE.contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
            problems.push(format!("`{module}` has no row in MAY_IMPORT"));
            continue;
        };
        for used in imports(&without_tests(&fs::read_to_string(&path).unwrap())) {
            if used != module && !allowed.contains(&used.as_str()) && !COMMON.contains(&used.as_str()) {
                problems.push(format!("{}: `{module}` may not use `{used}`", shown(&path)));
            }
        }
    }
    problems.sort();
    problems.dedup();
    assert_none(&problems);
}

#[test]
fn decisions_are_pure() {
    let outside =
        ["crate::clock", "crate::durable", "crate::process", "std::fs", "std::net", "std::process", "std::thread"];
    let mut problems = Vec::new();
    for path in program_sources().into_iter().filter(|path| PURE.contains(&module_of(path).as_str())) {
        let text = without_tests(&fs::read_to_string(&path).unwrap());
        for word in outside.iter().filter(|word| text.contains(**word)) {
            problems.push(format!("{}: `{word}` in a module that only decides", shown(&path)));
        }
    }
    assert_none(&problems);
}

#[test]
fn each_outside_world_has_one_door() {
    let mut problems = Vec::new();
    for path in program_sources() {
        let text = without_tests(&fs::read_to_string(&path).unwrap());
        for (krate, doors) in ONE_DOOR {
            if text.contains(&format!("{krate}::")) && !doors.contains(&module_of(&path).as_str()) {
                problems.push(format!("{}: `{krate}` is used in {doors:?} only", shown(&path)));
            }
        }
    }
    assert_none(&problems);
}

/// The program's own files: modules declared under `#[cfg(test)]` may use what they like.
fn program_sources() -> Vec<PathBuf> {
    let all = sources(&["src"]);
    let mut for_tests = BTreeSet::new();
    for path in &all {
        let text = fs::read_to_string(path).unwrap();
        let inside = match path.file_stem().and_then(|stem| stem.to_str()) {
            Some("mod" | "main") => path.parent().unwrap().to_owned(),
            _ => path.with_extension(""),
        };
        for (at, mark) in text.match_indices("#[cfg(test)]\n") {
            let declared = text[at + mark.len()..].lines().next().unwrap_or_default().trim_start();
            let name = declared.trim_start_matches("pub(crate) ").strip_prefix("mod ");
            if let Some(name) = name.and_then(|name| name.strip_suffix(';')) {
                for_tests.insert(inside.join(name));
            }
        }
    }
    let is_for_tests = |path: &PathBuf| path.ancestors().any(|it| for_tests.contains(&it.with_extension("")));
    all.into_iter().filter(|path| !is_for_tests(path)).collect()
}

/// `src/api/gate/mod.rs` and `src/api.rs` both belong to `api`.
fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Unit tests stand at the end of a file and may use what they like.
fn without_tests(text: &str) -> String {
    let end = text.find("\n#[cfg(test)]\nmod tests").unwrap_or(text.len());
    let code = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

/// The first word behind each `crate::`, the words of `crate::{a::b, c}` too.
fn imports(text: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut expect = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => expect = true,
                c if expect && c.is_alphabetic() => {
                    found.insert(word(&list[at..]));
                    expect = false;
                }
                _ => {}
            }
        }
    }
    found.remove("");
    found
}

#[test]
fn the_reader_of_imports_sees_every_form() {
    let text = "use crate::error::Error;\nuse crate::{clock, domain::{id, task}, store::Store};\nfn f() { crate::lock::take() }";
    let expected = ["clock", "domain", "error", "lock", "store"];
    assert_eq!(imports(text).iter().map(String::as_str).collect::<Vec<_>>(), expected);
}
