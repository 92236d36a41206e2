//! The chain that a miner's configuration names, opened.

use std::sync::Arc;

use sealfarm_common::clock::Clock;
use sealfarm_common::configuration::{Loaded, client_tls};
use sealfarm_common::exit::{ExitCode, ExitError};
use sealfarm_common::membership::{ChainKind, Wallets};
use sealfarm_common::sector::MinerId;

use super::config;
use super::repo::Repo;
use crate::chain::Chain;
use crate::chain::dev::{self, DevChain, DevChainConfig, DevChainSetup, OpenError};
use crate::chain::lotus::{LotusChain, LotusSetup, Place};
use crate::chain::verifier::SealVerifier;
use crate::settings::Settings;

/// One of the two kinds.
pub(super) enum OpenedChain {
    Dev(Arc<DevChain>),
    Lotus(Arc<LotusChain>),
}

impl OpenedChain {
    /// Opens it.
    pub(super) async fn open(
        repo: &Repo,
        loaded: &Loaded<Settings>,
        verifier: Arc<dyn SealVerifier>,
        clock: Clock,
    ) -> Result<Self, ExitError> {
        let settings = &loaded.value;
        let refused = |error| config::refused(loaded.blame(error));
        let confidence = settings.chain.confidence().map_err(refused)?;
        let (miner, sector_size) = (settings.farm.miner, settings.farm.sector_size);
        match settings.chain.kind {
            ChainKind::Dev => {
                let config = DevChainConfig { confidence: Some(confidence), ..settings.dev_chain.clone() };
                let dir = Some(repo.dev_chain());
                let setup =
                    DevChainSetup { miner, sector_size, config, dir, rng_seed: None, verifier, clock };
                Ok(Self::Dev(Arc::new(open_dev(setup).await?)))
            }
            ChainKind::Lotus => {
                let section = &settings.chain;
                let files = [section.ca_file.as_str(), "", ""];
                let tls = client_tls("Chain", repo.dir(), loaded.file.as_deref(), files).map_err(refused)?;
                let setup = LotusSetup {
                    place: Place::of(&section.api_info, &section.lotus_dir())?,
                    tls,
                    miner,
                    sector_size,
                    prover: settings.farm.prover,
                    network: section.network.trim().to_owned(),
                    confidence,
                    clock,
                };
                Ok(Self::Lotus(Arc::new(LotusChain::open(setup).await?)))
            }
        }
    }

    pub(super) fn chain(&self) -> Arc<dyn Chain> {
        match self {
            Self::Dev(chain) => chain.clone(),
            Self::Lotus(chain) => chain.clone(),
        }
    }

    /// The miner's wallets, as the chain has them.
    pub(super) fn wallets(&self, miner: MinerId) -> Wallets {
        match self {
            Self::Dev(_) => dev::wallets(miner),
            Self::Lotus(chain) => chain.wallets(),
        }
    }

    /// Ends what runs for it.
    pub(super) async fn close(&self) {
        match self {
            Self::Dev(chain) => chain.close().await,
            Self::Lotus(chain) => chain.close(),
        }
    }
}

/// Opens a dev chain, or begins a new one.
async fn open_dev(setup: DevChainSetup) -> Result<DevChain, ExitError> {
    DevChain::open(setup).await.map_err(not_opened)
}

/// A dev chain that cannot be opened, as it ends a process.
pub(super) fn not_opened(error: OpenError) -> ExitError {
    let code = match error {
        OpenError::Config(_) | OpenError::NoMiner => ExitCode::BadInput,
        OpenError::Mismatch { .. } | OpenError::Apart { .. } => ExitCode::Refused,
        OpenError::Journal(_) | OpenError::OutOfPlace { .. } | OpenError::NoGenesis { .. } => {
            ExitCode::Failure
        }
    };
    ExitError::new(code, "cannot open the dev chain").because(error)
}
