//! NATS JWTs and `.creds` files, written and signed as a server in operator mode reads them.
//!
//! The format is version 2 of github.com/nats-io/jwt (`v2/claims.go`, `operator_claims.go`,
//! `account_claims.go`, `user_claims.go`, `creds_utils.go`): a header, claims as JSON, and the Ed25519
//! signature of the issuer's nkey, each in unpadded base64url. Nothing is decoded here: servers do that.

use std::collections::BTreeMap;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use nkeys::KeyPair;
use serde::Serialize;
use sha2::{Digest as _, Sha512_256};

use crate::role::Permissions;

const HEADER: &[u8] = br#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
const VERSION: u32 = 2;
/// A limit that is none.
const UNLIMITED: i64 = -1;
/// How many answers a user may give to one request it was asked, and for how long, in nanoseconds.
const ANSWERS: Answers = Answers { max: 1000, ttl: 10_000_000_000 };

#[derive(Serialize)]
struct Claims<'a, N> {
    #[serde(skip_serializing_if = "String::is_empty")]
    jti: String,
    iat: i64,
    iss: String,
    name: &'a str,
    sub: &'a str,
    nats: N,
}

#[derive(Serialize)]
struct Operator<'a> {
    system_account: &'a str,
    r#type: &'static str,
    version: u32,
}

#[derive(Serialize)]
struct Account<'a> {
    limits: AccountLimits,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    revocations: &'a BTreeMap<String, i64>,
    r#type: &'static str,
    version: u32,
}

/// Zero means none allowed; what is not named is zero.
#[derive(Serialize)]
struct AccountLimits {
    subs: i64,
    data: i64,
    payload: i64,
    imports: i64,
    exports: i64,
    wildcards: bool,
    conn: i64,
    leaf: i64,
    mem_storage: i64,
    disk_storage: i64,
    streams: i64,
    consumer: i64,
}

#[derive(Serialize)]
struct User<'a> {
    r#pub: Subjects<'a>,
    sub: Subjects<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resp: Option<Answers>,
    subs: i64,
    data: i64,
    payload: i64,
    r#type: &'static str,
    version: u32,
}

/// An empty list allows everything in the account.
#[derive(Serialize)]
struct Subjects<'a> {
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    allow: &'a [String],
}

#[derive(Serialize)]
struct Answers {
    max: i64,
    ttl: i64,
}

/// What an account may use of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountUse {
    /// Messages and streams without a limit of the account's own: the disk and each stream's bound set it.
    Streams,
    /// Messages only, as the system account must.
    NoStreams,
}

/// The operator's own JWT, which a server's configuration names as the one to trust. `issued` is in
/// seconds since 1970, here and below.
pub fn operator(operator: &KeyPair, name: &str, system_account: &str, issued: i64) -> String {
    let nats = Operator { system_account, r#type: "operator", version: VERSION };
    sign(operator, name, &operator.public_key(), issued, nats)
}

/// An account's JWT. `revoked` gives for a user's public key the time up to which its JWTs are void.
pub fn account(
    operator: &KeyPair,
    account: &KeyPair,
    name: &str,
    uses: AccountUse,
    revoked: &BTreeMap<String, i64>,
    issued: i64,
) -> String {
    let stored = match uses {
        AccountUse::Streams => UNLIMITED,
        AccountUse::NoStreams => 0,
    };
    let limits = AccountLimits {
        subs: UNLIMITED,
        data: UNLIMITED,
        payload: UNLIMITED,
        imports: UNLIMITED,
        exports: UNLIMITED,
        wildcards: true,
        conn: UNLIMITED,
        leaf: UNLIMITED,
        mem_storage: stored,
        disk_storage: stored,
        streams: stored,
        consumer: stored,
    };
    let nats = Account { limits, revocations: revoked, r#type: "account", version: VERSION };
    sign(operator, name, &account.public_key(), issued, nats)
}

/// A user's JWT: who it is and what it may do. `None` allows everything in its account.
pub fn user(
    account: &KeyPair,
    user: &KeyPair,
    name: &str,
    allowed: Option<&Permissions>,
    issued: i64,
) -> String {
    let nats = User {
        r#pub: Subjects { allow: allowed.map_or(&[], |allowed| &allowed.publish) },
        sub: Subjects { allow: allowed.map_or(&[], |allowed| &allowed.subscribe) },
        resp: allowed.filter(|allowed| allowed.answers).map(|_| ANSWERS),
        subs: UNLIMITED,
        data: UNLIMITED,
        payload: UNLIMITED,
        r#type: "user",
        version: VERSION,
    };
    sign(account, name, &user.public_key(), issued, nats)
}

/// The text of a `.creds` file, as every NATS client reads it.
///
/// # Panics
/// Never: see `sign`.
pub fn creds(jwt: &str, user: &KeyPair) -> String {
    let seed = user.seed().expect("a user's key pair is made with its seed");
    format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         The seed below is a secret of one process: whoever has it is that process to NATS.\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

fn sign(issuer: &KeyPair, name: &str, subject: &str, issued: i64, nats: impl Serialize) -> String {
    let mut claims =
        Claims { jti: String::new(), iat: issued, iss: issuer.public_key(), name, sub: subject, nats };
    claims.jti = BASE32_NOPAD.encode(&Sha512_256::digest(json(&claims)));
    let signed = format!("{}.{}", BASE64URL_NOPAD.encode(HEADER), BASE64URL_NOPAD.encode(&json(&claims)));
    let signature = issuer.sign(signed.as_bytes()).expect("an issuer's key pair is made with its seed");
    format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("claims are strings, numbers and lists of them")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use nkeys::KeyPairType;
    use serde_json::Value;

    use super::*;

    fn pair(kind: KeyPairType, byte: u8) -> KeyPair {
        KeyPair::new_from_raw(kind, [byte; 32]).unwrap()
    }

    /// The claims of a JWT whose signature is its issuer's.
    fn claims(jwt: &str) -> Value {
        let (signed, signature) = jwt.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        assert_eq!(BASE64URL_NOPAD.decode(header.as_bytes()).unwrap(), HEADER);
        let claims: Value =
            serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).unwrap()).unwrap();
        let issuer = KeyPair::from_public_key(claims["iss"].as_str().unwrap()).unwrap();
        issuer
            .verify(signed.as_bytes(), &BASE64URL_NOPAD.decode(signature.as_bytes()).unwrap())
            .expect("signed by its issuer");
        claims
    }

    #[test]
    fn a_users_jwt_carries_its_permissions_and_its_accounts_signature() {
        let (account, user) = (pair(KeyPairType::Account, 1), pair(KeyPairType::User, 2));
        let allowed = Permissions { publish: vec!["a.>".into()], subscribe: vec!["b".into()], answers: true };
        let claims = claims(&super::user(&account, &user, "worker-w", Some(&allowed), 7));
        assert_eq!(claims["iss"], account.public_key());
        assert_eq!(claims["sub"], user.public_key());
        assert_eq!(claims["iat"], 7);
        expect![[r#"{"data":-1,"payload":-1,"pub":{"allow":["a.>"]},"resp":{"max":1000,"ttl":10000000000},"sub":{"allow":["b"]},"subs":-1,"type":"user","version":2}"#]]
            .assert_eq(&claims["nats"].to_string());
    }

    #[test]
    fn an_accounts_jwt_states_its_limits_and_whom_it_revoked() {
        let (operator, account) = (pair(KeyPairType::Operator, 1), pair(KeyPairType::Account, 2));
        let revoked = BTreeMap::from([("UABC".to_owned(), 9)]);
        let jwt = super::account(&operator, &account, "HUB", AccountUse::Streams, &revoked, 7);
        let nats = &claims(&jwt)["nats"];
        assert_eq!(nats["limits"]["disk_storage"], -1);
        assert_eq!(nats["revocations"]["UABC"], 9);
        let jwt = super::account(&operator, &account, "SYS", AccountUse::NoStreams, &BTreeMap::new(), 7);
        let nats = &claims(&jwt)["nats"];
        assert_eq!((&nats["limits"]["disk_storage"], nats.get("revocations")), (&0.into(), None));
    }

    #[test]
    fn the_operator_signs_itself_and_names_the_system_account() {
        let operator = pair(KeyPairType::Operator, 1);
        let claims = claims(&super::operator(&operator, "sealfarm", "ASYS", 7));
        assert_eq!(claims["iss"], claims["sub"]);
        assert_eq!(claims["nats"]["system_account"], "ASYS");
    }
}
