//! The repository: the directory with the miner's configuration, secret, token and address.

use std::fs;
use std::path::{Path, PathBuf};

use sealfarm_common::cli::home_of;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::rpc::{self, Keys};
use sealfarm_common::token::ApiAddress;
use sealfarm_common::{repository, store};

use crate::settings::CONFIG_FILE;

/// What tokens are signed with, as hex.
pub(super) const SECRET_FILE: &str = "secret";
/// The embedded chain's journal.
pub(super) const DEV_CHAIN_DIR: &str = "devchain";

/// A miner's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    dir: PathBuf,
}

impl Repo {
    /// The repository in `dir`, or in `~/.lotusstorage`.
    ///
    /// # Errors
    /// When neither `dir` nor a home directory is known.
    pub fn at(dir: Option<PathBuf>) -> Result<Self, ExitError> {
        home_of(dir, ".lotusstorage", "LOTUS_STORAGE_PATH").map(|dir| Self { dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its configuration.
    pub fn config(&self) -> PathBuf {
        self.dir.join(CONFIG_FILE)
    }

    /// Where the dev chain's journal lies.
    pub fn dev_chain(&self) -> PathBuf {
        self.dir.join(DEV_CHAIN_DIR)
    }

    /// Checks that this is a repository.
    ///
    /// # Errors
    /// When it is not, with what to do.
    pub fn check(&self) -> Result<(), ExitError> {
        if self.config().is_file() {
            return Ok(());
        }
        let message = format!("there is no miner repository in {}", self.dir.display());
        Err(ExitError::new(ExitCode::NotFound, message)
            .next("make one with `sealfarm-miner init`, or name it with --repo or LOTUS_STORAGE_PATH"))
    }

    /// What tokens are verified with.
    ///
    /// # Errors
    /// When this is no repository, or the secret's file is missing or damaged.
    pub fn keys(&self) -> Result<Keys, ExitError> {
        self.check()?;
        rpc::read_secret(&self.dir, SECRET_FILE)?;
        Ok(Keys::of_file(self.dir.join(SECRET_FILE)))
    }

    /// Makes the whole directory, or nothing: beside, then renamed. `fill` puts into it what else
    /// belongs there.
    ///
    /// # Errors
    /// When something is there already, or the place cannot be written; or those of `fill`.
    pub fn create(
        &self,
        config: &str,
        api: &ApiAddress,
        fill: impl FnOnce(&Path) -> Result<(), ExitError>,
    ) -> Result<(), ExitError> {
        let busy = |entry: &fs::DirEntry| entry.file_name() != "lost+found";
        let entries = fs::read_dir(&self.dir).into_iter().flatten().filter_map(Result::ok);
        if self.dir.is_file() || entries.into_iter().any(|entry| busy(&entry)) {
            let message = format!("{} exists and is not empty", self.dir.display());
            return Err(ExitError::new(ExitCode::BadInput, message)
                .next("choose another directory with --repo, or remove what is there"));
        }
        repository::create(&self.dir, CONFIG_FILE, |dir| {
            store::put_file(&dir.join(CONFIG_FILE), config.as_bytes())
                .map_err(|e| ExitError::new(ExitCode::Failure, e.to_string()))?;
            rpc::ensure_secret(dir, SECRET_FILE)?;
            rpc::publish_address(dir, api)?;
            fill(dir)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use sealfarm_common::token::Permission;

    use super::*;

    fn create(repo: &Repo) -> Result<(), ExitError> {
        repo.create("# config\n", &"/ip4/127.0.0.1/tcp/2345/http".parse().unwrap(), |_| Ok(()))
    }

    #[test]
    fn a_repository_is_made_whole_and_its_secrets_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::at(Some(dir.path().join("a/miner"))).unwrap();
        create(&repo).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(repo.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["api", "config.toml", "secret", "token"]);
        for name in ["secret", "token"] {
            let mode = fs::metadata(repo.dir().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let token = fs::read_to_string(repo.dir().join("token")).unwrap();
        let secret = rpc::read_secret(repo.dir(), SECRET_FILE).unwrap();
        assert_eq!(secret.verify_token(token.trim(), jiff::Timestamp::now()).unwrap(), Permission::ALL);
        let api = fs::read_to_string(repo.dir().join("api")).unwrap();
        assert_eq!(api, "/ip4/127.0.0.1/tcp/2345/http\n");
        let names = fs::read_dir(dir.path().join("a")).unwrap().count();
        assert_eq!(names, 1, "nothing is left beside it");
    }

    #[test]
    fn what_exists_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine"), "x").unwrap();
        let repo = Repo::at(Some(dir.path().to_owned())).unwrap();
        let error = create(&repo).unwrap_err();
        assert_eq!(error.code, ExitCode::BadInput);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_without_a_repository_is_answered_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = Repo::at(Some(dir.path().to_owned())).unwrap().keys().unwrap_err();
        assert_eq!(error.code, ExitCode::NotFound);
        assert!(error.next.unwrap().contains("sealfarm-miner init"));
    }
}
