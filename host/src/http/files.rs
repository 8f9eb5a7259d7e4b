//! Owns files that are served as they are: which file a request means, and what is told about it.
//!
//! Reading is `tower-http`'s, which keeps within the folder, and knows types, ranges and `If-Modified-Since`. A path
//! with a part that begins with a dot finds nothing (`.well-known` excepted), because what is there was rarely meant for
//! everybody. Links are followed. Browsers ask each time whether a file has changed.

use super::problem::Problem;
use super::trace::Trace;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, LOCATION, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::Response;
use cleave_config::FilesPath;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tower_http::services::ServeDir;

/// Every folder that is served.
#[derive(Debug, Clone)]
pub(super) struct Files(Arc<[Folder]>);

#[derive(Debug)]
struct Folder {
    path: FilesPath,
    files: ServeDir,
}

impl Files {
    pub(super) fn new(folders: &BTreeMap<FilesPath, PathBuf>) -> Self {
        let mut folders: Vec<_> = folders
            .iter()
            .map(|(path, folder)| {
                let below = path.as_str().trim_end_matches('/');
                Folder { path: path.clone(), files: ServeDir::new(folder).redirect_path_prefix(below) }
            })
            .collect();
        // The longest path first.
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.path.as_str().len()));
        Self(folders.into())
    }

    /// The answer to a request that no route is for.
    pub(super) async fn answer(&self, request: Request) -> Response {
        let trace = Trace::of(request.headers());
        match self.find(request).await {
            Some(mut response) => {
                trace.write(response.headers_mut());
                response
            }
            None => Problem::no_route().response(trace),
        }
    }

    async fn find(&self, request: Request) -> Option<Response> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let path = request.uri().path();
        if path
            .split('/')
            .any(|part| part.starts_with(['.']) && part != ".well-known" || is_encoded_dot(part))
        {
            return None;
        }
        if self.0.iter().any(|folder| folder.path.as_str() == path && path != "/") {
            return Some(with_slash(path));
        }
        let found = |folder: &Folder| Some((folder.files.clone(), folder.path.below(path)?.to_owned()));
        let (mut files, below) = self.0.iter().find_map(found)?;
        let (mut head, _) = request.into_parts();
        head.uri = Uri::from(PathAndQuery::try_from(below.as_str()).ok()?);
        match files.try_call(Request::from_parts(head, Body::empty())).await {
            Ok(response) if response.status() == StatusCode::NOT_FOUND => None,
            Ok(response) => {
                let mut response = response.map(Body::new);
                let headers = response.headers_mut();
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                Some(response)
            }
            Err(error) => {
                tracing::warn!("the file of `{below}` cannot be read: {error}");
                None
            }
        }
    }
}

/// Sends the client to the folder itself, where the relative links of its page begin.
fn with_slash(path: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    if let Ok(location) = HeaderValue::try_from(format!("{path}/")) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Whether a part of a path begins with a dot that is percent-encoded.
fn is_encoded_dot(part: &str) -> bool {
    part.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("%2e"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    /// Two folders: one at the root, one below `/docs`.
    fn files() -> (tempfile::TempDir, Files) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        for (file, text) in [
            ("root/index.html", "<h1>"),
            ("root/shop.js", "js"),
            ("root/.env", "secret"),
            ("root/.git/config", "secret"),
            ("root/.well-known/security.txt", "mail"),
            ("root/docs/a.txt", "hidden by the longer path"),
            ("root/deep/index.html", "deep"),
            ("docs/b.txt", "docs"),
            ("outside.txt", "secret"),
        ] {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let config = format!("[http.files]\n\"/\" = {root:?}\n\"/docs\" = {:?}", folder.path().join("docs"));
        let config = cleave_config::parse(&config, &cleave_config::Sources::new("cleave.toml", "/")).unwrap();
        (folder, Files::new(&config.http.files))
    }

    async fn ask(files: &Files, method: Method, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = files.answer(request).await;
        assert_eq!(response.headers()["x-request-id"].len(), 32);
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn files_are_found_below_their_path() {
        let (_folder, files) = files();
        for (path, text) in [
            ("/", "<h1>"),
            ("/index.html", "<h1>"),
            ("/shop.js?v=1", "js"),
            ("/deep/", "deep"),
            ("/docs/b.txt", "docs"),
            ("/.well-known/security.txt", "mail"),
        ] {
            assert_eq!(ask(&files, Method::GET, path).await, (200, text.to_owned()), "{path}");
        }
        assert_eq!(ask(&files, Method::HEAD, "/shop.js").await, (200, String::new()));
        for folder in ["/deep", "/docs"] {
            let request = Request::builder().uri(folder).body(Body::empty()).unwrap();
            let response = files.answer(request).await;
            assert_eq!(
                (response.status().as_u16(), &response.headers()["location"]),
                (307, &HeaderValue::try_from(format!("{folder}/")).unwrap())
            );
        }
    }

    #[tokio::test]
    async fn what_was_not_meant_for_everybody_is_not_found() {
        let (_folder, files) = files();
        for path in [
            "/.env",
            "/%2eenv",
            "/.git/config",
            "/../outside.txt",
            "/%2e%2e/outside.txt",
            "/..%2foutside.txt",
            "/deep/..%2f..%2foutside.txt",
            "//outside.txt",
            "/docs/a.txt",
            "/nothing",
            "/shop.js/",
            "/%00",
            "/%ff",
        ] {
            let (status, body) = ask(&files, Method::GET, path).await;
            assert_eq!(status, 404, "{path}: {body}");
        }
        assert_eq!(ask(&files, Method::POST, "/").await.0, 404);
    }

    #[tokio::test]
    async fn file_that_has_not_changed_is_not_sent_again() {
        let (_folder, files) = files();
        let request = Request::builder().uri("/shop.js").body(Body::empty()).unwrap();
        let first = files.answer(request).await;
        assert_eq!(first.headers()["content-type"], "text/javascript");
        assert_eq!(first.headers()["x-content-type-options"], "nosniff");
        let since = &first.headers()["last-modified"];
        let request = Request::builder().uri("/shop.js").header("if-modified-since", since);
        let second = files.answer(request.body(Body::empty()).unwrap()).await;
        assert_eq!(second.status(), 304);
    }
}
