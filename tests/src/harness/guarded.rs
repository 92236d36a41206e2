//! A NATS server as a farm has it, in operator mode, and its users.

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::{Context, Result};
use jiff::Timestamp;
use rustix::process::Signal;
use sealfarm_nats::authority::{Authority, ServerKind};
use sealfarm_nats::connect::{Client, NatsAddress, connect};
use sealfarm_nats::role::Role;
use sealfarm_nats::server_conf::{ServerPlace, ServerTls};

use super::{Ground, NatsServer};

/// A server with the configuration that `init` writes, and the keys to make its users with.
#[derive(Debug)]
pub struct Guarded {
    /// The server.
    pub server: NatsServer,
    /// Who makes its users.
    pub authority: Authority,
    ground: Ground,
}

impl Guarded {
    /// Starts one; with `tls`, it shows that.
    ///
    /// # Errors
    /// As [`Ground::nats`], or when the keys cannot be made.
    pub fn start(kind: ServerKind, tls: Option<ServerTls>) -> Result<Self> {
        let ground = Ground::new("guarded")?;
        let keys = ground.scratch().path().join("keys");
        let place =
            |listen: String, monitor, store_dir| ServerPlace { listen, monitor, store_dir, tls: tls.clone() };
        let nowhere = place(String::new(), None, keys.clone());
        let authority = RefCell::new(Authority::create(&keys, kind, nowhere, Timestamp::now())?);
        let server = ground.nats("nats", |ports, data| {
            let here = place(
                format!("127.0.0.1:{}", ports.client),
                Some(format!("127.0.0.1:{}", ports.monitor)),
                data.to_owned(),
            );
            let mut authority = authority.borrow_mut();
            // What could not be written is missed by the server, which says so.
            let _ = authority.move_to(here);
            std::fs::read_to_string(authority.config()).unwrap_or_default()
        })?;
        Ok(Self { server, authority: authority.into_inner(), ground })
    }

    /// A file of the test's own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.ground.scratch().path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Where a user connects, with credentials made for it now.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn address(&self, role: &Role) -> Result<NatsAddress> {
        let name = role.connection_name();
        let text = self.authority.credentials(role, Timestamp::now());
        let credentials = Some(self.file(&format!("{name}.creds"), text.expose())?);
        Ok(NatsAddress { url: self.server.url(), credentials, name, ..NatsAddress::default() })
    }

    /// A user, connected.
    ///
    /// # Errors
    /// When the server does not let it.
    pub async fn connect(&self, role: &Role) -> Result<Client> {
        Ok(connect(&self.address(role)?).await?)
    }

    /// Puts what the authority has written now where the server reads it, and has it read.
    ///
    /// # Errors
    /// When the server does not run.
    pub fn reload(&self) -> Result<()> {
        std::fs::copy(self.authority.config(), self.server.config_path())?;
        self.server.process().context("the server does not run")?.signal(Signal::HUP)
    }
}
