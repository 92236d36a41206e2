//! Where things lie: the repository, the built binaries, the tools, the proof parameters.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Environment variable naming the directory with the farm's built binaries.
pub const BIN_DIR_VARIABLE: &str = "SEALFARM_BIN_DIR";
/// Environment variable naming the directory with `nats-server`, `etcd` and the other tools.
pub const TOOLS_VARIABLE: &str = "SEALFARM_TOOLS";
/// The proofs library's own environment variable for its parameter directory.
pub const PARAMETERS_VARIABLE: &str = "FIL_PROOFS_PARAMETER_CACHE";

/// The repository root.
///
/// # Panics
/// Never: this package lies one directory below the root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies below the workspace root")
}

/// Cargo's target directory: `CARGO_TARGET_DIR` when set, else `target` in the repository.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()) {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where `cargo build` puts the farm's binaries: `SEALFARM_BIN_DIR` when set, else `target/debug`.
pub fn bin_dir() -> PathBuf {
    match std::env::var_os(BIN_DIR_VARIABLE).filter(|value| !value.is_empty()) {
        Some(dir) => root().join(dir),
        None => target_dir().join("debug"),
    }
}

/// Whether `SEALFARM_BIN_DIR` says where built binaries are.
pub fn are_binaries_given() -> bool {
    std::env::var_os(BIN_DIR_VARIABLE).is_some_and(|value| !value.is_empty())
}

/// The path of one of the farm's binaries, such as `sealfarm-miner`.
///
/// # Errors
/// When it has not been built; the message says how to build it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = bin_dir().join(name);
    if !path.is_file() {
        bail!(
            "no binary at {}; run `cargo build --workspace --all-targets` (or set {BIN_DIR_VARIABLE})",
            path.display()
        );
    }
    Ok(path)
}

/// Where `cargo xtask tools` puts what it brings. Not below `CARGO_TARGET_DIR`: `.cargo/config.toml`
/// points cargo at `target/tools/bin/protoc` in the repository.
pub fn tools_dir() -> PathBuf {
    root().join("target/tools")
}

/// The directory for Groth parameters: `FIL_PROOFS_PARAMETER_CACHE` when set, else
/// `$XDG_CACHE_HOME/sealfarm/parameters`, else `~/.cache/sealfarm/parameters`. It outlives the
/// target directory, because making parameters takes minutes.
///
/// # Errors
/// When none of these variables and no `HOME` is set.
pub fn parameters_dir() -> Result<PathBuf> {
    parameters_dir_from(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn parameters_dir_from(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    if let Some(dir) = variable(PARAMETERS_VARIABLE) {
        return std::path::absolute(dir).context("the parameter directory has no absolute path");
    }
    let cache = match variable("XDG_CACHE_HOME").filter(|dir| dir.is_absolute()) {
        Some(dir) => dir,
        None => variable("HOME")
            .with_context(|| format!("no HOME to keep parameters under; set {PARAMETERS_VARIABLE}"))?
            .join(".cache"),
    };
    Ok(cache.join("sealfarm/parameters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(variables: &[(&str, &str)]) -> Option<String> {
        let variable = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v));
        parameters_dir_from(variable).ok().map(|path| path.display().to_string())
    }

    #[test]
    fn the_proofs_librarys_own_variable_comes_before_the_cache_directories() {
        let all = [(PARAMETERS_VARIABLE, "/p"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(dir(&all).as_deref(), Some("/p"));
        assert_eq!(dir(&all[1..]).as_deref(), Some("/x/sealfarm/parameters"));
        assert_eq!(dir(&all[2..]).as_deref(), Some("/h/.cache/sealfarm/parameters"));
        assert_eq!(dir(&[]), None);
    }

    #[test]
    fn a_relative_xdg_directory_is_ignored_as_its_specification_asks() {
        assert_eq!(
            dir(&[("XDG_CACHE_HOME", "cache"), ("HOME", "/h")]).as_deref(),
            Some("/h/.cache/sealfarm/parameters")
        );
    }
}
