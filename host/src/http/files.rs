//! Owns files that are served as they are: which file a request means, and what is told about it.
//!
//! Reading is `tower-http`'s, which keeps within the folder, and knows types, ranges and `If-Modified-Since`. A path
//! with a part that begins with a dot finds nothing (`.well-known` excepted), because what is there was rarely meant for
//! everybody. Links are followed. Browsers ask each time whether a file has changed.

use super::gateway::allow;
use super::problem::Problem;
use super::trace::Trace;
use crate::capability::log::printable;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, IF_RANGE, LOCATION, RANGE, X_CONTENT_TYPE_OPTIONS};
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use cleave_config::FilesPath;
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use tower_http::services::ServeDir;
use tower_http::services::fs::{Backend, DefaultServeDirFallback, TokioBackend};

/// The most bytes of a path that the log shows.
const SHOWN_MAX: usize = 200;

/// Every folder that is served.
#[derive(Debug, Clone)]
pub(super) struct Files(Arc<[Folder]>);

#[derive(Debug)]
struct Folder {
    path: FilesPath,
    files: ServeDir<DefaultServeDirFallback, RegularFiles>,
}

impl Files {
    pub(super) fn new(folders: &BTreeMap<FilesPath, PathBuf>) -> Self {
        let mut folders: Vec<_> = folders
            .iter()
            .map(|(path, folder)| {
                let below = path.as_str().trim_end_matches('/');
                let files = ServeDir::with_backend(folder, RegularFiles).redirect_path_prefix(below);
                Folder { path: path.clone(), files }
            })
            .collect();
        // The longest path first.
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.path.as_str().len()));
        Self(folders.into())
    }

    /// The answer to a request that no route is for.
    pub(super) async fn answer(&self, request: Request) -> Response {
        let trace = Trace::of(request.headers());
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let (mut head, _) = request.into_parts();
        if !reads {
            head.method = Method::HEAD;
            head.headers = HeaderMap::new();
        }
        match self.find(Request::from_parts(head, Body::empty()), trace).await {
            Some(mut response) if reads => {
                let headers = response.headers_mut();
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                trace.write(headers);
                response
            }
            Some(_) => Problem::wrong_method(allow(&[cleave_config::Method::Get])).response(trace),
            None => Problem::no_route().response(trace),
        }
    }

    async fn find(&self, request: Request, trace: Trace) -> Option<Response> {
        let path = request.uri().path();
        if !is_public(path) {
            return None;
        }
        if self.0.iter().any(|folder| folder.path.as_str() == path && path != "/") {
            return Some(with_slash(request.uri()));
        }
        let found = |folder: &Folder| Some((folder.files.clone(), folder.path.below(path)?.to_owned()));
        let (mut files, below) = self.0.iter().find_map(found)?;
        let (mut head, body) = request.into_parts();
        let query = head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        head.uri = Uri::from(PathAndQuery::try_from(below.clone() + &query).ok()?);
        whole_unless_one_range(&mut head.headers);
        match files.try_call(Request::from_parts(head, body)).await {
            Ok(response) if response.status() == StatusCode::NOT_FOUND => None,
            Ok(response) => Some(response.map(Body::new)),
            Err(error) => {
                if !is_absence(&error) {
                    let below = printable(below.as_bytes(), SHOWN_MAX);
                    tracing::warn!(%trace, "the file of `{below}` cannot be read: {error}");
                }
                None
            }
        }
    }
}

/// Whether a path may be looked for: no part before its end is empty, and none begins with a dot.
fn is_public(path: &str) -> bool {
    let is_hidden = |part: &str| {
        let encoded = part.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("%2e"));
        encoded || (part.starts_with('.') && part != ".well-known")
    };
    !path.contains("//") && !path.split('/').any(is_hidden)
}

/// Whether there is no such file, however the system says it.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

/// Leaves a range only where it is one of bytes, and not bound to a version of the file: then it is the whole file that
/// answers, as RFC 9110 permits for every range.
fn whole_unless_one_range(headers: &mut HeaderMap) {
    let range = headers.get(RANGE).and_then(|range| range.to_str().ok());
    let one = range.is_some_and(|range| range.starts_with("bytes=") && !range.contains(','));
    if !one || headers.contains_key(IF_RANGE) {
        headers.remove(RANGE);
    }
}

/// Sends the client to the folder itself, where the relative links of its page begin.
fn with_slash(uri: &Uri) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    if let Ok(location) = HeaderValue::try_from(format!("{}/{query}", uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Files that are files: a pipe or a device would be waited for.
#[derive(Debug, Clone, Copy)]
struct RegularFiles;

impl Backend for RegularFiles {
    type File = <TokioBackend as Backend>::File;
    type Metadata = <TokioBackend as Backend>::Metadata;
    type OpenFuture = Pin<Box<dyn Future<Output = io::Result<Self::File>> + Send>>;
    type MetadataFuture = <TokioBackend as Backend>::MetadataFuture;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        Box::pin(async move {
            if tokio::fs::metadata(&path).await?.is_file() {
                TokioBackend.open(path).await
            } else {
                Err(ErrorKind::NotFound.into())
            }
        })
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        TokioBackend.metadata(path)
    }
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
            let request = Request::builder().uri(format!("{folder}?a=b")).body(Body::empty()).unwrap();
            let response = files.answer(request).await;
            assert_eq!(
                (response.status().as_u16(), &response.headers()["location"]),
                (307, &HeaderValue::try_from(format!("{folder}/?a=b")).unwrap())
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
            "//index.html",
            "//deep",
            "/deep//index.html",
            "/pipe",
            "/docs/a.txt",
            "/nothing",
            "/shop.js/",
            "/%00",
            "/%ff",
        ] {
            let (status, body) = ask(&files, Method::GET, path).await;
            assert_eq!(status, 404, "{path}: {body}");
        }
        assert_eq!(ask(&files, Method::POST, "/nothing").await.0, 404);
        assert_eq!(ask(&files, Method::POST, "/index.html").await.0, 405);
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

    #[tokio::test]
    async fn range_is_one_of_bytes_or_the_whole_file() {
        let (_folder, files) = files();
        for (range, if_range, status, body) in [
            ("bytes=0-0", None, 206, "j"),
            ("bytes=0-0", Some("\"other\""), 200, "js"),
            ("lines=0-0", None, 200, "js"),
            ("bytes=0-0,1-1", None, 200, "js"),
        ] {
            let mut request = Request::builder().uri("/shop.js").header("range", range);
            if let Some(version) = if_range {
                request = request.header("if-range", version);
            }
            let response = files.answer(request.body(Body::empty()).unwrap()).await;
            assert_eq!(response.status(), status, "{range}");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body, "{range}");
        }
    }
}
