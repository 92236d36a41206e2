//! Where `init` has its bundle from: a file, or the miner itself.

use std::path::{Path, PathBuf};

use clap::Args;
use sealfarm_common::bundle::{self, Bundle};
use sealfarm_common::cli::block_on;
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::handshake::Keys;
use sealfarm_common::rpc::{Caller, download};
use sealfarm_common::tls::ClientTls;
use sealfarm_common::token::Token;

/// What a bundle is fetched from the miner with.
#[derive(Debug, Args)]
pub(super) struct FetchArgs {
    /// A file with a token of the miner that allows admin, for a bundle that is fetched from it.
    #[arg(long, value_name = "FILE", requires = "bundle")]
    token_file: Option<PathBuf>,
    /// The CA of the miner's certificate, PEM [default: those of the system].
    #[arg(long, value_name = "FILE", requires = "bundle")]
    bundle_ca: Option<PathBuf>,
    /// The certificate to show where the miner asks for one, PEM.
    #[arg(long, value_name = "FILE", requires = "bundle_key")]
    bundle_cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "bundle_cert")]
    bundle_key: Option<PathBuf>,
}

/// The bundle at `place`, whole and checked.
///
/// # Errors
/// When it cannot be read or fetched, or is no bundle; the token is never shown.
pub(super) fn bundle(place: &str, args: &FetchArgs) -> Result<Bundle, ExitError> {
    if !is_url(place) {
        return Bundle::read(Path::new(place));
    }
    let token = token(args.token_file.as_deref())?;
    if place.starts_with("http://") {
        sealfarm_common::errln!(
            "the token and the keys in the bundle cross the network in the clear; https protects them"
        );
    }
    let file = |path: &Option<PathBuf>| path.as_ref().map_or_else(String::new, |p| p.display().to_string());
    let (ca, cert, key) = (file(&args.bundle_ca), file(&args.bundle_cert), file(&args.bundle_key));
    let tls = ClientTls::of(Path::new(""), &ca, &cert, &key)
        .map_err(|error| ExitError::new(ExitCode::BadInput, error.to_string()))?;
    let caller = Caller { tls, keys: Keys { section: "--bundle", address: "--bundle" } };
    let packed = block_on(download(place, &token, &caller, bundle::BYTES_MAX as usize))?;
    Bundle::unpack(packed.as_slice()).map_err(|error| error.at(Path::new(place)))
}

/// Whether a bundle is fetched from there.
pub(super) fn is_url(place: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| place.starts_with(scheme))
}

fn token(file: Option<&Path>) -> Result<Token, ExitError> {
    const NEXT: &str = "write the token of `sealfarm-miner auth create-token --perm admin --valid-for 10m` \
                        into a file, and name it with --token-file";
    let bad = |message: String| ExitError::new(ExitCode::BadInput, message).next(NEXT);
    let path =
        file.ok_or_else(|| bad("the miner gives a bundle for a token, and none is named".to_owned()))?;
    let text = std::fs::read_to_string(path)
        .map_err(|error| bad(format!("cannot read the token in {}", path.display())).because(error))?;
    match text.trim() {
        "" => Err(bad(format!("{} holds no token", path.display()))),
        token => Ok(Token::from(token.to_owned())),
    }
}
