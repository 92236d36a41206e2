//! The crash points of the farm, read from its source: every `.pass("…")` of the rooms that run.
//!
//! A line of a comment, and the files of unit tests, hold none.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Whose source is read, and the processes that the names of points begin with.
const ROOMS: [&str; 5] = ["common", "nats", "miner", "agent", "worker"];
const PROCESSES: [&str; 3] = ["miner", "agent", "worker"];
const CALL: &str = ".pass(\"";

/// One crash point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// `<process>.<what>.<written>`.
    pub name: String,
    /// The file, from the repository's root.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

/// All crash points, by name.
///
/// # Errors
/// When a name stands twice or is not formed as names are, or the source cannot be read.
pub fn list() -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for room in ROOMS {
        read_dir(&workspace::root().join(room).join("src"), &mut points)?;
    }
    check(points)
}

/// The crash points that no test names: nothing dies there but by chance.
///
/// # Errors
/// When the source cannot be read.
pub fn unnamed() -> Result<Vec<String>> {
    let mut points: Vec<String> = list()?.into_iter().map(|point| point.name).collect();
    for room in ROOMS.iter().chain(&["tests"]) {
        strike_named(&workspace::root().join(room), &mut points)?;
    }
    Ok(points)
}

/// Strikes the points that a file below `dir` names otherwise than by passing them.
fn strike_named(dir: &Path, points: &mut Vec<String>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        if path.is_dir() {
            strike_named(&path, points)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            points.retain(|point| !names(&text, point));
        }
    }
    Ok(())
}

/// Whether `text` has the point's name in quotes, alone or with the how-manieth time, but for its call.
fn names(text: &str, point: &str) -> bool {
    let call = format!("{CALL}{point}\"");
    let quoted = [format!("\"{point}\""), format!("\"{point}@")];
    text.lines().any(|line| !line.contains(&call) && quoted.iter().any(|name| line.contains(name)))
}

/// Sorts the points, unless one has a name that another has, or no proper one.
fn check(mut points: Vec<Point>) -> Result<Vec<Point>> {
    let mut seen: BTreeMap<&str, &Point> = BTreeMap::new();
    for point in &points {
        let here = format!("{}:{}", point.file.display(), point.line);
        if !is_well_formed(&point.name) {
            bail!(
                "{here}: `{}` is no name of a crash point: write <process>.<what>.<written>, of {}",
                point.name,
                PROCESSES.join(", ")
            );
        }
        if let Some(first) = seen.insert(&point.name, point) {
            bail!(
                "{here}: the crash point {} is at {}:{} already; each place has a name of its own",
                point.name,
                first.file.display(),
                first.line
            );
        }
    }
    points.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(points)
}

fn is_well_formed(name: &str) -> bool {
    let tokens: Vec<&str> = name.split('.').collect();
    let is_token = |token: &&str| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    tokens.len() == 3 && tokens.iter().all(is_token) && PROCESSES.contains(&tokens[0])
}

fn read_dir(dir: &Path, points: &mut Vec<Point>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            read_dir(&path, points)?;
        } else if name.ends_with(".rs") && name != "tests.rs" && !name.ends_with("_tests.rs") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let file = path.strip_prefix(workspace::root()).unwrap_or(&path);
            points.extend(of_source(file, &text));
        }
    }
    Ok(())
}

/// The points of one file.
fn of_source(file: &Path, text: &str) -> Vec<Point> {
    let named = |line: &str| -> Vec<String> {
        let calls = line.split(CALL).skip(1);
        calls.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()).collect()
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    lines
        .flat_map(|(index, line)| {
            named(line).into_iter().map(move |name| Point { name, file: file.to_owned(), line: index + 1 })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(text: &str) -> Vec<Point> {
        of_source(Path::new("a.rs"), text)
    }

    #[test]
    fn a_call_is_found_with_its_line_and_a_comment_is_none() {
        let found =
            points("x\n    // crash.pass(\"agent.a.b\")\n    self.crash().pass(\"agent.job.stored\");\n");
        assert_eq!(found, [Point { name: "agent.job.stored".into(), file: "a.rs".into(), line: 3 }]);
    }

    #[test]
    fn a_name_used_twice_and_a_name_of_nobody_are_refused_with_their_places() {
        let twice = check(points("c.pass(\"agent.a.b\");\nc.pass(\"agent.a.b\");")).unwrap_err().to_string();
        assert!(twice.starts_with("a.rs:2: the crash point agent.a.b is at a.rs:1"), "{twice}");
        for name in ["nobody.a.b", "agent.a", "agent.A.b", "agent.a."] {
            assert!(check(points(&format!("c.pass(\"{name}\");"))).is_err(), "{name}");
        }
    }

    #[test]
    fn a_test_names_a_point_by_its_name_or_its_nth_passing_and_its_call_does_not() {
        assert!(names("at(\"agent.a.b\")", "agent.a.b") && names("\"agent.a.b@2\"", "agent.a.b"));
        assert!(!names("crash.pass(\"agent.a.b\")", "agent.a.b") && !names("\"agent.a.bc\"", "agent.a.b"));
    }

    #[test]
    fn every_process_has_crash_points() {
        let points = list().unwrap();
        for process in PROCESSES {
            assert!(points.iter().any(|point| point.name.starts_with(process)), "{process}");
        }
    }
}
