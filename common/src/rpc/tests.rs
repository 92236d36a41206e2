use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::*;
use crate::exit::{ExitCode, ExitError, render};
use crate::handshake;
use crate::tls::ClientTls;
use crate::token::{ApiAddress, ApiInfo, Permission, Secret, Token};

const ADD: Method = Method::new("Add", Permission::Read);
const NAME: Method = Method::new("Name", Permission::Read);
const SET: Method = Method::new("Set", Permission::Write);
const PAY: Method = Method::new("Pay", Permission::Sign);
const BREAK: Method = Method::new("Break", Permission::Admin);
const FILE: &str = "secret";

fn methods() -> Arc<Methods> {
    let table = Methods::new()
        .with(ADD, |(a, b): (u32, u32)| async move { Ok(a + b) })
        .with(NAME, |(): ()| async { Ok("agent") })
        .with(SET, |(): ()| async { Ok(()) })
        .with(PAY, |(): ()| async { Ok(()) })
        .with(BREAK, |(): ()| async {
            Err::<(), _>(ExitError::new(ExitCode::NotFound, "sector 7 is not known").next("look at the list"))
        });
    Arc::new(table)
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

async fn local() -> tokio::net::TcpListener {
    bind(SocketAddr::from(([127, 0, 0, 1], 0)), "[API] ListenAddress").await.unwrap()
}

/// An API with a repository of its own.
struct Process {
    repo: TempDir,
    secret: Secret,
}

impl Process {
    fn new() -> Self {
        let repo = tempfile::tempdir().unwrap();
        let secret = ensure_secret(repo.path(), FILE).unwrap();
        Self { repo, secret }
    }

    fn router(&self) -> Router {
        router(methods(), Keys::of_file(self.repo.path().join(FILE)), Arc::new(|| Ok(())))
    }

    /// Serves it, and calls it with a token of `permission`.
    async fn started(&self, permission: Permission) -> Client {
        let listener = local().await;
        let address = ApiAddress::of_socket(listener.local_addr().unwrap(), false);
        tokio::spawn(serve(listener, None, self.router(), CancellationToken::new()));
        client(address, Some(create_token(&self.secret, permission, None)))
    }

    /// The status and the error of a call, as any HTTP client sees them.
    async fn post(&self, method: &str, authorization: Option<&str>) -> (StatusCode, Value) {
        let mut request = Request::post("/rpc/v0").header(header::CONTENT_TYPE, "application/json");
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": []}).to_string();
        let answer = self.router().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice::<Value>(&body).unwrap()["error"].clone())
    }
}

fn bearer(token: &Token) -> String {
    format!("Bearer {}", token.expose())
}

fn client(address: ApiAddress, token: Option<Token>) -> Client {
    let keys = handshake::Keys { section: "[CLI]", address: "the test" };
    Client::new(&ApiInfo { token, address }, Caller { tls: ClientTls::default(), keys }).unwrap()
}

#[test]
fn a_call_reaches_its_method_and_brings_back_the_answer() {
    block_on(async {
        let client = Process::new().started(Permission::Read).await;
        // The repository has gone with its process: no secret, no access.
        assert_eq!(client.call::<u32>(ADD, (2, 3)).await.unwrap_err().code, ExitCode::Refused);
        let process = Process::new();
        let client = process.started(Permission::Read).await;
        assert_eq!(client.call::<u32>(ADD, (2, 3)).await.unwrap(), 5);
        assert_eq!(client.call::<String>(NAME, ()).await.unwrap(), "agent");
    });
}

#[test]
fn an_error_keeps_its_exit_code_and_next_step_across_the_wire() {
    block_on(async {
        let process = Process::new();
        let error = process.started(Permission::Admin).await.call::<()>(BREAK, ()).await.unwrap_err();
        let (code, text) = render(&error);
        assert_eq!(code, ExitCode::NotFound);
        assert_eq!(text, "error: sector 7 is not known\nnext: look at the list\n");
    });
}

#[test]
fn every_method_answers_401_to_every_level_below_its_own_and_to_nobody_naming_both() {
    block_on(async {
        let process = Process::new();
        for method in methods().iter() {
            let (status, error) = process.post(method.name, None).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{}", method.name);
            assert_eq!(error["data"]["need"], method.permission.as_str());
            assert_eq!(error["data"]["have"], json!([]));
            for level in Permission::ALL {
                let token = bearer(&create_token(&process.secret, level, None));
                let (status, error) = process.post(method.name, Some(&token)).await;
                if level >= method.permission {
                    assert_eq!(status, StatusCode::OK, "{} with {level}", method.name);
                    continue;
                }
                assert_eq!(status, StatusCode::UNAUTHORIZED, "{} with {level}", method.name);
                let text = error["message"].as_str().unwrap();
                assert!(text.contains(&format!("need `{}`", method.permission)), "{text}");
                assert!(text.contains(level.as_str()) && text.contains(method.name), "{text}");
                assert_eq!(error["data"]["have"], json!(level.and_weaker()));
            }
        }
    });
}

#[test]
fn a_foreign_a_damaged_an_expired_and_a_future_token_are_told_apart_in_a_401() {
    block_on(async {
        let process = Process::new();
        let hours = |n| Some(Timestamp::now() + SignedDuration::from_hours(n));
        let foreign = create_token(&Secret::from_random([6; 32]), Permission::Admin, None);
        let expired = create_token(&process.secret, Permission::Admin, hours(-2));
        for (authorization, words) in [
            (bearer(&foreign), "not signed by this process"),
            ("Bearer nonsense".to_owned(), "no token of the kind HS256"),
            ("Basic YWRtaW4=".to_owned(), "does not read `Bearer TOKEN`"),
            (bearer(&expired), "it expired at"),
        ] {
            let (status, error) = process.post("Set", Some(&authorization)).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{words}");
            let text = error["message"].as_str().unwrap();
            assert!(text.contains(words) && text.contains("`write`"), "{text}");
        }
        let holds = create_token(&process.secret, Permission::Admin, hours(1));
        assert_eq!(process.post("Set", Some(&bearer(&holds))).await.0, StatusCode::OK);
    });
}

#[test]
fn the_command_line_says_what_a_refused_token_lacks_and_what_to_do() {
    block_on(async {
        let process = Process::new();
        let error = process.started(Permission::Read).await.call::<()>(BREAK, ()).await.unwrap_err();
        let (code, text) = render(&error);
        assert_eq!(code, ExitCode::Refused);
        assert!(text.contains("need `admin`") && text.contains("the token has `read`"), "{text}");
        assert!(text.contains("auth create-token --perm admin"), "{text}");
    });
}

#[test]
fn a_revocation_acts_at_once_and_leaves_a_new_admin_token() {
    block_on(async {
        let process = Process::new();
        let client = process.started(Permission::Read).await;
        assert_eq!(client.call::<String>(NAME, ()).await.unwrap(), "agent");
        replace_secret(process.repo.path(), FILE).unwrap();
        let error = client.call::<String>(NAME, ()).await.unwrap_err();
        assert_eq!(error.code, ExitCode::Refused);
        assert!(error.to_string().contains("from before `auth revoke`"), "{error}");
        let token = std::fs::read_to_string(process.repo.path().join("token")).unwrap();
        let (status, _) = process.post("Name", Some(&format!("Bearer {}", token.trim()))).await;
        assert_eq!(status, StatusCode::OK);
    });
}

#[test]
fn unknown_methods_and_wrong_parameters_are_named_to_who_may_look() {
    block_on(async {
        let process = Process::new();
        let client = process.started(Permission::Admin).await;
        let fly = Method::new("Fly", Permission::Read);
        let unknown = client.call::<()>(fly, ()).await.unwrap_err().to_string();
        assert!(unknown.contains("`Fly`"), "{unknown}");
        let wrong = client.call::<u32>(ADD, ("x", "y")).await.unwrap_err().to_string();
        assert!(wrong.contains("parameters do not fit"), "{wrong}");
        assert_eq!(process.post("Fly", None).await.0, StatusCode::UNAUTHORIZED);
    });
}

#[test]
fn a_port_in_use_is_named_with_its_key_and_an_exit_code_of_its_own() {
    block_on(async {
        let holder = local().await;
        let address = holder.local_addr().unwrap();
        let error = bind(address, "[SealAgent] ServePort").await.unwrap_err();
        assert_eq!(error.code, ExitCode::PortInUse);
        let (_, text) = render(&error);
        assert!(
            text.contains(&address.port().to_string()) && text.contains("[SealAgent] ServePort"),
            "{text}"
        );
    });
}

#[test]
fn the_command_line_finds_the_process_by_the_files_it_keeps() {
    block_on(async {
        let nothing = tempfile::tempdir().unwrap();
        let missing = Client::from_repo(nothing.path()).unwrap_err();
        assert_eq!(missing.code, ExitCode::NotFound);

        let process = Process::new();
        let repo = process.repo.path();
        assert_eq!(ensure_secret(repo, FILE).unwrap(), process.secret, "the secret stays");
        let listener = local().await;
        publish_address(repo, &ApiAddress::of_socket(listener.local_addr().unwrap(), false)).unwrap();
        tokio::spawn(serve(listener, None, process.router(), CancellationToken::new()));
        let client = Client::from_repo(repo).unwrap();
        assert_eq!(client.call::<u32>(ADD, (1, 1)).await.unwrap(), 2);
    });
}

#[test]
fn a_secret_is_made_once_and_missed_where_it_must_be() {
    let repo = tempfile::tempdir().unwrap();
    let missing = read_secret(repo.path(), FILE).unwrap_err();
    assert_eq!(missing.code, ExitCode::Failure);
    assert!(replace_secret(repo.path(), FILE).is_err());
    assert!(!repo.path().join(FILE).exists(), "neither reading nor revoking makes one");
    let secret = ensure_secret(repo.path(), FILE).unwrap();
    assert_eq!(read_secret(repo.path(), FILE).unwrap(), secret);
}

#[test]
fn a_variable_that_is_not_set_names_no_process() {
    assert!(Client::from_env("SEALFARM_TEST_OF_NO_SUCH_VARIABLE", Path::new("/nowhere")).unwrap().is_none());
}

#[test]
fn a_process_that_ended_is_said_to_be_unreachable() {
    block_on(async {
        let listener = local().await;
        let address = ApiAddress::of_socket(listener.local_addr().unwrap(), false);
        drop(listener);
        let error = client(address, None).call::<()>(NAME, ()).await.unwrap_err();
        assert_eq!(error.code, ExitCode::Unreachable, "{error}");
    });
}
