//! Who may ask: a token that the service account signed itself, or a V4 signed URL.

use std::{collections::BTreeMap, fmt::Write as _};

use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use hyper::{
    StatusCode,
    header::AUTHORIZATION,
    http::{HeaderMap, request::Parts},
};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{ACCOUNT, ACCOUNT_KEY};

/// How far a signing date may lie ahead of the store's clock. Google names no number; S3's is taken.
const MAX_LEAD: SignedDuration = SignedDuration::from_mins(15);
/// No URL lasts longer than this many seconds.
const MAX_EXPIRES_SECONDS: i64 = 7 * 24 * 3600;
const SIGNATURE: &str = "X-Goog-Signature";

/// A status and a code of Google's.
pub(super) type GcsRefusal = (StatusCode, &'static str);

const UNAUTHENTICATED: GcsRefusal = (StatusCode::UNAUTHORIZED, "AuthenticationRequired");
const BAD_SIGNATURE: GcsRefusal = (StatusCode::FORBIDDEN, "SignatureDoesNotMatch");
const EXPIRED: GcsRefusal = (StatusCode::BAD_REQUEST, "ExpiredToken");
const TOO_EARLY: GcsRefusal = (StatusCode::FORBIDDEN, "RequestTimeTooSkewed");
const BAD_HEADERS: GcsRefusal = (StatusCode::BAD_REQUEST, "MalformedSecurityHeader");
const BAD_QUERY: GcsRefusal = (StatusCode::BAD_REQUEST, "AuthorizationQueryParametersError");

/// Refuses a request that the service account did not sign, in one way or the other.
pub(super) fn authorize(parts: &Parts, query: &BTreeMap<String, String>, now: Timestamp) -> Result<(), GcsRefusal> {
    if query.contains_key(SIGNATURE) { check_signed_url(parts, query, now) } else { check_token(&parts.headers, now) }
}

fn check_token(headers: &HeaderMap, now: Timestamp) -> Result<(), GcsRefusal> {
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let claims = token.and_then(claims_of).ok_or(UNAUTHENTICATED)?;
    let valid = claims["exp"].as_i64().is_some_and(|end| end > now.as_second());
    if claims["iss"] == ACCOUNT && valid { Ok(()) } else { Err(UNAUTHENTICATED) }
}

/// What a token claims that the account's key has signed.
fn claims_of(token: &str) -> Option<Value> {
    let (text, signature) = token.rsplit_once('.')?;
    is_signed(text, &BASE64_URL_SAFE_NO_PAD.decode(signature).ok()?).then_some(())?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(text.split_once('.')?.1).ok()?;
    serde_json::from_slice(&claims).ok()
}

fn is_signed(text: &str, signature: &[u8]) -> bool {
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, ACCOUNT_KEY.public_key().as_ref());
    key.verify(text.as_bytes(), signature).is_ok()
}

fn check_signed_url(parts: &Parts, query: &BTreeMap<String, String>, now: Timestamp) -> Result<(), GcsRefusal> {
    let value = |name: &str| query.get(name).map(String::as_str).ok_or(BAD_QUERY);
    let date = value("X-Goog-Date")?;
    let scope = value("X-Goog-Credential")?.strip_prefix(ACCOUNT).and_then(|rest| rest.strip_prefix('/'));
    let scope = scope.ok_or(BAD_SIGNATURE)?;
    let signed_at = signing_date(date).ok_or(BAD_QUERY)?;
    let expires: i64 = value("X-Goog-Expires")?.parse().map_err(|_| BAD_QUERY)?;
    if !(1..=MAX_EXPIRES_SECONDS).contains(&expires) || !scope.starts_with(date.get(..8).ok_or(BAD_QUERY)?) {
        return Err(BAD_QUERY);
    }
    let names: Vec<&str> = value("X-Goog-SignedHeaders")?.split(';').collect();
    let canonical = canonical_request(parts, &names)?;
    let algorithm = value("X-Goog-Algorithm")?;
    let text = format!("{algorithm}\n{date}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let signature = hex::decode(value(SIGNATURE)?).map_err(|_| BAD_QUERY)?;
    if algorithm != "GOOG4-RSA-SHA256" || !is_signed(&text, &signature) {
        return Err(BAD_SIGNATURE);
    }
    if signed_at.duration_since(now) > MAX_LEAD {
        return Err(TOO_EARLY);
    }
    if now.duration_since(signed_at) > SignedDuration::from_secs(expires) { Err(EXPIRED) } else { Ok(()) }
}

/// The request as it was signed. All headers of Google's kind must be among those, and all of those must be there.
fn canonical_request(parts: &Parts, names: &[&str]) -> Result<String, GcsRefusal> {
    let unsigned =
        parts.headers.keys().any(|name| name.as_str().starts_with("x-goog-") && !names.contains(&name.as_str()));
    if unsigned || !names.contains(&"host") {
        return Err(BAD_HEADERS);
    }
    let mut lines = String::new();
    for name in names {
        let value = parts.headers.get(*name).and_then(|value| value.to_str().ok()).ok_or(BAD_HEADERS)?;
        let _ = writeln!(lines, "{name}:{}", value.trim());
    }
    let mut pairs: Vec<&str> = parts.uri.query().unwrap_or_default().split('&').collect();
    pairs.retain(|pair| !pair.starts_with(SIGNATURE));
    pairs.sort_unstable();
    let (path, query, names) = (parts.uri.path(), pairs.join("&"), names.join(";"));
    Ok(format!("{}\n{path}\n{query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD", parts.method))
}

fn signing_date(text: &str) -> Option<Timestamp> {
    let date = DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp())
}
