//! `ServePort+100` of an agent: the sector files of its store, read-only, for hosts of the site.
//!
//! A token with `read` is needed. Ranges are answered, so that a broken transfer goes on.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path as UrlPath, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use sealfarm_common::rpc::{Access, Keys};
use sealfarm_common::store::Store;
use sealfarm_common::token::Permission;
use serde_json::Value;
use tower::ServiceExt as _;
use tower_http::services::ServeFile;

/// What of a store is served: its sectors' files.
const SERVED: [&str; 4] = ["unsealed", "sealed", "cache", "manifest"];

#[derive(Clone)]
struct Shared {
    root: Arc<PathBuf>,
    keys: Keys,
}

/// The routes: `GET /store/sealed/s-t01000-42` and the like.
pub fn router(store: &Store, keys: Keys) -> Router {
    let shared = Shared { root: Arc::new(store.root().to_owned()), keys };
    Router::new().route("/store/{*path}", get(file)).with_state(shared)
}

async fn file(
    State(shared): State<Shared>,
    UrlPath(path): UrlPath<String>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    if let Err(denied) = Access::of(&shared.keys, &headers).allow(Permission::Read, "GET /store") {
        return denied.into_response(&Value::Null);
    }
    let found = match located(&shared.root, &path) {
        Ok(found) => found,
        Err(refusal) => return refusal.into_response(),
    };
    match ServeFile::new(found).oneshot(request).await {
        Ok(answer) => answer.map(Body::new),
        Err(never) => match never {},
    }
}

/// Why a path is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It is not a sector's file, or it climbs out of the store.
    Outside,
    /// There is no such file.
    Missing,
}

impl Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Outside => {
                let words = "only files below unsealed, sealed, cache and manifest are served\n";
                (StatusCode::FORBIDDEN, words).into_response()
            }
            Self::Missing => (StatusCode::NOT_FOUND, "there is no such file in this store\n").into_response(),
        }
    }
}

/// The file that `path` names below `root`, links followed.
fn located(root: &Path, path: &str) -> Result<PathBuf, Refusal> {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let first = path.components().next().map(Component::as_os_str);
    if !plain || !SERVED.iter().any(|served| first == Some((*served).as_ref())) {
        return Err(Refusal::Outside);
    }
    let (root, found) = (root.canonicalize(), root.join(path).canonicalize());
    let (Ok(root), Ok(found)) = (root, found) else { return Err(Refusal::Missing) };
    if !found.starts_with(&root) {
        return Err(Refusal::Outside);
    }
    if found.is_file() { Ok(found) } else { Err(Refusal::Missing) }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use axum::http::header;
    use sealfarm_common::rpc::{create_token, ensure_secret};
    use sealfarm_common::sector::MinerId;

    use super::*;

    struct Site {
        dir: tempfile::TempDir,
        router: Router,
        token: String,
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let agent = "site-1".parse().unwrap();
            let store = Store::create(&dir.path().join("store"), MinerId(1000), &agent).unwrap();
            let secret = ensure_secret(dir.path(), "secret").unwrap();
            std::fs::write(dir.path().join("outside"), "not of the store").unwrap();
            std::fs::create_dir_all(store.root().join("sealed")).unwrap();
            std::fs::write(store.root().join("sealed/s-t01000-1"), "0123456789").unwrap();
            let token = create_token(&secret, Permission::Read, None).expose().to_owned();
            Self { router: router(&store, Keys::of_file(dir.path().join("secret"))), dir, token }
        }

        /// Status and body.
        async fn get(&self, path: &str, headers: &[(header::HeaderName, &str)]) -> (StatusCode, String) {
            let mut request = Request::get(path);
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            let answer = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let status = answer.status();
            let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        }

        async fn get_allowed(&self, path: &str) -> (StatusCode, String) {
            self.get(path, &[(header::AUTHORIZATION, &format!("Bearer {}", self.token))]).await
        }
    }

    #[tokio::test]
    async fn a_sectors_file_is_served_whole_or_in_part_to_who_may_read() {
        let site = Site::new();
        let path = "/store/sealed/s-t01000-1";
        assert_eq!(site.get_allowed(path).await, (StatusCode::OK, "0123456789".to_owned()));
        let bearer = format!("Bearer {}", site.token);
        let part = [(header::AUTHORIZATION, bearer.as_str()), (header::RANGE, "bytes=3-5")];
        assert_eq!(site.get(path, &part).await, (StatusCode::PARTIAL_CONTENT, "345".to_owned()));
        let beyond = [(header::AUTHORIZATION, bearer.as_str()), (header::RANGE, "bytes=99-")];
        assert_eq!(site.get(path, &beyond).await.0, StatusCode::RANGE_NOT_SATISFIABLE);
    }

    #[tokio::test]
    async fn without_a_token_the_answer_is_401_with_the_permission_needed() {
        let (status, body) = Site::new().get("/store/sealed/s-t01000-1", &[]).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(body.contains("`read`"), "{body}");
    }

    #[tokio::test]
    async fn paths_that_climb_and_what_is_no_sectors_file_are_refused() {
        let site = Site::new();
        let store = site.dir.path().join("store");
        std::os::unix::fs::symlink(site.dir.path().join("outside"), store.join("sealed/link")).unwrap();
        for path in [
            "/store/../outside",
            "/store/sealed/../../outside",
            "/store/sealed/%2e%2e/%2e%2e/outside",
            "/store/sealed%2f..%2f..%2foutside",
            "/store/%2fetc%2fpasswd",
            "/store/sealfarm-store.json",
            "/store/sealed/link",
        ] {
            let (status, body) = site.get_allowed(path).await;
            assert!(matches!(status, StatusCode::FORBIDDEN | StatusCode::NOT_FOUND), "{path}: {status}");
            assert!(!body.contains("not of the store") && !body.contains("root:"), "{path}: {body}");
        }
        assert_eq!(site.get_allowed("/store/sealed/link").await.0, StatusCode::FORBIDDEN);
        assert_eq!(site.get_allowed("/store/sealed/s-t01000-2").await.0, StatusCode::NOT_FOUND);
        assert_eq!(site.get_allowed("/store/sealed").await.0, StatusCode::NOT_FOUND);
    }
}
