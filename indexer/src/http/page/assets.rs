//! Style, script, icon and the page of the query language, compiled in. Their addresses carry a hash of the content, so that a browser caches
//! them without a time limit and still loads a new version at once.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    http::{Uri, header},
    response::{IntoResponse, Response},
};
use xxhash_rust::xxh3::xxh3_64;

use crate::http::problem::HttpProblem;

struct PageAsset {
    name: &'static str,
    media_type: &'static str,
    content: &'static str,
}

const ASSETS: [PageAsset; 4] = [
    PageAsset { name: "page.css", media_type: "text/css; charset=utf-8", content: include_str!("page.css") },
    PageAsset { name: "page.js", media_type: "text/javascript; charset=utf-8", content: include_str!("page.js") },
    PageAsset { name: "icon.svg", media_type: "image/svg+xml", content: include_str!("icon.svg") },
    // Browsers show Markdown only as plain text; some offer it for download under its own type.
    PageAsset {
        name: "query-language.md",
        media_type: "text/plain; charset=utf-8",
        content: include_str!("../../../../docs/query-language.md"),
    },
];

/// The addresses of the assets, in their order.
static ADDRESSES: LazyLock<[String; 4]> =
    LazyLock::new(|| ASSETS.map(|asset| format!("assets/{}?v={:016x}", asset.name, xxh3_64(asset.content.as_bytes()))));

/// Address of the style sheet.
pub(super) fn style() -> &'static str {
    &ADDRESSES[0]
}

/// Address of the script.
pub(super) fn script() -> &'static str {
    &ADDRESSES[1]
}

/// Address of the icon.
pub(super) fn icon() -> &'static str {
    &ADDRESSES[2]
}

/// Address of the page of the query language.
pub(super) fn query_language() -> &'static str {
    &ADDRESSES[3]
}

/// `GET /assets/{name}`.
pub(crate) async fn asset(Path(name): Path<String>, uri: Uri) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        None => HttpProblem::no_such_route(&uri).into_response(),
        Some(asset) => {
            let headers = [
                (header::CONTENT_TYPE, asset.media_type),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ];
            (headers, asset.content).into_response()
        }
    }
}
