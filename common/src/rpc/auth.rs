//! `auth`: the tokens of a repository, made, shown and revoked. The process need not run.

use std::path::Path;
use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;

use super::repo::{create_token, read_secret, replace_secret};
use crate::exit::{ExitCode, ExitError};
use crate::outln;
use crate::token::{ApiAddress, ApiInfo, Permission, Token};

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// Prints a token that allows `--perm` and what is weaker.
    CreateToken(TokenArgs),
    /// Prints the variable that others reach this process with: a token, and the address.
    ApiInfo(TokenArgs),
    /// Revokes every token given out so far, and writes a new `token` file. Acts at once.
    Revoke,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct TokenArgs {
    /// What it allows: read (look), write (change; workers join with it), sign, or admin (everything).
    #[arg(long, value_name = "PERMISSION")]
    perm: Permission,
    /// How long it holds, such as 30d [default: until it is revoked].
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    valid_for: Option<Duration>,
}

/// Whose tokens they are.
#[derive(Debug, Clone, Copy)]
pub struct AuthPlace<'a> {
    /// The repository's directory.
    pub repo: &'a Path,
    /// The name of the secret's file in it.
    pub secret_file: &'a str,
    /// The variable that others name this process with.
    pub variable: &'a str,
}

impl AuthCommand {
    /// Carries the command out; `address` is where others reach the process.
    ///
    /// # Errors
    /// When the repository has no secret, or a file cannot be written.
    pub fn run(
        &self,
        place: AuthPlace<'_>,
        address: impl FnOnce() -> Result<ApiAddress, ExitError>,
    ) -> Result<(), ExitError> {
        match self {
            Self::CreateToken(args) => outln!("{}", args.token(place)?.expose()),
            Self::ApiInfo(args) => {
                let info = ApiInfo { token: Some(args.token(place)?), address: address()? };
                outln!("{}={}", place.variable, info.expose());
            }
            Self::Revoke => {
                replace_secret(place.repo, place.secret_file)?;
                tracing::info!(repo = %place.repo.display(), "every token given out so far is refused from now on");
            }
        }
        Ok(())
    }
}

impl TokenArgs {
    fn token(&self, place: AuthPlace<'_>) -> Result<Token, ExitError> {
        let secret = read_secret(place.repo, place.secret_file)?;
        let until = self.valid_for.map(|span| Timestamp::now().checked_add(span)).transpose();
        let until = until.map_err(|error| {
            ExitError::new(ExitCode::Usage, "--valid-for ends beyond the year 9999").because(error)
        })?;
        Ok(create_token(&secret, self.perm, until))
    }
}
