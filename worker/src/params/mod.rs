//! Groth16 parameters: where they are, what is wrong with them, and how test sizes get them.
//!
//! Real sizes need the network's own parameters, from its ceremony; they are fetched, never made here.

pub mod check;
pub mod generate;
pub mod origin;
pub mod parents;
mod progress;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use check::{ParamsError, check, expect};
pub use sealfarm_parameters::{circuits, groth16, upstream};

/// The variable by which upstream, and we, name the parameter cache.
pub const PARAMETER_CACHE_VARIABLE: &str = "FIL_PROOFS_PARAMETER_CACHE";
/// The variable by which upstream, and we, name the parents cache.
pub const PARENT_CACHE_VARIABLE: &str = "FIL_PROOFS_PARENT_CACHE";

/// The two directories the proofs need besides the store. Shared by all workers of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caches {
    /// Groth16 parameters and verifying keys.
    pub params: PathBuf,
    /// The graph's parents, one file a proof type.
    pub parents: PathBuf,
}

impl Caches {
    /// The directories of this process: `params` where given, else what the environment names, else
    /// `sealfarm/parameters` in the user's cache directory. Parents are beside the parameters.
    pub fn of_process(params: Option<PathBuf>) -> Self {
        Self::from_lookup(params, |name| std::env::var_os(name))
    }

    /// The same, with the environment as a function.
    pub fn from_lookup(params: Option<PathBuf>, lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || {
            set("XDG_CACHE_HOME")
                .or_else(|| set("HOME").map(|home| home.join(".cache")))
                .unwrap_or_else(|| PathBuf::from(".cache"))
                .join("sealfarm")
        };
        let params =
            params.or_else(|| set(PARAMETER_CACHE_VARIABLE)).unwrap_or_else(|| home().join("parameters"));
        let beside = || params.parent().unwrap_or_else(|| Path::new(".")).join("parents");
        let parents = set(PARENT_CACHE_VARIABLE).unwrap_or_else(beside);
        Self { params, parents }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(params: Option<&str>, environment: &[(&str, &str)], want: (&str, &str)) {
        let lookup =
            |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let caches = Caches::from_lookup(params.map(PathBuf::from), lookup);
        assert_eq!((caches.params.to_str().unwrap(), caches.parents.to_str().unwrap()), want);
    }

    #[test]
    fn the_caches_are_in_the_users_cache_directory_unless_named() {
        let home = ("HOME", "/home/u");
        check(None, &[home], ("/home/u/.cache/sealfarm/parameters", "/home/u/.cache/sealfarm/parents"));
        check(None, &[home, ("XDG_CACHE_HOME", "/x")], ("/x/sealfarm/parameters", "/x/sealfarm/parents"));
        check(None, &[home, (PARAMETER_CACHE_VARIABLE, "/p/params")], ("/p/params", "/p/parents"));
        check(Some("/flag/params"), &[(PARAMETER_CACHE_VARIABLE, "/p")], ("/flag/params", "/flag/parents"));
        check(None, &[home, (PARENT_CACHE_VARIABLE, "/q")], ("/home/u/.cache/sealfarm/parameters", "/q"));
        check(
            None,
            &[home, ("XDG_CACHE_HOME", "")],
            ("/home/u/.cache/sealfarm/parameters", "/home/u/.cache/sealfarm/parents"),
        );
    }
}
