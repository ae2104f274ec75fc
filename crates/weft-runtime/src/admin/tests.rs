//! The admin server and its client against each other.

use std::os::unix::fs::PermissionsExt;

use super::{AdminError, Request, Response, get, serve_unix};
use crate::listen::bind_unix;
use crate::shutdown::Shutdown;

async fn answer(request: Request) -> Response {
    match request.path.as_str() {
        "/hello" => Response::text(format!("hello {}", request.query.unwrap_or_default())),
        _ => Response::not_found(),
    }
}

#[tokio::test]
async fn a_unix_admin_socket_answers_and_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let shutdown = Shutdown::new();
    serve_unix(&shutdown, bind_unix(&path, 0o600).unwrap(), answer).unwrap();

    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(get(&path, "/hello?you").await.unwrap(), "hello you");
    let missing = get(&path, "/nothing").await;
    assert!(
        matches!(missing, Err(AdminError::Status { status: 404, .. })),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_successor_takes_the_path_while_its_predecessor_still_listens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    let (old, new) = (Shutdown::new(), Shutdown::new());
    serve_unix(&old, bind_unix(&path, 0o600).unwrap(), |_| async {
        Response::text("old")
    })
    .unwrap();
    serve_unix(&new, bind_unix(&path, 0o600).unwrap(), |_| async {
        Response::text("new")
    })
    .unwrap();
    assert_eq!(get(&path, "/").await.unwrap(), "new");
}

#[tokio::test]
async fn a_missing_socket_is_named_in_the_error() {
    let missing = get(std::path::Path::new("/nonexistent/admin.sock"), "/").await;
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/admin.sock")
    );
}
