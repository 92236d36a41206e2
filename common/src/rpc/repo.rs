//! The files of an API in a process's repository directory: its secret, `token`, `api`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use jiff::Timestamp;

use crate::exit::{ExitCode, ExitError};
use crate::token::{ApiAddress, Permission, Secret, Token};

/// A token that allows everything, for the process's own command line.
pub(super) const TOKEN_FILE: &str = "token";
/// Where the running process listens, as a multiaddr.
pub(super) const API_FILE: &str = "api";

/// Reads the secret of the repository in `file`, or makes it and the admin's `token` where there is
/// none.
///
/// # Errors
/// When the files cannot be read or written, or the secret is damaged; each names the file.
pub fn ensure_secret(repo: &Path, file: &str) -> Result<Secret, ExitError> {
    let path = repo.join(file);
    let secret = match fs::read_to_string(&path) {
        Ok(text) => decode_secret(&path, &text)
            .map_err(|e| e.next("remove it; the next start makes a new one, and all tokens with it"))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let secret = Secret::from_random(rand::random());
            put(&path, 0o600, &secret.to_hex())?;
            secret
        }
        Err(e) => return Err(cannot("read", &path, e)),
    };
    let token = create_token(&secret, Permission::Admin, None);
    put(&repo.join(TOKEN_FILE), 0o600, token.expose())?;
    Ok(secret)
}

/// Reads the secret of a repository that must have one, in `file`; makes nothing.
///
/// # Errors
/// When the file is missing, cannot be read or is damaged; each names it.
pub fn read_secret(repo: &Path, file: &str) -> Result<Secret, ExitError> {
    read_secret_file(&repo.join(file))
}

/// Reads the secret in this file.
///
/// # Errors
/// When the file is missing, cannot be read or is damaged; each names it.
pub(super) fn read_secret_file(path: &Path) -> Result<Secret, ExitError> {
    let text = fs::read_to_string(path).map_err(|e| {
        ExitError::new(ExitCode::Failure, format!("cannot read {}", path.display()))
            .because(e)
            .next("put the file back: no other secret fits the tokens that were given out")
    })?;
    decode_secret(path, &text)
}

fn decode_secret(path: &Path, text: &str) -> Result<Secret, ExitError> {
    Secret::from_hex(text)
        .map_err(|e| ExitError::new(ExitCode::BadInput, format!("{} is damaged", path.display())).because(e))
}

/// A token that allows `permission` and what is weaker: for ever, or up to `until`.
pub fn create_token(secret: &Secret, permission: Permission, until: Option<Timestamp>) -> Token {
    secret.create_token(permission.and_weaker(), until)
}

/// Replaces the secret in `file` and the admin's `token`: every token given out before is refused.
///
/// # Errors
/// When there is no secret, or the files cannot be written; each names the file.
pub fn replace_secret(repo: &Path, file: &str) -> Result<(), ExitError> {
    read_secret(repo, file)?;
    let secret = Secret::from_random(rand::random());
    put(&repo.join(file), 0o600, &secret.to_hex())?;
    let token = create_token(&secret, Permission::Admin, None);
    put(&repo.join(TOKEN_FILE), 0o600, token.expose())
}

/// Writes where the API listens, for the command line to find.
///
/// # Errors
/// When the file cannot be written.
pub fn publish_address(repo: &Path, address: &ApiAddress) -> Result<(), ExitError> {
    put(&repo.join(API_FILE), 0o644, &address.to_string())
}

/// Writes a file with the permissions `mode`, whole or not at all.
fn put(path: &Path, mode: u32, text: &str) -> Result<(), ExitError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.tmp", uuid::Uuid::new_v4()));
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
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
