//! Where the full node is: what `FULLNODE_API_INFO` says, or the files `api` and `token` that a running
//! node keeps in its repository (`LOTUS_PATH`).

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::token::{ApiAddress, ApiInfo, Token};

/// A node's address with what to show there, and where both come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Address and token.
    pub info: ApiInfo,
    /// What said so.
    pub source: Source,
}

/// What said where the node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `FULLNODE_API_INFO`, or the key it sets.
    ApiInfo,
    /// The files of a node's repository.
    Repository(PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiInfo => f.write_str("FULLNODE_API_INFO ([Chain] ApiInfo)"),
            Self::Repository(dir) => write!(f, "{}", dir.display()),
        }
    }
}

impl Source {
    /// What to do where the node refuses the token.
    pub(super) fn renew_token(&self) -> String {
        match self {
            Self::ApiInfo => {
                "set FULLNODE_API_INFO to what `lotus auth api-info --perm admin` prints".to_owned()
            }
            Self::Repository(dir) => format!(
                "copy the node's `token` to {}: the node makes a new one with every new key",
                dir.join(TOKEN).display()
            ),
        }
    }
}

const API: &str = "api";
const TOKEN: &str = "token";
const ELSE: &str =
    "name the node's repository with LOTUS_PATH, or its API with FULLNODE_API_INFO=TOKEN:MULTIADDR";

impl Place {
    /// What `api_info` says, where it says something; else what stands in the node's repository `dir`.
    ///
    /// # Errors
    /// When the text is no `TOKEN:ADDRESS`; when the directory or one of its files is missing, cannot be
    /// read or is damaged. Each names it, and what to do.
    pub fn of(api_info: &str, dir: &Path) -> Result<Self, ExitError> {
        if api_info.trim().is_empty() { Self::of_repository(dir) } else { Self::of_text(api_info) }
    }

    fn of_text(text: &str) -> Result<Self, ExitError> {
        let info = text.parse().map_err(|error| {
            ExitError::new(ExitCode::BadInput, format!("{}: {error}", Source::ApiInfo))
                .next("set it to TOKEN:MULTIADDR, as `lotus auth api-info` prints it, or unset it")
        })?;
        Ok(Self { info, source: Source::ApiInfo })
    }

    fn of_repository(dir: &Path) -> Result<Self, ExitError> {
        if !dir.is_dir() {
            let message =
                format!("there is no directory {}, where a full node's files should be", dir.display());
            return Err(ExitError::new(ExitCode::NotFound, message).next(ELSE));
        }
        let api = read(dir, API, "start the node: it writes the file while it runs")?;
        let token =
            read(dir, TOKEN, "copy it from the node's host: it is what this miner shows to the node")?;
        let address: ApiAddress = api.trim().parse().map_err(|error| {
            ExitError::new(ExitCode::BadInput, format!("the file {}: {error}", dir.join(API).display()))
                .next("start the node again, which writes it anew, or correct it")
        })?;
        let token = token.trim();
        if token.is_empty() {
            let message = format!("the file {} is empty", dir.join(TOKEN).display());
            return Err(ExitError::new(ExitCode::BadInput, message)
                .next("write what `lotus auth create-token --perm admin` prints into it"));
        }
        let info = ApiInfo { token: Some(Token::from(token.to_owned())), address };
        Ok(Self { info, source: Source::Repository(dir.to_owned()) })
    }
}

fn read(dir: &Path, name: &str, next: &str) -> Result<String, ExitError> {
    let path = dir.join(name);
    fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ExitError::new(
            ExitCode::NotFound,
            format!("there is no file `{name}` in {}, a full node's directory", dir.display()),
        )
        .next(format!("{next}; or {ELSE}")),
        _ => ExitError::new(ExitCode::BadInput, format!("cannot read {}", path.display()))
            .because(error)
            .next("make it readable for the user who runs this miner"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealfarm_common::exit::render;

    const API_TEXT: &str = "/ip4/127.0.0.1/tcp/1234/http\n";

    fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn a_nodes_repository_says_where_it_is_and_what_to_show() {
        let dir = repository(&[(API, API_TEXT), (TOKEN, "a.b.c\n")]);
        let place = Place::of(" ", dir.path()).unwrap();
        assert_eq!(place.info.address.rpc_url(), "http://127.0.0.1:1234/rpc/v1");
        assert_eq!(place.info.token.unwrap().expose(), "a.b.c");
        assert_eq!(place.source, Source::Repository(dir.path().to_owned()));
    }

    #[test]
    fn fullnode_api_info_beats_the_repository() {
        let dir = repository(&[(API, API_TEXT), (TOKEN, "a.b.c\n")]);
        let place = Place::of("d.e.f:/ip4/10.0.0.1/tcp/1235/http", dir.path()).unwrap();
        assert_eq!(place.info.expose(), "d.e.f:/ip4/10.0.0.1/tcp/1235/http");
        assert_eq!(place.source, Source::ApiInfo);
    }

    #[test]
    fn every_mistake_is_named_with_its_file_and_a_next_step() {
        let check = |dir: &Path, api_info: &str, code: ExitCode, parts: &[&str]| {
            let (found, text) = render(&Place::of(api_info, dir).unwrap_err());
            assert_eq!(found, code, "{text}");
            for part in parts.iter().chain(&["next: "]) {
                assert!(text.contains(part), "{text} lacks {part}");
            }
            assert!(!text.contains("s3cret"), "{text}");
        };
        let missing = Path::new("/nowhere/.lotus");
        check(missing, "", ExitCode::NotFound, &["/nowhere/.lotus", "LOTUS_PATH", "FULLNODE_API_INFO"]);
        let dir = repository(&[(TOKEN, "s3cret")]);
        let path = dir.path().display().to_string();
        check(dir.path(), "", ExitCode::NotFound, &["`api`", &path, "start the node"]);
        let dir = repository(&[(API, API_TEXT)]);
        check(dir.path(), "", ExitCode::NotFound, &["`token`", "copy it"]);
        let dir = repository(&[(API, "/ip4/1.2.3/tcp/x"), (TOKEN, "s3cret")]);
        check(dir.path(), "", ExitCode::BadInput, &["/api", "/ip4/1.2.3/tcp/x"]);
        let dir = repository(&[(API, API_TEXT), (TOKEN, "\n")]);
        check(dir.path(), "", ExitCode::BadInput, &["/token", "empty", "create-token"]);
        check(dir.path(), "s3cret", ExitCode::BadInput, &["FULLNODE_API_INFO", "TOKEN:MULTIADDR"]);
    }
}
