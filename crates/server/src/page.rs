//! The pages, whose files are in the program.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse;
use axum::routing::get;

/// Path, type and content.
const FILES: [(&str, &str, &[u8]); 9] = [
    ("/", HTML, include_bytes!("../assets/index.html")),
    ("/docs", HTML, include_bytes!("../assets/docs.html")),
    (
        "/assets/style.css",
        CSS,
        include_bytes!("../assets/style.css"),
    ),
    ("/assets/app.js", JS, include_bytes!("../assets/app.js")),
    (
        "/assets/patches.js",
        JS,
        include_bytes!("../assets/patches.js"),
    ),
    ("/assets/load.js", JS, include_bytes!("../assets/load.js")),
    (
        "/assets/memory.js",
        JS,
        include_bytes!("../assets/memory.js"),
    ),
    ("/assets/docs.js", JS, include_bytes!("../assets/docs.js")),
    (
        "/assets/icon.svg",
        "image/svg+xml",
        include_bytes!("../assets/icon.svg"),
    ),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// What the pages may do: load what this server has, and show pictures that the user gave.
pub(crate) const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; \
                                 object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The routes of the files.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, content)| {
            let answer = move || async move {
                let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")];
                (headers, content).into_response()
            };
            router.route(path, get(answer))
        })
}
