use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::exit::{ExitCode, ExitError, render};
use crate::token::{ApiAddress, ApiInfo, Permission, Secret, Token};

const SECRET: Secret = Secret::from_random([5; 32]);

fn methods() -> Arc<Methods> {
    let table = Methods::new()
        .with("Add", Permission::Read, |(a, b): (u32, u32)| async move { Ok(a + b) })
        .with("Name", Permission::Read, |(): ()| async { Ok("agent") })
        .with("Break", Permission::Admin, |(): ()| async {
            Err::<(), _>(ExitError::new(ExitCode::NotFound, "sector 7 is not known").next("look at the list"))
        });
    Arc::new(table)
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

async fn started() -> (ApiAddress, CancellationToken) {
    let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = ApiAddress::of_socket(listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    tokio::spawn(serve(listener, router(methods(), SECRET, Arc::new(|| Ok(()))), shutdown.clone()));
    (address, shutdown)
}

fn client(address: &ApiAddress, token: Option<Token>) -> Client {
    Client::new(&ApiInfo { token, address: address.clone() }).unwrap()
}

#[test]
fn a_call_reaches_its_method_and_brings_back_the_answer() {
    block_on(async {
        let (address, _shutdown) = started().await;
        let client = client(&address, Some(create_token(&SECRET, Permission::Read)));
        assert_eq!(client.call::<u32>("Add", (2, 3)).await.unwrap(), 5);
        assert_eq!(client.call::<String>("Name", ()).await.unwrap(), "agent");
    });
}

#[test]
fn an_error_keeps_its_exit_code_and_next_step_across_the_wire() {
    block_on(async {
        let (address, _shutdown) = started().await;
        let client = client(&address, Some(create_token(&SECRET, Permission::Admin)));
        let error = client.call::<()>("Break", ()).await.unwrap_err();
        let (code, text) = render(&error);
        assert_eq!(code, ExitCode::NotFound);
        assert_eq!(text, "error: sector 7 is not known\nnext: look at the list\n");
    });
}

#[test]
fn a_weak_token_a_false_one_and_none_are_refused() {
    block_on(async {
        let (address, _shutdown) = started().await;
        let false_token = create_token(&Secret::from_random([6; 32]), Permission::Admin);
        for token in [Some(create_token(&SECRET, Permission::Read)), Some(false_token), None] {
            let error = client(&address, token).call::<()>("Break", ()).await.unwrap_err();
            assert_eq!(error.code, ExitCode::Refused, "{error}");
        }
    });
}

#[test]
fn unknown_methods_and_wrong_parameters_are_named() {
    block_on(async {
        let (address, _shutdown) = started().await;
        let client = client(&address, Some(create_token(&SECRET, Permission::Admin)));
        let unknown = client.call::<()>("Fly", ()).await.unwrap_err().to_string();
        assert!(unknown.contains("`Fly`"), "{unknown}");
        let wrong = client.call::<u32>("Add", ("x", "y")).await.unwrap_err().to_string();
        assert!(wrong.contains("parameters do not fit"), "{wrong}");
    });
}

#[test]
fn a_port_in_use_is_named_with_its_own_exit_code() {
    block_on(async {
        let holder = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = holder.local_addr().unwrap();
        let error = bind(address).await.unwrap_err();
        assert_eq!(error.code, ExitCode::PortInUse);
        assert!(error.to_string().contains(&address.port().to_string()), "{error}");
    });
}

#[test]
fn the_command_line_finds_the_process_by_the_files_it_keeps() {
    block_on(async {
        let repo = tempfile::tempdir().unwrap();
        let missing = Client::from_repo(repo.path()).unwrap_err();
        assert_eq!(missing.code, ExitCode::NotFound);

        let secret = ensure_secret(repo.path()).unwrap();
        assert_eq!(ensure_secret(repo.path()).unwrap(), secret, "the secret stays");
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        publish_address(repo.path(), &ApiAddress::of_socket(listener.local_addr().unwrap())).unwrap();
        let router = router(methods(), secret, Arc::new(|| Ok(())));
        tokio::spawn(serve(listener, router, CancellationToken::new()));
        let client = Client::from_repo(repo.path()).unwrap();
        assert_eq!(client.call::<u32>("Add", (1, 1)).await.unwrap(), 2);
    });
}

#[test]
fn a_secret_of_another_name_is_made_once_and_missed_where_it_must_be() {
    let repo = tempfile::tempdir().unwrap();
    let missing = read_secret(repo.path(), "secret").unwrap_err();
    assert_eq!(missing.code, ExitCode::Failure);
    assert!(!repo.path().join("secret").exists(), "reading makes nothing");
    let secret = ensure_secret_in(repo.path(), "secret").unwrap();
    assert_eq!(read_secret(repo.path(), "secret").unwrap(), secret);
    assert!(!repo.path().join("token-secret").exists());
}

#[test]
fn a_variable_that_is_not_set_names_no_process() {
    assert!(Client::from_env("SEALFARM_TEST_OF_NO_SUCH_VARIABLE").unwrap().is_none());
}

#[test]
fn a_process_that_ended_is_said_to_be_unreachable() {
    block_on(async {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = ApiAddress::of_socket(listener.local_addr().unwrap());
        drop(listener);
        let error = client(&address, None).call::<()>("Name", ()).await.unwrap_err();
        assert_eq!(error.code, ExitCode::Unreachable, "{error}");
    });
}
