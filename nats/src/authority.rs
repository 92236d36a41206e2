//! Who may connect to one NATS server of a farm: an operator, its accounts, and the users they vouch for.
//!
//! The operator's and the accounts' seeds lie in one directory and never leave it. The server trusts the
//! operator, the operator signs the accounts, an account signs its users; so a user is made here at any
//! time, and the server, which sees its JWT for the first time when it connects, needs no change. A
//! user's key follows from the account's seed and the user's name: making it again gives the same user.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use nkeys::{KeyPair, KeyPairType};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::jwt::{self, AccountUse};
use crate::role::Role;
use crate::server_conf::{self, ServerPlace, Trusted};

const OPERATOR_SEED: &str = "operator.seed";
const SYSTEM_SEED: &str = "system.seed";
const ACCOUNT_SEED: &str = "account.seed";
const RECORD: &str = "server.json";

/// Which of a farm's servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    /// The miner's.
    Hub,
    /// An agent's.
    Site,
}

impl ServerKind {
    /// The server's name, and its configuration's: `hub` for `hub.conf`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Site => "site",
        }
    }

    const fn account(self) -> &'static str {
        match self {
            Self::Hub => "HUB",
            Self::Site => "SITE",
        }
    }
}

/// What a user logs in with: the text of its `.creds` file. A secret, which `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's public key, `U…`.
    pub public_key: String,
    text: String,
}

impl Credentials {
    /// The text, for the one file it is for, or the one message that carries it there.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Writes the file for its owner alone, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), AuthorityError> {
        put(path, &self.text, 0o600)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("public_key", &self.public_key).finish_non_exhaustive()
    }
}

/// What is remembered beside the seeds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    kind: ServerKind,
    /// Seconds since 1970. The operator's JWT bears it: a server does not take another one at a reload.
    created: i64,
    place: ServerPlace,
    #[serde(default)]
    revoked: Vec<Revoked>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Revoked {
    user: String,
    public_key: String,
    /// Seconds since 1970.
    at: i64,
}

/// Why an authority cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is one already.
    #[error("{} holds the keys of a NATS server already; they are not replaced", dir.display())]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// There is none.
    #[error("{} holds no keys of a NATS server", dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// A file of it does not read.
    #[error("{} is damaged: {reason}; put it back from a copy: no other fits the users that were made", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The keys of one server, and what is to be done with them.
pub struct Authority {
    dir: PathBuf,
    operator: KeyPair,
    system: KeyPair,
    account: KeyPair,
    record: Record,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("dir", &self.dir)
            .field("record", &self.record)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes the keys of a new server in `dir`, with its configuration beside them.
    ///
    /// # Errors
    /// When there are keys already, or a file cannot be written.
    pub fn create(
        dir: &Path,
        kind: ServerKind,
        place: ServerPlace,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        if dir.join(RECORD).exists() || dir.join(ACCOUNT_SEED).exists() {
            return Err(AuthorityError::Exists { dir: dir.to_owned() });
        }
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(cannot("make", dir))?;
        let authority = Self {
            dir: dir.to_owned(),
            operator: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            account: KeyPair::new_account(),
            record: Record { kind, created: now.as_second(), place, revoked: Vec::new() },
        };
        for (file, pair) in authority.seeds() {
            put(&dir.join(file), &format!("{}\n", seed_of(pair)), 0o600)?;
        }
        authority.save()?;
        Ok(authority)
    }

    /// Reads the keys in `dir`.
    ///
    /// # Errors
    /// When there are none, or one is damaged.
    pub fn open(dir: &Path) -> Result<Self, AuthorityError> {
        let path = dir.join(RECORD);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(AuthorityError::Missing { dir: dir.to_owned() });
            }
            Err(e) => return Err(cannot("read", &path)(e)),
        };
        let record = serde_json::from_str(&text)
            .map_err(|e| AuthorityError::Damaged { path, reason: e.to_string() })?;
        Ok(Self {
            dir: dir.to_owned(),
            operator: read_seed(&dir.join(OPERATOR_SEED), KeyPairType::Operator)?,
            system: read_seed(&dir.join(SYSTEM_SEED), KeyPairType::Account)?,
            account: read_seed(&dir.join(ACCOUNT_SEED), KeyPairType::Account)?,
            record,
        })
    }

    /// Whether there are keys in `dir`.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(RECORD).is_file()
    }

    /// The server's configuration, for `nats-server --config`.
    pub fn config(&self) -> PathBuf {
        self.dir.join(format!("{}.conf", self.record.kind.as_str()))
    }

    /// Where the server listens and keeps its messages.
    pub fn place(&self) -> &ServerPlace {
        &self.record.place
    }

    /// Puts the server elsewhere: writes its configuration anew.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn move_to(&mut self, place: ServerPlace) -> Result<(), AuthorityError> {
        self.record.place = place;
        self.save()
    }

    /// The credentials of a user. The server need not know of it, and the same user made again is the
    /// same to it, unless it was [revoked](Self::revoke) in between.
    ///
    /// # Panics
    /// Never: any 32 bytes are a user's key.
    pub fn credentials(&self, role: &Role, now: Timestamp) -> Credentials {
        let name = role.connection_name();
        let signer = self.signer(role);
        let user = self.user(role);
        let jwt = jwt::user(signer, &user, &name, role.permissions().as_ref(), now.as_second());
        Credentials { public_key: user.public_key(), text: jwt::creds(&jwt, &user) }
    }

    /// Voids the credentials that a user has. They go on working until the server has read its
    /// configuration again (`nats-server --signal reload`), which then cuts the user's connections. The
    /// next [`credentials`](Self::credentials) of that role are a new user.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn revoke(&mut self, role: &Role, now: Timestamp) -> Result<(), AuthorityError> {
        let public_key = self.user(role).public_key();
        self.record.revoked.push(Revoked { user: role.connection_name(), public_key, at: now.as_second() });
        self.save()
    }

    fn signer(&self, role: &Role) -> &KeyPair {
        if matches!(role, Role::System) { &self.system } else { &self.account }
    }

    /// The user's key: HMAC-SHA256 over its name and how often it was revoked, keyed by the seed of
    /// the account that signs it.
    fn user(&self, role: &Role) -> KeyPair {
        let name = role.connection_name();
        let times = self.record.revoked.iter().filter(|revoked| revoked.user == name).count();
        let mut mac = Hmac::<Sha256>::new_from_slice(seed_of(self.signer(role)).as_bytes())
            .expect("HMAC takes a key of any length");
        mac.update(format!("sealfarm nats user {name} {times}").as_bytes());
        KeyPair::new_from_raw(KeyPairType::User, mac.finalize().into_bytes().into())
            .expect("32 bytes are a user's key")
    }

    fn seeds(&self) -> [(&'static str, &KeyPair); 3] {
        [(OPERATOR_SEED, &self.operator), (SYSTEM_SEED, &self.system), (ACCOUNT_SEED, &self.account)]
    }

    fn save(&self) -> Result<(), AuthorityError> {
        let path = self.dir.join(RECORD);
        let record = serde_json::to_string_pretty(&self.record)
            .map_err(|e| AuthorityError::Damaged { path: path.clone(), reason: e.to_string() })?;
        put(&path, &format!("{record}\n"), 0o644)?;
        put(&self.config(), &self.render(), 0o644)
    }

    fn render(&self) -> String {
        let kind = self.record.kind;
        // A JWT's time is that of its last change, so that the same state gives the same text.
        let changed = self.record.revoked.iter().map(|revoked| revoked.at).max().unwrap_or(0);
        let changed = changed.max(self.record.created);
        let revoked: BTreeMap<_, _> =
            self.record.revoked.iter().map(|revoked| (revoked.public_key.clone(), revoked.at)).collect();
        let system = self.system.public_key();
        let none = BTreeMap::new();
        let account = |pair: &KeyPair, name, uses, revoked, issued| {
            (pair.public_key(), jwt::account(&self.operator, pair, name, uses, revoked, issued))
        };
        let accounts = [
            account(&self.account, kind.account(), AccountUse::Streams, &revoked, changed),
            account(&self.system, "SYS", AccountUse::NoStreams, &none, self.record.created),
        ];
        let name = format!("sealfarm-{}", kind.as_str());
        let operator = jwt::operator(&self.operator, &name, &system, self.record.created);
        let trusted = Trusted { operator: &operator, system_account: &system, accounts: &accounts };
        server_conf::render(kind.as_str(), &self.record.place, trusted)
    }
}

fn seed_of(pair: &KeyPair) -> String {
    pair.seed().expect("an authority's key pairs are made with their seeds")
}

fn cannot(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    let path = path.to_owned();
    move |source| AuthorityError::Io { action, path, source }
}

fn read_seed(path: &Path, kind: KeyPairType) -> Result<KeyPair, AuthorityError> {
    let text = fs::read_to_string(path).map_err(cannot("read", path))?;
    let damaged = |reason: String| AuthorityError::Damaged { path: path.to_owned(), reason };
    let pair = KeyPair::from_seed(text.trim()).map_err(|e| damaged(e.to_string()))?;
    if pair.key_pair_type() == kind {
        Ok(pair)
    } else {
        Err(damaged(format!("it is the seed of a {:?}, not of a {kind:?}", pair.key_pair_type())))
    }
}

/// Writes beside and renames, so that a reader sees the old text or the new one.
fn put(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.tmp", uuid::Uuid::new_v4()));
    let written = (|| {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.map_err(|e| {
        // What was begun beside the file is of no use to anybody.
        let _ = fs::remove_file(&beside);
        cannot("write", path)(e)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use sealfarm_common::sector::MinerId;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn place() -> ServerPlace {
        ServerPlace { listen: "127.0.0.1:4222".into(), monitor: None, store_dir: "/data".into(), tls: None }
    }

    fn agent(name: &str) -> Role {
        Role::AgentAtHub(MinerId(1000), name.parse().unwrap())
    }

    #[test]
    fn a_user_made_again_is_the_same_and_changes_nothing_for_the_server() {
        let dir = tempfile::tempdir().unwrap();
        let made = Authority::create(dir.path(), ServerKind::Hub, place(), NOW).unwrap();
        let config = fs::read_to_string(made.config()).unwrap();
        let first = made.credentials(&agent("a"), NOW);
        let opened = Authority::open(dir.path()).unwrap();
        assert_eq!(opened.credentials(&agent("a"), NOW), first);
        assert_ne!(opened.credentials(&agent("b"), NOW).public_key, first.public_key);
        assert_eq!(fs::read_to_string(opened.config()).unwrap(), config);
        assert_eq!(opened.render(), config, "the same state gives the same text");
    }

    #[test]
    fn a_revoked_user_is_named_in_the_configuration_and_made_anew_under_another_key() {
        let dir = tempfile::tempdir().unwrap();
        let mut authority = Authority::create(dir.path(), ServerKind::Hub, place(), NOW).unwrap();
        let before = fs::read_to_string(authority.config()).unwrap();
        let (old, other) = (authority.credentials(&agent("a"), NOW), authority.credentials(&agent("b"), NOW));
        authority.revoke(&agent("a"), NOW).unwrap();
        let opened = Authority::open(dir.path()).unwrap();
        assert_ne!(opened.credentials(&agent("a"), NOW).public_key, old.public_key);
        assert_eq!(opened.credentials(&agent("b"), NOW), other);
        let after = fs::read_to_string(opened.config()).unwrap();
        let line = |text: &str, key: &str| text.lines().find(|l| l.starts_with(key)).map(str::to_owned);
        assert_ne!(before, after);
        assert_eq!(line(&before, "operator:"), line(&after, "operator:"));
    }

    #[test]
    fn secrets_are_for_their_owner_alone_and_not_in_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path(), ServerKind::Site, place(), NOW).unwrap();
        let creds = dir.path().join("agent.creds");
        authority.credentials(&Role::AgentAtSite, NOW).write(&creds).unwrap();
        let config = fs::read_to_string(authority.config()).unwrap();
        for file in [OPERATOR_SEED, SYSTEM_SEED, ACCOUNT_SEED, "agent.creds"] {
            let path = dir.path().join(file);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
            let text = fs::read_to_string(&path).unwrap();
            let secret = text.lines().find(|line| line.starts_with('S')).unwrap();
            assert!(!config.contains(secret), "{file}");
            assert!(!format!("{authority:?}").contains(secret));
        }
    }

    #[test]
    fn keys_are_not_replaced_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Authority::open(dir.path()).unwrap_err();
        assert!(matches!(missing, AuthorityError::Missing { .. }), "{missing}");
        Authority::create(dir.path(), ServerKind::Hub, place(), NOW).unwrap();
        let again = Authority::create(dir.path(), ServerKind::Hub, place(), NOW).unwrap_err();
        assert!(matches!(again, AuthorityError::Exists { .. }), "{again}");
        let user = KeyPair::new_user().seed().unwrap();
        for text in ["oops", user.as_str()] {
            fs::write(dir.path().join(ACCOUNT_SEED), text).unwrap();
            let error = Authority::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("account.seed") && !error.contains(&user), "{error}");
        }
    }

    #[test]
    fn a_workers_credentials_fit_into_one_line_of_the_protocol() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path(), ServerKind::Site, place(), NOW).unwrap();
        let role = Role::Worker("a".repeat(32).parse().unwrap(), "w".repeat(60).parse().unwrap());
        let bytes = authority.credentials(&role, NOW).expose().lines().map(str::len).max().unwrap();
        assert!(bytes < 3000, "{bytes} of the 4096 bytes that CONNECT may have, other fields included");
    }
}
