//! The files of an API in a process's repository directory: `token-secret`, `token`, `api`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::exit::{ExitCode, ExitError};
use crate::token::{ApiAddress, Permission, Secret, Token};

/// What tokens are signed with; stays with the process.
pub(super) const SECRET_FILE: &str = "token-secret";
/// A token that allows everything, for the process's own command line.
pub(super) const TOKEN_FILE: &str = "token";
/// Where the running process listens, as a multiaddr.
pub(super) const API_FILE: &str = "api";

/// Reads the secret of the repository, or makes it and the admin's `token` where there is none.
///
/// # Errors
/// When the files cannot be read or written, or the secret is damaged; each names the file.
pub fn ensure_secret(repo: &Path) -> Result<Secret, ExitError> {
    let path = repo.join(SECRET_FILE);
    let secret = match fs::read_to_string(&path) {
        Ok(text) => Secret::from_hex(&text).map_err(|e| {
            ExitError::new(ExitCode::BadInput, format!("{} is damaged", path.display()))
                .because(e)
                .next("remove it; the next start makes a new one, and all tokens with it")
        })?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let secret = Secret::from_random(rand::random());
            put_private(&path, &secret.to_hex())?;
            secret
        }
        Err(e) => return Err(cannot("read", &path, e)),
    };
    let token = create_token(&secret, Permission::Admin);
    put_private(&repo.join(TOKEN_FILE), token.expose())?;
    Ok(secret)
}

/// A token that allows `permission` and what is weaker.
pub fn create_token(secret: &Secret, permission: Permission) -> Token {
    secret.create_token(permission.and_weaker())
}

/// Writes where the API listens, for the command line to find.
///
/// # Errors
/// When the file cannot be written.
pub fn publish_address(repo: &Path, address: &ApiAddress) -> Result<(), ExitError> {
    put_private(&repo.join(API_FILE), &address.to_string())
}

/// Writes a file that only its owner may read, whole or not at all.
fn put_private(path: &Path, text: &str) -> Result<(), ExitError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.tmp", uuid::Uuid::new_v4()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.map_err(|e| {
        // What was begun beside the file is of no use to anybody.
        let _ = fs::remove_file(&beside);
        cannot("write", path, e)
    })
}

fn cannot(action: &str, path: &Path, error: io::Error) -> ExitError {
    ExitError::new(ExitCode::Failure, format!("cannot {action} {}", path.display()))
        .because(error)
        .next("check that the directory exists and belongs to the user who runs this")
}
