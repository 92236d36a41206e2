//! The repository: the directory with the miner's configuration, secret, token and address.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::token::{ApiAddress, Secret, Token};

use crate::settings::CONFIG_FILE;

/// What tokens are signed with, as hex.
const SECRET_FILE: &str = "secret";
/// A token with every permission, for the command line on this machine.
const TOKEN_FILE: &str = "token";
/// Where the running miner listens, as a multiaddr.
const API_FILE: &str = "api";
/// The embedded chain's journal.
const DEV_CHAIN_DIR: &str = "devchain";

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
        let dir = dir.or_else(|| std::env::home_dir().map(|home| home.join(".lotusstorage")));
        let missing = || {
            ExitError::new(ExitCode::Usage, "no home directory is known to keep the repository in")
                .next("give --repo DIR, or set LOTUS_STORAGE_PATH")
        };
        // Whole, so that messages name it whatever directory they are read in.
        dir.map(|dir| Self { dir: std::path::absolute(&dir).unwrap_or(dir) }).ok_or_else(missing)
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

    /// What tokens are signed with.
    ///
    /// # Errors
    /// When the file is missing or no secret.
    pub fn secret(&self) -> Result<Secret, ExitError> {
        let path = self.dir.join(SECRET_FILE);
        let text = self.read(&path)?;
        Secret::from_hex(&text)
            .map_err(|e| ExitError::new(ExitCode::BadInput, format!("{}: {e}", path.display())))
    }

    /// The command line's token.
    ///
    /// # Errors
    /// When the file is missing.
    pub fn token(&self) -> Result<Token, ExitError> {
        self.read(&self.dir.join(TOKEN_FILE)).map(|text| text.trim().to_owned().into())
    }

    /// Where the running miner listens.
    ///
    /// # Errors
    /// When the file is missing or no address.
    pub fn api(&self) -> Result<ApiAddress, ExitError> {
        let path = self.dir.join(API_FILE);
        let text = self.read(&path)?;
        text.parse().map_err(|e| ExitError::new(ExitCode::BadInput, format!("{}: {e}", path.display())))
    }

    /// Writes where the running miner listens: beside, then renamed.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub fn write_api(&self, address: &ApiAddress) -> Result<(), ExitError> {
        let path = self.dir.join(API_FILE);
        let beside = path.with_extension("new");
        let written = fs::write(&beside, format!("{address}\n")).and_then(|()| fs::rename(&beside, &path));
        written.map_err(|e| io_error("write", &path, e))
    }

    /// Makes the whole directory, or nothing: beside, then renamed.
    ///
    /// # Errors
    /// When something is there already, or the place cannot be written.
    pub fn create(
        &self,
        config: &str,
        secret: &Secret,
        token: &Token,
        api: &ApiAddress,
    ) -> Result<(), ExitError> {
        if fs::read_dir(&self.dir).is_ok_and(|mut entries| entries.next().is_some()) || self.dir.is_file() {
            let message = format!("{} exists and is not empty", self.dir.display());
            return Err(ExitError::new(ExitCode::BadInput, message)
                .next("choose another directory with --repo, or remove what is there"));
        }
        let name = self.dir.file_name().map_or_else(|| "repo".into(), |name| name.to_string_lossy());
        let beside = self.dir.with_file_name(format!(".{name}.init-{}", std::process::id()));
        let made = fill(&beside, config, secret, token, api).and_then(|()| fs::rename(&beside, &self.dir));
        made.map_err(|error| {
            // What is half written is of no use to anybody; that it cannot be removed changes nothing.
            drop(fs::remove_dir_all(&beside));
            io_error("make", &self.dir, error)
        })
    }

    fn read(&self, path: &Path) -> Result<String, ExitError> {
        self.check()?;
        fs::read_to_string(path).map_err(|e| io_error("read", path, e))
    }
}

fn fill(dir: &Path, config: &str, secret: &Secret, token: &Token, api: &ApiAddress) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::create_dir(dir)?;
    write(&dir.join(CONFIG_FILE), 0o644, config)?;
    write(&dir.join(SECRET_FILE), 0o600, &format!("{}\n", secret.to_hex()))?;
    write(&dir.join(TOKEN_FILE), 0o600, token.expose())?;
    write(&dir.join(API_FILE), 0o644, &format!("{api}\n"))
}

fn write(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn io_error(what: &str, path: &Path, error: io::Error) -> ExitError {
    ExitError::new(ExitCode::Failure, format!("cannot {what} {}", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use sealfarm_common::token::Permission;

    use super::*;

    fn create(repo: &Repo) -> Result<(), ExitError> {
        let secret = Secret::from_random([7; 32]);
        let token = secret.create_token(&[Permission::Admin]);
        repo.create("# config\n", &secret, &token, &"/ip4/127.0.0.1/tcp/2345/http".parse().unwrap())
    }

    #[test]
    fn a_repository_is_made_whole_and_its_secrets_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::at(Some(dir.path().join("a/miner"))).unwrap();
        create(&repo).unwrap();
        for name in [SECRET_FILE, TOKEN_FILE] {
            let mode = fs::metadata(repo.dir().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(repo.secret().unwrap(), Secret::from_random([7; 32]));
        assert_eq!(repo.api().unwrap().base_url(), "http://127.0.0.1:2345");
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
        let error = Repo::at(Some(dir.path().to_owned())).unwrap().token().unwrap_err();
        assert_eq!(error.code, ExitCode::NotFound);
        assert!(error.next.unwrap().contains("sealfarm-miner init"));
    }
}
